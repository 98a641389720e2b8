"""The folder of a run: held by one process, of one recipe, and told in a sentence where the disk fails."""

import contextlib
import errno
import fcntl
import json

from kzoo.errors import UserError
from kzoo.schema import dump, flatten, parse
from kzoo.weights.read import CHECKPOINT, PREVIOUS

MAY_CHANGE = ("checkpoint.every_steps", "checkpoint.every_minutes", "data.data_dir")  # they leave the result as it is
RECORD = "recipe.txt"
RECEIPT = "init_from.json"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO}


@contextlib.contextmanager
def claimed(workdir, recipe):
    """Holds the folder for this process, after making sure that it is new or holds this very run.

    Raises UserError for a folder of something else, of other settings, in use, or that cannot be written (then at any moment).
    """
    _refuse_strangers(workdir)
    with _disk_errors_told(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        with open(workdir / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it however the process ends
            except BlockingIOError:
                raise UserError(f"another process is training in {workdir}; wait for it or choose another --workdir.") from None
            _refuse_changes(workdir, recipe)
            if (workdir / PREVIOUS).exists() and not (workdir / CHECKPOINT).exists():
                raise UserError(f"{workdir} has lost its {CHECKPOINT}: rename {PREVIOUS} to it, or start in another --workdir.")
            for leftover in workdir.glob(".*.tmp-*"):  # of kzoo.files.replacing in a process that was killed
                leftover.unlink()
            yield


@contextlib.contextmanager
def _disk_errors_told(workdir):
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f": {error.filename}" if error.filename else ""
        raise UserError(
            f"{workdir} cannot be written ({error.strerror}{where}); what was saved before is kept: "
            "make room or choose another --workdir, then start again."
        ) from error


def _refuse_strangers(workdir):
    """A run killed before its first record leaves hidden files and the receipt of init_from at most."""
    if not workdir.exists() or (workdir / RECORD).exists():
        return
    if not workdir.is_dir() or any(not p.name.startswith(".") and p.name != RECEIPT for p in workdir.iterdir()):
        raise UserError(f"{workdir} exists and is not a run; choose another --workdir, or empty it.")


def _refuse_changes(workdir, recipe):
    """Only a run that has saved something holds its settings: one that failed at once may be corrected and started again."""
    record = workdir / RECORD
    if not record.exists() or not (workdir / CHECKPOINT).exists():
        return
    old, new = (flatten(parse(text, str(record))[0]) for text in (record.read_text(errors="replace"), dump(recipe)))
    changed = sorted(k for k in old | new if json.dumps(old.get(k)) != json.dumps(new.get(k)) and k not in MAY_CHANGE)
    if changed:
        listed = ", ".join(f"{k} ({old.get(k)!r} there, {new.get(k)!r} now)" for k in changed[:4])
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise UserError(
            f"{workdir} holds a run with other settings: {listed}{more}; continue it with the same ones or choose another --workdir."
        )

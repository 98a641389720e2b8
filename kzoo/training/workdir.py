"""The folder of a run: held by one process, of one recipe, and told in a sentence where the disk fails."""

import contextlib
import errno
import fcntl
import json

from kzoo.data import GIVEN
from kzoo.errors import UserError
from kzoo.recipe_files import EVALUATION_SOURCE, RECORD, dump, parse, read_record
from kzoo.settings import flatten
from kzoo.system import Terminated, out_of_memory, reason, say, writable_name
from kzoo.training.longer import LENGTH, require_same_so_far
from kzoo.weights.read import BEST, CHECKPOINT, PREVIOUS

MAY_CHANGE = (  # they leave the result as it is
    "checkpoint.every_steps",
    "checkpoint.every_minutes",
    "data.data_dir",
    "track",
)
RECEIPT = "init_from.json"
FILES = (  # that a run writes
    CHECKPOINT,
    PREVIOUS,
    BEST,
    RECORD,
    RECEIPT,
    ".lock",
    "log.csv",
    "metrics.json",
    "model.keras",
    "learning_curve.png",
    "trackers.json",
)
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO}


@contextlib.contextmanager
def claimed(workdir, recipe, evaluation=None):
    """Holds the folder for this process, after making sure that it is new or holds this very run. Yields what of it the
    recipe has changed since, {key: (before, now)}: how long it is to be.

    evaluation: the name of the source that judges it, where that is another than the recipe's.
    Raises UserError for a folder of something else, of other settings, in use, or that cannot be written (then at any
    moment), and for memory that runs out; says what is kept where the process is asked to end.
    """
    with _ends_told(writable_name(workdir)):
        _refuse_strangers(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        with open(workdir / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it however the process ends
            except BlockingIOError:
                raise UserError(
                    f"another process is training in {workdir}; wait for it or choose another --workdir."
                ) from None
            changed = _refuse_changes(workdir, recipe, evaluation)
            for leftover in workdir.glob(".*.tmp-*"):  # of kzoo.files.replacing in a process that was killed
                leftover.unlink()
            if not (workdir / CHECKPOINT).exists():  # of one killed before its first checkpoint, which begins anew
                (workdir / BEST).unlink(missing_ok=True)
            yield changed


@contextlib.contextmanager
def _ends_told(workdir):
    """Every end of a run that is not kzoo's own doing, in a sentence."""
    try:
        yield
    except Terminated as end:
        end.told = True
        kept = "what was trained is saved; started again in the same folder, the run continues"
        say(f"{workdir} ended by SIGTERM: {kept if (workdir / CHECKPOINT).is_file() else 'no step was trained yet'}")
        raise
    except Exception as error:
        if told := _told(error, workdir):
            raise UserError(told) from error
        raise


def _told(error, workdir):
    """The sentence for a system that gives no room, on the disk or in memory; None for other failures."""
    if isinstance(error, UserError):
        return None
    if out_of_memory(error):
        return (
            f"the memory ran out; what {workdir} holds is kept: lower data.batch_size (optim.accumulate keeps the size "
            "of a step), "
            "set remat=True, or choose a smaller model or image_size."
        )
    # of two, where the first was to go
    place = str(getattr(error, "filename2", None) or getattr(error, "filename", None) or "")
    if not isinstance(error, OSError) or not (error.errno in _DISK or place.startswith(str(workdir))):
        return None
    if error.errno == errno.ENOENT and not workdir.exists():
        return (
            f"{workdir} was moved or deleted while the run trained; put it back or choose another --workdir, then "
            "start again."
        )
    where = f": {place}" if place else ""
    kept = "what was saved before is kept: make room or choose another --workdir, then start again."
    return f"{workdir} cannot be written ({reason(error)}{where}); {kept}"


def _refuse_strangers(workdir):
    """A run killed before its first record leaves hidden files and the receipt of init_from at most.

    What has come out of a checkpoint is not trained anew over when the checkpoint itself is gone.
    """
    wrong = [name for name in FILES if (workdir / name).is_dir()] + [
        n for n in ("tensorboard",) if (workdir / n).is_file()
    ]
    if wrong:
        raise UserError(
            f"{workdir / wrong[0]} stands where a run writes its own; move it away or choose another --workdir."
        )
    if (workdir / RECORD).exists() and not (workdir / CHECKPOINT).exists():
        left = next(
            (name for name in (PREVIOUS, "model.keras", "metrics.json", "log.csv") if (workdir / name).exists()), None
        )
        how = f"rename {PREVIOUS} to it" if left == PREVIOUS else "put it back"
        if left:
            raise UserError(
                f"{workdir} holds the {left} of a run that has lost its {CHECKPOINT}: {how} to continue, or choose "
                "another --workdir, or "
                "empty this one, to train anew."
            )
    if not workdir.exists() or (workdir / RECORD).exists():
        return
    if not workdir.is_dir() or any(not p.name.startswith(".") and p.name != RECEIPT for p in workdir.iterdir()):
        raise UserError(f"{workdir} exists and is not a run; choose another --workdir, or empty it.")


def _refuse_changes(workdir, recipe, evaluation):
    """Only a run that has saved something holds its settings: one that failed at once may be corrected and started
    again. Returns {key: (before, now)} of what has changed and only says how long the run is.
    """
    record = workdir / RECORD
    if not record.exists() or not (workdir / CHECKPOINT).exists():
        return {}
    (before, told), now = read_record(record), parse(dump(recipe))[0]
    old, new = (
        flatten(r) | {EVALUATION_SOURCE: e} for r, e in ((before, told.get(EVALUATION_SOURCE)), (now, evaluation))
    )
    found = sorted(k for k in old | new if json.dumps(old.get(k)) != json.dumps(new.get(k)) and k not in MAY_CHANGE)
    changed = [key for key in found if key not in LENGTH]
    if changed:
        listed = ", ".join(f"{k} ({old.get(k)!r} there, {new.get(k)!r} now)" for k in changed[:4])
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        own = any(str(each.get("data.source")).startswith(f"{GIVEN}:") for each in (old, new))
        hint = " (data given in Python has to be the same again, in the same order: no shuffle)" if own else ""
        raise UserError(
            f"{workdir} holds a run with other settings: {listed}{more}{hint}; continue it with the same ones or "
            "choose another --workdir."
        )
    if found:
        require_same_so_far(workdir, before, now, told)
    return {key: (old.get(key), new.get(key)) for key in found}

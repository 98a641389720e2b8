"""Putting a finished folder in its place: all of it or nothing, whatever is killed, and never over somebody else's
files.

The folder grows beside its target, on the same file system, and takes its place in one rename. Standard library only.
"""

import contextlib
import ctypes
import errno
import os
import re
import shutil
import sys

from kzoo.errors import UserError
from kzoo.exporting.formats import FORMATS
from kzoo.exporting.papers import CARD, LABELS, own_format
from kzoo.system import target_folder, writing_into

PAPERS = {CARD, "card.md", LABELS}
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # from Linux' fcntl.h and fs.h
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems that know no locks


def check_target(out, format):
    """`out` as an absolute path. Raises UserError unless it can be made, is empty, or is an artifact of the same format
    alone.
    """
    path, found = target_folder(out, "the artifact")
    with writing_into(out):
        if found:
            _refuse_strangers(path, found, format)
        with contextlib.suppress(FileNotFoundError):
            os.lstat(_sibling(path, "tmp"))  # the longest name that will be needed
    return path


def _refuse_strangers(path, found, format):
    """A damaged artifact may be replaced where its card still says that it is ours, and of which format."""
    there = own_format(path)
    if there is None:
        raise UserError(f"{path} is not empty and holds no kzoo artifact; name a new folder.")
    if there != format:
        raise UserError(f"{path} holds a {there} artifact; name another folder for {format}.")
    foreign = found - PAPERS - {FORMATS[format].payload}
    if foreign:
        raise UserError(
            f"{path} holds {sorted(foreign)[0]}, which kzoo did not write; move it away or name a new folder."
        )


@contextlib.contextmanager
def staging(out):
    """A new folder beside `out` to build in; `move` takes it away, and whatever is left of it on leaving is deleted.

    Raises UserError while another export to `out` is at work.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with _claimed(out):
        folder = _sibling(out, "tmp")
        folder.mkdir()
        try:
            yield folder
        finally:
            if folder.exists():
                shutil.rmtree(folder)


def clear(out):
    """Removes what an export that was killed left beside `out`; another at work there has done so itself."""
    if out.parent.is_dir():
        with contextlib.suppress(UserError), _claimed(out):
            pass


@contextlib.contextmanager
def _claimed(out):
    """Holds `out` for this export, by a lock that the system lets go of however the process ends, and clears what
    killed ones left.
    """
    path = out.with_name(f".{out.name}.lock")
    with open(path, "a") as lock:
        if _locked(lock, path):
            _recover(out)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(lock, path):
    """Whether the file is locked now; False where the file system knows no locks. Raises UserError where another holds
    it.
    """
    import fcntl  # where artifacts are only opened it need not exist

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = os.path.samestat(os.fstat(lock.fileno()), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        # another holds it or, as where another file has that name, took it away when it ended a moment ago
        held = False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    if not held:
        raise UserError(
            f"another process is writing to {path.with_name(path.name[1:-5])}; wait for it or name another folder."
        )
    return True


def _recover(out):
    """Removes what exports that were killed left beside `out`, and puts back an artifact caught between two renames."""
    for entry in list(out.parent.iterdir()):
        role = re.fullmatch(re.escape(f".{out.name}.") + "(old|tmp)-[0-9a-f]+", entry.name)
        if role and role[1] == "old" and not out.exists():
            os.rename(entry, out)
        elif role:
            shutil.rmtree(entry)


def move(folder, out):
    """Moves the finished `folder` to `out`, in the place of an empty folder or of an older artifact, which is then
    deleted.
    """
    _sync(folder)
    if out.exists() and any(out.iterdir()):
        if not _exchange(folder, out):
            old = _sibling(out, "old")
            os.rename(out, old)
            os.rename(folder, out)
            folder = old
        _sync_one(out.parent)
        shutil.rmtree(folder)
    else:
        os.rename(folder, out)
        _sync_one(out.parent)


def _sibling(out, role):
    """A name of its own beside `out`; process ids are no such name, two containers may share one."""
    return out.with_name(f".{out.name}.{role}-{os.urandom(4).hex()}")


def _exchange(a, b):
    """Swaps two folders in one step; False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code), str(b))


def _sync(folder):
    for path in folder.rglob("*"):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path):
    """Waits until the file or folder is on disk; folders cannot be opened for that on Windows."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

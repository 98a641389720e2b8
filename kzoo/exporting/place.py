"""Putting a finished folder in its place: all of it or nothing, whatever is killed, and never over somebody else's files.

The folder grows beside its target, on the same file system, and takes its place in one rename. Standard library only.
"""

import contextlib
import ctypes
import errno
import json
import os
import pathlib
import shutil
import sys

from kzoo.errors import UserError

KIND = "kzoo artifact"  # the value of "kind" in card.json, by which a folder is known to be ours
PAYLOAD = {"saved_model": "1", "onnx": "model.onnx", "litert": "model.tflite"}  # what the runtime of a format opens
PAPERS = {"card.json", "card.md", "labels.txt"}
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # from Linux' fcntl.h and fs.h


def read_card(folder):
    """The card of an artifact, or None where the folder holds none."""
    try:
        card = json.loads((pathlib.Path(folder) / "card.json").read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(card, dict) and card.get("kind") == KIND and card.get("format") in PAYLOAD
    return card if ours else None


def check_target(out, format):
    """Raises UserError unless `out` is free, empty, or an artifact of the same format and nothing else."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; name a folder for the artifact.")
    found = {entry.name for entry in out.iterdir()}
    if not found:
        return
    card = read_card(out)
    if card is None:
        raise UserError(f"{out} is not empty and holds no kzoo artifact; name a new folder.")
    if card["format"] != format:
        raise UserError(f"{out} holds a {card['format']} artifact; name another folder for {format}.")
    foreign = found - PAPERS - {PAYLOAD[format]}
    if foreign:
        raise UserError(f"{out} holds {sorted(foreign)[0]}, which kzoo did not write; move it away or name a new folder.")


@contextlib.contextmanager
def staging(out):
    """A new folder beside `out` to build in; `move` takes it away, and whatever is left of it on leaving is deleted."""
    out.parent.mkdir(parents=True, exist_ok=True)
    recover(out)
    folder = _sibling(out, "tmp", os.getpid())
    folder.mkdir()
    try:
        yield folder
    finally:
        if folder.exists():
            shutil.rmtree(folder)


def recover(out):
    """Removes what exports that were killed left beside `out`, and puts back an artifact caught between two renames."""
    for entry in list(out.parent.iterdir()):
        for role in ("old", "tmp"):
            pid = entry.name.removeprefix(_sibling(out, role, "").name)
            if pid == entry.name or not pid.isdigit() or (int(pid) != os.getpid() and _alive(int(pid))):
                continue
            if role == "old" and not out.exists():
                os.rename(entry, out)
            else:
                shutil.rmtree(entry)


def move(folder, out):
    """Moves the finished `folder` to `out`, in the place of an empty folder or of an older artifact, which is then deleted."""
    _sync(folder)
    if out.exists() and any(out.iterdir()):
        if not _exchange(folder, out):
            old = _sibling(out, "old", os.getpid())
            os.rename(out, old)
            os.rename(folder, out)
            folder = old
        _sync_one(out.parent)
        shutil.rmtree(folder)
    else:
        os.rename(folder, out)
        _sync_one(out.parent)


def _sibling(out, role, pid):
    return out.with_name(f".{out.name}.{role}-{pid}")


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives and belongs to somebody else
        return True
    return True


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

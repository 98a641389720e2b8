"""Writing files so that a reader, or a run killed at any moment, finds the old content or the new, never a part.
Standard library only.
"""

import contextlib
import os
import pathlib
import shutil


@contextlib.contextmanager
def replacing(path, suffix=None, previous=None):
    """Yields a temporary path beside `path`; on success it is flushed to disk and takes the place of `path`, else it is
    removed.

    suffix: what the temporary name ends in, for writers that look at it; None is that of `path`. previous: the name
    beside it under which what stood at `path` is kept; at no moment is there nothing whole at `path`.
    """
    path = pathlib.Path(path)
    own = os.urandom(4).hex()  # threads, and containers that share a folder, may have the same process id
    temporary = path.with_name(f".{path.stem}.tmp-{own}{suffix or path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if previous and path.exists():
            _keep(path, path.with_name(previous))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _keep(path, previous):
    """Puts what stands at `path` under a second name too: a link, or a copy where the file system has none."""
    beside = path.with_name(f".{path.stem}.tmp-{os.getpid()}.previous")
    try:
        try:
            os.link(path, beside)
        except OSError:
            shutil.copyfile(path, beside)
        os.replace(beside, previous)
    finally:
        beside.unlink(missing_ok=True)  # a link that was replaced by itself stays


def write_text(path, text):
    """Replaces a text file whole."""
    with replacing(path) as temporary:
        temporary.write_text(text)

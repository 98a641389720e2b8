"""What kzoo asks of the system around it: lines for whoever watches, folders to write into, the end of a process,
memory.

Standard library only.
"""

import contextlib
import errno
import os
import pathlib
import signal
import stat
import sys
import threading

from kzoo.errors import UserError


def say(text):
    """A line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def unseen(*packages):
    """Within it what is not yet imported of these packages cannot be: some libraries import whatever they find
    installed.
    """
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # Python's own sign for a module that is not to be had
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def printable(text):
    """The text with what no UTF-8 can spell (a file name of other bytes) as escapes, which every file and font
    takes.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def writable_name(path):
    """The path as a Path. Raises UserError for a name that the backends cannot write to: of no UTF-8, or with a NUL."""
    name = str(path)
    if "\0" in name or printable(name) != name:
        raise UserError(
            f"nothing can be written into {printable(name)}: its name is no UTF-8 or holds a NUL; name another folder."
        )
    return pathlib.Path(path)


@contextlib.contextmanager
def writing_into(folder):
    """Within it what the system has against writing there is raised as a UserError of one sentence with the remedy."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # pathlib's, for links in a circle, is of the second kind
        raise UserError(f"nothing can be written into {folder} ({reason(error)}); name another folder.") from error


def output_folder(path, make=True):
    """The folder as a Path, made with its parents; or, before long work, only looked at. Raises UserError where nothing
    can be written.
    """
    folder = writable_name(path)
    with writing_into(folder):
        whole = folder.resolve()
        nearest = next(p for p in (whole, *whole.parents) if p.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(nearest))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(nearest))
        if make:
            folder.mkdir(parents=True, exist_ok=True)
    return folder


def target_folder(path, what):
    """(a folder as an absolute path, the names of what lies in it) where `what` is to be written. Raises UserError
    unless it is a folder or can be made.
    """
    name = writable_name(path)
    with writing_into(name):
        whole = name.resolve()
        output_folder(whole.parent, make=False)
        if whole.exists() and not whole.is_dir():
            raise UserError(f"{whole} is a file; name a folder for {what}.")
        return whole, {entry.name for entry in whole.iterdir()} if whole.is_dir() else set()


def read_file(path, what, largest=-1):
    """The bytes of a file. Raises UserError, which asks for `what`, for one that is missing, cannot be read or has over
    `largest` bytes.

    A pipe or device is refused likewise: it would be waited for, or never end.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            found = os.fstat(file.fileno())
            content = file.read() if stat.S_ISREG(found.st_mode) and not 0 <= largest < found.st_size else None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"{path} cannot be read ({reason(error)}); give {what}.") from error
    if content is None:
        wrong = "larger than any" if stat.S_ISREG(found.st_mode) else "no file but a pipe or a device"
        raise UserError(f"{path} is {wrong}; give {what}.")
    return content


def reason(error):
    """What the system said, in few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class Terminated(SystemExit):
    """The process was asked to end (SIGTERM) and has put its work away; uncaught, it ends with status 143 as the signal
    would.
    """

    told = False  # whether somebody has said what became of the work

    def __init__(self):
        super().__init__(128 + signal.SIGTERM)


class Ending:
    """Whether the process was asked to end. Within `held` that only sets `asked`, and whoever works there looks; else
    it raises.
    """

    def __init__(self):
        self.asked, self._held = False, False

    def __call__(self, number, frame):
        self.asked = True
        if not self._held:
            raise Terminated

    def check(self):
        """Raises Terminated where the end was asked for."""
        if self.asked:
            raise Terminated

    @contextlib.contextmanager
    def held(self):
        """What lies within is not torn in the middle: it calls `check` where it may end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False


@contextlib.contextmanager
def terminable():
    """Yields an Ending that hears SIGTERM as long as this lasts, then the previous handler does again.

    Elsewhere than in the main thread, and where SIGTERM is ignored or handled below Python, it hears nothing.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) in (
        signal.SIG_IGN,
        None,
    ):
        yield ending
        return
    previous = signal.signal(signal.SIGTERM, ending)
    try:
        if isinstance(previous, Ending):
            previous.check()  # a bare `except` in a package just imported may have lost what it raised
        yield ending
    finally:
        signal.signal(signal.SIGTERM, previous)


# The backends' own errors by name, for none of them is imported here; and what they write into errors of other kinds.
_EXHAUSTED = {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}
_EXHAUSTED_WORDS = (
    "RESOURCE_EXHAUSTED",
    "out of memory",
    "OUT_OF_MEMORY",
    "can't allocate memory",
    "Cannot allocate memory",
)


def out_of_memory(error):
    """Whether an exception is that of Python, NumPy, TensorFlow, JAX or torch for memory, of the host or a device, that
    ran out.
    """
    if _EXHAUSTED & {kind.__name__ for kind in type(error).__mro__}:
        return True
    told = isinstance(error, (RuntimeError, OSError)) or type(error).__module__.partition(".")[0] in (
        "tensorflow",
        "jax",
        "jaxlib",
    )
    return told and any(word.lower() in str(error).lower() for word in _EXHAUSTED_WORDS)


@contextlib.contextmanager
def hushed(debug=False):
    """Keeps TensorFlow's start-up chatter, which is written below Python, off the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if debug:
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def give_up_output():
    """What could not be written is not tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

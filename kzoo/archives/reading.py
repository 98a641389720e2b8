"""Reading what may be damaged or made to mislead: one error for broken bytes, JSON of a bounded size, regular files
alone.
"""

import contextlib
import json
import pathlib
import struct
import zipfile
import zlib

from kzoo.errors import UserError

JSON_LIMIT = 100_000_000  # bytes of a header or an index of tensors: what the safetensors library allows
TEXT_LIMIT = 16 << 20  # bytes of a config or a run's record, whose longest part are the names of some 20,000 classes
REMEDY = "get another copy of it"
# What parsers raise over broken bytes: zipfile, zlib, json, struct, NumPy and h5py; MemoryError where a size is made
# up.
_DAMAGE = (
    *(OSError, ValueError, KeyError, IndexError, TypeError, EOFError, SyntaxError, NotImplementedError),
    *(MemoryError, RecursionError, OverflowError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile),
)


@contextlib.contextmanager
def parsing(path, *also):
    """Around what parses untrusted bytes: turns whatever that raises over them (and `also`) into a UserError of one
    sentence.
    """
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path} may not be read by this user: {error.strerror}; change its permissions.") from error
    except (*_DAMAGE, *also) as error:
        told = (str(error) or type(error).__name__).splitlines()[0][:200].rstrip(".")
        raise UserError(f"{path} is damaged or not what it seems ({told}); {REMEDY}.") from error


def damaged(path, what):
    """The UserError of a file of which `what` is wrong, a clause in the present tense."""
    return UserError(f"{path} is damaged or was made to mislead: {what}; {REMEDY}.")


def require_regular(path):
    """Raises UserError for a pipe, a device or a socket: opening one waits for its other end, reading one need not
    end.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is a pipe or a device, not a file; copy what it gives into a file first.")


def loads(text, path):
    """The JSON object (a dict) in `text`, bytes or str. Raises UserError for anything else and for a key that comes
    twice.
    """

    def unique(pairs):
        table = dict(pairs)
        if len(table) != len(pairs):
            keys = [key for key, _ in pairs]
            raise damaged(path, f"its header names {next(key for key in keys if keys.count(key) > 1)!r} twice")
        return table

    with parsing(path):
        if not isinstance(table := json.loads(text, object_pairs_hook=unique), dict):
            raise damaged(path, "its JSON is not an object")
    return table


def read_json(path):
    """The JSON object in a small file. Raises UserError as loads() does, and for a file of over 100 MB."""
    with parsing(path), open(path, "rb") as file:
        text = file.read(JSON_LIMIT + 1)
    if len(text) > JSON_LIMIT:
        raise damaged(path, "it is far too large for what it should be")
    return loads(text, path)

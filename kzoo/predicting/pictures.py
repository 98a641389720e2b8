"""Which pictures are asked about: files, folders, patterns, lists, sources, arrays. None is read before its turn."""

import glob
import itertools
import os
import pathlib
import sys

import numpy as np

from kzoo import data
from kzoo.data.decode import EXTENSIONS, pixels, to_channels
from kzoo.data.sources import is_source
from kzoo.errors import UsageError, UserError
from kzoo.system import read_file, reason


class FilePicture:
    """A picture in a file."""

    def __init__(self, path):
        self.name = str(path)

    def read(self, channels):
        """(uint8 (h, w, channels), the name of its true class, of several with | between, None where that is not
        known). Raises UserError for what is missing or no picture.
        """
        return data.decode(data.read_picture(self.name), self.name, channels=channels), None


class ArrayPicture:
    """A picture in memory, uint8 (h, w, C)."""

    def __init__(self, name, array):
        self.name, self._array = name, array
        if array.ndim != 3 or array.dtype != np.uint8:
            raise UserError(
                f"picture {name} is {array.dtype} of shape {array.shape}; give uint8 of shape (h, w, C), 0..255."
            )

    def read(self, channels):
        return to_channels(self._array, channels, f"picture {self.name}"), None


class SamplePicture:
    """A sample of a data source; opened() gives what `Source.open` does."""

    def __init__(self, name, source, opened):
        self.name, self._source, self._opened = name, source, opened

    def read(self, channels):
        picture, target = self._opened()
        label = _named(self._source, target) if self._source.targets == "label" else None
        return to_channels(pixels(picture), channels, self._source.name), label


def _named(source, target):
    """A sample's label by its name; several as a CSV file lists them, with | between."""
    several = np.flatnonzero(target) if source.multilabel else [target]
    return "|".join(source.class_names[i] if source.class_names else str(i) for i in several)


class Samples:
    """The samples of a data source, in order."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __iter__(self):
        source = self.source
        if not source.streams:
            for i in range(len(source)):
                yield SamplePicture(source.called(i), source, lambda i=i: source.open(i))
            return
        for i, record in enumerate(source.records().as_numpy_iterator()):
            yield SamplePicture(source.called(i), source, lambda i=i, record=record: _decoded(source, i, record))


def _decoded(source, i, record):
    """What `open` gives, of a record of a source that streams."""
    parts = ([part] if isinstance(part, bytes) else np.array([part]) for part in record)
    pictures, targets = source.decode(*parts, [i])
    return pictures[0], targets[0]


class Pictures:
    """Some sequences of pictures, one after another; `labelled`: whether there may be true classes."""

    def __init__(self, parts):
        self._parts = parts
        self.labelled = any(isinstance(part, Samples) and part.source.targets == "label" for part in parts)

    def __len__(self):
        return sum(map(len, self._parts))

    def __iter__(self):
        return itertools.chain.from_iterable(self._parts)


def pictures_of(given, split=None):
    """The Pictures that a user gives: a path, a text of `_of_word`, a data source, an array (h, w, C) or (B, h, w, C),
    or a sequence of these.

    split: of data sources that are named, by default "test". Raises UserError where nothing is found, UsageError for a
    split without a source. A file that is missing is told when its turn comes, by its name.
    """
    several = isinstance(given, (list, tuple))
    parts = [part for number, one in enumerate(given if several else [given]) for part in _parts_of(one, number, split)]
    if split is not None and not any(isinstance(part, Samples) for part in parts):
        raise UsageError("--split chooses a part of a data source, and none is given; leave it out.")
    return Pictures(parts)


def _parts_of(given, number, split):
    if isinstance(given, (str, os.PathLike)):
        return [_of_word(os.fspath(given), split)]
    if isinstance(given, data.Source):
        return [Samples(given)]
    array = np.asarray(given)
    if array.ndim == 4:
        return [[ArrayPicture(str(i), one) for i, one in enumerate(array)]]
    return [[ArrayPicture(str(number), array)]]


def _of_word(word, split):
    """The pictures of a file's name; of a folder, with all below it but hidden ones; of a pattern (*, ?, [], ** for any
    folders); of @FILE or - (standard input), a path a line; of a data source's name.

    What exists by that name comes first.
    """
    if os.path.isdir(word):
        return _not_none(_below(word), f"{word} holds no pictures ({', '.join(EXTENSIONS)}); name another folder.")
    if os.path.lexists(word):
        return [FilePicture(word)]
    if word == "-":
        return _listed(sys.stdin.buffer.read(), "standard input")
    if word.startswith("@"):
        return _listed(read_file(word[1:], "a text file with the path of a picture in each line"), word[1:])
    if is_source(word):
        return Samples(data.open_source(word, split or "test"))
    if glob.has_magic(word):
        return _not_none(_matching(word), f"no picture matches {word}; correct the pattern.")
    return [FilePicture(word)]


def _not_none(paths, otherwise):
    if not paths:
        raise UserError(otherwise)
    return list(map(FilePicture, paths))


def _matching(pattern):
    """The files, sorted; of a pattern that ends in no suffix only pictures, which other files may lie among."""
    found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    named = pathlib.PurePath(pattern).suffix not in ("", ".*")
    return found if named else [path for path in found if _is_picture(path)]


def _below(folder):
    """The paths of the pictures in a folder and those below it, sorted; each folder once, wherever links lead."""
    found, seen = [], set()
    for here, folders, files in os.walk(folder, onerror=_refused, followlinks=True):
        own = os.stat(here)
        new = (own.st_dev, own.st_ino) not in seen
        seen.add((own.st_dev, own.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if new else []
        found += [os.path.join(here, name) for name in files if new and not name.startswith(".") and _is_picture(name)]
    return sorted(found, key=lambda path: pathlib.PurePath(path).parts)


def _refused(error):
    raise UserError(f"{error.filename} cannot be read ({reason(error)}); check its permissions.") from error


def _is_picture(path):
    return pathlib.PurePath(path).suffix.lower() in EXTENSIONS


def _listed(text, what):
    """The pictures whose paths stand in a text, bytes of a path a line."""
    paths = [path for line in os.fsdecode(text).split("\n") if (path := line.rstrip("\r")).strip()]
    return _not_none(paths, f"{what} names no picture; write the path of one into each line.")

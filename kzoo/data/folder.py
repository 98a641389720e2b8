"""Pictures in folders, one folder a class."""

import os
import pathlib
import zlib

import numpy as np

from kzoo.data.decode import EXTENSIONS, Picture
from kzoo.data.sources import EVALUATION, Source
from kzoo.errors import UserError


class FolderSource(Source):
    """PATH/<split>/<class>/* where PATH has split folders, else PATH/<class>/* with a fixed tenth held out for evaluation.

    Classes are numbered in the order of their names, those of the training folder. Which pictures are held out depends on their
    paths below PATH alone. Raises UserError for a missing folder, an unknown split, no classes or a class without pictures.
    """

    def __init__(self, name, path, split):
        root = pathlib.Path(path).expanduser()
        if not root.is_dir():
            raise UserError(f"{name}: there is no folder {root}; check the path.")
        home = _split_folder(root, split)
        self.name = name
        self.class_names = tuple(_classes(root / "train" if (root / "train").is_dir() else home or root))
        self.num_classes = len(self.class_names)
        self._files, self._labels = self._list(home or root, known=home is not None)
        if home is None:
            keep = [_held_out(file.relative_to(root)) == _is_evaluation(name, split) for file in self._files]
            self._files = [file for file, kept in zip(self._files, keep, strict=True) if kept]
            self._labels = self._labels[keep]
        if not self._files:
            raise UserError(f"{name} has too few pictures to hold some out as {split!r}; put them into {root / split}/<class>/ instead.")

    def _list(self, home, known):
        files, labels = [], []
        for label, class_name in enumerate(self.class_names):
            found = _pictures(home / class_name)
            files += found
            labels += [label] * len(found)
        extra = set(_classes(home)) - set(self.class_names) if known else ()
        if extra:
            raise UserError(f"{home / min(extra)} is no class of the training split; rename or remove that folder.")
        return files, np.array(labels, np.int32)

    def __len__(self):
        return len(self._files)

    def open(self, i):
        file = self._files[i]
        try:
            encoded = file.read_bytes()
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}); check the file.") from error
        return Picture(encoded, file), int(self._labels[i])


def _split_folder(root, split):
    """root/<split> or a synonym of it; None where root has no split folders; raises UserError where it has only others."""
    words = (split, *EVALUATION) if split in EVALUATION else (split,)
    home = next((root / word for word in words if (root / word).is_dir()), None)
    others = [word for word in ("train", *EVALUATION) if (root / word).is_dir()]
    if home is None and others:
        raise UserError(f"{root} has no folder for the split {split!r}, only {', '.join(others)}; add one or name an existing split.")
    return home


def _is_evaluation(name, split):
    if split not in ("train", *EVALUATION):
        raise UserError(f"{name} has no split {split!r}; choose train or test.")
    return split != "train"


def _classes(home):
    """The class folders' names, sorted; hidden folders are no classes."""
    names = sorted(entry.name for entry in os.scandir(home) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{home} has no class folders; put the pictures of each class into a folder of its own.")
    return names


def _pictures(folder):
    """Every picture file below a class folder, sorted by path."""
    every = (pathlib.Path(here, name) for here, _, names in os.walk(folder, followlinks=True) for name in names)
    found = [file for file in every if file.suffix.lower() in EXTENSIONS]
    if folder.is_dir() and not found:
        raise UserError(f"{folder} has no pictures ({', '.join(EXTENSIONS)}); add some or remove the folder.")
    return sorted(found)


def _held_out(relative):
    return zlib.crc32(relative.as_posix().encode()) % 10 == 0

"""Pictures in folders, one folder a class."""

import collections
import os
import pathlib
import zlib

import numpy as np

from kzoo.data.decode import EXTENSIONS, Picture, read_picture
from kzoo.data.division import refuse
from kzoo.data.sources import EVALUATION, Source
from kzoo.errors import UserError
from kzoo.system import printable, say

# What other systems leave in folders; hidden as names with a leading dot are.
_LEFTOVERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


class FolderSource(Source):
    """PATH/<split>/<class>/* where PATH has split folders, else PATH/<class>/* with a fixed tenth held out for
    evaluation, or what a Division says, by the paths below PATH, class by class.

    Classes are numbered in the order of their names, those of the training folder. Which pictures are held out depends
    on their paths below PATH alone. Hidden names count at no level, and each folder once, wherever links lead; what is
    passed over is said. Raises UserError for a missing folder, an unknown split, no classes or a class without
    pictures.
    """

    def __init__(self, name, path, split, division=None):
        root = pathlib.Path(path).expanduser()
        if not root.is_dir():
            raise UserError(f"{name}: there is no folder {root}; check the path.")
        home = _split_folder(root, split)
        if home is not None:
            refuse(name, division, f"leave them out, or name a folder without such, as folder:{root / 'train'}")
        passed = collections.defaultdict(list)
        classes = _classes(root / "train" if (root / "train").is_dir() else home or root, passed)
        self.name = name
        self.class_names = tuple(map(printable, classes))
        self.num_classes = len(self.class_names)
        self._files, self._labels = _list(home or root, classes, passed)
        if home is not None and (extra := set(_classes(home)) - set(classes)):
            raise UserError(f"{home / min(extra)} is no class of the training split; rename or remove that folder.")
        if home is None:
            self._keep(self._part(root, split, division, classes))
        self.passed = dict(passed)
        if passed:
            told = ", ".join(f"{len(paths)} {what}" for what, paths in sorted(passed.items()))
            say(f"{printable(name)}, {split}: {len(self._files):,} pictures; passed over {told}")
        if not self._files:
            raise UserError(
                f"{name} has too few pictures to hold some out as {split!r}; put them into {root / split}/<class>/ "
                "instead."
            )

    def _part(self, root, split, division, classes):
        """The sample numbers of a split of a root without split folders."""
        below = [file.relative_to(root) for file in self._files]
        if division is not None:
            named = [classes[label] for label in self._labels]
            return division.chosen(self.name, split, [path.as_posix() for path in below], named)
        wanted = is_evaluation(self.name, split)
        return [i for i, path in enumerate(below) if held_out(path.as_posix()) == wanted]

    def _keep(self, index):
        self._files = [self._files[i] for i in index]
        self._labels = self._labels[index]

    def __len__(self):
        return len(self._files)

    def open(self, i):
        return Picture(read_picture(self._files[i]), self._files[i]), int(self._labels[i])

    def all_labels(self):
        return self._labels

    def where(self, i):
        return str(self._files[i])


def _split_folder(root, split):
    """root/<split> or a synonym of it; None where root has no split folders; raises UserError where it has only
    others.
    """
    words = (split, *EVALUATION) if split in EVALUATION else (split,)
    home = next((root / word for word in words if (root / word).is_dir()), None)
    others = [word for word in ("train", *EVALUATION) if (root / word).is_dir()]
    if home is None and others:
        raise UserError(
            f"{root} has no folder for the split {split!r}, only {', '.join(others)}; add one or name an existing "
            "split."
        )
    return home


def is_evaluation(name, split):
    """Whether a split of a set without splits is the part that is held out. Raises UserError for an unknown one."""
    if split not in ("train", *EVALUATION):
        raise UserError(f"{name} has no split {split!r}; choose train or test.")
    return split != "train"


def _hidden(name):
    return name.startswith(".") or name in _LEFTOVERS


def _classes(home, passed=None):
    """The class folders' names, sorted; hidden folders are no classes, and go into `passed`."""
    folders = [entry.name for entry in os.scandir(home) if entry.is_dir()]
    names = sorted(name for name in folders if not _hidden(name))
    if not names:
        raise UserError(f"{home} has no class folders; put the pictures of each class into a folder of its own.")
    if passed is not None and len(folders) > len(names):
        passed["hidden"] += [os.path.join(home, name) for name in sorted(set(folders) - set(names))]
    return names


def _list(home, classes, passed):
    """(picture files, labels int32 (N,)) below the class folders, sorted by path within a class; `passed` gets the
    paths of what is none, by why.

    Raises UserError for a class folder without pictures.
    """
    folders = {label: home / name for label, name in enumerate(classes) if (home / name).is_dir()}
    found, links = {label: [] for label in folders}, collections.deque()
    # A link to a folder above would find every class again. Real folders come first: no link takes their pictures into
    # another class.
    seen = {_identity(folder) for folder in (home.resolve(), *home.resolve().parents)}
    for label, folder in sorted(folders.items(), key=lambda item: item[1].is_symlink()):
        _walk(folder, label, found, links, seen, passed)
    while links:
        _walk(*links.popleft(), found, links, seen, passed)
    for label, folder in folders.items():
        if not found[label]:
            raise UserError(
                f"{folder} has no pictures of its own ({', '.join(EXTENSIONS)}); add some or remove the folder."
            )
    files = [file for label in folders for file in sorted(found[label])]
    return files, np.repeat(np.array(list(folders), np.int32), [len(found[label]) for label in folders])


def _walk(folder, label, found, links, seen, passed):
    """Adds the pictures below a folder to found[label], and the links to folders, which are followed when the real ones
    are done.
    """
    stack = [folder]
    while stack:
        here = stack.pop()
        if _identity(here) in seen:
            passed["links to folders that count already"].append(str(here))
            continue
        seen.add(_identity(here))
        for entry in sorted(_entries(here), key=lambda entry: entry.name):
            target = pathlib.Path(entry.path)
            if _hidden(entry.name):
                passed["hidden"].append(str(target))
            elif entry.is_dir(follow_symlinks=False):
                stack.append(target)
            elif entry.is_symlink() and target.is_dir():
                links.append((target, label))
            elif target.suffix.lower() not in EXTENSIONS:
                passed["of other kinds"].append(str(target))
            elif entry.is_file(follow_symlinks=False) or target.is_file():
                found[label].append(target)
            else:
                passed["broken links or no files"].append(str(target))


def _entries(folder):
    try:
        return list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); check its permissions.") from error


def _identity(folder):
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def held_out(path):
    """Whether the picture of that path, a text, below the root of a set is of the fixed tenth."""
    return zlib.crc32(os.fsencode(path)) % 10 == 0


def splits_of(spec, path, data_dir=None):
    """The names of the split folders."""
    root = pathlib.Path(path).expanduser()
    return [word for word in ("train", *EVALUATION) if (root / word).is_dir()]

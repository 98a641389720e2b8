"""Labelled pictures by sample number: arrays in memory, generated ones, and the table of source names.

A plugin adds a kind of source by an entry point of the group `kzoo.sources`: `KIND = "module:function"`, the function
called like those of the table, function(spec, rest, split, data_dir) -> Source, where spec is the whole text
"KIND:REST".
"""

import concurrent.futures
import functools
import importlib
import os

import numpy as np

from kzoo.data.decode import pixels
from kzoo.data.division import SYNONYMS, refuse
from kzoo.data.randomness import uniforms
from kzoo.errors import UsageError, UserError, unknown
from kzoo.plugins import entries, imported, refuse_rivals
from kzoo.specs import OURS

PLUGINS = "kzoo.sources"  # the entry-point group
_THREADS = min(os.cpu_count() or 1, 16)
EVALUATION = ("test", "validation", "val")  # synonyms: a set that has one of them answers to all


class Source:
    """Labelled pictures with random access. Subclasses set name, num_classes, class_names, channels and define __len__
    and open.

    One that gives something else, or pictures alone, says so by `targets`, as tasks say what they need.
    """

    name = ""
    num_classes = 0
    class_names = ()
    channels = 3
    targets = "label"  # beside the picture: label | objects | picture (nothing; any number stands in a label's place)
    multilabel = False  # True: labels are vectors float32 (num_classes,) of 0 and 1, any number of classes a picture
    passed = {}  # {what was no picture: [paths]}, where a source looks for its files itself
    streams = False  # True: read in file order through records() and decode() instead of batch()

    def __len__(self):
        raise NotImplementedError

    def open(self, i):
        """(picture, int label) of sample i; the picture is uint8 (H, W, C) or a Picture, which is decoded by
        pixels().
        """
        raise NotImplementedError

    def called(self, i):
        """What tables call sample i: the path of its file or, where it has none of its own, its number."""
        return str(i)

    def read(self, i):
        """(uint8 (H, W, C), int label) of sample i; raises UserError naming the file of a bad picture."""
        picture, label = self.open(i)
        return pixels(picture), label

    def batch(self, index):
        """(pictures, labels int32 (B,)) of the sample numbers (B,): one array where all are decoded and of one size,
        else a list. Where a picture has several labels, they are float32 (B, num_classes).
        """
        pictures, labels = zip(*spread(self.open, index), strict=True)
        return list(pictures), np.array(labels, np.float32 if self.multilabel else np.int32)

    def all_labels(self):
        """The labels of all samples, int32 (N,) or float32 (N, num_classes); they are read one by one, unless a source
        that knows them says so in a method of its own.
        """
        labels = spread(lambda i: self.open(i)[1], range(len(self)))
        return np.array(labels, np.float32 if self.multilabel else np.int32)

    @property
    def knows_labels(self):
        """Whether it has all_labels without reading a picture."""
        return type(self).all_labels is not Source.all_labels and not self.streams

    def where(self, i):
        """What a message calls sample i: where to find it."""
        called = self.called(i)
        return f"{self.name}[{i}]" if called == str(i) else called

    def usable(self, index):
        """bool (B,): which of the samples count in figures; False where another picture stands in for one that cannot
        be read.
        """
        return np.ones(len(index), bool)


def spread(function, *sequences):
    """[function(*items), ...] in order, computed by the reading threads: Pillow and NumPy release the GIL."""
    jobs = list(zip(*sequences, strict=True))
    # a task costs about as much as a small picture, and some threads finish early
    size = -(-len(jobs) // (4 * _THREADS))
    parts = (jobs[start : start + size] for start in range(0, len(jobs), size or 1))
    return [result for part in _readers().map(lambda part: [function(*job) for job in part], parts) for result in part]


@functools.cache
def _readers():
    return concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="kzoo-read")


class ArraySource(Source):
    """Pictures of equal size in memory: images uint8 (N, H, W, C), labels (N,) in 0..num_classes-1 or, of several a
    picture, (N, num_classes) of 0 and 1.
    """

    def __init__(self, name, images, labels, num_classes, class_names=()):
        self.multilabel = labels.ndim == 2
        (check_several if self.multilabel else check_labels)(name, labels, num_classes)
        self.name, self.num_classes, self.class_names = name, num_classes, tuple(class_names)
        self.images, self.channels = images, images.shape[-1]
        self.labels = labels.astype(np.float32 if self.multilabel else np.int32)

    def __len__(self):
        return len(self.labels)

    def open(self, i):
        return self.images[i], self.labels[i] if self.multilabel else int(self.labels[i])

    def batch(self, index):
        return self.images[index], self.labels[index]

    def all_labels(self):
        return self.labels


class FakeSource(Source):
    """Generated gratings whose direction and fineness tell the class; the sizes vary by a few pixels. For tests and
    smoke runs.
    """

    def __init__(self, name, split, *, classes=10, size=64, n=64, channels=3):
        self.name, self.num_classes, self.channels = name, classes, channels
        self._size, self._count, self._seed = size, n, 1 if split in EVALUATION else 0

    def __len__(self):
        return self._count

    def open(self, i):
        label = int(i) % self.num_classes
        u = uniforms(self._seed, 0, [i], 4 + self.channels)[0]
        height, width = (self._size + int(v * 8) for v in u[:2])
        angle, waves = np.pi * label / self.num_classes, 3 + label % 3
        y, x = np.mgrid[:height, :width] / self._size
        wave = np.sin(2 * np.pi * (waves * (x * np.cos(angle) + y * np.sin(angle)) + u[2]))
        colour = 64 + 127 * u[4:]
        return np.clip(colour + 64 * wave[..., None], 0, 255).astype(np.uint8), label

    def all_labels(self):
        return np.arange(self._count, dtype=np.int32) % self.num_classes


def open_source(spec, split, data_dir=None, *, division=None, lenient=False):
    """The Source that a text names: tfds:NAME, folder:PATH, csv:FILE, npz:FILE, digits, fake[:classes=5,size=48,n=64,
    channels=1], with objects coco:IMAGES,ANNOTATIONS.json, voc:PATH, shapes[:n=2000,size=64,max=6], or a plugin's.

    data_dir is TFDS' (None: the setting KZOO_DATA_DIR, else TFDS' default). division: the Division of a source without
    splits of its own; None: a tenth is held out. lenient: pictures that a list names and that are not there are told
    when they are read, not now. Raises UserError for what is not there or not readable, and for a kind that two
    packages claim or whose plugin fails; UsageError where a source that has splits is to be divided.
    """
    kind, _, rest = str(spec).partition(":")
    opener = _opener(kind, spec)
    if kind in ("tfds", "folder", "csv", "npz", "coco", "voc") and not rest:
        raise UsageError(f"the data source {kind!r} needs a name or path: {kind}:WHERE.")
    if kind in _DIVIDED:
        more = {"lenient": lenient} if kind in _LISTED else {}
        return opener(spec, rest, split, data_dir, division=division, **more)
    refuse(spec, division)
    return opener(spec, rest, split, data_dir)


def splits_of(spec, data_dir=None):
    """The names of the splits that the source named by a text has, as far as it tells: train and those of evaluation,
    once each. Raises as open_source does.
    """
    kind, _, rest = str(spec).partition(":")
    _opener(kind, spec)
    if kind == "tfds":
        from kzoo.data.tfds_source import splits_of as found
    elif kind in _DIVIDED and rest:
        module = {"csv": "csv_source"}.get(kind, kind)
        found = importlib.import_module(f"kzoo.data.{module}").splits_of
    else:
        return "train", "test"
    words = found(spec, rest, data_dir)
    return tuple(word for word in ("train", *SYNONYMS) if word in words) or ("train", "test")


def is_source(text):
    """Whether a text begins as the name of a data source does, ours or a plugin's."""
    kind = text.partition(":")[0]
    return kind in _OPENERS or any(entry.name == kind for entry in entries(PLUGINS))


def _opener(kind, spec):
    """The function that opens sources of a kind, ours or a plugin's, whose module is then imported."""
    plugged = entries(PLUGINS)
    known = {*_OPENERS, *(entry.name for entry in plugged)}
    if kind not in known:
        raise unknown("data source", spec, known)
    plugged = [entry for entry in plugged if entry.name == kind]
    ours = [(OURS, __name__)] if kind in _OPENERS else []
    refuse_rivals("data source", kind, ours + [(entry.dist.name, entry.module) for entry in plugged])
    if ours:
        return _OPENERS[kind]
    (entry,) = plugged
    opener = imported(entry.load, f"the data source {kind!r}", entry.module, entry.dist.name)
    if not callable(opener):
        raise UserError(
            f"the data source {kind!r} of the plugin {entry.dist.name} names no function; it takes "
            f"{entry.module}:FUNCTION."
        )
    return opener


def check_labels(name, labels, num_classes, index=None):
    """Raises UserError, naming the first sample, unless the labels (N,) are whole numbers in 0..num_classes-1.

    index (N,) are the sample numbers, by default 0, 1, 2, ...
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{name}: labels must be whole numbers, not {labels.dtype}; store class numbers counted from 0."
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        sample = wrong[0] if index is None else index[wrong[0]]
        raise UserError(
            f"{name}: sample {sample} has label {labels[wrong[0]]}, outside 0..{num_classes - 1}; correct or remove it."
        )


def check_several(name, labels, num_classes):
    """Raises UserError, naming the first sample, unless labels (N, num_classes) are of 0 and 1."""
    if labels.shape[1] != num_classes:
        raise UserError(
            f"{name}: labels of shape {labels.shape} do not fit {num_classes} classes; give one column each."
        )
    wrong = np.flatnonzero(~np.isin(labels, (0, 1)).all(axis=1))
    if len(wrong):
        raise UserError(f"{name}: sample {wrong[0]} has labels other than 0 and 1, {labels[wrong[0]]}; correct them.")


def whole_options(kind, text, known):
    """{key: number} of a generated source's options, "key=1,other=2". Raises UsageError for a key not among the known,
    or below 1.
    """
    given = {}
    for option in filter(None, text.split(",")):
        key, _, value = option.partition("=")
        if key not in known:
            raise unknown(f"option of the {kind} source", key, known)
        if not value.isdecimal() or int(value) < 1:
            raise UsageError(
                f"the option {key} of the {kind} source must be a whole number of at least 1, not {value!r}."
            )
        given[key] = int(value)
    return given


def _fake(spec, options, split, data_dir):
    return FakeSource(spec, split, **whole_options("fake", options, ("classes", "size", "n", "channels")))


def _digits(spec, rest, split, data_dir):
    from kzoo.data.npz import open_digits

    return open_digits(split)


def _npz(spec, path, split, data_dir, division=None):
    from kzoo.data.npz import open_npz

    return open_npz(spec, path, split, division)


def _folder(spec, path, split, data_dir, division=None):
    from kzoo.data.folder import FolderSource

    return FolderSource(spec, path, split, division)


def _csv(spec, path, split, data_dir, division=None, lenient=False):
    from kzoo.data.csv_source import open_csv

    return open_csv(spec, path, split, division, lenient)


def _tfds(spec, name, split, data_dir):
    from kzoo.data.tfds_source import open_tfds

    return open_tfds(spec, name, split, data_dir)


def _coco(spec, where, split, data_dir, division=None, lenient=False):
    from kzoo.data.coco import open_coco

    return open_coco(spec, where, split, division, lenient)


def _voc(spec, path, split, data_dir, division=None):
    from kzoo.data.voc import open_voc

    return open_voc(spec, path, split, division)


def _array(spec, rest, split, data_dir):
    from kzoo.data.given import refuse_to_reopen

    refuse_to_reopen(spec)


def _shapes(spec, options, split, data_dir):
    from kzoo.data.shapes import Shapes

    return Shapes(spec, split, **whole_options("shapes", options, ("n", "size", "max")))


_OPENERS = {
    "array": _array,  # what was given in Python
    **{"tfds": _tfds, "folder": _folder, "npz": _npz, "digits": _digits, "fake": _fake},
    **{"coco": _coco, "voc": _voc, "shapes": _shapes, "csv": _csv},
}
_DIVIDED = {"folder", "csv", "npz", "coco", "voc"}  # which may have no splits of their own
_LISTED = {"csv", "coco"}  # which name their pictures in a file

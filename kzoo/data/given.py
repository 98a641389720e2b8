"""Data that a user hands over in Python, as sources: arrays, tf.data, PyDataset, sources, names, and pairs of these.

What is no source is read into memory once, as bytes, so that any picture can be had at any time: a run then replays and
resumes bit for bit, and shuffles by itself. Sources of such data are named by a digest of what they hold.
"""

import hashlib
import itertools
import sys

import numpy as np

from kzoo.data.given_arrays import Pictures, together
from kzoo.data.npz import held_out
from kzoo.data.part import Subset
from kzoo.data.sources import ArraySource, Source
from kzoo.errors import UsageError, UserError

KIND = "array"  # the name of such a source is KIND:DIGEST
LARGEST = 8 * 2**30  # bytes of pictures that are read into memory
_KINDS = (
    "data takes a source's name, a kzoo.data source, (images, targets) as arrays, a tf.data.Dataset or a PyDataset, or "
    "a pair of these, (training, evaluation)"
)


class GivenSource(ArraySource):
    """Pictures in memory: images uint8 (N, H, W, C) or a list of such of different sizes, labels int (N,), of several a
    picture (N, num_classes) of 0 and 1, or None.
    """

    def __init__(self, name, images, labels, num_classes, class_names=()):
        self.name, self.num_classes, self.class_names = name, num_classes, tuple(class_names)
        self.images, self.channels = images, images[0].shape[-1]
        self.targets = "picture" if labels is None else "label"
        labels = np.zeros(len(images), np.int32) if labels is None else labels
        self.multilabel = labels.ndim == 2
        self.labels = labels.astype(np.float32 if self.multilabel else np.int32)

    def batch(self, index):
        images = self.images
        return images[index] if isinstance(images, np.ndarray) else [images[i] for i in index], self.labels[index]


def sources_of(data, opened, parts=True, divide=None):
    """(training, evaluation), the Sources of what a user gave: a source's name, a kzoo.data source, (images, targets),
    images alone, a tf.data.Dataset, a PyDataset, or a pair of these.

    opened: the function of a name and the place in the pair that opens the source of that name. Without evaluation a
    tenth, scattered by the samples' numbers, is held out, as of an npz file without splits, or what the function
    `divide` of the source says, bool (N,); parts False: evaluation is then the whole, and training None. In (images,
    targets) images are (N, H, W[, C]), uint8, or other numbers in 0..255 or, floats alone, in 0..1; targets labels
    (N,), whole numbers or texts, or (N, classes) of 0 and 1. Datasets give
    such pairs, one by one or in batches. Raises UserError, or UsageError for what is none of these or could be two.
    """
    if isinstance(data, list | tuple) and not _is_arrays(data):
        training, evaluation = _pair(data)
        if divide is not None:
            raise UsageError(
                "data is a pair, (training, evaluation), which data.holdout and data.folds do not divide; leave them "
                "out, or give the training data alone."
            )
        return _both(training, evaluation, opened)
    if isinstance(data, str):
        return opened(data, 0) if parts else None, opened(data, 1)
    whole = data if isinstance(data, Source) else _source([_read(data)])[0]
    if not parts:
        return None, whole
    return _divided(whole, divide)


def _both(training, evaluation, opened):
    """The Sources of a pair; of classes and of a range of values that fit both, where both are read here."""
    given = (training, evaluation)
    read = [_read(each) for each in given if not isinstance(each, str | Source)]
    made = iter(_source(read) if read else ())
    return tuple(
        opened(each, place) if isinstance(each, str) else each if isinstance(each, Source) else next(made)
        for place, each in enumerate(given)
    )


def _divided(source, divide):
    """(training, evaluation) of a source that was given alone."""
    if source.streams:
        raise UsageError(
            f"{source.name} is read as a stream, of which none can be held out; give a pair, (training, evaluation)."
        )
    out = held_out(len(source)) if divide is None else divide(source)
    if out.all() or not out.any():
        raise UsageError(
            f"{source.name} has {len(source)} pictures, too few to hold a tenth out; give a pair, (training, "
            "evaluation)."
        )
    return Subset(source, np.flatnonzero(~out)), Subset(source, np.flatnonzero(out))


def part_for(run_source, reference, source, divide=None):
    """(training, evaluation) sources for a finished run of that source's name: where it was given the very data of the
    run, of which some was held out, those parts of it.
    """
    if source.name == run_source and source.name.startswith(f"{KIND}:"):
        return _divided(source, divide)
    return reference, source


def _is_arrays(data):
    """Whether a tuple or list is (images, targets); raises UsageError for what could be a pair too."""
    if len(data) != 2 or not _is_array(data[0]):
        return False
    images, targets = data
    if _is_array(targets) and np.ndim(targets) >= 3:
        raise UsageError(
            "data is two arrays of pictures, which could be pictures and targets or two sets; give ((images, targets), "
            "(images, targets)), or (images, None) for pictures without targets."
        )
    return targets is None or _is_array(targets) or isinstance(targets, list | tuple)


def _pair(data):
    kinds = (str, Source)
    if len(data) == 3 and _is_array(data[0]):
        raise UsageError("data of three arrays would have weights, which are not read; give (images, targets).")
    if len(data) != 2:
        raise UsageError(f"data has {len(data)} parts; {_KINDS}.")
    for part in data:
        nested = isinstance(part, list | tuple) and _is_arrays(part)
        if not (isinstance(part, kinds) or _is_array(part) or _is_dataset(part) or nested):
            raise UsageError(f"data has a part of type {type(part).__name__}; {_KINDS}.")
    return data


def _is_array(value):
    return hasattr(value, "__array__") or hasattr(value, "__dlpack__")


def _is_tf_dataset(value):
    return hasattr(value, "as_numpy_iterator") and hasattr(value, "element_spec")


def _is_dataset(value):
    keras = sys.modules.get("keras")  # whoever has a PyDataset has imported it
    return _is_tf_dataset(value) or (keras is not None and isinstance(value, keras.utils.PyDataset))


def _read(data):
    """The Pictures of arrays, a tf.data.Dataset or a PyDataset."""
    if _is_dataset(data):
        batches = _tf_batches(data) if _is_tf_dataset(data) else _py_batches(data)
        return Pictures.collected(batches, LARGEST)
    if _is_array(data):
        data = (data, None)
    if not (isinstance(data, list | tuple) and _is_arrays(data)):
        raise UsageError(f"data is of type {type(data).__name__}; {_KINDS}.")
    return Pictures.of(*data)


def _tf_batches(dataset):
    if int(dataset.cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
        raise UsageError("the tf.data.Dataset never ends; give it without repeat(), an epoch is one pass over it.")
    for element in dataset.as_numpy_iterator():
        yield _parted(element)


def _py_batches(dataset):
    count = dataset.num_batches
    if count is None:
        raise UsageError("the PyDataset never ends; give one whose __len__ says how many batches it has.")
    for i in range(count):
        yield _parted(dataset[i])


def _parted(element):
    """(images, targets or None) of what a dataset gives: arrays, one picture or a batch."""
    if isinstance(element, dict) and "image" in element:  # as TFDS spells it
        element = (element["image"], element.get("label"))
    parts = tuple(element) if isinstance(element, list | tuple) else (element,)
    if len(parts) > 2 or not all(part is None or np.ndim(part) == 0 or _is_array(part) for part in parts):
        raise UsageError(
            "a dataset gives pictures, or (image, label) one by one or in batches; this one gives "
            f"{len(parts)} parts of type {', '.join(type(part).__name__ for part in parts)}: map it to such pairs."
        )
    images, targets = (*parts, None)[:2]
    images = np.asarray(images)
    if images.ndim == 3:
        images, targets = images[None], None if targets is None else np.asarray(targets)[None]
    return images, None if targets is None else np.asarray(targets)


def _source(read):
    """The Sources of one or two Pictures, whose classes and values have to go together."""
    labels, num_classes, names = together(read)
    made = []
    for pictures, own in zip(read, labels, strict=True):
        images = pictures.images
        made.append(GivenSource(f"{KIND}:{_digest(images, own, names)}", images, own, num_classes, names))
    return made


def _digest(images, labels, names):
    found = hashlib.blake2b(digest_size=8)
    for array in itertools.chain([images] if isinstance(images, np.ndarray) else images, [labels]):
        if array is not None:
            found.update(repr((array.shape, array.dtype.str)).encode())
            found.update(np.ascontiguousarray(array))
    found.update(repr(names).encode())
    return found.hexdigest()


def refuse_to_reopen(spec, *_):
    """In the table of sources: what a name like KIND:DIGEST leads to."""
    raise UserError(
        f"{spec} names data that was given in Python, which no name can open: give it again, as data=... of kzoo.train "
        "or kzoo.evaluate."
    )

"""Data sets in one .npz file, and the embedded one.

`digits` is the UCI "Optical Recognition of Handwritten Digits" test set (E. Alpaydin and C. Kaynak, CC BY 4.0): 1,797
grey pictures of 8x8, the values 0..16 scaled to 0..255, every fifth of each class held out as the test split.
"""

import pathlib

import numpy as np

from kzoo.archives.arrays import Arrays
from kzoo.data import npz_objects
from kzoo.data.division import refuse
from kzoo.data.randomness import uniforms
from kzoo.data.sources import EVALUATION, ArraySource
from kzoo.errors import UserError

MOST_CLASSES = 1_000_000  # a mistake beyond: the largest public sets have a tenth
_STYLES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("images_{}", "labels_{}"))
_DIGITS = pathlib.Path(__file__).with_name("digits.npz")


def open_digits(split):
    """The embedded digits: 8x8, 1 channel, 10 classes."""
    return open_npz("digits", _DIGITS, split)


def open_npz(name, path, split, division=None):
    """The split of an .npz file with x_train/y_train, train_images/train_labels or plain images/labels (1 in 10 held
    out, or what a Division says, by the samples' numbers) arrays.

    Images are uint8 (N, H, W) or (N, H, W, C), labels whole numbers (N,) or (N, 1) or, where the file has a key
    multilabel, (N, K) of 0 and 1; class_names (K,) and num_classes are optional. Where there are boxes, the labels are
    theirs, see npz_objects.source_of. Raises UserError for whatever is missing or does not fit together.
    """
    if not pathlib.Path(path).exists():
        raise UserError(f"{name}: there is no file {path}; check the path or write one with `kzoo data pack`.")
    with Arrays(path) as file:
        return _source(name, file, split, division)


def _source(name, file, split, division):
    style = npz_objects.style_of(file.headers, split)
    if style is not None:
        names = _class_names(name, file)
        if style:
            refuse(name, division)
        return npz_objects.source_of(name, file, style, split, names, len(names) or _num_classes(name, file), division)
    keys = _keys(name, file.headers, split)
    if keys[0] != "images":
        refuse(name, division)
    several = "multilabel" in file.headers
    _check(name, keys, *(file.headers[key] for key in keys), several)
    images, labels = (file.read(key) for key in keys)
    images = images[..., None] if images.ndim == 3 else images
    labels = labels if several else labels.reshape(-1)
    class_names = _class_names(name, file)
    num_classes = len(class_names) or (labels.shape[1] if several else _num_classes(name, file))
    # checks the labels by their number in the file
    source = ArraySource(name, images, labels, num_classes, class_names)
    if keys[0] == "images":
        part = held_out(len(labels)) == (split in EVALUATION)
        if division is not None:
            part = division.chosen(name, split, range(len(labels)), None if several else labels)
        source = ArraySource(name, images[part], labels[part], num_classes, class_names)
    return source


def held_out(count):
    """bool (count,): the fixed, scattered tenth of a set without splits that is kept for evaluation."""
    return uniforms(0, 0, np.arange(count), 1)[:, 0] < 0.1


def _keys(name, files, split):
    """The keys of the pictures and labels of a split."""
    for word in (split, *(EVALUATION if split in EVALUATION else ())):
        for style in _STYLES:
            pair = tuple(key.format(word) for key in style)
            if set(pair) <= set(files):
                return pair
    if {"images", "labels"} <= set(files) and split in ("train", *EVALUATION):
        return "images", "labels"
    raise UserError(
        f"{name} has no split {split!r}; expected arrays like {split}_images and {split}_labels, found "
        f"{', '.join(files)}."
    )


def _check(name, keys, images, labels, several):
    """Raises UserError, by the arrays' headers alone, unless they are pictures and a label for each."""
    if (
        images.dtype != np.uint8
        or len(images.shape) not in (3, 4)
        or (*images.shape, 1)[3] not in (1, 3, 4)
        or not images.nbytes
    ):
        raise UserError(
            f"{name}: {keys[0]} must be uint8 of shape (N, H, W[, 1, 3 or 4]), not {images.dtype} {images.shape}."
        )
    if several and len(labels.shape) == 2 and labels.shape[0] == images.shape[0]:
        return
    if several or labels.shape not in (images.shape[:1], (images.shape[0], 1)):
        raise UserError(
            f"{name}: {keys[1]} of shape {labels.shape} does not match the {images.shape[0]} pictures; store one label "
            "for each."
        )


def _class_names(name, file):
    """The array class_names (K,) of texts, () where there is none."""
    if "class_names" not in file.headers:
        return ()
    header = file.headers["class_names"]
    if header.dtype.kind != "U" or len(header.shape) != 1:
        raise UserError(
            f"{name}: class_names must be a list of texts, one for each class, not {header.dtype} {header.shape}."
        )
    return tuple(map(str, file.read("class_names")))


def _num_classes(name, file):
    """The number of classes that the file tells or, where it does not, one more than its greatest label."""
    if "num_classes" in file.headers:
        header = file.headers["num_classes"]
        told = file.read("num_classes").item() if header.shape in ((), (1,)) else header.shape
    else:
        every = [key for key in file.headers if key.startswith(("y_", "labels")) or key.endswith("_labels")]
        whole = [file.read(key) for key in every if file.headers[key].dtype.kind in "iu"]
        told = 1 + max((int(labels.max()) for labels in whole if labels.size), default=0)
    if type(told) is not int or not 1 <= told <= MOST_CLASSES:
        raise UserError(
            f"{name}: num_classes must be a whole number from 1 to {MOST_CLASSES}, not {told!r}; correct it, or the "
            "labels."
        )
    return told


def splits_of(spec, path, data_dir=None):
    """The words by which the keys of a file's arrays tell splits apart."""
    if not pathlib.Path(path).exists():
        return ()
    with Arrays(path) as file:
        return [
            word
            for word in ("train", *EVALUATION)
            if f"{word}_boxes" in file.headers or any(style[0].format(word) in file.headers for style in _STYLES)
        ]

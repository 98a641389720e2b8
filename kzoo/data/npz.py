"""Data sets in one .npz file, and the embedded one.

`digits` is the UCI "Optical Recognition of Handwritten Digits" test set (E. Alpaydin and C. Kaynak, CC BY 4.0): 1,797 grey pictures
of 8x8, the values 0..16 scaled to 0..255, every fifth of each class held out as the test split.
"""

import pathlib
import zipfile
import zlib

import numpy as np

from kzoo.data.randomness import uniforms
from kzoo.data.sources import EVALUATION, ArraySource
from kzoo.errors import UserError

_STYLES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("images_{}", "labels_{}"))
_DIGITS = pathlib.Path(__file__).with_name("digits.npz")


def open_digits(split):
    """The embedded digits: 8x8, 1 channel, 10 classes."""
    return open_npz("digits", _DIGITS, split)


def open_npz(name, path, split):
    """The split of an .npz file with x_train/y_train, train_images/train_labels or plain images/labels (1 in 10 held out) arrays.

    Images are uint8 (N, H, W) or (N, H, W, C), labels whole numbers (N,) or (N, 1); class_names (K,) and num_classes are optional.
    Raises UserError for whatever is missing or does not fit together.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            return _source(name, file, split)
    except FileNotFoundError:
        raise UserError(f"{name}: there is no file {path}; check the path or write one with `kzoo data pack`.") from None
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{name}: {path} is damaged or no .npz file of plain arrays; write it again with `kzoo data pack`.") from error


def _source(name, file, split):
    keys = _keys(name, file.files, split)
    images, labels = file[keys[0]], file[keys[1]]
    images = images[..., None] if images.ndim == 3 else images
    labels = labels.reshape(-1) if labels.shape[1:] == (1,) else labels
    _check(name, keys, images, labels)
    class_names = tuple(map(str, file["class_names"])) if "class_names" in file.files else ()
    num_classes = _num_classes(file, class_names)
    source = ArraySource(name, images, labels, num_classes, class_names)  # checks the labels by their number in the file
    if keys[0] == "images":
        part = held_out(len(labels)) == (split in EVALUATION)
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
    raise UserError(f"{name} has no split {split!r}; expected arrays like {split}_images and {split}_labels, found {', '.join(files)}.")


def _check(name, keys, images, labels):
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or not images.size:
        raise UserError(f"{name}: {keys[0]} must be uint8 of shape (N, H, W[, 1, 3 or 4]), not {images.dtype} {images.shape}.")
    if labels.shape != images.shape[:1]:
        raise UserError(f"{name}: {keys[1]} of shape {labels.shape} does not match the {len(images)} pictures; store one label for each.")


def _num_classes(file, class_names):
    if class_names:
        return len(class_names)
    if "num_classes" in file.files:
        return int(file["num_classes"])
    every = [file[key] for key in file.files if key.startswith(("y_", "labels")) or key.endswith("_labels")]
    return 1 + max((int(labels.max()) for labels in every if labels.size), default=0)

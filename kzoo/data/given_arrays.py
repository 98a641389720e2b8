"""Arrays that a user hands over, as uint8 pictures and labels: what their numbers mean, or why they cannot be told."""

import itertools

import numpy as np

from kzoo.errors import UserError

TOLD = 256  # pictures of a dataset by whose values its range is told
FAINT = 32  # a largest value from above 1 up to here tells neither 0..1 nor 0..255
_CHUNK = 256


class Pictures:
    """images uint8 (N, H, W, C), or a list of such (H, W, C); targets an array (N, ...) or None."""

    def __init__(self, images, targets):
        self.images, self.targets = images, targets

    @classmethod
    def of(cls, images, targets):
        """Of arrays. Raises UserError for shapes and values that are none of pictures with a target each."""
        images = _shaped(np.asarray(images))
        targets = None if targets is None else np.asarray(targets)
        if targets is not None and (targets.ndim == 0 or len(targets) != len(images)):
            raise UserError(
                f"data has {len(images)} pictures and targets of shape {targets.shape}; give one target a picture."
            )
        if not len(images):
            raise UserError("data has no pictures; give at least a batch of them.")
        return cls(_as_bytes(images, _scale(images)), targets)

    @classmethod
    def collected(cls, batches, most):
        """Of an iterable of (images (B, H, W, C), targets or None). Raises UserError as `of`, and for more than `most`
        bytes.
        """
        head, count, batches = [], 0, iter(batches)
        for images, targets in batches:
            head.append((_shaped(images), targets))
            count += len(images)
            if count >= TOLD:
                break
        if not count:
            raise UserError("the dataset gives no pictures; check what it reads.")
        scale = _scale(*(images for images, _ in head))
        found, answers, size = [], [], 0
        for images, targets in itertools.chain(head, batches):
            images = _as_bytes(_shaped(images), scale)
            size += images.nbytes
            if size > most:
                raise UserError(
                    f"the dataset has more than {most / 2**30:.3g} GiB of pictures, which are read into memory; map it "
                    "to smaller ones, or store them in folders (folder:PATH), which are read as they are needed."
                )
            if targets is not None and len(targets) != len(images):
                raise UserError(
                    f"the dataset gives {len(images)} pictures with {len(targets)} targets; give one target a picture."
                )
            found.append(images)
            answers.append(targets)
        if any(targets is None for targets in answers) != all(targets is None for targets in answers):
            raise UserError("the dataset gives some pictures with targets and some without; give all of them targets.")
        same = len({images.shape[1:] for images in found}) == 1
        if len({images.shape[-1] for images in found}) > 1:
            raise UserError("the dataset gives pictures of different numbers of channels; bring them to one.")
        images = np.concatenate(found) if same else [picture for images in found for picture in images]
        return cls(images, None if answers[0] is None else np.concatenate(answers))


def _shaped(images):
    """(N, H, W, C) of (N, H, W) or that. Raises UserError for other shapes, channels first among them."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[-1] not in (1, 3, 4):
        raise UserError(
            f"pictures of shape {images.shape} have their channels first; give images.transpose(0, 2, 3, 1)."
        )
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise UserError(f"pictures are arrays (N, H, W) or (N, H, W, 1, 3 or 4), not {images.shape}.")
    if images.dtype.kind not in "uifb" and images.dtype.name != "bfloat16":
        raise UserError(f"pictures are numbers, not {images.dtype}; give uint8 values in 0..255.")
    return images


def _scale(*arrays):
    """1 for values in 0..255, 255 for floats in 0..1. Raises UserError where the values do not tell which."""
    arrays = [array for array in arrays if array.size]
    if not arrays or arrays[0].dtype == np.uint8:
        return 1
    low, high = min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)
    whole = arrays[0].dtype.kind in "uib"
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError("the pictures hold values that are not finite; correct them.")
    if low >= 0 and high <= 1 and not whole:
        return 255
    if low >= 0 and FAINT < high <= 255:
        return 1
    what = f"pictures of {arrays[0].dtype} with values in {low:g}..{high:g}"
    if low < 0 or high > 255:
        raise UserError(
            f"{what} are neither in 0..255 nor in 0..1; undo their normalisation, which the model's own takes the "
            "place of."
        )
    raise UserError(
        f"{what} could be in 0..{high:g} or in 0..255; multiply them by {255 / max(high, 1):g} to fill 0..255, or give "
        "uint8, which is taken as it is."
    )


def _as_bytes(images, scale):
    """uint8 pictures, rounded. Raises UserError for values outside the range that the first ones told."""
    if images.dtype == np.uint8:
        return images
    out = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _CHUNK):
        values = images[start : start + _CHUNK].astype(np.float32) * np.float32(scale)
        if not (values >= 0).all() or not (values <= 255).all():  # a NaN is neither
            raise UserError(
                f"pictures whose first values were in 0..{255 // scale} hold others further on; give uint8, which is "
                "taken as it is."
            )
        out[start : start + _CHUNK] = np.rint(values)
    return out


def together(read):
    """([labels of each of the Pictures], how many classes, their names): of one or two sets that go together.

    Labels are int (N,), float (N, classes) of 0 and 1 where pictures may have several, or None where there are no
    targets. Raises UserError where the targets are none, or those of two sets of different kinds.
    """
    given = [_squeezed(pictures.targets) for pictures in read]
    if any(targets is None for targets in given):
        if any(targets is not None for targets in given):
            raise UserError("one part of data has targets and the other has none; give both, or none of them, targets.")
        return given, 0, ()
    if len({targets.ndim for targets in given}) > 1 or len({targets.shape[1:] for targets in given}) > 1:
        shapes = " and ".join(str(targets.shape) for targets in given)
        raise UserError(f"the targets of training and evaluation are of shapes {shapes}; give both in one form.")
    if given[0].ndim == 2:
        return _columns(given)
    texts = [targets.dtype.kind in "OSU" for targets in given]
    if any(texts):
        return _named(given, all(texts))
    labels = [_whole(targets) for targets in given]
    return labels, 1 + max(int(each.max()) for each in labels), ()


def _squeezed(targets):
    return targets[:, 0] if targets is not None and targets.ndim == 2 and targets.shape[1] == 1 else targets


def _whole(targets):
    """Labels (N,) as whole numbers from 0."""
    if targets.ndim != 1:
        raise UserError(f"targets are labels (N,) or (N, classes) of 0 and 1, not of shape {targets.shape}.")
    labels = targets.astype(np.int64)
    wrong = np.flatnonzero((labels != targets) | (labels < 0))
    if len(wrong):
        raise UserError(
            f"target {wrong[0]} is {targets[wrong[0]]}; labels are whole numbers counted from 0, or names of classes."
        )
    return labels


def _named(given, all_texts):
    """Labels that are names: classes in the order of the names of the first set."""
    if not all_texts:
        raise UserError("one part of data has names of classes as labels and the other numbers; give both the same.")
    given = [np.array([t.decode() if isinstance(t, bytes) else str(t) for t in targets]) for targets in given]
    names = np.unique(given[0])
    for targets in given[1:]:
        if extra := sorted(set(targets) - set(names)):
            raise UserError(f"the evaluation data has the class {str(extra[0])!r}, which the training data has not.")
    return [np.searchsorted(names, targets) for targets in given], len(names), tuple(map(str, names))


def _columns(given):
    """Targets (N, classes) of 0 and 1: labels where each picture has one, as to_categorical gives them."""
    for targets in given:
        wrong = np.flatnonzero(~np.isin(targets, (0, 1)).all(axis=1))
        if len(wrong):
            raise UserError(
                f"target {wrong[0]} is {np.array2string(targets[wrong[0]], threshold=6)}; targets (N, classes) are 0 "
                "or 1 for each class."
            )
    classes = given[0].shape[1]
    if all((targets.sum(axis=1) == 1).all() for targets in given):
        return [targets.argmax(axis=1) for targets in given], classes, ()
    return [targets.astype(np.float32) for targets in given], classes, ()

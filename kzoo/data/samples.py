"""Pictures to try a model on, when a claim about it has to be measured."""

import numpy as np

from kzoo.data.sources import open_source
from kzoo.errors import UsageError

COUNT = 8  # of the embedded digits, where no pictures are given


def samples(pictures=None, pictures_from="the caller's pictures"):
    """(uint8 pictures (h, w, c) of any sizes, where they are from): the given ones, checked, or some of the embedded
    digits.

    Raises UsageError unless the given ones are such pictures and at least one.
    """
    if pictures is None:
        source = open_source("digits", "test")
        return [
            source.read(i)[0] for i in range(COUNT)
        ], f"the first {COUNT} pictures of the embedded digits' test split"
    if len(pictures) and all(getattr(p, "dtype", None) == "uint8" and p.ndim == 3 for p in pictures):
        return list(pictures), pictures_from
    raise UsageError(
        "pictures to verify with are a list of at least one uint8 array of shape (height, width, channels)."
    )


def with_channels(picture, channels):
    """The picture (h, w, c) with another number of channels, its own repeated or cut: what a model computes on it stays
    comparable.
    """
    return picture[..., np.arange(channels) % picture.shape[-1]]

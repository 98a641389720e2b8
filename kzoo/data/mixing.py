"""MixUp (https://arxiv.org/abs/1710.09412) and CutMix (https://arxiv.org/abs/1905.04899) of a batch with itself in
reverse order.
"""

from typing import NamedTuple

import numpy as np

from kzoo.data.randomness import MIXING, generator


class Mix(NamedTuple):
    """share: of each picture's own label, 1 where nothing is mixed. box: (top, bottom, left, right) that CutMix
    replaces, or None.
    """

    share: float
    box: tuple[int, int, int, int] | None = None


def draw(augment, seed, epoch, step, image_size):
    """The Mix of a batch, one for all of its pictures as timm's batch mode draws it."""
    random = generator(seed, epoch, MIXING, step)
    whether, which = random.random(2)
    if whether >= augment.mix_probability:
        return Mix(1.0)
    cut = augment.cutmix and (not augment.mixup or which < augment.mix_switch)
    alpha = augment.cutmix if cut else augment.mixup
    share = random.beta(alpha, alpha)
    return _cut(share, random.integers(0, image_size), image_size) if cut else Mix(share)


def _cut(share, centre, image_size):
    """A box of that share's area around a centre, as far as it lies inside; the share is then corrected to the area
    that is left.
    """
    sides = [int(side * np.sqrt(1 - share)) for side in image_size]
    low = [max(int(c) - side // 2, 0) for c, side in zip(centre, sides, strict=True)]
    high = [min(int(c) + (side + 1) // 2, full) for c, side, full in zip(centre, sides, image_size, strict=True)]
    (top, left), (bottom, right) = low, high
    return Mix(1 - (bottom - top) * (right - left) / (image_size[0] * image_size[1]), (top, bottom, left, right))


def mix(images, labels, num_classes, made):
    """Mixes float32 images (B, H, W, C) in place; returns them and the targets float32 (B, num_classes), probabilities.

    labels are whole numbers (B,) or, of several a picture, (B, num_classes) of 0 and 1. Label smoothing is left to the
    loss, for which mixing before or after it is the same.
    """
    if made.box is not None:
        inside = np.s_[:, slice(*made.box[:2]), slice(*made.box[2:])]
        images[inside] = images[inside][::-1].copy()  # a view of what is being written
    elif made.share < 1:
        other = images[::-1] * np.float32(1 - made.share)
        images *= np.float32(made.share)
        images += other
    own = np.asarray(labels, np.float32)
    if labels.ndim == 1:
        own = np.zeros((len(labels), num_classes), np.float32)
        own[np.arange(len(labels)), labels] = 1
    return images, own * np.float32(made.share) + own[::-1] * np.float32(1 - made.share)

"""Training pictures: a plan of random changes carried out, from decoded pictures to the model's input."""

import numpy as np

from kzoo.data.augment import plan
from kzoo.data.decode import to_channels
from kzoo.data.library import keras_cv_rand_augment
from kzoo.data.operations import operate
from kzoo.data.pixels import crop_padded, erase, moved, normalise, resized, resized_window
from kzoo.data.randomness import NOISE, generator
from kzoo.data.sources import spread
from kzoo.errors import UserError


class TrainingPictures:
    """Called with pictures, their keys (B,) and the epoch: float32 (B, H, W, C), augmented and normalised.

    In timm's order: crop, flip, shift, operations of RandAugment or three_augment, colour jitter, normalising, erasing.
    Raises UserError for changes that such pictures do not allow.
    """

    def __init__(self, augment, image_size, channels, preprocessing, name, seed, engine):
        for field in ("shift", "crop_pad"):
            if (getattr(augment, field) or 0) >= min(image_size):
                raise UserError(
                    f"augment.{field} must be smaller than the model's input {image_size}, not "
                    f"{getattr(augment, field)}."
                )
        for field in ("rand_augment", "three_augment", "color_jitter"):
            if getattr(augment, field) and channels not in (1, 3):
                raise UserError(
                    f"augment.{field} changes grey and RGB pictures, not those of {channels} channels; leave it out."
                )
        library = augment.library if augment.rand_augment else "kzoo"
        if library != "kzoo" and (engine != "tf" or channels != 3):
            raise UserError(
                f"augment.library={library!r} changes RGB pictures in the engine 'tf' alone; use library='kzoo' here."
            )
        if engine == "tf":
            from kzoo.data.jpeg import pixels
        else:
            from kzoo.data.decode import pixels
        self.pixels = pixels
        self.augment, self.image_size, self.channels = augment, image_size, channels
        self.preprocessing, self.seed, self.name = preprocessing, seed, name
        self.library = keras_cv_rand_augment(augment.rand_augment) if library == "keras_cv" else None

    def __call__(self, pictures, keys, epoch):
        changes = plan(
            self.augment, self.seed, epoch, keys, [picture.shape[:2] for picture in pictures], self.image_size
        )
        out = np.empty((len(pictures), *self.image_size, self.channels), np.float32)
        noises = [
            generator(self.seed, epoch, NOISE, int(key)) if change.erased[2] else None
            for key, change in zip(keys, changes, strict=True)
        ]
        if self.library:
            placed = self.library(np.stack([_whole(image) for image in spread(self._place, pictures, changes)]))
            spread(self._finish, placed, changes, noises, out)
        else:  # one picture from beginning to end stays in the processor's cache
            spread(self._make, pictures, changes, noises, out)
        return out

    def _make(self, picture, change, noise, out):
        self._finish(self._place(picture, change), change, noise, out)

    def _place(self, picture, change):
        """The part of the picture that the model sees, in 0..255."""
        image, method = (
            to_channels(self.pixels(picture, change.window), self.channels, self.name),
            self.preprocessing.interpolation,
        )
        if change.window is not None:
            image = resized_window(image, self.image_size, method, change.flip)
            return moved(image, False, change.shift)
        if self.augment.crop_pad is not None:
            image = crop_padded(image, change.place, self.augment.crop_pad, self.image_size, method)
        else:
            image = resized(image, self.image_size, self.preprocessing)
        return moved(image, change.flip, change.shift)

    def _finish(self, image, change, noise, out):
        """Writes the model's input into out (H, W, C); noise: the random generator of what is erased."""
        if change.operations:
            image = operate(_whole(image), change.operations, self.preprocessing.fill, self.preprocessing.interpolation)
        normalise(image, self.preprocessing, out)
        if change.erased[2]:
            erase(out, change.erased, noise)


def _whole(image):
    """uint8 of 0..255."""
    return image if image.dtype == np.uint8 else np.rint(image).astype(np.uint8)

"""Evaluation pictures: resized, cropped and normalised, one or several views of each."""

import numpy as np

from kzoo.data.decode import pixels, to_channels
from kzoo.data.pixels import normalise, resized
from kzoo.data.sources import spread

# (down, right): 0 the first, 0.5 the middle and 1 the last position of a crop
VIEWS = ((0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1))


class EvaluationPictures:
    """Called with pictures: float32 (B * crops, H, W, C), normalised, the crops of a picture one after another.

    Crops are the centre; for 5 the corners of the resized picture too (top left, top right, bottom left, bottom right);
    for 10 those and then the mirror images of all five.
    """

    def __init__(self, image_size, channels, preprocessing, name, crops=1):
        self.image_size, self.channels, self.preprocessing, self.name, self.crops = (
            image_size,
            channels,
            preprocessing,
            name,
            crops,
        )

    def __call__(self, pictures):
        out = np.empty((len(pictures), self.crops, *self.image_size, self.channels), np.float32)
        spread(self._prepare, pictures, out)
        return out.reshape(-1, *out.shape[2:])

    def _prepare(self, picture, out):
        """Writes the views of one picture into out (crops, H, W, C)."""
        image = to_channels(pixels(picture), self.channels, self.name)
        for view, place in zip(out, VIEWS, strict=False):
            normalise(resized(image, self.image_size, self.preprocessing, place), self.preprocessing, view)
        if self.crops == 10:
            out[5:] = out[:5, :, ::-1]

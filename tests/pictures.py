"""Pictures for tests, and timm's evaluation of them."""

import numpy as np
from PIL import Image

from tests.torch_reference import import_timm


def by_timm(image, image_size, preprocessing):
    """timm's resize and crop of (h, w, C), plane by plane in Pillow's float mode, which does not round; normalised as
    asked.
    """
    made = import_timm("timm.data").create_transform(
        input_size=(3, *image_size),
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        interpolation=preprocessing.interpolation,
    )
    resize, crop = made.transforms[:2]
    planes = []
    for plane, mean, std in zip(np.moveaxis(image, -1, 0), preprocessing.mean, preprocessing.std, strict=True):
        crop.fill = round(255 * mean)  # a list for all channels otherwise; only the padding crop of "border" has it
        fitted = np.clip(crop(resize(Image.fromarray(plane.astype(np.float32)))), 0, 255)
        planes.append((fitted / 255 - mean) / std)
    return np.stack(planes, axis=-1)

"""Changes of colour and shape that keep a picture's size, by Pillow, as timm and torchvision define them.

An operation is a name of OPERATIONS and its argument, None where it takes none. All work on grey pictures too: those of
colour alone (color, grey) leave them as they are.
"""

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps


def operate(array, operations, fill, method):
    """uint8 (H, W, 1 or 3) after a sequence of (name, argument): uint8 of the same shape.

    fill: a value 0..255 for each channel, of what a shear, translation or rotation uncovers; method: their
    interpolation.
    """
    grey = array.shape[-1] == 1
    image = Image.fromarray(np.ascontiguousarray(array[..., 0] if grey else array))
    uncovered = {"fillcolor": fill[0] if grey else tuple(fill), "resample": Image.Resampling[method.upper()]}
    for name, argument in operations:
        image = OPERATIONS[name](image, argument, uncovered)
    return np.asarray(image).reshape(array.shape)


def _enhance(enhancer):
    """brightness, contrast, color, sharpness: argument 0 is black, mean grey, grey, smooth; 1 the picture; above 1
    beyond it.
    """
    return lambda image, factor, _: enhancer(image).enhance(factor)


def _affine(matrix):
    """Looks each pixel up where the matrix of (argument, size) sends it: (a, b, c, d, e, f) is x <- ax + by + c, y <-
    dx + ey + f.
    """
    return lambda image, amount, uncovered: image.transform(
        image.size, Image.Transform.AFFINE, matrix(amount, image.size), **uncovered
    )


def _solarize_add(image, amount, _):
    """The dark half becomes brighter by `amount`."""
    table = [min(255, value + amount) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _posterize(image, bits, _):
    """Keeps the first `bits` of each value: all of them from 8 on; of none is left black, which Pillow's own refuses to
    make.
    """
    return image.point([value & -(1 << max(8 - bits, 0)) for value in range(256)] * len(image.getbands()))


OPERATIONS = {
    "auto_contrast": lambda image, _, __: ImageOps.autocontrast(image),
    "equalize": lambda image, _, __: ImageOps.equalize(image),
    "invert": lambda image, _, __: ImageOps.invert(image),
    # counter-clockwise about the centre
    "rotate": lambda image, degrees, uncovered: image.rotate(degrees, **uncovered),
    "posterize": _posterize,
    "solarize": lambda image, threshold, _: ImageOps.solarize(image, threshold),  # what is not darker is inverted
    "solarize_add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": _affine(lambda factor, size: (1, factor, 0, 0, 1, 0)),
    "shear_y": _affine(lambda factor, size: (1, 0, 0, factor, 1, 0)),
    "translate_x": _affine(lambda share, size: (1, 0, share * size[0], 0, 1, 0)),
    "translate_y": _affine(lambda share, size: (1, 0, 0, 0, 1, share * size[1])),
    "grey": lambda image, _, __: ImageOps.grayscale(image).convert(image.mode),
    "blur": lambda image, radius, _: image.filter(ImageFilter.GaussianBlur(radius)),
}

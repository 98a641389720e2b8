"""The one picture decoder of the product: encoded bytes to uint8 arrays, by Pillow."""

import io

import numpy as np
from PIL import Image, ImageOps

from kzoo.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def decode(encoded_bytes, name, channels=3):
    """The picture (first frame, EXIF orientation applied) as uint8 (H, W, channels); channels is 1 (grey), 3 (RGB) or 4 (RGBA).

    Transparent pixels are flattened onto white unless channels is 4; 16-bit grey is scaled to 8 bits.
    Raises UserError naming `name` for what is truncated, too large or no picture of a known format.
    """
    if channels not in _MODES:
        raise UserError(f"{name}: pictures are decoded to 1, 3 or 4 channels, not {channels}; choose another number of input channels.")
    try:
        with Image.open(io.BytesIO(encoded_bytes), formats=_FORMATS) as image:
            image.load()
            return _as_array(ImageOps.exif_transpose(image), channels)
    except Image.DecompressionBombError as error:
        raise UserError(f"{name} has too many pixels to decode safely ({error}); make it smaller first.") from error
    except Exception as error:  # Pillow's readers raise almost any type on broken bytes
        raise UserError(f"{name} cannot be decoded as a picture ({_reason(error)}); replace or remove the file.") from error


def to_channels(image, channels, name="the picture"):
    """uint8 (..., C) with another number of channels: grey is repeated, colour becomes ITU-R 601 luma as Pillow's "L" computes it.

    Raises UserError for any other pair.
    """
    have = image.shape[-1]
    if have == channels:
        return image
    if have == 1 and channels == 3:
        return np.repeat(image, 3, axis=-1)
    if have == 3 and channels == 1:
        red, green, blue = np.moveaxis(image.astype(np.uint32), -1, 0)
        return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)[..., None]
    raise UserError(f"{name} has {have} channels and the model takes {channels}; build the model with in_channels={have}.")


def _as_array(image, channels):
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)  # Pillow's own conversion would cut, not scale
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels != 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    array = np.array(image.convert(_MODES[channels]))
    return array.reshape(*array.shape[:2], channels)


def _reason(error):
    return "no known picture format" if isinstance(error, Image.UnidentifiedImageError) else str(error).strip(".") or type(error).__name__

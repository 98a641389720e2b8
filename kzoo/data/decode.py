"""The one picture decoder of the product: encoded bytes to uint8 arrays, by Pillow."""

import contextlib
import io
import re

import numpy as np
from PIL import ExifTags, Image, ImageOps

from kzoo.errors import UserError
from kzoo.system import read_file

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_STRIP = 2**21  # pixels
_MARKS = {
    **{b"II*\0": "TIFF", b"MM\0*": "TIFF", b"%PDF": "PDF", b"8BPS": "a Photoshop file", b"PK\3\4": "a zip archive"},
    **{
        b"\x89PNG": "a damaged PNG",
        b"\xff\xd8\xff": "a damaged JPEG",
        b"BM": "a damaged BMP",
        b"GIF8": "a damaged GIF",
    },
    **{b"RIFF": "a damaged WebP"},
}
_TRANSPOSED = (5, 6, 7, 8)  # Exif orientations that exchange height and width


class Picture:
    """An encoded picture: its size is read at once, its pixels when they are asked for.

    channels is 1 (grey), 3 (RGB) or 4 (RGBA). The first frame counts, Exif orientation is applied unless `turned` is
    False, transparent pixels are flattened onto white unless channels is 4, and 16-bit grey is scaled to 8 bits. Raises
    UserError naming `name`, here or when it is decoded, for what is truncated, too large or no picture of a known
    format.
    """

    def __init__(self, encoded, name, channels=3, turned=True):
        if channels not in _MODES:
            raise UserError(
                f"{name}: pictures are decoded to 1, 3 or 4 channels, not {channels}; choose another number of input "
                "channels."
            )
        self.encoded, self.name, self._channels = encoded, name, channels
        with self._named_errors():
            self._image = image = self._opened()
            self._orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if turned else 1
        height, width = image.size if self._orientation in _TRANSPOSED else image.size[::-1]
        self.shape = height, width, channels
        # A JPEG whose pixels are those of its file, neither turned nor of another colour model.
        self.plain_jpeg = (
            image.format == "JPEG" and image.mode in ("RGB", "L") and self._orientation == 1 and channels == 3
        )

    def facts(self):
        """{"format", "mode", "frames", "turned"}: the file's own, and whether Exif turns or mirrors what it shows."""
        with self._named_errors():
            image = self._image or self._opened()
            return {
                "format": {"MPO": "JPEG"}.get(image.format, image.format),
                "mode": image.mode,
                "frames": getattr(image, "n_frames", 1),
                "turned": self._orientation != 1,
            }

    def pixels(self, window=None):
        """uint8 (H, W, channels), read-only; of a window (top, left, height, width) of it where one is given."""
        with self._named_errors():
            # a batch of decoded pictures would fill the memory
            image, self._image = self._image or self._opened(), None
            image.load()
            image = image if self._orientation == 1 else ImageOps.exif_transpose(image)
            if window is not None:
                top, left, height, width = window
                image = image.crop((left, top, left + width, top + height))
            return _as_array(image, self._channels)

    def _opened(self):
        return Image.open(io.BytesIO(self.encoded), formats=_FORMATS)

    @contextlib.contextmanager
    def _named_errors(self):
        try:
            yield
        except Image.DecompressionBombError as error:
            raise UserError(
                f"{self.name} has too many pixels to decode safely ({error}); make it smaller first."
            ) from error
        except Exception as error:  # Pillow's readers raise almost any type on broken bytes
            told = _reason(error)
            if isinstance(error, Image.UnidentifiedImageError) and (found := _looks_like(self.encoded)):
                told = f"{told}, but {found}"
            raise UserError(
                f"{self.name} cannot be decoded as a picture ({told}); replace or remove the file."
            ) from error


def read_picture(path):
    """The bytes of a picture's file. Raises UserError for what is missing, cannot be read or is no file: a pipe would
    be waited for.
    """
    return read_file(path, "the path of a picture")


def decode(encoded, name, channels=3):
    """All pixels of an encoded picture, uint8 (H, W, channels), read-only; see Picture."""
    return Picture(encoded, name, channels).pixels()


def pixels(picture, window=None):
    """uint8 (H, W, C) of a Picture or an array, or of a window (top, left, height, width) of it."""
    if isinstance(picture, Picture):
        return picture.pixels(window)
    top, left, height, width = window or (0, 0, *picture.shape[:2])
    return picture[top : top + height, left : left + width]


def to_channels(image, channels, name="the picture"):
    """uint8 (..., C) with another number of channels: grey is repeated, colour becomes ITU-R 601 luma as Pillow's "L"
    computes it.

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
    raise UserError(
        f"{name} has {have} channels and the model takes {channels}; build the model with in_channels={have}."
    )


def _as_array(image, channels):
    """uint8 (H, W, channels), read-only. Large pictures go strip by strip: what is computed on the way is several times
    as large.
    """
    width, height = image.size
    rows = max(_STRIP // width, 1)
    if rows >= height:
        return _converted(image, channels)
    out = np.empty((height, width, channels), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        out[top:bottom] = _converted(image.crop((0, top, width, bottom)), channels)
    out.flags.writeable = False
    return out


def _converted(image, channels):
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)  # Pillow's own conversion would cut, not scale
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels != 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    array = np.asarray(image if image.mode == _MODES[channels] else image.convert(_MODES[channels]))
    return array.reshape(*array.shape[:2], channels)


def why(error):
    """What is wrong with a picture, in few words: of the UserError that names the picture, and the remedy."""
    if found := re.search(r" cannot be (?:decoded as a picture|read) \((.*)\); ", str(error), re.DOTALL):
        return found.group(1)
    return str(error.__cause__ or error).rstrip(".")


def _looks_like(encoded):
    """What bytes that are no picture of a known format look like; "" where that is not known."""
    start = bytes(encoded[:512])
    if not start:
        return "an empty file"
    if start[4:8] == b"ftyp":
        brand = start[8:12].decode("ascii", "replace")
        return {"avif": "AVIF", "avis": "AVIF"}.get(
            brand, "HEIC" if brand[:3] in ("hei", "hev", "mif", "msf") else "video"
        )
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name
    text = start.lstrip(b"\xef\xbb\xbf").strip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "HTML, a page in a picture's place"
    if text.startswith((b"<svg", b"<?xml")):
        return "XML"
    return "text" if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start) else ""


def _reason(error):
    return (
        "no known picture format"
        if isinstance(error, Image.UnidentifiedImageError)
        else str(error).strip(".") or type(error).__name__
    )

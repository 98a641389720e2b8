"""Pictures and their objects in one .npz file: read, and made into its arrays."""

import io

import numpy as np
from PIL import Image

from kzoo.data.decode import Picture
from kzoo.data.object_sources import Table, TableSource, check_boxes, held_out
from kzoo.data.randomness import uniforms
from kzoo.data.sources import EVALUATION, check_labels, spread
from kzoo.errors import UserError


def style_of(headers, split):
    """What stands before the keys of a split's arrays, "train_" or, for all in one, ""; None where there are no
    boxes.
    """
    for word in (split, *(EVALUATION if split in EVALUATION else ())):
        if f"{word}_boxes" in headers:
            return f"{word}_"
    return "" if "boxes" in headers and split in ("train", *EVALUATION) else None


def source_of(name, file, style, split, class_names, num_classes, division=None):
    """The Source of the arrays with boxes.

    {style}images uint8 (N, H, W[, C]), or {style}encoded uint8, the files' bytes one after another, with {style}bytes
    (N,), how many each has; {style}boxes (M, 4), x0, y0, x1, y1 in pixels; {style}labels (M,); {style}counts (N,), how
    many of them each picture has; {style}crowd, {style}area (M,), {style}ids (N,) where they are known. Raises
    UserError for whatever is missing or does not fit together.
    """
    count, picture, channels, sizes = _pictures(name, file, style)
    boxes = _array(name, file, f"{style}boxes", "iuf", None, 4)
    shapes = {"labels": ("iu", len(boxes)), "counts": ("iu", count), "crowd": ("b", len(boxes))}
    shapes |= {"area": ("iuf", len(boxes)), "ids": ("iu", count)}
    told = [key for key in shapes if key in ("labels", "counts") or style + key in file.headers]
    found = {key: _array(name, file, style + key, *shapes[key]) for key in told}
    counts = found["counts"].astype(np.int64)
    if counts.min(initial=0) < 0 or counts.sum() != len(boxes):
        raise UserError(f"{name}: {style}counts add up to {counts.sum()}, but {style}boxes holds {len(boxes)}.")
    owners = np.repeat(np.arange(count), counts)
    check_boxes(name, boxes, lambda row: f"row {row} of {style}boxes, of sample {owners[row]},")
    check_labels(name, found["labels"], num_classes, owners)
    ids = found.get("ids", np.arange(count))
    table = Table.of_rows(ids, owners, boxes, found["labels"], found.get("crowd"), found.get("area"))
    names = class_names or tuple(map(str, range(num_classes)))
    if not style:
        if division is None:
            index = np.flatnonzero(held_out(uniforms(0, 0, np.arange(count), 1)[:, 0]) == (split in EVALUATION))
        else:
            index = division.chosen(name, split, range(count))
        table, whole = table.part(index), picture
        sizes = None if sizes is None else sizes[index]

        def picture(i):
            return whole(index[i])

    numbers = _array(name, file, "category_ids", "iu", num_classes) if "category_ids" in file.headers else ()
    return TableSource(
        name, table, picture, names, channels=channels, sizes=sizes, category_ids=tuple(map(int, numbers))
    )


def _pictures(name, file, style):
    """(how many, the function of the i-th, channels, their sizes or None)."""
    if f"{style}images" in file.headers:
        header = file.headers[f"{style}images"]
        if header.dtype != np.uint8 or len(header.shape) not in (3, 4) or (*header.shape, 1)[3] not in (1, 3, 4):
            told = f"{header.dtype} {header.shape}"
            raise UserError(f"{name}: {style}images must be uint8 of shape (N, H, W[, 1, 3 or 4]), not {told}.")
        images = file.read(f"{style}images")
        images = images[..., None] if images.ndim == 3 else images
        return len(images), images.__getitem__, images.shape[-1], np.tile(images.shape[1:3], (len(images), 1))
    encoded, lengths = (_array(name, file, style + key, "iu", None) for key in ("encoded", "bytes"))
    lengths = lengths.astype(np.int64)
    ends = np.cumsum(lengths)
    if encoded.dtype != np.uint8 or lengths.min(initial=0) < 0 or lengths.sum() != len(encoded):
        raise UserError(f"{name}: {style}encoded must be uint8, as long as {style}bytes add up to; pack the set again.")

    def picture(i):
        return Picture(encoded[ends[i] - lengths[i] : ends[i]].tobytes(), f"{name}[{i}]")

    return len(lengths), picture, 3, None


def _array(name, file, key, kinds, *shape):
    """The array of a key, of such kinds of dtype and a shape in which None is any. Raises UserError for another."""
    if key not in file.headers:
        raise UserError(f"{name} has boxes, but no {key}; a set with objects needs it.")
    header = file.headers[key]
    same = len(header.shape) == len(shape) and all(a in (None, b) for a, b in zip(shape, header.shape, strict=True))
    if not same or header.dtype.kind not in kinds:
        told = ", ".join("any" if side is None else str(side) for side in shape)
        words = {"iuf": "numbers", "iu": "whole numbers", "b": "truth values"}[kinds]
        raise UserError(f"{name}: {key} must be {words} of shape ({told}), not {header.dtype} {header.shape}.")
    return file.read(key)


def arrays_of(source, split):
    """{key: array} of a source's pictures, as encoded files, and objects; those that come in no file as PNG."""
    pictures, objects = source.batch(np.arange(len(source)))
    files = spread(_file, pictures)
    rows = {key: np.concatenate([one[key] for one in objects]) for key in ("boxes", "labels", "crowd", "area")}
    return {f"{split}_{key}": value for key, value in rows.items()} | {
        f"{split}_counts": np.array([len(one["labels"]) for one in objects], np.int32),
        f"{split}_ids": np.array([one["image_id"] for one in objects], np.int64),
        f"{split}_bytes": np.array(list(map(len, files)), np.int64),
        f"{split}_encoded": np.frombuffer(b"".join(files), np.uint8),
    }


def _file(picture):
    if isinstance(picture, Picture):
        return picture.encoded
    out = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(out, "PNG")
    return out.getvalue()

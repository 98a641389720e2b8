"""A data set as one .npz file that needs no TensorFlow to read."""

import pathlib

import numpy as np

from kzoo.archives.zips import most_unpacked
from kzoo.data import npz_objects
from kzoo.data.decode import pixels
from kzoo.data.sources import open_source, spread
from kzoo.errors import UserError
from kzoo.files import replacing
from kzoo.system import output_folder


def pack(source, path, data_dir=None, splits=("train", "test")):
    """Writes the splits of the source named by a text to the .npz file `path`, at once or not at all; returns the path.

    Keys: {split}_images uint8 (N, H, W, C), {split}_labels (N,) or, with a key multilabel, (N, K) of 0 and 1,
    class_names (K,), num_classes; of a set with objects,
    whose pictures may differ in size, those of npz_objects.source_of; read back by "npz:FILE". Raises UserError where
    pictures with labels differ in size or the file cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix != ".npz":
        raise UserError(f"a packed data set is an .npz file, not {path.name!r}; name it {path.stem}.npz.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file for the packed data set.")
    output_folder(path.parent, make=False)  # told before the work
    arrays = {}
    for split in splits:
        opened = open_source(source, split, data_dir)
        arrays |= _arrays(opened, split)
    arrays |= {"num_classes": np.array(opened.num_classes), "class_names": np.array(opened.class_names, dtype=str)}
    if opened.multilabel:
        arrays["multilabel"] = np.array(True)
    if getattr(opened, "category_ids", ()):
        arrays["category_ids"] = np.array(opened.category_ids, np.int64)
    _write(path, arrays)
    return path


def _arrays(source, split):
    """{key: array} of a split."""
    if source.streams:
        raise UserError(f"{source.name} is too large to be packed into one file; read it as it is.")
    if source.targets == "objects":
        return npz_objects.arrays_of(source, split)
    pictures, labels = source.batch(np.arange(len(source)))
    images = spread(pixels, pictures)
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise UserError(
            f"the pictures of {source.name} differ in size (for example {_example(sizes)}); resize them to one size "
            "first."
        )
    return {
        f"{split}_images": np.asarray(images),
        f"{split}_labels": labels.astype(np.uint8) if source.multilabel else labels,
    }


def _example(sizes):
    return " and ".join("x".join(map(str, size)) for size in sorted(sizes)[:2])


def _write(path, arrays):
    try:
        output_folder(path.parent)
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **arrays)
            # empty pictures, which no reader would believe
            if sum(array.nbytes for array in arrays.values()) > most_unpacked(temporary):
                np.savez(temporary, **arrays)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose a folder that exists and has room.") from error

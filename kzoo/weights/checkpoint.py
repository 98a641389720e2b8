"""Opening any file of weights: the format is recognised by its content; the header is read, the tensors not yet."""

import pathlib

from kzoo.archives.reading import parsing, read_json, require_regular
from kzoo.archives.zips import open_zip
from kzoo.errors import UserError
from kzoo.weights.formats.base import SEAL, SPEC, Checkpoint, Tensor, fingerprint
from kzoo.weights.formats.hdf5 import Keras, WeightsH5
from kzoo.weights.formats.npz import CHECKPOINT, Npz, Run
from kzoo.weights.formats.safetensors import Safetensors
from kzoo.weights.formats.shards import Shards
from kzoo.weights.formats.torch import Torch

__all__ = ["CHECKPOINT", "SEAL", "SPEC", "Checkpoint", "Tensor", "fingerprint", "open_checkpoint"]

KNOWN = (
    "the folder of a run, .keras, .weights.h5, .safetensors, .npz, torch's .pth or .bin, a Hugging Face folder or "
    "its index of shards"
)
# What a Hugging Face folder may hold, the first found is read.
_FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_ZIP, _HDF5, _PICKLE = b"PK", b"\x89HDF\r\n\x1a\n", b"\x80"


def open_checkpoint(path):
    """The Checkpoint of a file or folder of weights in any format that kzoo reads: see KNOWN. A context manager.

    Raises UserError, in one sentence, for anything else and for what is damaged or was made to mislead; MissingPackage
    where a format needs a package that is not installed.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give {KNOWN}.")
    require_regular(path)
    checkpoint = _open_folder(path) if path.is_dir() else _open_file(path)
    config = checkpoint.files[0].with_name("config.json")
    if checkpoint.format in ("safetensors", "torch") and config.is_file():
        checkpoint.config = read_json(config)
    return checkpoint


def _open_folder(path):
    if (path / CHECKPOINT).is_file():
        return Run(path)
    for name in _FOLDER:
        if (path / name).is_file():
            return _open_file(path / name)
    raise UserError(
        f"{path} holds no {CHECKPOINT}, as a run would, and no {', '.join(_FOLDER)}, as a Hugging Face folder would."
    )


def _open_file(path):
    """Raises UserError for a file of no known format; indices of shards are followed."""
    with parsing(path), open(path, "rb") as file:
        head = file.read(64).lstrip()
    return Shards(path, _open_one) if head.startswith(b"{") else _open_one(path)


def _open_one(path):
    with parsing(path), open(path, "rb") as file:
        head = file.read(9)
    if head.startswith(_ZIP):
        return _open_zip(path)
    if head.startswith(_HDF5[: len(head)]) and head:
        return WeightsH5(path)
    if head[8:] == b"{":
        return Safetensors(path)
    if head.startswith(_PICKLE):
        return Torch(path, zipped=False)
    raise UserError(f"{path} is {'of no format that kzoo knows' if head else 'empty'}; give {KNOWN}.")


def _open_zip(path):
    with open_zip(path) as archive:
        names = archive.namelist()
    if {"config.json", "model.weights.h5"} <= set(names):
        return Keras(path)
    if any(name.endswith("/data.pkl") for name in names):
        return Torch(path, zipped=True)
    if names and all(name.endswith(".npy") for name in names):
        return Run(path) if "meta.npy" in names and any(name.startswith("weights/") for name in names) else Npz(path)
    raise UserError(f"{path} is a zip archive, but not of weights; give {KNOWN}.")

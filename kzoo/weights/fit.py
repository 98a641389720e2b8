"""Fitting weights into a model: strict, with a receipt; surgery only where it was asked for."""

import dataclasses
import hashlib
import pathlib
import zipfile

import numpy as np

from kzoo.errors import UserError
from kzoo.ops.resize import resample, resize_weights
from kzoo.weights.read import CHECKPOINT, load


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """The receipt: the names of the model's weights by what became of them, and where they came from.

    `adapted` is for stems given other input channels. `digest` is the SHA-256 of the file that was read.
    """

    loaded: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    format: str = ""
    digest: str = ""

    def __str__(self):
        counts = [f"{len(getattr(self, name))} {name}" for name in ("loaded", "resized", "adapted", "reinitialised", "unused")]
        return f"{', '.join(counts)} (format {self.format}, sha256 {self.digest[:12]})"


def digest(path):
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_weights(model, source):
    """Fills `model` with the weights of a run, a .keras or a .weights.h5 file; strict: every name and shape must fit.

    Returns a LoadReport. Raises UserError that lists what does not fit; the model's weights are then exactly as before.
    """
    model.load_report = _load(model, source, resize=False, new_head=False)
    return model.load_report


def fit_for_get(model, source, asked):
    """Like load_weights, with the surgery that `kzoo.get` was asked for: another image_size resizes, another num_classes re-initialises."""
    return _load(model, source, resize="image_size" in asked, new_head="num_classes" in asked)


def _load(model, source, resize, new_head):
    path = pathlib.Path(source)
    if path.name.endswith(".weights.h5"):
        return _load_h5(model, path)
    donor = load(path)
    file = path / CHECKPOINT if path.is_dir() else path
    report = transfer(model, donor, resize=resize, new_head=new_head)
    return dataclasses.replace(report, format="run" if path.is_dir() else "keras", digest=digest(file))


def _load_h5(model, path):
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the folder of a run, a .keras or a .weights.h5 file.")
    before = model.get_weights()
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        model.set_weights(before)
        raise UserError(
            f"{path} does not fit this model ({(str(error) or type(error).__name__).splitlines()[0]}); its weights are as before."
        ) from error
    return LoadReport(loaded=tuple(w.path for w in model.weights), format="weights.h5", digest=digest(path))


def transfer(model, donor, *, resize, new_head):
    """Copies the donor model's weights by path into `model`: all of them or, with an error, none.

    resize: position tables of another grid are resampled (bicubic, antialiased, as timm does); new_head: a head of another
    number of classes keeps its fresh values.
    """
    given = {w.path: w for w in donor.weights}
    new_grids, old_grids = position_layers(model), position_layers(donor)
    values, names = {}, {"loaded": [], "resized": [], "reinitialised": []}
    misfits = []
    for weight in model.weights:
        path, source = weight.path, given.pop(weight.path, None)
        old, new = old_grids.get(path), new_grids.get(path)
        moved = old is not None and new is not None and old.grid_size != new.grid_size  # even where both have as many cells
        if source is not None and tuple(source.shape) == tuple(weight.shape) and not moved:
            values[path], fate = np.asarray(source), "loaded"
        elif moved and resize and old.prefix == new.prefix and source.shape[-1] == weight.shape[-1]:
            values[path], fate = resize_table(np.asarray(source), old, new), "resized"
        elif path.startswith("head/") and new_head:
            fate = "reinitialised"
        else:
            found = "is missing" if source is None else f"has shape {tuple(source.shape)}"
            misfits.append(f"{path} {tuple(weight.shape)} {found}{f' for the grid {old.grid_size}' if moved else ''}")
            continue
        names[fate].append(path)
    headless = not any(w.path.startswith("head/") for w in model.weights)
    unused = [path for path in given if not (headless and new_head and path.startswith("head/"))]
    if misfits or unused:
        raise UserError(_explain(misfits, unused))
    for weight in model.weights:
        if weight.path in values:
            weight.assign(values[weight.path])
    return LoadReport(**{k: tuple(v) for k, v in names.items()}, unused=tuple(given))


def _explain(misfits, unused):
    shown = misfits[:5] + [f"{path} is not in the model" for path in unused[: max(0, 5 - len(misfits))]]
    more = len(misfits) + len(unused) - len(shown)
    return (
        f"the weights do not fit this model: {'; '.join(shown)}{f'; and {more} more' if more > 0 else ''}; "
        "build it with the image_size, num_classes and overrides you want named in kzoo.get."
    )


def position_layers(model):
    """{path of its table: layer} of every learned position table."""
    layers = [layer for layer in model._flatten_layers(include_self=False) if getattr(layer, "table", None) is not None]
    return {layer.table.path: layer for layer in layers if hasattr(layer, "grid_size")}


def resize_table(table, old, new, method="bicubic"):
    """A position table (1, prefix + rows * columns, D) for another grid; the prefix rows stay untouched."""
    prefix, body = table[:, : old.prefix], table[0, old.prefix :]
    grid = body.reshape(*old.grid_size, -1)
    rows, columns = (resize_weights(a, b, method) for a, b in zip(old.grid_size, new.grid_size, strict=True))
    grid = resample(grid, rows, columns)
    return np.concatenate([prefix, grid.reshape(1, -1, table.shape[-1])], axis=1)

"""From a place on disk to a model: runs and .keras files. Nothing in them is executed."""

import json
import pathlib
import zipfile

import numpy as np

from kzoo import registry
from kzoo.errors import UserError, require_backend

CHECKPOINT = "checkpoint.npz"


def open_checkpoint(run):
    """(lazy arrays, meta) of a run's checkpoint. Raises UserError where there is none or it is damaged."""
    path = pathlib.Path(run) / CHECKPOINT
    if not path.exists():
        raise UserError(f"{run} holds no {CHECKPOINT}: it is not a run, or it was stopped before its first checkpoint.")
    try:
        arrays = np.load(path, allow_pickle=False)
        return arrays, json.loads(arrays["meta"].tobytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); restore it from a copy or start the run again in another folder.") from error


def load(source):
    """The model of a run (its averaged weights where the run keeps an average) or of a .keras file.

    Raises UserError for a source that is neither, or is damaged.
    """
    require_backend()
    path = pathlib.Path(source)
    if path.is_dir():
        return _load_run(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give the folder of a run or a .keras file.")
    if path.suffix != ".keras":
        raise UserError(f"{path} is neither the folder of a run nor a .keras file; weights alone are read by kzoo.get(NAME, weights=...).")
    import keras

    try:
        model = keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} could not be read as a Keras model ({str(error).splitlines()[0]}).") from error
    if getattr(model, "spec", None) is None:
        raise UserError(f"{path} holds a Keras model, but not one of kzoo's: it carries no spec.")
    return model


def _load_run(path):
    arrays, meta = open_checkpoint(path)
    from kzoo.models.base import spec_from_dict

    spec = spec_from_dict(meta["spec"])
    model = registry.get(spec.name, **spec.overrides)
    model.spec = spec
    for weight in model.weights:
        key = f"average/{weight.path}"
        weight.assign(arrays[key if key in arrays else f"weights/{weight.path}"])
    return model

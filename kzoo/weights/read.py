"""From a place on disk to a model: runs and .keras files. Nothing in them is executed."""

import json
import pathlib
import zipfile

import numpy as np

from kzoo import registry
from kzoo.errors import UserError, require_backend

CHECKPOINT = "checkpoint.npz"


_DAMAGE = (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile)  # what broken bytes make NumPy raise


def read_checkpoint(run, prefixes=("",)):
    """({key: array}, meta) of a run's checkpoint, of the keys that begin with one of `prefixes`.

    Raises UserError where there is none or it is damaged.
    """
    path = pathlib.Path(run) / CHECKPOINT
    if not path.exists():
        raise UserError(f"{run} holds no {CHECKPOINT}: it is not a run, or it was stopped before its first checkpoint.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key != "meta" and key.startswith(tuple(prefixes))}
            return arrays, json.loads(file["meta"].tobytes())
    except _DAMAGE as error:
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


def spec_of(source):
    """The Spec of the model in a run or a .keras file. Raises UserError for anything else."""
    path = pathlib.Path(source)
    if not path.is_dir():
        return load(path).spec
    from kzoo.models.base import spec_from_dict

    return spec_from_dict(read_checkpoint(path, ("none",))[1]["spec"])


def _load_run(path):
    arrays, meta = read_checkpoint(path, ("weights/", "average/"))
    from kzoo.models.base import spec_from_dict

    spec = spec_from_dict(meta["spec"])
    model = registry.build(spec.name, spec.overrides)
    model.spec = spec
    values = [arrays.get(f"average/{w.path}", arrays.get(f"weights/{w.path}")) for w in model.weights]
    if any(v is None or v.shape != tuple(w.shape) for v, w in zip(values, model.weights, strict=True)):
        raise UserError(f"the checkpoint in {path} does not fit {spec.name} as this version builds it; use the version of its recipe.txt.")
    for weight, value in zip(model.weights, values, strict=True):
        weight.assign(value)
    return model

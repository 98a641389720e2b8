"""From a place on disk to a model: runs and .keras files. Nothing in them is executed."""

import pathlib

from kzoo import registry
from kzoo.errors import UserError, require_backend
from kzoo.layers.base import set_parts
from kzoo.weights.checkpoint import CHECKPOINT, open_checkpoint
from kzoo.weights.formats.base import loads, parsing
from kzoo.weights.formats.npz import Npz
from kzoo.weights.source import open_source


def read_checkpoint(run, prefixes=("",)):
    """({key: array}, meta) of a run's checkpoint, of the keys that begin with one of `prefixes`.

    Raises UserError where there is none or it is damaged.
    """
    path = pathlib.Path(run) / CHECKPOINT
    if not path.exists():
        raise UserError(f"{run} holds no {CHECKPOINT}: it is not a run, or it was stopped before its first checkpoint.")
    try:
        with Npz(path) as file:
            arrays = {key: file.stored(key) for key in file.tensors if key != "meta" and key.startswith(tuple(prefixes))}
            return arrays, loads(file.stored("meta").tobytes(), path)
    except KeyError as error:
        raise UserError(f"{path} holds no meta, as the checkpoint of a run does; start the run again in another folder.") from error


def load(source):
    """The model of a run (its averaged weights where the run keeps an average) or of a .keras file.

    Raises UserError for a source that is neither, or is damaged.
    """
    require_backend()
    with open_checkpoint(source) as checkpoint:
        if checkpoint.format not in ("run", "keras"):
            raise UserError(f"{source} is neither the folder of a run nor a .keras file; kzoo.get(NAME, weights=...) reads weights alone.")
        if checkpoint.spec is None:
            raise UserError(f"{source} holds a Keras model, but not one of kzoo's: it carries no spec.")
        checkpoint.verify(checkpoint.tensors)  # before Keras parses any of it
        return _of_run(checkpoint) if checkpoint.format == "run" else _of_keras(checkpoint.path)


def spec_of(source):
    """The Spec of the model in a run, a .keras file or weights that kzoo wrote. Raises UserError for anything else."""
    with open_source(source) as (checkpoint, _):
        if checkpoint.spec is None:
            raise UserError(f"{source} does not tell which model its weights belong to; give a run, or a file that kzoo wrote.")
        return checkpoint.spec


def _of_run(checkpoint):
    spec = checkpoint.spec
    model = registry.build(spec.name, spec.overrides)
    model.spec = spec
    if any(w.path not in checkpoint.tensors or checkpoint.tensors[w.path].shape != tuple(w.shape) for w in model.weights):
        raise UserError(
            f"the checkpoint in {checkpoint.path} does not fit {spec.name} as this version builds it; use the version of its recipe.txt."
        )
    for weight in model.weights:
        weight.assign(checkpoint.read(weight.path))
    with parsing(checkpoint.path):
        set_parts(model, {"frozen": [str(path) for path in checkpoint.meta.get("frozen", ())]})
    return model


def _of_keras(path):
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise UserError(f"{path} could not be read as a Keras model ({str(error).splitlines()[0]}).") from error

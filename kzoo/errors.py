"""Errors a user can act on: one clear sentence with the remedy. Standard library only."""

import difflib
import importlib.util
import json
import os
import pathlib

# fmt: off
EXTRA_OF = {
    "tensorflow": "tensorflow", "tensorflow_datasets": "tensorflow", "keras_cv": "tensorflow", "jax": "jax", "torch": "torch",
    "tf2onnx": "export", "onnx": "export", "onnxruntime": "export", "ai_edge_litert": "export",
    "huggingface_hub": "hub", "safetensors": "hub", "pycocotools": "detection", "matplotlib": "plots",
    "pyarrow": "tables", "wandb": "wandb", "mlflow": "mlflow", "optuna": "tune",
}
# fmt: on


class UserError(ValueError):
    """A mistake or a lack outside kzoo; its text is one sentence that names the cause and the remedy."""


class UsageError(UserError):
    """The call itself is wrong (an unknown name or option); the command line exits with 2 instead of 1."""


class MissingPackage(UserError, ImportError):
    """An optional package is not installed; the text gives the pip command."""


def nearest(word, valid, count=3):
    """The valid words closest in spelling to `word`, best first; all of them when they are few and none is close."""
    valid = sorted(map(str, valid))
    close = difflib.get_close_matches(word, valid, n=count, cutoff=0.5)
    return close or (valid if len(valid) <= 12 else valid[:count])


def unknown(kind, word, valid):
    """A UsageError for a name that is not among the valid ones, naming the nearest."""
    options = nearest(str(word), valid)
    hint = f"; did you mean {', '.join(options)}?" if options else "."
    return UsageError(f"unknown {kind} {word!r}{hint}")


def require(*packages, why):
    """Raises MissingPackage, with the pip command, unless every package can be imported."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        extra = EXTRA_OF[missing[0]]
        raise MissingPackage(f'{why} needs {" and ".join(missing)}: pip install "kzoo[{extra}]"')


def backend_name():
    """The Keras backend this process will use, found without importing Keras."""
    home = pathlib.Path(os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras"))
    try:
        configured = json.loads((home / "keras.json").read_text()).get("backend")
    except (OSError, ValueError):
        configured = None
    return os.environ.get("KERAS_BACKEND") or configured or "tensorflow"


def require_backend():
    """Raises MissingPackage when the chosen Keras backend is not installed; call before the first import of Keras."""
    backend = backend_name()
    if backend in EXTRA_OF and importlib.util.find_spec(backend) is None:
        others = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
        also = f", or set KERAS_BACKEND={others[0]}, which is installed" if others else ""
        raise MissingPackage(
            f'the Keras backend {backend!r} is not installed: pip install "kzoo[{EXTRA_OF[backend]}]"{also}'
        )

"""Writing weights: in Keras' own file, and in the layouts that timm and transformers read."""

import dataclasses
import json
import pathlib

from kzoo.errors import UserError, require, unknown
from kzoo.files import replacing, write_text
from kzoo.registry import config_of_model
from kzoo.weights.checkpoint import SEAL, SPEC, fingerprint, open_checkpoint
from kzoo.weights.names import encode


def save_weights(model, path, layout="keras"):
    """Writes a model's weights; nothing is left half-written, and what stood at `path` stays until the new file is
    whole.

    layout "keras": FILE.weights.h5, read by Keras' load_weights; "timm": FILE.safetensors, whose names timm's
    load_state_dict takes strictly; "hf": a folder with model.safetensors and config.json, read by transformers'
    from_pretrained; "official": FILE.safetensors in the names of the authors' own code, where kzoo knows them apart
    from timm's. All of them carry the model's spec and a fingerprint of their content, which kzoo checks when it
    reads them. Raises UserError where the layout has no place for a part of the model, and for a name that says
    otherwise than the layout.
    """
    if layout not in _WRITERS:
        raise unknown("layout", layout, _WRITERS)
    ending, write = _WRITERS[layout]
    path = pathlib.Path(path)
    if not path.name.endswith(ending):
        raise UserError(f"layout {layout!r} writes a file named NAME{ending}, not {path.name}.")
    config = config_of_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(model, path, config)


def _save_keras(model, path, config):
    import h5py

    with replacing(path, suffix=".weights.h5") as temporary:
        model.save_weights(temporary)
        texts = {SPEC: json.dumps(dataclasses.asdict(model.spec))}
        with open_checkpoint(temporary) as written:
            texts[SEAL] = fingerprint(((name, written.stored(name)) for name in sorted(written.tensors)), texts)
        with h5py.File(temporary, "r+") as file:
            file.attrs.update(texts)


def _save_timm(model, path, config):
    if "timm" not in config.layouts():
        raise UserError(f"timm has no model like {model.spec.name}; layout='keras' takes every model.")
    _save_safetensors(model, path, encode(model, config.layouts()["timm"], config))


def _save_official(model, path, config):
    if "official" not in config.layouts():
        raise UserError(f"kzoo knows no official names of {model.spec.name}; layout='keras' takes every model.")
    _save_safetensors(model, path, encode(model, config.layouts()["official"], config))


def _save_transformers(model, path, config):
    """The first of the family's classes in transformers that has a place for all of it."""
    refusals = []
    for layout in config.layouts().values():
        if layout.config is not None:
            try:
                told, tensors = layout.config(config), encode(model, layout, config)
            except UserError as error:
                refusals.append(str(error))
                continue
            path.mkdir(exist_ok=True)
            _save_safetensors(model, path / "model.safetensors", tensors)
            return write_text(path / "config.json", json.dumps(told | _labels(model), indent=2) + "\n")
    why = "; ".join(refusals) or "it has no such class"
    raise UserError(f"transformers cannot hold this {model.spec.name}: {why}; use layout='timm' or 'keras'.")


def _labels(model):
    """The classes as a config.json of transformers names them; without a head it counts none."""
    told = isinstance(model.output, dict) and "logits" in model.output  # a detector's
    classes = model.config.num_classes if told else model.classes
    if not classes:
        return {}
    names = model.spec.class_names
    if len(names) != classes:  # of one logit it counts one, whichever two it tells apart
        names = [f"LABEL_{i}" for i in range(classes)]
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def _save_safetensors(model, path, tensors):
    require("safetensors", why="writing .safetensors files")
    from safetensors.numpy import save_file

    texts = {"format": "pt", SPEC: json.dumps(dataclasses.asdict(model.spec))}  # transformers asks for the first
    texts[SEAL] = fingerprint(sorted(tensors.items()), texts)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=texts)


_WRITERS = {
    "keras": (".weights.h5", _save_keras),
    "timm": (".safetensors", _save_timm),
    "official": (".safetensors", _save_official),
    "hf": ("", _save_transformers),
}

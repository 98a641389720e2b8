"""Weights of the network below a model alone: what stands on it starts anew."""

import dataclasses

import keras

from kzoo import registry
from kzoo.errors import UsageError, UserError
from kzoo.models.backbone import OnBackbone
from kzoo.models.base import build, computing_in, precision_of
from kzoo.weights.fill import OWN, build_and_fill, fill
from kzoo.weights.names import recognise
from kzoo.weights.source import open_weights


def start_from(model, source):
    """Fills a model with what a recipe starts from, as kzoo.get asked for another size, other classes and another
    number of queries would; where the model stands on another network, `source` may hold the weights of that one alone.
    Returns a LoadReport.
    """
    config = model.config
    if isinstance(config, OnBackbone):
        with open_weights(source) as (checkpoint, _):
            alone = _is_of_below(checkpoint, model.spec.name, config)
        if alone:
            return fill_backbone(model, source)
    return fill(model, source, asked=("image_size", "num_classes", *config.counted.values()))


def _is_of_below(checkpoint, name, config):
    """Whether a checkpoint holds weights of the backbone rather than of a model such as `name`."""
    if checkpoint.spec is not None:
        module = registry.find(checkpoint.spec.name).module
        return module == registry.find(config.backbone).module != registry.find(name).module
    if checkpoint.format in OWN:
        return False
    try:
        recognise(checkpoint, config.layouts())
    except UserError:
        return True
    return False


def fill_backbone(model, source):
    """Fills the network below a model with the weights of `source`, which are that network's own: a file of timm,
    torchvision or transformers, a run or a file of kzoo's, with a head or without.

    Returns a LoadReport; what stands on the network counts as reinitialised. Raises UsageError for a model that stands
    on no other, UserError for weights that do not fit, those of other numerics among them; the model is then as before.
    """
    config, name = model.config, model.spec.name
    if not isinstance(config, OnBackbone):
        raise UsageError(f"{name} stands on no other network, which backbone_weights= would be of; give weights=.")
    size = {"open_size": True} if config.open_size else {"image_size": config.size}
    asked = config.backbone_options | size | {"in_channels": config.in_channels, "features_only": True}
    with computing_in(precision_of(model)):
        donor = build_and_fill(
            lambda settings: build(config.backbone, settings, filled=True), config.backbone, source, asked
        )
    for field in config.network.numerics:
        ours, theirs = getattr(config.network, field), getattr(donor.config, field)
        if ours != theirs:
            raise UserError(
                f"{source} was made for {field}={theirs!r}, the backbone of this model has {ours!r}: build it with "
                f"backbone_options={config.backbone_options | {field: theirs}!r}."
            )
    given = {config.below + weight.path: weight for weight in donor.weights}
    taken = [weight for weight in model.weights if weight.path in given]
    for weight in taken:
        weight.assign(keras.ops.convert_to_numpy(given[weight.path]))
    report, paths = donor.load_report, {weight.path for weight in taken}
    fates = {
        fate: tuple(path for path in (config.below + path for path in getattr(report, fate)) if path in paths)
        for fate in ("loaded", "resized", "adapted")
    }
    fresh = tuple(weight.path for weight in model.weights if weight.path not in paths)
    return dataclasses.replace(report, **fates, reinitialised=fresh)

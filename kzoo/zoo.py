"""The models of the zoo as users have them: built by name, filled with weights, told about."""

import contextlib
import dataclasses
import pathlib
from dataclasses import dataclass

from kzoo import registry
from kzoo.errors import UsageError, UserError, require_backend
from kzoo.specs import Preprocessing


@dataclass(frozen=True)
class ModelInfo:
    """What `kzoo.info` tells. `params` counts weights, `gmacs` 10^9 multiply-accumulates of one picture's forward pass.

    `tags` are those of the published weights. For a name with its tag the last four tell their licence, their address,
    the set of their class names and what else is to know. num_classes is None where a model's own work is not to tell
    classes.
    """

    name: str
    family: str
    task: str
    image_size: tuple[int, int]
    params: int
    gmacs: float
    feature_info: tuple[dict, ...]
    paper: str
    recipes: tuple[str, ...]
    tags: tuple[str, ...]
    num_classes: int | None
    preprocessing: Preprocessing
    license: str = ""
    weights: str = ""
    classes: str = ""
    note: str = ""


def get(
    model,
    /,
    weights=None,
    num_classes=None,
    image_size=None,
    in_channels=None,
    features_only=False,
    out_indices=None,
    backbone_weights=None,
    class_names=None,
    name=None,
    dtype=None,
    **overrides,
):
    """A built Keras model by name, NAME or NAME.TAG, the first argument.

    num_classes 0 gives the pooled vector (B, D); image_size is a side or (height, width) in pixels; features_only gives
    a list of maps (B, H, W, C). `overrides` are fields of the family's config. `weights` is what `kzoo.load_weights`
    reads: a run, a file of any format, hf://org/repo[@revision][/file]. A tag gives the settings and, without
    `weights`, the weights published under it; what else is asked for stands above its settings. backbone_weights: of a
    model that stands on another network, that one's own, as of timm's or torchvision's ResNet; the rest is random.
    class_names: a name for each class, by which num_classes goes where it is left out. name: of the Keras model, by
    which a graph tells several models of a family apart. dtype: the Keras dtype policy that it computes in, for example
    "mixed_bfloat16"; its logits are float32 all the same.

    Raises UsageError for unknown names and options, naming the nearest valid ones, and for frozen parts without
    weights; a detector is built even so, and its load_report tells.
    """
    if class_names is not None:
        from kzoo.heads import checked_names, with_classes

        class_names = checked_names(class_names)
        num_classes = len(class_names) if num_classes is None else num_classes
    common = {
        "num_classes": num_classes,
        "image_size": image_size,
        "in_channels": in_channels,
        "out_indices": out_indices,
    }
    overrides |= {k: v for k, v in common.items() if v is not None}
    overrides |= {"features_only": True} if features_only else {}
    require_backend()
    from kzoo.models.base import computing_in

    with contextlib.nullcontext() if dtype is None else computing_in(_policy(dtype)):
        built = _built(model, weights, backbone_weights, overrides)
    if name is not None:
        _rename(built, name)
    return built if class_names is None else with_classes(built, class_names)


def _built(name, weights, backbone_weights, overrides):
    """The model of a name, with the weights that it is given or that its tag names."""
    from kzoo.models.base import build

    row, tag = registry.split(name)
    if overrides.get("multilabel") and row.task != "classify":
        raise UsageError(f"multilabel is of classifiers, and {row.name} is none; leave it out.")
    if backbone_weights is not None:
        if tag or weights is not None:
            raise UsageError("weights fill the backbone too; give them or backbone_weights, not both.")
        from kzoo.weights.backbone import fill_backbone

        model = build(name, overrides, filled=True)
        model.load_report = fill_backbone(model, backbone_weights)
        return model
    weights = _address(tag) if tag and weights is None else weights
    if weights is None:
        return _told(build(name, overrides))
    from kzoo.weights import build_and_fill

    model = build_and_fill(lambda settings: build(name, settings, filled=True), name, weights, overrides)
    model.spec = dataclasses.replace(model.spec, source=model.load_report.hub_source)
    return model


def _policy(dtype):
    """A Keras dtype policy by name, or itself. Raises UsageError for what is none."""
    import keras

    try:
        return keras.dtype_policies.get(dtype)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"dtype is a Keras dtype policy, such as 'float32', 'mixed_bfloat16' or 'bfloat16', not {dtype!r}."
        ) from error


def _rename(model, name):
    """Gives the Keras model a name. Raises UsageError for what is none."""
    if not isinstance(name, str) or not name or "/" in name:
        raise UsageError(f"name is that of the Keras model, a text without '/', not {name!r}.")
    model.name = name


def _told(model):
    """The random model, its load_report telling of parts that make no sense so."""
    if lacking := model.config.needs_weights():
        from kzoo.weights import LoadReport

        model.load_report = LoadReport(lacking=lacking)
    return model


def _address(tag):
    """Where the hub has the weights of a tag. Raises UserError for those that only a browser fetches."""
    if not tag.address.startswith("hf://"):
        raise UserError(
            f"{tag.name} is not on the hub: download {tag.address} and name the file, kzoo.get({tag.name!r}, "
            "weights=FILE)."
        )
    return tag.address


def info(name):
    """ModelInfo of a name, with or without a tag: its counts come from building it without memory, in milliseconds to
    seconds.
    """
    require_backend()
    from kzoo.models.count import count
    from kzoo.published import tags
    from kzoo.recipe_files import recipe_rows

    row, tag = registry.split(name)
    builder, config = registry.config_of(name)
    params, macs = count(lambda: builder(config))
    published = {}
    if tag:
        published = {"license": tag.license, "weights": tag.address, "classes": tag.classes, "note": _note(tag, config)}
    return ModelInfo(
        name=name,
        family=row.family,
        task=row.task,
        image_size=config.size,
        params=params,
        gmacs=macs / 1e9,
        feature_info=tuple(config.feature_info()),
        paper=getattr(registry.module_of(name), "PAPER", ""),
        recipes=tuple(r for r, (_, model) in recipe_rows().items() if model == row.name),
        tags=tuple(tags(row.name)),
        num_classes=config.num_classes,
        preprocessing=config.take.preprocessing,
        **published,
    )


def _note(tag, config):
    """What to know before using a tag: weights that were trained with another activation than the model's."""
    from kzoo.published import same_weights

    if not tag.act or tag.act == config.act:
        return ""
    others = " or ".join(other.name for other in same_weights(tag)) or f"act={tag.act!r}"
    return f"trained with {tag.act}; for the original results use {others}"


def preprocessor(model):
    """The Preprocessor of a model, a model's name with or without a tag, or a run."""
    require_backend()
    from kzoo.preprocess import Preprocessor

    if isinstance(model, str) and not pathlib.Path(model).exists() and registry.is_name(model):
        return Preprocessor(registry.config_of(model)[1].take)
    if isinstance(model, str | pathlib.Path):
        from kzoo.weights import load

        model = load(model)
    registry.spec_of_model(model)
    return Preprocessor(model.take)

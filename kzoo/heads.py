"""Names of a model's classes, another head for it, and the vectors that its head is given."""

import dataclasses
import weakref
from collections import Counter

import keras
import numpy as np

from kzoo import registry
from kzoo.errors import UsageError, UserError
from kzoo.layers.base import parts_config, set_parts
from kzoo.models.base import build, computing_in, precision_of
from kzoo.weights.encoder import encoder_of, refill
from kzoo.weights.fill import transfer

_ENCODERS = weakref.WeakKeyDictionary()  # {model: it without its head}, built once and filled for every use


def checked_names(names):
    """Class names as a tuple. Raises UsageError for what are none, or not all different."""
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise UsageError(f"class names are a list of texts, one for each class, not {names!r}.")
    names = tuple(names)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"class names have to differ, and {twice[0]!r} comes twice; call one of them otherwise.")
    return names


def with_classes(model, names):
    """The model itself, its spec naming its classes `names` from now on: predictions and exports tell them.

    names: a list of texts, one for each class in the order of its numbers, two for one logit. Raises UsageError for
    another number of them than the model has classes, for two of one name, and for a model that tells no classes.
    """
    names, spec = checked_names(names), registry.spec_of_model(model)
    outputs = model.output if isinstance(model.output, dict) else {}
    count = model.config.num_classes if "logits" in outputs else model.classes
    if not count:
        raise UsageError(
            f"{spec.name}, as it is built here, tells no classes; kzoo.with_head(model, num_classes) gives it a "
            "classifier's head."
        )
    if count == 1 and not model.config.multilabel:
        count = 2  # one logit tells class 1 from class 0
    if len(names) != count:
        raise UsageError(
            f"{len(names)} class names for the {count} classes of {spec.name}; name each, or take "
            f"kzoo.with_head(model, {len(names)}) for another number of classes."
        )
    model.spec = dataclasses.replace(spec, class_names=names)
    return model


def with_head(model, num_classes, class_names=None):
    """A new model like this one with a fresh head for so many classes, everything before it having this one's weights
    and precision, and being frozen where this one's is.

    class_names: theirs. The load_report tells what was loaded and what is new ("reinitialised"). Raises UsageError for
    a model that gives feature maps, and for class names of another number.
    """
    spec, config = registry.spec_of_model(model), model.config
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
        raise UsageError(f"a head has a whole number of classes, 1 or more, not {num_classes!r}.")
    if config.features_only:
        raise UsageError(f"{spec.name}, as it is built here, gives feature maps; build it without features_only.")
    overrides = spec.overrides | {"num_classes": num_classes}
    with computing_in(precision_of(model)):
        other = build(spec.name, overrides | {"preprocessing": spec.preprocessing}, filled=True)
    of_head = tuple(f"{layer}/" for layer in config.head_layers)
    head = [w for w in other.weights if w.path.startswith(of_head) and w.shape[-1] == num_classes]
    values, paths = [keras.ops.convert_to_numpy(weight) for weight in head], [weight.path for weight in head]
    report = transfer(other, model, resize=False, new_head=True)
    for weight, value in zip(head, values, strict=True):  # those of a head for as many classes were taken over
        weight.assign(value)
    loaded, fresh = (tuple(p for p in report.loaded if (p in paths) is new) for new in (False, True))
    other.load_report = dataclasses.replace(report, loaded=loaded, reinitialised=(*report.reinitialised, *fresh))
    other.spec = dataclasses.replace(spec, overrides=overrides, class_names=())
    frozen = parts_config(model).get("frozen", ())
    set_parts(other, {"frozen": [path for path in frozen if not f"{path}/".startswith(of_head)]})
    return other if class_names is None else with_classes(other, class_names)


def features(model, images, batch_size=32):
    """The pooled vectors (N, D), float32 NumPy, that the model makes of images (N, height, width, C), normalised as its
    preprocessor gives them: what its head is given, without dropout.

    Raises UserError for a model that makes none, such as a detector.
    """
    config = registry.config_of_model(model)
    if config.features_only or isinstance(model.output, dict) and "boxes" in model.output:
        made = "feature maps" if config.features_only else "boxes and classes of objects"
        raise UserError(f"{model.spec.name}, as it is built here, makes {made}, not one vector of a picture.")
    if config.num_classes == 0:
        encoder = encoder_of(model)
    elif model in _ENCODERS:
        encoder = refill(_ENCODERS[model], model)
    else:
        encoder = _ENCODERS.setdefault(model, encoder_of(model))
    return np.asarray(encoder.predict(images, batch_size=batch_size, verbose=0), "float32")

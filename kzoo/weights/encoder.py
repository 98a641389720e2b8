"""The same weights in another build of their model, its encoder above all."""

import dataclasses

import keras

from kzoo.errors import UserError
from kzoo.models.base import build, computing_in, precision_of


def rebuilt(model, **changes):
    """The model as these overrides change it, with the weights of this one by their paths; what it has beyond them is
    left out.

    Raises UserError where a weight is missing or of another shape.
    """
    spec = model.spec
    with computing_in(precision_of(model)):
        other = build(spec.name, spec.overrides | {"preprocessing": spec.preprocessing} | changes, filled=True)
    other.spec = dataclasses.replace(spec, overrides=spec.overrides | changes, class_names=())
    return refill(other, model)


def refill(other, model):
    """`other`, after it took over the weights that another build of its model has now."""
    given = {weight.path: weight for weight in model.weights}
    for weight in other.weights:
        if weight.path not in given or given[weight.path].shape != weight.shape:
            raise UserError(
                f"{model.spec.name} has no weight {weight.path} {tuple(weight.shape)}, which it needs to be built "
                "otherwise."
            )
        # a copy: under JAX prediction consumes the arrays it is given
        weight.assign(keras.ops.convert_to_numpy(given[weight.path]))
    return other


def encoder_of(model):
    """The model without its head and what only its training needed: pictures -> vectors (B, D); itself if it is that.

    Raises UserError for a model that gives no vector even so, but maps or all tokens, and as `rebuilt`.
    """
    encoder = model if model.config.num_classes == 0 else rebuilt(model, num_classes=0)
    if not isinstance(encoder.output_shape, tuple) or len(encoder.output_shape) != 2:
        raise UserError(
            f"{model.spec.name}, as it is built here, gives no vector without a head; choose a global_pool that gives "
            "one."
        )
    return encoder

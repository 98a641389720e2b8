"""What every layer of kzoo shares: it tells its config whole, and blocks among them can trade time for memory."""

import keras
from keras import ops

from kzoo.errors import UserError
from kzoo.keras_private import BuiltLayer, layers_in, own_trainable, tells_arguments


def side(x, axis):
    """The length of an axis, a number where it is known."""
    return x.shape[axis] if x.shape[axis] is not None else ops.shape(x)[axis]


def framed(x, rows, columns):
    """The map (B, H, W, C) with so many rows and columns of zeros (before, behind) it, numbers or integer tensors."""
    none = all(isinstance(n, int) and n == 0 for n in (*rows, *columns))
    return x if none else ops.pad(x, ((0, 0), rows, columns, (0, 0)))


class ZooLayer(BuiltLayer):
    """A layer whose config is made of its constructor's plain arguments, with the state of its parts that Keras would
    leave out.

    That is which of them are frozen, down to single weights, and which are quantised. `dtype` may be a policy object,
    also one that tells layers apart by their paths. `trainable=False` reaches the parts that a subclass makes in
    `__init__` and `build`.
    """

    _parts = {}  # parts_config to be, until the layer is built

    def __new__(cls, *args, **kwargs):
        # which get_config tells anyhow: an object would keep Keras from noting down the other arguments
        kwargs.pop("dtype", None)
        return super().__new__(cls, *args, **kwargs)

    @tells_arguments
    def get_config(self):
        return super().get_config() | (parts_config(self) if self.built else self._parts)

    @classmethod
    def from_config(cls, config):
        rest, parts = split_config(config)
        layer = super().from_config(rest)
        layer._parts = parts
        _quantize_parts(layer, parts)  # before they are built, if they are there already
        return layer

    def after_build(self):
        set_parts(self, self._parts)
        for part in () if self.trainable else _children(self):
            part.trainable = False


def _children(layer):
    return layers_in(layer, recursive=False)


def _named(layer):
    """{name: what lies in a layer directly and can be frozen}: layers, and the weights of its own that were made to be
    trained.
    """
    return {weight.name: weight for weight in own_trainable(layer)} | {part.name: part for part in _children(layer)}


def parts_config(layer):
    """What a config has to tell of the parts of a layer or model, by their paths below it; {} where they are as they
    were made.

    "frozen": those that are frozen although the layer is not, ["attn/proj", "norm1/gamma"]; "quantized": {path: name of
    its policy}.
    """
    frozen, quantized = [], {}
    for name, part in _named(layer).items():
        if layer.trainable and not part.trainable:
            frozen.append(name)
        if isinstance(part, keras.layers.Layer):
            if part.dtype_policy.quantization_mode:
                quantized[name] = part.dtype_policy.name
            below = parts_config(part)
            frozen += [f"{name}/{path}" for path in below.get("frozen", ())]
            quantized |= {f"{name}/{path}": policy for path, policy in below.get("quantized", {}).items()}
    return {key: value for key, value in {"frozen": frozen, "quantized": quantized}.items() if value}


def split_config(config):
    """(what the constructor takes, what parts_config told) of a config, which is left as it is."""
    told = {key: config[key] for key in ("frozen", "quantized") if key in config}
    return {key: value for key, value in config.items() if key not in told}, told


def set_parts(layer, told):
    """Makes the parts of a built layer or model what parts_config told of them. Raises UserError for a path that leads
    nowhere.
    """
    missing = _quantize_parts(layer, told)
    for path in told.get("frozen", ()):
        part = _at(layer, path)
        if part is None:
            missing.append(path)
        else:
            part.trainable = False
    if missing:
        raise UserError(
            f"{layer.name} has no part {missing[0]!r}, of which its file tells; load it with the version that wrote it."
        )


def _quantize_parts(layer, told):
    """Gives parts their policies; returns the paths that lead nowhere."""
    parts = {path: _at(layer, path) for path in told.get("quantized", {})}
    for path, part in parts.items():
        if part is not None and part.dtype_policy.name != told["quantized"][path]:
            part.dtype_policy = told["quantized"][path]
    return [path for path, part in parts.items() if part is None]


def _at(layer, path):
    part = layer
    for name in path.split("/"):
        part = _named(part).get(name) if isinstance(part, keras.layers.Layer) else None
    return part


class Remat(ZooLayer):
    """A layer whose training pass may keep its input alone and compute the rest again in the backward pass (`remat`).

    Gradient checkpointing, https://arxiv.org/abs/1604.06174, with the same dropout and the same running statistics as
    without. A subclass defines `compute(x, training)` (`forward` is torch's), or of several inputs, which passes
    `training` on to whatever heeds it.
    """

    def __init__(self, remat=False, **kwargs):
        super().__init__(**kwargs)
        self.remat = remat

    def call(self, x, training=None):
        return self.computed(x, training=training)

    def computed(self, *inputs, training):
        """What `compute` makes of the inputs, as `remat` asks. For the `call` of a subclass that takes several."""
        return self._recomputed(inputs) if self.remat and training else self.compute(*inputs, training)

    def _recomputed(self, inputs):
        """The training pass as a pure function of inputs and weights, which `keras.remat` may run twice.

        Random states are drawn and moved on outside it: were they inside, the second run would drop other values than
        the first. Running statistics come out of it, to be assigned once. Inputs that are no floats have no gradient.
        """
        generators = [
            layer.seed_generator for layer in layers_in(self, itself=True) if getattr(layer, "seed_generator", None)
        ]
        seeds = [(generator.state, generator.next()) for generator in generators]
        statistics = self.non_trainable_weights
        held = [(weight, weight.value) for weight in statistics]
        floats = [x for x in inputs if keras.backend.is_float_dtype(x.dtype)]

        def forward(*values):
            given, weights = iter(values[: len(floats)]), values[len(floats) :]
            mapping = [*zip(self.trainable_weights, weights, strict=True), *held, *seeds]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                own = [next(given) if keras.backend.is_float_dtype(x.dtype) else x for x in inputs]
                y = self.compute(*own, training=True)
                return [y, *(scope.get_current_value(weight) for weight in statistics)]

        y, *updated = keras.remat(forward)(*floats, *(weight.value for weight in self.trainable_weights))
        for weight, value in zip(statistics, updated, strict=True):
            weight.assign(value)
        return y

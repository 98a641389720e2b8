"""Blocks that can trade time for memory: gradient checkpointing for every family."""

import keras


class Remat(keras.layers.Layer):
    """A layer whose training pass may keep its input alone and compute the rest again in the backward pass (`remat`).

    Gradient checkpointing, https://arxiv.org/abs/1604.06174, with the same dropout and the same running statistics as without.
    A subclass defines `compute(x, training)` (`forward` is torch's), which passes `training` on to whatever heeds it.
    """

    def __init__(self, remat=False, **kwargs):
        super().__init__(**kwargs)
        self.remat = remat

    def call(self, x, training=None):
        return self._recomputed(x) if self.remat and training else self.compute(x, training)

    def _recomputed(self, x):
        """The training pass as a pure function of input and weights, which `keras.remat` may run twice.

        Random states are drawn and moved on outside it: were they inside, the second run would drop other values than the first.
        Running statistics come out of it, to be assigned once.
        """
        generators = [layer.seed_generator for layer in self._flatten_layers() if getattr(layer, "seed_generator", None)]
        seeds = [(generator.state, generator.next()) for generator in generators]
        statistics = self.non_trainable_weights
        held = [(weight, weight.value) for weight in statistics]

        def forward(x, *weights):
            mapping = [*zip(self.trainable_weights, weights, strict=True), *held, *seeds]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                y = self.compute(x, training=True)
                return [y, *(scope.get_current_value(weight) for weight in statistics)]

        y, *updated = keras.remat(forward)(x, *(weight.value for weight in self.trainable_weights))
        for weight, value in zip(statistics, updated, strict=True):
            weight.assign(value)
        return y

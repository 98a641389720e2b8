"""From a recipe's numbers to a Keras optimizer, and what the compiled step turned out to be."""

import math
import re

import keras
from keras import ops

from kzoo import registry
from kzoo.errors import UserError
from kzoo.keras_private import OfRun, layers_in
from kzoo.tasks.views.base import View
from kzoo.training.devices import mirrored
from kzoo.training.rules import Lamb, Lars, Sgd


def updates(recipe, total_steps):
    """How often a run of so many batches changes the weights. Raises UserError where it never does."""
    count = total_steps // recipe.optim.accumulate
    if not count:
        raise UserError(
            f"optim.accumulate={recipe.optim.accumulate} gathers more batches than the {total_steps} of the run, so "
            "that no weight would "
            "change; lower it or train longer."
        )
    return count


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """A recipe's learning rate over `total_steps` steps of the optimizer, the first of which is 0; step -> rate,
    float32.

    Linear warm-up of at most half of the run (so that a run cut short, epochs=1 or a smoke, still decays), then the
    schedule.
    """

    def __init__(self, recipe, steps_per_epoch, total_steps):
        # an int would make Keras compute in whole numbers
        self.schedule, self.peak = recipe.schedule, float(recipe.optim.lr)
        steps = self.schedule.warmup_steps
        warmup = round(self.schedule.warmup_epochs * steps_per_epoch) if steps is None else steps
        self.warmup, self.total = min(warmup, total_steps // 2), total_steps
        self.drops = [round(epoch * steps_per_epoch) for epoch in self.schedule.drop_epochs]

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rising = self.schedule.warmup_from + (self.peak - self.schedule.warmup_from) * step / max(self.warmup, 1)
        return ops.where(step < self.warmup, rising, self._after(step))

    def _after(self, step):
        """The rate after the warm-up."""
        if self.schedule.name == "constant":
            return self.peak
        if self.schedule.name == "step":
            passed = sum(ops.cast(step >= drop, "float32") for drop in self.drops)
            return self.peak * ops.power(self.schedule.drop_factor, passed)
        done = ops.clip((step - self.warmup) / max(self.total - self.warmup, 1), 0.0, 1.0)
        left = 0.5 * (1.0 + ops.cos(math.pi * done)) if self.schedule.name == "cosine" else 1.0 - done
        return self.schedule.min_lr + (self.peak - self.schedule.min_lr) * left


def undecayed(model):
    """The weights that decay leaves alone: vectors and scalars (biases, norms) and what a layer marks by
    `no_weight_decay`, such as class tokens and position tables.
    """
    vectors = [w for w in model.trainable_weights if len(w.shape) <= 1]
    marked = [layer for layer in layers_in(model, itself=True) if getattr(layer, "no_weight_decay", False)]
    return vectors + [w for layer in marked for w in layer.trainable_weights if len(w.shape) > 1]


def _rule(o):
    """(class, its own arguments) of a recipe's optimizer."""
    momentum = {"momentum": float(o.momentum), "nesterov": o.nesterov}
    betas = {"beta_1": o.beta_1, "beta_2": o.beta_2}
    decay = {"weight_decay": o.weight_decay}
    adam_of_muon = {"adam_beta_1": o.beta_1, "adam_beta_2": o.beta_2, "exclude_layers": ["head"]}
    return {
        "adamw": (keras.optimizers.AdamW, betas | decay | {"epsilon": o.epsilon}),
        "sgd": (Sgd, momentum | decay),
        "lion": (keras.optimizers.Lion, betas | decay),
        "muon": (keras.optimizers.Muon, momentum | adam_of_muon | decay | {"epsilon": o.epsilon}),
        "lars": (Lars, momentum | {"l2": o.weight_decay}),
        "lamb": (Lamb, betas | {"l2": o.weight_decay, "epsilon": o.epsilon}),
    }[o.name]


def trained(model):
    """{name: weight} of what a view, or a model alone, trains: the network's by their paths, the view's own by its
    names for them.
    """
    own = {id(weight): name for name, weight in model.own().items()} if isinstance(model, View) else {}
    return {own.get(id(weight), weight.path): weight for weight in model.trainable_weights}


def rate_scales(optim, model):
    """{name of a weight: factor of its rate, where not 1} by optim.layer_decay and optim.lr_scales.

    Raises UserError for a pattern that fits no weight.
    """
    scales = dict.fromkeys(trained(model), 1.0)
    if optim.layer_decay is not None:
        depths = model.layer_depths()
        scales = {path: optim.layer_decay ** (max(depths.values()) - depths[path]) for path in scales}
    for pattern, scale in optim.lr_scales.items():
        scales |= {path: scales[path] * scale for path in _matching(pattern, scales, "optim.lr_scales")}
    return {path: scale for path, scale in scales.items() if scale != 1}


def _matching(pattern, paths, key):
    found = [path for path in paths if re.search(pattern, path)]
    if not found:
        raise UserError(
            f"the pattern {pattern!r} of {key} fits no weight of the model; its weights are named like "
            f"{next(iter(paths))!r}."
        )
    return found


def freeze(model, patterns):
    """Takes weights out of training; a layer that has none left also keeps its running statistics.

    Raises UserError for a pattern that fits no weight and for patterns that fit them all.
    """
    weights = trained(model)
    frozen = {id(weights[name]) for pattern in patterns for name in _matching(pattern, weights, "optim.freeze")}
    if len(frozen) == len(weights):
        raise UserError("optim.freeze fits every weight of the model, which leaves nothing to train.")
    # of which each layer tells that it is frozen, never the whole
    network = model.network if isinstance(model, View) else None
    learning = [(layer, layer.trainable_weights) for layer in layers_in(model) if layer is not network]
    # as they all were before: what is frozen of a block would hide a norm in it that has nothing left
    for layer, own in learning:
        if own and all(id(w) in frozen for w in own):
            layer.trainable = False
        for weight in own:
            weight.trainable = id(weight) not in frozen


def make_optimizer(recipe, schedule, model):
    """The recipe's optimizer: decoupled decay, global-norm clipping, rates by weight, accumulation, averaged
    weights.
    """
    o = recipe.optim
    rule, arguments = _rule(o)
    common = {"learning_rate": schedule, "global_clipnorm": o.clip_norm}
    if o.ema is not None:
        common |= {"use_ema": True, "ema_momentum": o.ema, "ema_overwrite_frequency": None}
    if o.accumulate > 1:
        common |= {"gradient_accumulation_steps": o.accumulate}
    optimizer = type(rule.__name__, (OfRun, rule), {})(**common, **arguments)
    optimizer.owners, weights = {}, trained(model)
    optimizer.own = {id(weight) for name, weight in weights.items() if name.startswith("task/")}
    optimizer.scales = {id(weights[name]): scale for name, scale in rate_scales(o, model).items()}
    optimizer.exclude_from_weight_decay(var_list=undecayed(model))
    return optimizer


def wants_xla(recipe):
    """Whether the step is to be compiled by XLA, by the recipe's policy."""
    if keras.backend.backend() == "torch" or mirrored():
        return False
    if recipe.xla != "auto":
        return recipe.xla == "required"
    accelerated = any(not device.startswith("cpu") for device in keras.distribution.list_devices())
    family = registry.module_of(recipe.model)
    return accelerated or keras.backend.backend() == "jax" or getattr(family, "CPU_XLA", True)


def require_xla(recipe, view, compiled=None):
    """Stops a run whose recipe requires XLA where Keras refused it (before the first step) or the step is something
    else (after it).
    """
    if recipe.xla != "required" or keras.backend.backend() == "torch":
        return
    if mirrored():
        raise UserError(
            "xla='required', but TensorFlow compiles no step over several devices; use xla='auto', or "
            "KERAS_BACKEND=jax."
        )
    if compiled is None and not view.jit_compile:
        raise UserError(
            "xla='required', but Keras refuses to compile this step (op determinism or a layer forbids it); use "
            "xla='auto'."
        )
    if compiled not in (None, "xla"):
        raise UserError(f"xla='required', but the training step runs as {compiled}; use xla='auto'.")

"""From a recipe's numbers to a Keras optimizer, and what the compiled step turned out to be."""

import math
import re

import keras
from keras import ops

from kzoo import registry
from kzoo.errors import UserError
from kzoo.tasks.views.base import View
from kzoo.training.devices import mirrored
from kzoo.training.rules import Lamb, Lars, Sgd


def updates(recipe, total_steps):
    """How often a run of so many batches changes the weights. Raises UserError where it never does."""
    count = total_steps // recipe.optim.accumulate
    if not count:
        raise UserError(
            f"optim.accumulate={recipe.optim.accumulate} gathers more batches than the {total_steps} of the run, so that no weight would "
            "change; lower it or train longer."
        )
    return count


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """A recipe's learning rate over `total_steps` steps of the optimizer, the first of which is 0; step -> rate, float32.

    Linear warm-up of at most half of the run (so that a run cut short, epochs=1 or a smoke, still decays), then the schedule.
    """

    def __init__(self, recipe, steps_per_epoch, total_steps):
        self.schedule, self.peak = recipe.schedule, float(recipe.optim.lr)  # an int would make Keras compute in whole numbers
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
    """The weights that decay leaves alone: vectors and scalars (biases, norms), class tokens and position tables."""
    vectors = [w for w in model.trainable_weights if len(w.shape) <= 1]
    marked = [layer for layer in model._flatten_layers() if getattr(layer, "no_weight_decay", False)]
    return vectors + [w for layer in marked for w in layer.trainable_weights if len(w.shape) > 1]


class _OfRun:
    """What the engine asks of an optimizer beyond Keras' own: averages kept apart, and a factor of the rate for each weight."""

    scales = {}  # id of a weight: factor of its rate, where that is not 1
    own = ()  # ids of the weights of a view's own layers, which end as a head does

    def add_variable_from_reference(self, reference_variable, *args, **kwargs):
        """Keeps of each of its variables, averages and gathered gradients among them, whose it is: `owners`, by ids."""
        variable = super().add_variable_from_reference(reference_variable, *args, **kwargs)
        self.owners[id(variable)] = id(reference_variable)
        return variable

    def finalize_variable_values(self, var_list):
        """Leaves the averages beside the raw weights: Keras would overwrite them after every `fit`, that is every epoch."""

    def _get_current_learning_rate(self):
        return self._learning_rate(self.iterations)  # Keras counts the batches here, and the steps of the optimizer everywhere else

    def _should_use_adamw(self, variable):
        """Muon's question: it leaves heads to AdamW."""
        return id(variable) in self.own or super()._should_use_adamw(variable)

    def _grouped(self, variables):
        """[(factor of the rate, positions of the variables that have it)]."""
        groups = {}
        for i, variable in enumerate(variables):
            groups.setdefault(self.scales.get(id(variable), 1.0), []).append(i)
        return groups.items()

    def _clip_gradients(self, grads):
        """The norm is that of the whole batch: gradients of several replicas are added before, not after."""
        if hasattr(super(), "_all_reduce_sum_gradients"):  # TensorFlow's alone
            grads = [g for g, _ in super()._all_reduce_sum_gradients([(g, None) for g in grads])]
        return super()._clip_gradients(grads)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars  # done before clipping

    def _apply_weight_decay(self, variables):
        whole = self.weight_decay
        for scale, members in self._grouped(variables) if whole else ():
            self.weight_decay = whole * scale  # decays are multiples of the rate, so they share its factor
            if decayed := [variables[i] for i in members if self._use_weight_decay(variables[i])]:
                keras.optimizers.Optimizer._apply_weight_decay(self, decayed)  # not Muon's, which keeps two decays
        self.weight_decay = whole

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        for scale, members in self._grouped(trainable_variables):
            super()._backend_update_step([grads[i] for i in members], [trainable_variables[i] for i in members], learning_rate * scale)

    def _update_model_variables_moving_average(self, trainable_variables):
        """Averages after each step of the optimizer: batches that only add to the gradient leave the average alone."""
        every = self.gradient_accumulation_steps or 1
        stepped = ops.equal((self._iterations + 1) % every, 0)
        first = self._iterations < every
        momentum = ops.where(stepped, ops.where(first, 0.0, self.ema_momentum), 1.0)
        for variable, average in zip(trainable_variables, self._model_variables_moving_average, strict=True):
            share = ops.cast(momentum, average.dtype)
            average.assign(share * average + (1 - share) * variable)


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
    """{name: weight} of what a view, or a model alone, trains: the network's by their paths, the view's own by its names for them."""
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
        raise UserError(f"the pattern {pattern!r} of {key} fits no weight of the model; its weights are named like {next(iter(paths))!r}.")
    return found


def freeze(model, patterns):
    """Takes weights out of training; a layer that has none left also keeps its running statistics.

    Raises UserError for a pattern that fits no weight and for patterns that fit them all.
    """
    weights = trained(model)
    frozen = {id(weights[name]) for pattern in patterns for name in _matching(pattern, weights, "optim.freeze")}
    if len(frozen) == len(weights):
        raise UserError("optim.freeze fits every weight of the model, which leaves nothing to train.")
    network = model.network if isinstance(model, View) else None  # of which each layer tells that it is frozen, never the whole
    learning = [(layer, layer.trainable_weights) for layer in model._flatten_layers(include_self=False) if layer is not network]
    for layer, own in learning:  # as they all were before: what is frozen of a block would hide a norm in it that has nothing left
        if own and all(id(w) in frozen for w in own):
            layer.trainable = False
        for weight in own:
            weight.trainable = id(weight) not in frozen


def make_optimizer(recipe, schedule, model):
    """The recipe's optimizer: decoupled decay, global-norm clipping, rates by weight, accumulation, averaged weights."""
    o = recipe.optim
    rule, arguments = _rule(o)
    common = {"learning_rate": schedule, "global_clipnorm": o.clip_norm}
    if o.ema is not None:
        common |= {"use_ema": True, "ema_momentum": o.ema, "ema_overwrite_frequency": None}
    if o.accumulate > 1:
        common |= {"gradient_accumulation_steps": o.accumulate}
    optimizer = type(rule.__name__, (_OfRun, rule), {})(**common, **arguments)
    optimizer.owners, weights = {}, trained(model)
    optimizer.own = {id(weight) for name, weight in weights.items() if name.startswith("task/")}
    optimizer.scales = {id(weights[name]): scale for name, scale in rate_scales(o, model).items()}
    optimizer.exclude_from_weight_decay(var_list=undecayed(model))
    return optimizer


def averages(optimizer):
    """The averaged weights in the order of the trained ones, or None where no average is kept."""
    return optimizer._model_variables_moving_average if optimizer.use_ema else None


def wants_xla(recipe):
    """Whether the step is to be compiled by XLA, by the recipe's policy."""
    if keras.backend.backend() == "torch" or mirrored():
        return False
    if recipe.xla != "auto":
        return recipe.xla == "required"
    accelerated = any(not device.startswith("cpu") for device in keras.distribution.list_devices())
    family = registry.module_of(recipe.model)
    return accelerated or keras.backend.backend() == "jax" or getattr(family, "CPU_XLA", True)


def compiled_as(view):
    """What the training step is, asked of the step itself after it has run: "xla", "graph", "eager" or "not applicable (torch)"."""
    backend = keras.backend.backend()
    if backend == "torch":
        return "not applicable (torch)"
    if backend == "jax":
        return "xla" if view.jit_compile and not view.run_eagerly else "eager"
    # Keras wraps its tf.functions in plain ones: `fit` traces a loop around the step, `train_on_batch` the step alone.
    found = [cell.cell_contents for cell in view.train_function.__closure__ or ()]
    found += [getattr(f, "__wrapped__", None) for f in found]
    traced = [c for f in found for c in getattr(f, "_list_all_concrete_functions", list)()]
    definitions = [d for c in traced for d in (c.function_def, *c.graph.as_graph_def().library.function)]
    return "xla" if any(d.attr["_XlaMustCompile"].b for d in definitions) else "graph" if traced else "eager"


def require_xla(recipe, view, compiled=None):
    """Stops a run whose recipe requires XLA where Keras refused it (before the first step) or the step is something else (after it)."""
    if recipe.xla != "required" or keras.backend.backend() == "torch":
        return
    if mirrored():
        raise UserError("xla='required', but TensorFlow compiles no step over several devices; use xla='auto', or KERAS_BACKEND=jax.")
    if compiled is None and not view.jit_compile:
        raise UserError("xla='required', but Keras refuses to compile this step (op determinism or a layer forbids it); use xla='auto'.")
    if compiled not in (None, "xla"):
        raise UserError(f"xla='required', but the training step runs as {compiled}; use xla='auto'.")

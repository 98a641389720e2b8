"""From a recipe's numbers to a Keras optimizer, and what the compiled step turned out to be."""

import importlib

import keras

from kzoo import registry
from kzoo.errors import UserError


def learning_rate(recipe, steps_per_epoch, total_steps):
    """The schedule over `total_steps` optimizer steps: linear warm-up (at most half of the run), then the cosine to min_lr."""
    schedule, peak = recipe.schedule, float(recipe.optim.lr)  # an int would make Keras compute in whole numbers
    warmup = schedule.warmup_steps if schedule.warmup_steps is not None else round(schedule.warmup_epochs * steps_per_epoch)
    warmup = min(warmup, total_steps // 2)  # a run cut short (epochs=1, a smoke) still decays
    warm = {"warmup_target": peak, "warmup_steps": warmup} if warmup else {}
    start = float(schedule.warmup_from) if warmup else peak
    return keras.optimizers.schedules.CosineDecay(start, total_steps - warmup, alpha=schedule.min_lr / peak if peak else 0.0, **warm)


def undecayed(model):
    """The weights that decay leaves alone: vectors and scalars (biases, norms), class tokens and position tables."""
    vectors = [w for w in model.trainable_weights if len(w.shape) <= 1]
    marked = [layer for layer in model._flatten_layers() if getattr(layer, "no_weight_decay", False)]
    return vectors + [w for layer in marked for w in layer.trainable_weights if len(w.shape) > 1]


def _kept_apart(optimizer):
    """The optimizer class, its averaged weights left beside the raw ones.

    Keras would write the average over the weights whenever `fit` returns; the engine calls `fit` once an epoch and goes on from
    the raw weights.
    """
    return type(optimizer.__name__, (optimizer,), {"finalize_variable_values": lambda self, var_list: None})


def make_optimizer(recipe, schedule, model):
    """AdamW or SGD with decoupled weight decay, global-norm clipping and, where asked for, averaged weights."""
    o = recipe.optim
    common = {"learning_rate": schedule, "weight_decay": o.weight_decay or None, "global_clipnorm": o.clip_norm}
    if o.ema is not None:
        common |= {"use_ema": True, "ema_momentum": o.ema, "ema_overwrite_frequency": None}
    if o.name == "adamw":
        adamw = _kept_apart(keras.optimizers.AdamW)
        optimizer = adamw(**common | {"weight_decay": o.weight_decay}, beta_1=o.beta_1, beta_2=o.beta_2, epsilon=o.epsilon)
    else:
        optimizer = _kept_apart(keras.optimizers.SGD)(**common, momentum=float(o.momentum), nesterov=o.nesterov)
    optimizer.exclude_from_weight_decay(var_list=undecayed(model))
    return optimizer


def averages(optimizer):
    """The averaged weights in the order of the trained ones, or None where no average is kept."""
    return optimizer._model_variables_moving_average if optimizer.use_ema else None


def wants_xla(recipe):
    """Whether the step is to be compiled by XLA, by the recipe's policy."""
    if keras.backend.backend() == "torch":
        return False
    if recipe.xla != "auto":
        return recipe.xla == "required"
    accelerated = any(not device.startswith("cpu") for device in keras.distribution.list_devices())
    family = importlib.import_module(registry.find(recipe.model).module)
    return accelerated or keras.backend.backend() == "jax" or getattr(family, "CPU_XLA", True)


def compiled_as(task):
    """What the training step is, asked of the step itself after it has run: "xla", "graph", "eager" or "not applicable (torch)"."""
    backend = keras.backend.backend()
    if backend == "torch":
        return "not applicable (torch)"
    if backend == "jax":
        return "xla" if task.jit_compile and not task.run_eagerly else "eager"
    # Keras wraps its tf.functions in plain ones: `fit` traces a loop around the step, `train_on_batch` the step alone.
    found = [cell.cell_contents for cell in task.train_function.__closure__ or ()]
    found += [getattr(f, "__wrapped__", None) for f in found]
    traced = [c for f in found for c in getattr(f, "_list_all_concrete_functions", list)()]
    definitions = [d for c in traced for d in (c.function_def, *c.graph.as_graph_def().library.function)]
    return "xla" if any(d.attr["_XlaMustCompile"].b for d in definitions) else "graph" if traced else "eager"


def require_xla(recipe, task, compiled=None):
    """Stops a run whose recipe requires XLA where Keras refused it (before the first step) or the step is something else (after it)."""
    if recipe.xla != "required" or keras.backend.backend() == "torch":
        return
    if compiled is None and not task.jit_compile:
        raise UserError("xla='required', but Keras refuses to compile this step (op determinism or a layer forbids it); use xla='auto'.")
    if compiled not in (None, "xla"):
        raise UserError(f"xla='required', but the training step runs as {compiled}; use xla='auto'.")

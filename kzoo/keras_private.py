"""What kzoo takes of Keras beyond its public interface: private methods that it overrides, and what it calls or reads.

All of it stands here, so that a new Keras breaks one place; tests/test_keras_private.py pins each by name.
"""

import contextlib
import math

import keras
from keras import ops
from keras.src.backend.common import global_state
from keras.src.backend.common.variables import initialize_all_variables
from keras.src.utils.python_utils import default

# A get_config under it counts as none of a subclass's own: Keras then tells the constructor's arguments.
tells_arguments = default
_UNFILLED = "uninitialized_variables"  # Keras' own list of the weights that were declared within a StatelessScope


def layers_in(layer, itself=False, recursive=True):
    """[layers that lie in a layer or model], or the direct ones alone."""
    return list(layer._flatten_layers(include_self=itself, recursive=recursive))


def own_trainable(layer):
    """The weights of a layer itself, not of those in it, that were made to be trained, whether they are frozen or
    not.
    """
    return layer._trainable_variables


class BuiltLayer(keras.layers.Layer):
    """A layer that is told when it has been built."""

    def build_at_once(self):
        """At the end of the constructor of a layer without weights: Keras then need not see an input first."""
        self._build_at_init()

    def _post_build(self):
        super()._post_build()
        self.after_build()

    def after_build(self):
        """Called once the layer's weights are there."""


class BuiltModel(keras.Model):
    """A model whose weights are all there before `fit` sees a batch."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """TensorFlow's, over several devices: for the shapes of what is not built yet it takes the mean of the devices'
        first batches, which booleans do not have.
        """
        asked = (self._compile_loss, self._compile_metrics)
        if all(layer.built for layer in self._flatten_layers()) and asked == (None, None):
            iterator = None  # the optimizer alone is then built
        super()._maybe_symbolic_build(iterator, data_batch)


class TooManyWeights(Exception):
    """A model declared more weights than it was allowed."""


def skeleton(build, most=None):
    """The model that `build()` returns, with shapes and no values: to be looked at, never called. `most` as in
    bounded().
    """
    with _declared(most):
        return build()


def bounded(build, most):
    """The model that `build()` returns, its weights filled once all of them are declared and found to be no more than
    `most`.

    most: (how many weights, how many values in all). Raises TooManyWeights, as soon as the model declares one too many.
    """
    with _declared(most) as unfilled:
        model = build()
    with _kept():
        global_state.set_global_attribute(_UNFILLED, unfilled)
        initialize_all_variables()
    return model


@contextlib.contextmanager
def _declared(most):
    """Within it weights have shapes and no values. Yields their list, which takes no more than `most`, or any number
    for None.
    """
    unfilled = _Counted(most) if most else []
    with _kept(), keras.StatelessScope(initialize_variables=False):
        global_state.set_global_attribute(_UNFILLED, unfilled)
        yield unfilled


@contextlib.contextmanager
def _kept():
    """Keras keeps the unfilled weights and fills all of them when the next model is built: gigabytes for models long
    gone.

    No public call empties that list.
    """
    before = global_state.get_global_attribute(_UNFILLED, [])  # the very list, which may be an outer `_declared`'s
    try:
        yield
    finally:
        global_state.set_global_attribute(_UNFILLED, before)


class _Counted(list):
    """Unfilled weights, `most` of them."""

    def __init__(self, most):
        super().__init__()
        self.left = most

    def append(self, variable):
        self.left = self.left[0] - 1, self.left[1] - math.prod(variable.shape)
        if min(self.left) < 0:
            raise TooManyWeights
        super().append(variable)


class Rule(keras.optimizers.Optimizer):
    """An update rule of kzoo's own."""

    def index_of(self, variable):
        """Its place among the trained variables."""
        return self._get_variable_index(variable)

    def decays(self, variable):
        """Whether weight decay reaches it."""
        return self._use_weight_decay(variable)


class OfRun:
    """What the engine asks of an optimizer beyond Keras' own: averages kept apart, and a factor of the rate for each
    weight.
    """

    scales = {}  # id of a weight: factor of its rate, where that is not 1
    own = ()  # ids of the weights of a view's own layers, which end as a head does

    def add_variable_from_reference(self, reference_variable, *args, **kwargs):
        """Keeps of each of its variables, averages and gathered gradients among them, whose it is: `owners`, by ids."""
        variable = super().add_variable_from_reference(reference_variable, *args, **kwargs)
        self.owners[id(variable)] = id(reference_variable)
        return variable

    def finalize_variable_values(self, var_list):
        """Leaves the averages beside the raw weights: Keras would overwrite them after every `fit`, that is every
        epoch.
        """

    def _get_current_learning_rate(self):
        # Keras counts the batches here, and the steps of the optimizer everywhere else
        return self._learning_rate(self.iterations)

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
            super()._backend_update_step(
                [grads[i] for i in members], [trainable_variables[i] for i in members], learning_rate * scale
            )

    def _update_model_variables_moving_average(self, trainable_variables):
        """Averages after each step of the optimizer: batches that only add to the gradient leave the average alone."""
        every = self.gradient_accumulation_steps or 1
        stepped = ops.equal((self._iterations + 1) % every, 0)
        first = self._iterations < every
        momentum = ops.where(stepped, ops.where(first, 0.0, self.ema_momentum), 1.0)
        for variable, average in zip(trainable_variables, self._model_variables_moving_average, strict=True):
            share = ops.cast(momentum, average.dtype)
            average.assign(share * average + (1 - share) * variable)


def averages(optimizer):
    """The averaged weights in the order of the trained ones, or None where no average is kept."""
    return optimizer._model_variables_moving_average if optimizer.use_ema else None


def compiled_as(view):
    """What the training step is, asked of the step itself after it has run: "xla", "graph", "eager" or "not applicable
    (torch)".
    """
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

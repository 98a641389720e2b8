"""Batches for fit() and evaluate(): pure functions of (seed, epoch, step), run ahead of the training step by one of two
engines.
"""

import contextlib
import functools

import numpy as np

from kzoo.data.batching import padded
from kzoo.data.randomness import REPETITION, permutation, uniforms
from kzoo.data.weighting import balanced, require_classes, require_known
from kzoo.errors import UserError, backend_name, unknown


def engine_for(source, engine="auto"):
    """The engine that runs a source's batches: the one asked for or, for "auto", the one that fits the backend and the
    source.

    Raises UsageError for an unknown one, UserError for "numpy" and a source that is too large for memory.
    """
    if engine not in ("auto", "tf", "numpy"):
        raise unknown("engine", engine, ("auto", "tf", "numpy"))
    if engine == "numpy" and source.streams:
        raise UserError(
            f"{source.name} is too large for memory and is read with TensorFlow; choose the engine 'tf' or 'auto'."
        )
    tf_needed = source.streams or backend_name() == "tensorflow"
    return ("tf" if tf_needed else "numpy") if engine == "auto" else engine


class Loader:
    """The batches of a source, as a Batching makes them.

    engine: "tf" (tf.data), "numpy" (keras.utils.PyDataset, no TensorFlow; give fit() shuffle=False, the order is
    already drawn) or "auto": tf under the TensorFlow backend and for sources too large for memory. Both engines run the
    same functions and give the same batches bit for bit. sampler: "shuffle", every sample once in an epoch, or
    "balanced", as many samples, of each class equally many. Raises as engine_for does, and UserError where classes
    cannot be balanced.
    """

    def __init__(self, source, batching, batch_size, seed=0, engine="auto", sampler="shuffle"):
        self.source, self.batching, self.batch_size, self.seed = source, batching, batch_size, seed
        self.engine, self.sampler = engine_for(source, engine), sampler
        if sampler == "balanced":
            require_classes(source, "data.sampler='balanced'")
            require_known(source, "data.sampler='balanced'", "leave it out")
        self.failure = None  # the last UserError or MemoryError of a reading thread

    @property
    def steps_per_epoch(self):
        """Whole training batches in an epoch; raises UserError where there is none."""
        steps = len(self.source) // self.batch_size
        if not steps:
            count = len(self.source)
            raise UserError(
                f"{self.source.name} has {count} samples, fewer than one batch; set data.batch_size to {count} or less."
            )
        return steps

    def epoch(self, epoch, start_step=0):
        """Training batches start_step, start_step + 1, ... of that epoch: (x,), (x, y) or (x, y, weights)."""

        def batch(step, keys, pictures, targets):
            return self.batching.train(pictures, targets, keys, epoch, step)

        return self._run(batch, range(start_step, self.steps_per_epoch), training=True, order_of=epoch)

    def evaluation(self):
        """Every sample once, in order: x, y and weights float32 (B,); the last batch is padded with weight 0, which
        those that cannot be read have too, where a source stands in for them.

        Give a compiled model its metrics as weighted_metrics, which alone see the weights.
        """

        def batch(step, keys, pictures, targets):
            x, y, weights = self.batching.evaluate(pictures, targets, keys, self.batch_size)
            usable = self.source.usable(keys)
            return x, y, weights if usable.all() else weights * padded(usable, self.batch_size)

        return self._run(batch, range(-(-len(self.source) // self.batch_size)), training=False)

    @contextlib.contextmanager
    def plain_errors(self):
        """Around fit() or a loop over batches: re-raises the failure of a reading thread, which tf.data wraps in an
        error of its own.
        """
        try:
            yield
        except Exception:
            if self.failure is None:
                raise
            raise self.failure from None

    def _run(self, batch, steps, *, training, order_of=None):
        """Runs batch(step, keys, pictures, targets) over the steps, in the drawn order of an epoch or, for None, in
        file order.
        """
        from kzoo.data import engines  # needs Keras, which reading and packing a data set do without

        self.failure = None
        size, repeats = self.batch_size, 1 if order_of is None else self.batching.repeats
        signature = self.batching.signature(size, training=training)
        if self.source.streams:
            key = None if order_of is None else int(uniforms(self.seed, order_of, 0, 1)[0, 0] * 2**24)
            decoded = self._guarded(
                lambda step, keys, *record: batch(step, keys, *self.source.decode(*record, keys % REPETITION))
            )
            return engines.stream_batches(self.source.records(), decoded, steps, size, signature, key, repeats)
        count = len(self.source)
        order, times = self._order(order_of, steps.stop * size, repeats)

        def read(step):
            place = np.arange(step * size, min((step + 1) * size, count))
            index, before = order[place // repeats], times[place // repeats] * repeats
            return batch(step, index + (before + place % repeats) * REPETITION, *self.source.batch(index))

        run = engines.tf_batches if self.engine == "tf" else engines.numpy_batches
        return run(self._guarded(read), steps, signature)

    @functools.cached_property
    def _labels(self):
        return self.source.all_labels()

    def _order(self, epoch, places, repeats):
        """(sample numbers, how often each came before) of an epoch of so many places, None: in file order."""
        count = len(self.source)
        if epoch is not None and self.sampler == "balanced":
            return balanced(self._labels, self.seed, epoch, -(-places // repeats))
        order = np.arange(count) if epoch is None else permutation(self.seed, epoch, count)
        return order, np.zeros(count, int)

    def _guarded(self, function):
        """`function` that keeps its failure for plain_errors()."""

        def guarded(*arguments):
            try:
                return function(*arguments)
            except (UserError, MemoryError) as error:
                self.failure = error
                raise

        return guarded

"""Batches for fit() and evaluate(): pure functions of (seed, epoch, step), run ahead of the training step by one of two engines."""

import contextlib

import numpy as np

from kzoo.data import mixing
from kzoo.data.decode import to_channels
from kzoo.data.evaluation import Evaluation
from kzoo.data.randomness import REPETITION, permutation, uniforms
from kzoo.data.training import Training
from kzoo.errors import UserError, backend_name, unknown


class Loader:
    """The batches of a source for one model.

    image_size (H, W) and channels are the model's input, preprocessing its Preprocessing, augment an Augment or None; num_classes is
    the width of mixed targets (None: the source's own), crops how many views evaluation takes of a picture (1, 5 or 10).
    engine: "tf" (tf.data), "numpy" (keras.utils.PyDataset, no TensorFlow; give fit() shuffle=False, the order is already drawn) or
    "auto": tf under the TensorFlow backend and for sources too large for memory. Both engines run the same functions and give the
    same batches bit for bit. Raises UserError for a number of channels that cannot be converted, and for changes that pictures of
    this kind or this engine do not allow.
    """

    def __init__(
        self, source, *, image_size, channels, preprocessing, batch_size, augment=None, num_classes=None, crops=1, seed=0, engine="auto"
    ):
        if engine not in ("auto", "tf", "numpy"):
            raise unknown("engine", engine, ("auto", "tf", "numpy"))
        if engine == "numpy" and source.streams:
            raise UserError(f"{source.name} is too large for memory and is read with TensorFlow; choose the engine 'tf' or 'auto'.")
        to_channels(np.zeros((1, 1, source.channels), np.uint8), channels, source.name)  # raises for what cannot be converted
        self.source, self.batch_size, self.augment, self.seed, self.crops = source, batch_size, augment, seed, crops
        self.num_classes = num_classes or source.num_classes
        self.image_size, self.channels = tuple(image_size), channels
        self.preprocessing = preprocessing.for_channels(channels)
        tf_needed = source.streams or backend_name() == "tensorflow"
        self.engine = ("tf" if tf_needed else "numpy") if engine == "auto" else engine
        common = self.image_size, channels, self.preprocessing, source.name
        self._evaluated = Evaluation(*common, crops)
        self._trained = Training(augment, *common, seed, self.engine) if augment else lambda images, keys, epoch: self._evaluated(images)
        self.failure = None  # the last UserError or MemoryError of a reading thread

    @property
    def steps_per_epoch(self):
        """Whole training batches in an epoch; raises UserError where there is none."""
        steps = len(self.source) // self.batch_size
        if not steps:
            count = len(self.source)
            raise UserError(f"{self.source.name} has {count} samples, fewer than one batch; set data.batch_size to {count} or less.")
        return steps

    def epoch(self, epoch, start_step=0):
        """Training batches start_step, start_step + 1, ... of that epoch: images float32 (B, H, W, C) normalised and labels int32 (B,).

        Where augment.mixes, targets float32 (B, num_classes), probabilities, take the place of the labels.
        """
        mixes = self.augment is not None and self.augment.mixes
        targets = ((self.batch_size, self.num_classes), np.float32) if mixes else ((self.batch_size,), np.int32)

        def batch(step, keys, images, labels):
            images = self._trained(images, keys, epoch)
            if not mixes:
                return images, labels
            made = mixing.draw(self.augment, self.seed, epoch, step, self.image_size)
            return mixing.mix(images, labels, self.num_classes, made)

        signature = ((self.batch_size, *self.image_size, self.channels), np.float32), targets
        return self._run(batch, range(start_step, self.steps_per_epoch), signature, order_of=epoch)

    def evaluation(self):
        """Every sample once, in order: images, labels int32 (B,) and weights float32 (B,); the last batch is padded with weight 0.

        images: float32 (B * crops, H, W, C), the crops of a picture one after another: outputs.reshape(B, crops, ...) puts them
        together. Give a compiled model its metrics as weighted_metrics, which alone see the weights.
        """

        def batch(step, keys, images, labels):
            return self._pad(self._evaluated(images), labels)

        size = self.batch_size
        signature = ((size * self.crops, *self.image_size, self.channels), np.float32), ((size,), np.int32), ((size,), np.float32)
        return self._run(batch, range(-(-len(self.source) // size)), signature)

    @contextlib.contextmanager
    def plain_errors(self):
        """Around fit() or a loop over batches: re-raises the failure of a reading thread, which tf.data wraps in an error of its own."""
        try:
            yield
        except Exception:
            if self.failure is None:
                raise
            raise self.failure from None

    def _run(self, batch, steps, signature, order_of=None):
        """Runs batch(step, keys, pictures, labels) over the steps, in the drawn order of an epoch or, for None, in file order."""
        from kzoo.data import engines  # needs Keras, which reading and packing a data set do without

        self.failure = None
        size, repeats = self.batch_size, 1 if order_of is None or self.augment is None else self.augment.repeats
        if self.source.streams:
            key = None if order_of is None else int(uniforms(self.seed, order_of, 0, 1)[0, 0] * 2**24)
            decoded = self._guarded(lambda step, keys, *record: batch(step, keys, *self.source.decode(*record, keys % REPETITION)))
            return engines.stream_batches(self.source.records(), decoded, steps, size, signature, key, repeats)
        count = len(self.source)
        order = np.arange(count) if order_of is None else permutation(self.seed, order_of, count)

        def read(step):
            place = np.arange(step * size, min((step + 1) * size, count))
            index = order[place // repeats]
            return batch(step, index + place % repeats * REPETITION, *self.source.batch(index))

        run = engines.tf_batches if self.engine == "tf" else engines.numpy_batches
        return run(self._guarded(read), steps, signature)

    def _guarded(self, function):
        """`function` that keeps its failure for plain_errors()."""

        def guarded(*arguments):
            try:
                return function(*arguments)
            except (UserError, MemoryError) as error:
                self.failure = error
                raise

        return guarded

    def _pad(self, images, labels):
        """Fills the last batch up with zeros of weight 0."""
        missing = self.batch_size - len(labels)
        weights = np.ones(len(labels), np.float32)
        pads = (missing * self.crops, images), (missing, labels), (missing, weights)
        return tuple(np.pad(array, [(0, rows)] + [(0, 0)] * (array.ndim - 1)) for rows, array in pads)

"""Batches for fit() and evaluate(): pure functions of (seed, epoch, step), run ahead of the training step by one of two engines."""

import contextlib

import numpy as np

from kzoo.data.augment import plan
from kzoo.data.decode import to_channels
from kzoo.data.pixels import fit, fit_window, move, normalise
from kzoo.data.randomness import permutation, uniforms
from kzoo.errors import UserError, backend_name, unknown


class Loader:
    """The batches of a source for one model.

    image_size (H, W) and channels are the model's input, preprocessing its Preprocessing, augment an Augment or None.
    engine: "tf" (tf.data), "numpy" (keras.utils.PyDataset, no TensorFlow; give fit() shuffle=False, the order is already drawn) or
    "auto": tf under the TensorFlow backend and for sources too large for memory. Both engines run the same functions and give the
    same batches bit for bit. Raises UserError for a number of channels that cannot be converted and a shift as large as the picture.
    """

    def __init__(self, source, *, image_size, channels, preprocessing, batch_size, augment=None, seed=0, engine="auto"):
        if engine not in ("auto", "tf", "numpy"):
            raise unknown("engine", engine, ("auto", "tf", "numpy"))
        if engine == "numpy" and source.streams:
            raise UserError(f"{source.name} is too large for memory and is read with TensorFlow; choose the engine 'tf' or 'auto'.")
        if augment is not None and augment.shift >= min(image_size):
            raise UserError(f"augment.shift must be smaller than the model's input {tuple(image_size)}, not {augment.shift}.")
        to_channels(np.zeros((1, 1, source.channels), np.uint8), channels, source.name)  # raises for what cannot be converted
        self.source, self.batch_size, self.augment, self.seed = source, batch_size, augment, seed
        self.image_size, self.channels = tuple(image_size), channels
        self.preprocessing = preprocessing.for_channels(channels)
        tf_needed = source.streams or backend_name() == "tensorflow"
        self.engine = ("tf" if tf_needed else "numpy") if engine == "auto" else engine
        self.failure = None  # the last UserError of a reading thread

    @property
    def steps_per_epoch(self):
        """Whole training batches in an epoch; raises UserError where there is none."""
        steps = len(self.source) // self.batch_size
        if not steps:
            count = len(self.source)
            raise UserError(f"{self.source.name} has {count} samples, fewer than one batch; set the batch size to {count} or less.")
        return steps

    def epoch(self, epoch, start_step=0):
        """Training batches start_step, start_step + 1, ... of that epoch: images float32 (B, H, W, C) normalised, labels int32 (B,)."""

        def batch(index, images, labels):
            return self._train(images, index, epoch), labels

        return self._run(batch, range(start_step, self.steps_per_epoch), order_of=epoch)

    def evaluation(self):
        """Every sample once, in order: images, labels and weights float32 (B,); the last batch is padded with weight 0.

        Give a compiled model its metrics as weighted_metrics, which alone see the weights.
        """

        def batch(index, images, labels):
            return self._pad(self._evaluate(images), labels)

        return self._run(batch, range(-(-len(self.source) // self.batch_size)))

    @contextlib.contextmanager
    def plain_errors(self):
        """Around fit() or a loop over batches: re-raises the UserError of a reading thread, which tf.data wraps in an error of its own."""
        try:
            yield
        except Exception:
            if self.failure is None:
                raise
            raise self.failure from None

    def _run(self, batch, steps, order_of=None):
        """Runs batch(sample numbers, pictures, labels) over the steps, in the drawn order of an epoch or, for None, in file order."""
        from kzoo.data import engines  # needs Keras, which reading and packing a data set do without

        self.failure = None
        size, count = self.batch_size, len(self.source)
        kinds = ((size, *self.image_size, self.channels), np.float32), ((size,), np.int32), ((size,), np.float32)
        signature = kinds if order_of is None else kinds[:2]
        if self.source.streams:
            key = None if order_of is None else int(uniforms(self.seed, order_of, 0, 1)[0, 0] * 2**24)
            decoded = self._guarded(lambda index, *record: batch(index, *self.source.decode(*record, index)))
            return engines.stream_batches(self.source.records(), decoded, steps, size, signature, key)
        order = np.arange(count) if order_of is None else permutation(self.seed, order_of, count)

        def read(step):
            index = order[step * size : (step + 1) * size]
            return batch(index, *self.source.batch(index))

        run = engines.tf_batches if self.engine == "tf" else engines.numpy_batches
        return run(self._guarded(read), steps, signature)

    def _guarded(self, function):
        """`function` that keeps its UserError for plain_errors()."""

        def guarded(*arguments):
            try:
                return function(*arguments)
            except UserError as error:
                self.failure = error
                raise

        return guarded

    def _train(self, images, index, epoch):
        """Augmented, normalised (B, H, W, C) from pictures of any sizes (an array or a list) and their sample numbers."""
        if self.augment is None:
            return self._evaluate(images)
        windows, flips, shifts = plan(self.augment, self.seed, epoch, index, [image.shape[:2] for image in images])
        if windows is None:
            return move(self._evaluate(images), flips, shifts)
        method = self.preprocessing.interpolation
        windowed = zip(map(self._coloured, images), windows.tolist(), strict=True)
        fitted = np.stack([fit_window(image, window, self.image_size, method) for image, window in windowed])
        return move(normalise(fitted, self.preprocessing), flips, shifts)

    def _evaluate(self, images):
        """Normalised (B, H, W, C) from pictures of any sizes, an array or a list."""
        if isinstance(images, list):
            fitted = np.stack([fit(self._coloured(image), self.image_size, self.preprocessing) for image in images])
        else:
            fitted = fit(self._coloured(images), self.image_size, self.preprocessing)
        return normalise(fitted, self.preprocessing)

    def _coloured(self, images):
        return to_channels(images, self.channels, self.source.name)

    def _pad(self, images, labels):
        missing = self.batch_size - len(labels)
        weights = np.ones(len(labels), np.float32)
        return tuple(np.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1)) for a in (images, labels, weights))

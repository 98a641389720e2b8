"""Ways to run a batch function ahead of the training step, in order: keras.utils.PyDataset, tf.data, and tf.data over a
stream.
"""

import concurrent.futures

import keras

from kzoo.data.randomness import REPETITION

SHUFFLE_BUFFER = 8192  # encoded records of a stream


class Batches(keras.utils.PyDataset):
    """batch(step) for the steps of a range, computed ahead by a thread: decoding and NumPy's loops release the GIL."""

    def __init__(self, batch, steps):
        # One worker: Keras hands the batches of several out of order once it has taken one to build a model with. The
        # samples of a batch are read in parallel instead.
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=4)
        self._batch, self._steps = batch, steps

    def __len__(self):
        return len(self._steps)

    def __getitem__(self, index):
        return self._batch(self._steps[index])

    def __iter__(self):
        """The batches in order, one ahead; Keras' own thread serves fit(), evaluate() and predict() alone."""
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            ahead = None
            for index in range(len(self)):
                current, ahead = ahead, pool.submit(self.__getitem__, index)
                if current is not None:
                    yield current.result()
            if ahead is not None:
                yield ahead.result()


def numpy_batches(batch, steps, signature):
    """The batches of a range of steps without TensorFlow."""
    return Batches(batch, steps)


def tf_batches(batch, steps, signature):
    """The batches of a range of steps as a tf.data.Dataset of known length; signature: the structure of a batch, of
    Arrays.
    """
    import tensorflow as tf

    return _mapped(tf.data.Dataset.range(steps.start, steps.stop), batch, signature)


def stream_batches(records, batch, steps, batch_size, signature, shuffle_seed=None, repeats=1):
    """The batches of a range of steps from a stream of records: batch(step, keys (B,), *records (B,)) -> a structure of
    arrays.

    The order is the records' own or, with a seed, a shuffled one; each comes `repeats` times in a row, its key the
    sample's number plus REPETITION for every time before. Steps are skipped before anything is decoded.
    """
    import tensorflow as tf

    dataset = records.enumerate()
    if shuffle_seed is not None:
        dataset = dataset.shuffle(SHUFFLE_BUFFER, seed=shuffle_seed, reshuffle_each_iteration=False)
    if repeats > 1:
        times = tf.data.Dataset.range(repeats)
        dataset = dataset.flat_map(lambda number, record: times.map(lambda time: (number + time * REPETITION, record)))
    dataset = dataset.skip(steps.start * batch_size).batch(batch_size).take(len(steps)).enumerate(steps.start)
    flat = dataset.map(lambda step, keyed: (step, keyed[0], *keyed[1]))
    return _mapped(flat, batch, signature).apply(tf.data.experimental.assert_cardinality(len(steps)))


def _mapped(dataset, batch, signature):
    """batch() over the elements, in parallel and in order, with the shapes and the structure of the signature."""
    import tensorflow as tf

    sorts = keras.tree.flatten(signature)

    def load(*elements):
        arrays = tf.numpy_function(
            lambda *values: keras.tree.flatten(batch(*values)), elements, [sort.dtype for sort in sorts]
        )
        shaped = [
            tf.ensure_shape(array, sort.shape) for array, sort in zip(keras.tree.flatten(arrays), sorts, strict=True)
        ]
        return keras.tree.pack_sequence_as(signature, shaped)

    return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)

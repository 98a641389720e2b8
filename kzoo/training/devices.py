"""Several devices of one host: every one computes the gradient of its share of each batch, all take the same step."""

import contextlib

import keras

from kzoo.errors import UserError


@contextlib.contextmanager
def data_parallel(recipe):
    """Within it models are built, trained and saved as copies on every device of the best kind (accelerators, else CPU
    devices).

    TensorFlow's MirroredStrategy, or Keras' DataParallel under JAX; one device, or a recipe that does not ask, changes
    nothing. Raises UserError under torch and for a batch that does not split evenly.
    """
    if not recipe.data_parallel:
        yield
        return
    if keras.backend.backend() == "torch":
        raise UserError(
            "data_parallel needs TensorFlow or JAX; choose one with KERAS_BACKEND, or set data_parallel=False."
        )
    devices = _devices()
    for name in ("batch_size", "eval_batch_size"):
        size = getattr(recipe.data, name)
        if size is not None and size % len(devices):
            raise UserError(
                f"data.{name} {size} does not split over {len(devices)} devices; choose a multiple of {len(devices)}."
            )
    if len(devices) == 1:
        yield
        return
    with _scope(devices):
        yield


def names():
    """The names of the devices that a step may run on: the host's accelerators, or its CPU."""
    if keras.backend.backend() != "torch":
        return [name.removeprefix("/device:") for name in _devices()]
    import torch

    return [torch.cuda.get_device_name()] if torch.cuda.is_available() else ["cpu"]


def _devices():
    """The host's accelerators, or its CPU devices where it has none."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        names = [device.name for kind in ("GPU", "TPU", "CPU") for device in tf.config.list_logical_devices(kind)]
    else:
        names = keras.distribution.list_devices()
    accelerators = [name for name in names if "cpu" not in name.lower()]
    return accelerators or names


def _scope(devices):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice()).scope()
    return keras.distribution.DataParallel(devices=devices).scope()


def mirrored():
    """Whether this is inside a MirroredStrategy, whose steps TensorFlow runs as graphs: XLA reaches no variable of
    another device.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.distribute.has_strategy()


def seed_step(seed, step):
    """Makes what torch draws within a step, dropout above all, a function of the run's seed and the step: Keras' own
    generators, which checkpoints keep, do not draw it.
    """
    if keras.backend.backend() == "torch":
        import torch

        torch.manual_seed(seed << 31 | step)

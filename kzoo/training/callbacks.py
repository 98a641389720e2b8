"""Keras callbacks of the user's own, over the whole of a run."""

import keras

from kzoo.errors import UsageError
from kzoo.system import Terminated

_REFUSED = {
    "LearningRateScheduler": "the learning rate is the recipe's; set optim.lr and schedule",
    "ReduceLROnPlateau": "the learning rate is the recipe's; set optim.lr and schedule",
    "SwapEMAWeights": "averages of the weights are the recipe's; set optim.ema",
    "BackupAndRestore": "a run is saved and continued by itself; leave it out",
}


class Callbacks:
    """Keras' own list of callbacks, told of a run as if one `fit` trained it, which the engine calls for every epoch.

    on_train_begin and on_train_end come once a process, epochs and batches are numbered over the whole run and epoch.
    Raises UsageError for what is no callback, and for one that would meddle with what the engine does itself.
    """

    def __init__(self, callbacks, epochs, steps):
        own = keras.tree.flatten(list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks])
        for callback in own:
            if not isinstance(callback, keras.callbacks.Callback):
                raise UsageError(f"callbacks are keras.callbacks.Callback objects, not {type(callback).__name__}.")
            for kind, why in _REFUSED.items():
                if isinstance(callback, getattr(keras.callbacks, kind)):
                    raise UsageError(f"the callback {type(callback).__name__} is not for a run: {why}.")
        self.own = own
        self.list = keras.callbacks.CallbackList(own, epochs=epochs, steps=steps, verbose=0) if own else None
        self.begun, self.logs = False, {}

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.begun and (kind is None or issubclass(kind, Terminated)):  # as `fit`, which other errors just leave
            self.list.on_train_end(self.logs)

    def epoch_begin(self, epoch, done, view):
        """Before what is left of an epoch of which `done` batches were trained: the callbacks that `fit` is given."""
        if self.list is None:
            return []
        self.list.set_model(view)  # another, where the run goes on at another size
        view.direct(self.own)
        if not self.begun:
            self.begun = True
            self.list.on_train_begin()
        self.list.on_epoch_begin(epoch)
        return [_Batches(self.list, done)]

    def epoch_end(self, epoch, logs):
        """logs: training's figures and, where the epoch was evaluated, the evaluation's as val_."""
        if self.list is not None:
            self.logs = logs
            self.list.on_epoch_end(epoch, logs)


class _Batches(keras.callbacks.Callback):
    """Hands the batches on."""

    def __init__(self, told, done):
        super().__init__()
        self.told, self.done = told, done

    def on_train_batch_begin(self, batch, logs=None):
        self.told.on_train_batch_begin(self.done + batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self.told.on_train_batch_end(self.done + batch, logs)

"""What gathers the figures of an evaluation, batch by batch."""

import numpy as np


class Meter:
    """Figures of a stream of batches, in float64."""

    def update(self, outputs, y, real):
        """Takes up a batch: the network's outputs and the targets, arrays or structures of them; real (B,) bool, False
        for padding.
        """
        raise NotImplementedError

    def result(self):
        """{figure: number}."""
        raise NotImplementedError

    def since(self, memory):
        """{figure: number} of what differs from the evaluation before, of the same pictures in the same order.

        memory: a dictionary of what JSON has, {} at first, in which it left what it is to be compared by, and in which
        this one does. It is kept in the run's checkpoint.
        """
        return {}


def pass_over(model, loader, meter, listener=None, between=lambda: None):
    """Shows the meter the model's outputs of every evaluation batch; returns how many pictures there were, padding left
    out.

    listener: a Reporter that hears the same, with the inputs, and in the end gets the meter. between() is called before
    every batch.
    """
    import keras

    images = 0
    with loader.plain_errors():
        for batch in loader.evaluation():
            between()
            x, y, weights = keras.tree.map_structure(np.asarray, batch)
            rows, real = len(keras.tree.flatten(x)[0]), weights > 0
            # Mirrored devices repeat the batch.
            outputs = keras.tree.map_structure(
                lambda array, rows=rows: np.asarray(array)[:rows], model.predict_on_batch(x)
            )
            meter.update(outputs, y, real)
            if listener is not None:
                listener.update(x, y, outputs, real)
            images += int(real.sum())
    if listener is not None:
        listener.close(meter)
    return images

"""From a picture to an answer, for one picture and for a batch of them: the part of a Task that predicts."""

from typing import Any, NamedTuple

import numpy as np


class Prepared(NamedTuple):
    """A picture as a model takes it, ready to be put beside others of the same shape."""

    shape: Any  # what pictures of one batch have in common
    cost: int  # numbers that it holds, for whoever bounds the memory of a batch
    given: Any


class Answers:
    """What is asked about pictures, and how it is read and told."""

    asks = {}  # what `predictor` takes beside, {name: type}
    reads = ()  # which of them only say how outputs are read: what `reading` takes, and artifacts are asked too

    def predict(self, network, view, picture, take):
        """The outputs of one uint8 picture (h, w, C), as NumPy arrays without a batch; view: a run's, with its trained
        parts, else None.
        """
        return self._outputs_of(network, *self.prepared([picture], take))[0]

    def finished(self, network, outputs):
        """The outputs of one picture, as NumPy arrays, with what is computed of them alone."""
        return outputs

    def predictor(self, network, view, take, **asked):
        """The function of one uint8 picture (h, w, C) that `predict` is, for several pictures; asked: by the names
        in `asks`.
        """
        return lambda picture: self.predict(network, view, picture, take)

    def predictor_of_batches(self, network, view, take, **asked):
        """(prepare, predict), which together do for batches what `predictor` does; None where a picture can only be
        asked about by itself.

        prepare: a uint8 picture (h, w, C) -> Prepared, called by several threads at once. predict: ([Prepared of one
        shape, ...], the rows to fill up to) -> [outputs, ...]. A task with a `predict` or `predictor` of its own is not
        asked for this one, which knows nothing of them.
        """

        def prepare(picture):
            import keras

            inputs, sizes = self.prepared([picture], take)
            arrays = keras.tree.flatten(inputs)
            return Prepared(
                tuple(array.shape for array in arrays), sum(array.size for array in arrays), (inputs, sizes)
            )

        def predict(pictures, rows):
            import keras

            missing = rows - len(pictures)
            inputs, sizes = zip(*(one.given for one in [*pictures, *pictures[:1] * missing]), strict=True)
            joined = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *inputs)
            sizes = None if sizes[0] is None else np.concatenate(sizes)
            outputs = self._outputs_of(network, joined, sizes)[: len(pictures)]
            return [self.reading(one, **asked) for one in outputs]

        return prepare, predict

    def batches(self, network, view, take, **asked):
        """predictor_of_batches, or None where a class nearer to this one says otherwise how a picture is predicted."""
        names = {"predict", "predictor", "predictor_of_batches"}
        nearest = next(cls for cls in type(self).__mro__ if names & vars(cls).keys())
        if "predictor_of_batches" not in vars(nearest):
            return None
        return self.predictor_of_batches(network, view, take, **asked)

    def _outputs_of(self, network, inputs, sizes):
        """[outputs of each picture] of what `prepared` gave."""
        import keras

        outputs = self.outputs(network, network.predict_on_batch(inputs), sizes)
        arrays = keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)
        rows = len(keras.tree.flatten(inputs)[0])
        return [
            self.finished(network, keras.tree.map_structure(lambda array, row=row: array[row], arrays))
            for row in range(rows)
        ]

    def reading(self, outputs, **asked):
        """The outputs of one picture, however they came about, with what `answer` is asked; asked: by the names in
        `reads`.
        """
        return outputs

    def answer(self, outputs, labels, top):
        """What the outputs of one picture say, as JSON has it; labels: the classes' names, or none; top: how many
        answers at most.
        """
        raise NotImplementedError

    def line(self, answer):
        """An answer as text."""
        raise NotImplementedError

"""What a batch of a task is: pictures and targets of a source into arrays. The Loader keeps order, resume and
threads.
"""

import dataclasses

import numpy as np

from kzoo.data import mixing
from kzoo.data.decode import to_channels
from kzoo.data.evaluation_pictures import EvaluationPictures
from kzoo.data.training_pictures import TrainingPictures
from kzoo.data.weighting import class_weights


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a batch; None in its shape is an open side."""

    shape: tuple
    dtype: type


class Batching:
    """Pure functions of seed, epoch and keys, run by the threads of either engine. Structures are nested tuples and
    dicts of arrays.

    pictures are a batch's decoded pictures, targets what the source gives beside them, keys (B,) the samples' numbers,
    which a picture that comes several times in an epoch has with another multiple of REPETITION.
    """

    repeats = 1  # times each drawn picture comes in an epoch

    def train(self, pictures, targets, keys, epoch, step):
        """A training batch: (x,), (x, y) or (x, y, weights)."""
        raise NotImplementedError

    def evaluate(self, pictures, targets, keys, rows):
        """A batch of evaluation: (x, y, weights (rows,) float32), padded to `rows` with weight 0; y is () where there
        are no targets.
        """
        raise NotImplementedError

    def signature(self, rows, *, training):
        """The structure of a batch of so many rows, an Array for each of its arrays."""
        raise NotImplementedError


class Labels(Batching):
    """Pictures float32 (B, H, W, C), normalised, with their labels int32 (B,) or, of a multilabel source, float32
    (B, classes).

    Where augment, an Augment or None, mixes, targets float32 (B, classes), probabilities, take the labels' place in
    training. class_weight ("balanced" or {class name: weight}, as in class_weights): training batches have weights
    float32 (B,) too, of mixed pictures the mean by their shares; evaluation is not weighted. crops: how many views
    evaluation takes of a picture (1, 5 or 10), one after another: outputs.reshape(B, crops, ...) puts them together.
    Raises UserError for a number of channels that cannot be converted, for changes that pictures of this kind or this
    engine ("tf" or "numpy") do not allow, and for weights that the source's classes cannot have.
    """

    def __init__(self, take, source, *, augment=None, crops=1, seed=0, engine="numpy", class_weight=None):
        (height, width), channels = take.image_size, take.channels
        # raises for what cannot be converted
        to_channels(np.zeros((1, 1, source.channels), np.uint8), channels, source.name)
        self.shape, self.classes = (height, width, channels), take.classes or source.num_classes
        self.augment, self.crops, self.seed = augment, crops, seed
        self.repeats = augment.repeats if augment else 1
        self.multilabel = source.multilabel
        self._labels = (source.num_classes,) if source.multilabel else ()  # the shape of a picture's own
        self._weights = class_weights(class_weight, source) if class_weight else None
        common = (height, width), channels, take.preprocessing.for_channels(channels), source.name
        self._evaluated = EvaluationPictures(*common, crops)
        self._trained = TrainingPictures(augment, *common, seed, engine) if augment else None

    @property
    def _mixes(self):
        return self.augment is not None and self.augment.mixes

    def train(self, pictures, targets, keys, epoch, step):
        images = self._trained(pictures, keys, epoch) if self._trained else self._evaluated(pictures)
        weights = () if self._weights is None else (self._weights[targets],)
        if not self._mixes:
            return images, targets, *weights
        made = mixing.draw(self.augment, self.seed, epoch, step, self.shape[:2])
        share = np.float32(made.share)
        weights = [own * share + own[::-1] * (1 - share) for own in weights]
        return *mixing.mix(images, targets, self.classes, made), *weights

    def evaluate(self, pictures, targets, keys, rows):
        weights = np.ones(len(targets), np.float32)
        return padded(self._evaluated(pictures), rows * self.crops), padded(targets, rows), padded(weights, rows)

    def signature(self, rows, *, training):
        labels = Array((rows, *self._labels), np.float32 if self.multilabel else np.int32)
        weights = Array((rows,), np.float32)
        if not training:
            return Array((rows * self.crops, *self.shape), np.float32), labels, weights
        if self._mixes:
            labels = Array((rows, *(self._labels or (self.classes,))), np.float32)
        return Array((rows, *self.shape), np.float32), labels, *(() if self._weights is None else (weights,))


def padded(array, rows):
    """The array, filled up with zeros to so many rows."""
    return np.pad(array, [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1))

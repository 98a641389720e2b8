"""A part of a source: some of its pictures, the same whenever they are asked for."""

import numpy as np

from kzoo.data.loader import Loader
from kzoo.data.randomness import permutation
from kzoo.data.sources import Source


class Part(Source):
    """`count` pictures of a source, or all where it has fewer, drawn from the whole of it and kept in its order."""

    def __init__(self, source, count):
        self.name, self.channels, self.targets = source.name, source.channels, source.targets
        self.num_classes, self.class_names = source.num_classes, source.class_names
        self.multilabel = source.multilabel
        self._source, self._index = source, np.sort(permutation(0, 0, len(source))[:count])

    def __len__(self):
        return len(self._index)

    def open(self, i):
        return self._source.open(self._index[i])

    def batch(self, index):
        return self._source.batch(self._index[index])

    def all_labels(self):
        return self._source.all_labels()[self._index]

    def where(self, i):
        return self._source.where(self._index[i])

    def usable(self, index):
        return self._source.usable(self._index[index])


def part_of(loader, count):
    """The Loader of `count` of a loader's pictures; the loader itself for None, and of a stream, which is cut where
    it is read.
    """
    if count is None or loader.source.streams:
        return loader
    return Loader(Part(loader.source, count), loader.batching, loader.batch_size, loader.seed, loader.engine)

"""Parts of sources: some of their pictures, the same whenever they are asked for."""

import numpy as np

from kzoo.data.loader import Loader
from kzoo.data.randomness import permutation
from kzoo.data.sources import Source


class Subset(Source):
    """Some samples of a source, by their numbers, in its order."""

    def __init__(self, source, index):
        for name in ("name", "num_classes", "class_names", "channels", "targets"):
            setattr(self, name, getattr(source, name))
        self.multilabel = getattr(source, "multilabel", False)
        self._source, self._index = source, np.asarray(index)

    def __len__(self):
        return len(self._index)

    def __getattr__(self, name):  # what sources of objects have beside
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def open(self, i):
        return self._source.open(int(self._index[i]))

    def batch(self, index):
        return self._source.batch(self._index[index])

    def all_labels(self):
        return self._source.all_labels()[self._index]

    def called(self, i):
        return self._source.called(int(self._index[i]))

    def where(self, i):
        return self._source.where(int(self._index[i]))

    def usable(self, index):
        return self._source.usable(self._index[index])


def some_of(source, count):
    """The Subset of `count` pictures of a source, or all where it has fewer, drawn from the whole of it."""
    return Subset(source, np.sort(permutation(0, 0, len(source))[:count]))


def part_of(loader, count):
    """The Loader of `count` of a loader's pictures, drawn from the whole of them, or of all where it has fewer; the
    loader itself for None, and of a stream, which is cut where it is read.
    """
    if count is None or loader.source.streams:
        return loader
    part = some_of(loader.source, count)
    return Loader(part, loader.batching, loader.batch_size, loader.seed, loader.engine)

"""A source some of whose pictures cannot be read: others stand in for them, so that a run goes on."""

import threading

import numpy as np

from kzoo.data.decode import Picture, pixels
from kzoo.data.sources import Source, spread
from kzoo.errors import UserError
from kzoo.system import printable, say

_SHOWN = 5  # pictures that are named


class Skipping(Source):
    """Another source, without streams, whose unreadable pictures are stood in for by the next that can be read, of the
    same class where that is known and has one: a function of the files alone, so that runs replay and resume.

    A picture is decoded once more before it is used for the first time. Raises UserError where none can be read, and
    for a stream.
    """

    def __init__(self, source):
        if source.streams:
            raise UserError(
                f"data.bad_pictures='skip' asks for the pictures one by one, and {source.name} is a stream; set it to "
                "'stop'."
            )
        for name in ("name", "num_classes", "class_names", "channels", "targets", "multilabel", "passed"):
            setattr(self, name, getattr(source, name))
        self._source, self._known, self._bad, self._told = source, np.zeros(len(source), np.int8), {}, set()
        self._labels, self._lock = None, threading.Lock()

    def __len__(self):
        return len(self._source)

    def __getattr__(self, name):  # what sources of objects have beside
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def open(self, i):
        return self._source.open(self._stand_in(int(i)))

    def batch(self, index):
        return self._source.batch(np.array(spread(self._stand_in, map(int, index)), int))

    def all_labels(self):
        return self._source.all_labels()

    def where(self, i):
        return self._source.where(i)

    def annotated(self, i):
        try:
            return self._source.annotated(i)
        except UserError:
            return self._source.annotated(self._stand_in(int(i)))

    def surveyed(self, most):
        found = iter(self._source.surveyed(most))
        while True:
            try:
                yield next(found)
            except StopIteration:
                return
            except UserError:
                continue

    def usable(self, index):
        return np.array([self._readable(int(i)) for i in index], bool)

    def tell(self, training):
        """Says how many pictures could not be read so far, and names those that it has not named before."""
        new = sorted(set(self._bad) - self._told)
        if not new:
            return
        self._told.update(new)
        what = "others took their places" if training else "they are left out of its figures"
        named = "; ".join(printable(self._bad[i]) for i in new[:_SHOWN])
        more = f"; and {len(new) - _SHOWN} more" if len(new) > _SHOWN else ""
        part = "training" if training else "evaluation"
        say(f"{part}: {len(self._bad)} of {len(self):,} pictures cannot be read, {what}: {named}{more}")

    def _stand_in(self, i):
        """i, or the number of the picture in its place."""
        if self._readable(i):
            return i
        others = (np.arange(1, len(self)) + i) % len(self)
        labels = self._classes()
        if labels is not None:
            others = others[np.argsort(labels[others] != labels[i], kind="stable")]
        found = next((int(other) for other in others if self._readable(int(other))), None)
        if found is None:
            raise UserError(f"{self.name}: none of its {len(self):,} pictures can be read; {self._bad[i]}")
        return found

    def _readable(self, i):
        if not self._known[i]:
            try:
                picture, _ = self._source.open(i)
                if isinstance(picture, Picture):
                    pixels(picture)
                self._known[i] = 1
            except UserError as error:
                self._bad[i], self._known[i] = str(error).rstrip("."), -1
        return self._known[i] > 0

    def _classes(self):
        """The labels (N,), where the source knows them without reading pictures, else None."""
        source = self._source
        known = source.targets == "label" and not source.multilabel and source.knows_labels
        with self._lock:
            if self._labels is None and known:
                self._labels = source.all_labels()
        return self._labels

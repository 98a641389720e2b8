"""What a report is made of, as data, and what gathers it: the Reporter of a task."""

import csv
import heapq
import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from kzoo.system import printable

WORST = 24  # pictures on a sheet
MARK = "\ufffd"  # in the place of a sign that cannot be shown
SMALLEST, LARGEST = 160, 320  # pixels of the longer side of a picture that is drawn on


class Table(NamedTuple):
    """Rows under heads. Whole numbers are counts, other numbers are shown to three decimals, None as a dash."""

    heads: tuple
    rows: list
    file: str = ""  # NAME.csv, which holds the whole of it; "": none
    bars: tuple = ()  # heads of columns in 0..1 that are drawn as bars too
    foot: list = []  # rows of sums and means, which sorting leaves at the end
    most: int | None = None  # rows of the page, of which the file has all


class Drawing(NamedTuple):
    """A picture that is drawn, on light and on dark ground: draw() gives matplotlib's figure, within figures.look."""

    file: str  # NAME.png
    draw: Any
    says: str  # what is to be seen there, for who does not see it
    wide: bool = False  # takes the whole width of the page


class Tile(NamedTuple):
    """One picture of a sheet, uint8 (h, w, 3), with the lines below it, the first its title."""

    picture: np.ndarray
    lines: tuple


class Sheet(NamedTuple):
    """Pictures side by side."""

    file: str  # NAME.png
    tiles: list


class Section(NamedTuple):
    """A part of the page: paragraphs, then tables, drawings and sheets."""

    title: str
    text: tuple
    parts: tuple = ()


class Reporter:
    """What the outputs for some data say beyond its figures: hears every batch of an evaluation pass, then tells.

    network: a model of kzoo's; source: where the data comes from.
    """

    def __init__(self, network, source):
        self.network, self.source, self.rows = network, source, 0
        self.numbers = []  # of the source's samples that were taken up, in their order

    def count(self, real):
        """Counts a batch whose rows are pictures where real (B,) is True; returns [(the place among all that were taken
        up, row)] of these.
        """
        first, rows = len(self.numbers), np.flatnonzero(real)
        self.numbers += (self.rows + rows).tolist()
        self.rows += len(real)
        return list(enumerate(rows.tolist(), first))

    def update(self, x, y, outputs, real):
        """Takes up a batch, as Meter.update does, with what the network was given."""
        raise NotImplementedError

    def close(self, meter):
        """Is given the pass's Meter after the last batch."""

    def figures(self):
        """{figure: number} that the meter does not tell."""
        return {}

    def sections(self):
        """[Section], in the order in which they are read."""
        raise NotImplementedError

    def write(self, folder):
        """Writes files of its own there, such as the predictions of every picture."""

    def called(self, place):
        """What the source calls the sample at that place among those taken up: its file, else its number."""
        return str(self.source.called(self.numbers[place]))

    def captioned(self, place):
        """The same below its picture."""
        called = self.called(place)
        return f"picture {called}" if called.isdecimal() else called


class Worst:
    """The `count` samples of the highest values, the first of equals, by their places, with what was made of them."""

    def __init__(self, count=WORST):
        self.count, self._heap = count, []

    def offer(self, value, place, make):
        """make(), asked only where the value is among the highest so far, as NaN is, gives what is kept of the
        sample.
        """
        value = math.inf if math.isnan(value) else float(value)
        if len(self._heap) == self.count and (value, -place) <= self._heap[0][:2]:
            return
        entry = (value, -place, make())
        (heapq.heappush if len(self._heap) < self.count else heapq.heappushpop)(self._heap, entry)

    def ranked(self):
        """[(value, place, what was made)], the highest first."""
        return [(value, -place, made) for value, place, made in sorted(self._heap, key=lambda entry: entry[:2])[::-1]]


def names_of(network, source, classes):
    """The names of that many classes: the source's, else the model's, else numbers. Of two, where one has a name, the
    first is the other.
    """
    for names in (source.class_names, network.spec.class_names):
        if len(names) == classes:
            return tuple(names)
        if len(names) == 1 and classes == 2:
            return f"not {names[0]}", names[0]
    return tuple(map(str, range(classes)))


def legible(text):
    """The text as a page or a drawing can hold it: what no UTF-8 can spell as escapes, control signs as a mark."""
    return printable(
        "".join(sign if sign in "\t\n" or sign.isprintable() or ord(sign) > 159 else MARK for sign in text)
    )


def shown(image, preprocessing):
    """What a network was given (H, W, C), normalised -> uint8 (H, W, 3), of any number of channels grey or the first
    three.
    """
    channels = image.shape[-1]
    told = preprocessing.for_channels(channels)
    pixels = np.clip(image * np.float32(told.std) + np.float32(told.mean), 0, 1)
    pixels = np.rint(255 * pixels).astype(np.uint8)
    return np.repeat(pixels[..., :1], 3, axis=-1) if channels < 3 else pixels[..., :3]


def share(part, whole):
    """part / whole, 0 where there is nothing of either; arrays or numbers, float64."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole > 0)


def write_rows(path, heads, rows):
    """A CSV file, its rows as they come; texts are UTF-8, what it cannot spell as escapes."""
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file, lineterminator="\n").writerows(itertools.chain([heads], rows))

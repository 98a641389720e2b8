"""Pictures with the objects in them: what every such source gives, and tables of boxes in memory."""

from typing import NamedTuple

import numpy as np

from kzoo.data.decode import Picture, pixels, read_picture
from kzoo.data.division import SYNONYMS as SYNONYMS  # words for the split of evaluation, one of which a set has
from kzoo.data.randomness import permutation
from kzoo.data.sources import Source, spread
from kzoo.errors import UserError


class ObjectSource(Source):
    """Pictures with their objects, a dictionary: boxes float32 (n, 4), x0, y0, x1, y1 in pixels of the picture and
    within it, each with an area; labels int32 (n,); crowd bool (n,), boxes of many that are neither trained nor counted
    as missed; area float32 (n,), by which COCO tells small from large; image_id, a whole number of the picture's own.

    Subclasses define __len__, `annotated` and `picture`, or `open`.
    """

    targets = "objects"
    category_ids = ()  # the numbers that the set itself gives its classes, where they are not 0, 1, 2, ...
    files = ()  # of the pictures, where each has one
    box_format = "xyxy"  # of the numbers in its files: xyxy | xywh | yxyx; a report asks whether they fit it

    def picture(self, i):
        """The picture of sample i, uint8 (H, W, C) or a Picture."""
        raise NotImplementedError

    def annotated(self, i):
        """(objects as the set has them, before their boxes are cut to the picture; (height, width) of the picture)."""
        raise NotImplementedError

    def surveyed(self, most):
        """An iterator over what `annotated` gives of at most that many pictures, drawn from all; of all, where that
        reads no files.
        """
        return map(self.annotated, permutation(0, 0, len(self))[:most])

    def fullest(self):
        """(the image_id of the picture with most objects, how many: crowds and boxes without area left out); None where
        that is not known without reading them all.
        """
        return None

    def open(self, i):
        picture = self.picture(i)
        return picture, within(self.annotated(i)[0], *picture.shape[:2])

    def where(self, i):
        return self.files[i] if self.files else super().where(i)

    def read(self, i):
        """(uint8 (H, W, C), objects) of sample i; raises UserError naming the file of a bad picture."""
        picture, objects = self.open(i)
        return pixels(picture), objects

    def batch(self, index):
        """(list of B pictures, list of B objects) of the sample numbers (B,)."""
        pictures, objects = zip(*spread(self.open, index), strict=True)
        return list(pictures), list(objects)


class Table(NamedTuple):
    """The objects of N pictures, those of all in a row: of picture i the rows starts[i] up to starts[i + 1]."""

    ids: np.ndarray  # int64 (N,), of the pictures
    starts: np.ndarray  # int64 (N + 1,)
    boxes: np.ndarray  # float32 (M, 4), x0, y0, x1, y1
    labels: np.ndarray  # int32 (M,)
    crowd: np.ndarray  # bool (M,)
    area: np.ndarray  # float32 (M,), in pixels; NaN: that of its box

    @classmethod
    def of_rows(cls, ids, owners, boxes, labels, crowd=None, area=None):
        """From rows in any order, owners (M,) being the numbers of their pictures."""
        order = np.argsort(owners, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(ids)))])
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        crowd = np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, bool)
        area = np.full(len(boxes), np.nan, np.float32) if area is None else np.asarray(area, np.float32)
        columns = boxes, np.asarray(labels, np.int32), crowd, area
        return cls(np.asarray(ids, np.int64), starts.astype(np.int64), *(column[order] for column in columns))

    def objects(self, i):
        """Those of picture i, a dictionary as in ObjectSource."""
        rows = slice(self.starts[i], self.starts[i + 1])
        found = {key: getattr(self, key)[rows] for key in ("boxes", "labels", "crowd", "area")}
        return found | {"image_id": int(self.ids[i])}

    def part(self, index):
        """The Table of some pictures, by their numbers."""
        counts = np.diff(self.starts)[index]
        rows = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in index] or [np.zeros(0, int)])
        starts = np.concatenate([[0], np.cumsum(counts)])
        return Table(self.ids[index], starts, *(column[rows.astype(int)] for column in self[2:]))


class TableSource(ObjectSource):
    """Objects in a Table, and pictures by a function of their number.

    sizes (N, 2) are the heights and widths of the pictures as the set tells them, 0 where it does not tell one.
    relative: the table's boxes are in 0..1 of the picture.
    """

    def __init__(self, name, table, picture, class_names, *, channels=3, sizes=None, relative=False, **told):
        self.name, self.channels = name, channels
        self.class_names, self.num_classes = tuple(class_names), len(class_names)
        self.table, self._picture, self._sizes, self._relative = table, picture, sizes, relative
        for key, value in told.items():  # category_ids, box_format, files
            setattr(self, key, value)

    def __len__(self):
        return len(self.table.ids)

    def picture(self, i):
        return self._picture(int(i))

    def fullest(self):
        table = self.table
        real = ~table.crowd & (table.boxes[:, 2:] > table.boxes[:, :2]).all(axis=1)
        owners = np.repeat(np.arange(len(self)), np.diff(table.starts))
        counts = np.bincount(owners[real], minlength=len(self))
        return int(table.ids[counts.argmax()]), int(counts.max())

    def surveyed(self, most):
        return map(self.annotated, range(len(self))) if self._sizes is not None else super().surveyed(most)

    def annotated(self, i):
        size = None if self._sizes is None else tuple(map(int, self._sizes[i]))
        if not size or not all(size):
            size = tuple(self.picture(i).shape[:2])
        return self._objects(i, *size), size

    def open(self, i):
        picture = self.picture(i)
        return picture, within(self._objects(i, *picture.shape[:2]), *picture.shape[:2])

    def _objects(self, i, height, width):
        return in_pixels(self.table.objects(i), height, width, self._relative)


def in_pixels(objects, height, width, relative):
    """The objects of a Table in pixels of their picture, each with an area."""
    boxes = objects["boxes"] * np.float32([width, height, width, height]) if relative else objects["boxes"]
    area, own = objects["area"], (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return objects | {"boxes": boxes, "area": np.where(np.isnan(area), own, area)}


def within(objects, height, width):
    """The objects with their boxes cut to the picture, without those that then have no area, as DETR's own loader does.

    Areas stay: they are what COCO's evaluation goes by.
    """
    boxes = np.clip(objects["boxes"], 0, np.float32([width, height, width, height]))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return {key: value if key == "image_id" else value[kept] for key, value in (objects | {"boxes": boxes}).items()}


def check_boxes(name, boxes, called):
    """Raises UserError for the first box of (M, 4) whose corners are no numbers or exchanged; called(row): what to call
    it.
    """
    finite = np.isfinite(boxes).all(axis=1)
    wrong = np.flatnonzero(~finite | (boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if len(wrong):
        box = tuple(float(value) for value in boxes[wrong[0]])
        why = "exchanged corners" if finite[wrong[0]] else "corners that are no numbers"
        raise UserError(
            f"{name}: {called(wrong[0])} has {why}, {box}; a box is x0, y0, x1, y1 in pixels, the lower numbers first: "
            "correct or remove it, and where all are x, y, width, height, add the first two to the others."
        )


def picture_of_size(path, size):
    """The Picture of a file whose annotations are of (height, width), 0 where they do not tell.

    One that Exif would turn is left as it lies where they are of that. Raises UserError for one of another size.
    """
    encoded, told = read_picture(path), tuple(map(int, size))
    for turned in (True, False):
        picture = Picture(encoded, path, turned=turned)
        if not all(told) or picture.shape[:2] == told:
            return picture
    height, width = picture.shape[:2]
    raise UserError(
        f"{path} is {height} x {width} (height, width), its annotations are of a picture of {told[0]} x {told[1]}: put "
        "that one there, or correct the size and the boxes."
    )


def held_out(shares):
    """bool (N,): which samples of a set without splits are kept for evaluation, by a number in [0, 1) of each: a tenth,
    at least one of two.
    """
    shares = np.asarray(shares)
    part = shares < 0.1
    if len(part) > 1 and not part.any():
        part[shares.argmin()] = True
    return part

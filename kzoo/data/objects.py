"""Batches for detectors: pictures in a few fixed canvases with masks of their padding, and objects that move with
them.
"""

import numpy as np

from kzoo.data.batching import Array, Batching, padded
from kzoo.data.box_augment import moved_boxes, plan
from kzoo.data.decode import pixels, to_channels
from kzoo.data.operations import operate
from kzoo.data.pixels import normalise, resized_window
from kzoo.data.resample import resample
from kzoo.data.sources import spread
from kzoo.errors import UserError
from kzoo.ops.resize import fitted_size


class Canvases:
    """The fixed sizes of padded pictures: how large a picture is shown, and which canvas holds some.

    image_size: (height, width) of the network; canvases: (height, width) each; none: the network's own size. A
    picture's shorter side is the network's or, to fit the largest canvas and for its longer side to be no longer than
    that canvas's, less.
    """

    def __init__(self, image_size, canvases=()):
        # the smallest first, of equal areas the lower
        self.canvases = sorted(set(map(tuple, canvases)) or {tuple(image_size)}, key=lambda hw: (hw[0] * hw[1], hw))
        self.largest = tuple(map(max, zip(*self.canvases, strict=True)))
        self.sides = min(image_size), max(self.largest)

    def canvas(self, sizes):
        """(height, width) of the smallest canvas that holds pictures of those sizes (B, 2)."""
        height, width = np.max(np.asarray(sizes), axis=0)
        return next(canvas for canvas in self.canvases if canvas[0] >= height and canvas[1] >= width)

    def shown(self, size):
        """(height, width), in evaluation and prediction, of a picture of that size."""
        return fitted_size(*size, *self.sides, self.largest)


class ObjectBatching(Canvases, Batching):
    """x = {"image" float32 (B, H, W, C), normalised, 0 where "mask" bool (B, H, W) is True, which is padding}, the
    picture in the upper left of the smallest canvas that holds the batch.

    y = {"boxes" float32 (B, T, 4), cx, cy, w, h in 0..1 of the picture without its padding, "labels" int32 (B, T),
    "valid" bool (B, T)}, T being max_boxes. Training leaves crowds out. Evaluation, where rows without a picture have
    weight 0, has them behind the others, in none of them valid, and beside: "crowd" bool (B, T), "area" float32 (B, T),
    "original" float32 (B, T, 4), x0, y0, x1, y1 in pixels of the picture as the source has it, "size" int32 (B, 2), its
    height and width, and "image_id" int64 (B,).

    canvases: as in Canvases. augment: a BoxAugment or None. Raises UserError for a number of channels that cannot be
    converted or jittered, and for a picture with more than T objects, before any is read where the source knows its
    fullest.
    """

    def __init__(self, take, source, *, max_boxes, canvases=(), augment=None, seed=0, engine="numpy"):
        super().__init__(take.image_size, canvases)
        self.channels, self.name, self.seed = take.channels, source.name, seed
        to_channels(np.zeros((1, 1, source.channels), np.uint8), self.channels, source.name)
        if augment and augment.color_jitter and self.channels not in (1, 3):
            raise UserError(
                f"augment.color_jitter changes grey and RGB pictures, not those of {self.channels} channels; leave it "
                "out."
            )
        self.preprocessing = take.preprocessing.for_channels(self.channels)
        self.max_boxes, self.augment = max_boxes, augment
        if fullest := source.fullest():
            self._require_room(*fullest)
        if engine == "tf":
            from kzoo.data.jpeg import pixels as of_window
        else:
            of_window = pixels
        self._pixels = of_window

    def changes(self, sizes, keys, epoch):
        """The BoxChange of each picture of a training batch, by their sizes (B, 2); [] without augmentation."""
        return plan(self.augment, self.seed, epoch, keys, sizes, self.sides, self.largest) if self.augment else []

    def train(self, pictures, targets, keys, epoch, step):
        if self.augment is None:
            x = self._whole(pictures, len(pictures))
            moves = [((0, 0, *picture.shape[:2]), False) for picture in pictures]
        else:
            changes = self.changes([picture.shape[:2] for picture in pictures], keys, epoch)
            x = self._placed([change.size for change in changes], len(pictures), self._changed, pictures, changes)
            moves = [(change.window, change.flip, change.flip_vertical) for change in changes]
        y = self._empty(len(pictures))
        for row, (objects, move) in enumerate(zip(targets, moves, strict=True)):
            boxes, kept = moved_boxes(_chosen(objects, ~objects["crowd"]), *move)
            self._require_room(objects["image_id"], (~objects["crowd"]).sum())
            self._fill(y, row, boxes, objects["labels"][~objects["crowd"]][kept])
        return x, y

    def evaluate(self, pictures, targets, keys, rows):
        x = self._whole(pictures, rows)
        y, count = self._empty(rows), self.max_boxes
        y |= {"crowd": np.zeros((rows, count), bool), "area": np.zeros((rows, count), np.float32)}
        y |= {"original": np.zeros((rows, count, 4), np.float32)}
        for row, (picture, objects) in enumerate(zip(pictures, targets, strict=True)):
            self._require_room(objects["image_id"], len(objects["labels"]))
            objects = _chosen(objects, np.argsort(objects["crowd"], kind="stable"))
            boxes, kept = moved_boxes(objects, (0, 0, *picture.shape[:2]), False)
            objects = _chosen(objects, kept)
            self._fill(y, row, boxes, objects["labels"])
            found = len(boxes)
            y["valid"][row, :found] = ~objects["crowd"]
            for key, name in (("crowd", "crowd"), ("area", "area"), ("original", "boxes")):
                y[key][row, :found] = objects[name]
        y["size"] = padded(np.array([picture.shape[:2] for picture in pictures], np.int32), rows)
        y["image_id"] = padded(np.array([objects["image_id"] for objects in targets], np.int64), rows)
        return x, y, padded(np.ones(len(pictures), np.float32), rows)

    def signature(self, rows, *, training):
        count, sides = self.max_boxes, self.canvases[0] if len(self.canvases) == 1 else (None, None)
        x = {"image": Array((rows, *sides, self.channels), np.float32), "mask": Array((rows, *sides), np.bool_)}
        y = {"boxes": Array((rows, count, 4), np.float32), "labels": Array((rows, count), np.int32)}
        y |= {"valid": Array((rows, count), np.bool_)}
        if training:
            return x, y
        y |= {"crowd": Array((rows, count), np.bool_), "area": Array((rows, count), np.float32)}
        y |= {"original": Array((rows, count, 4), np.float32), "size": Array((rows, 2), np.int32)}
        return x, y | {"image_id": Array((rows,), np.int64)}, Array((rows,), np.float32)

    def _whole(self, pictures, rows):
        """x of the pictures as evaluation sees them, padded to so many rows."""
        sizes = [self.shown(picture.shape[:2]) for picture in pictures]
        return self._placed(sizes, rows, self._prepared, pictures, sizes)

    def _placed(self, sizes, rows, make, *sequences):
        """x of pictures of those sizes; make(*items) gives one, (h, w, C) in 0..255."""
        canvas = self.canvas(sizes)
        image = np.zeros((rows, *canvas, self.channels), np.float32)
        mask = np.zeros((rows, *canvas), bool)  # rows of no picture hide nothing: attention to nothing is no number
        mask[: len(sizes)] = True

        def place(row, size, *items):
            image[row, : size[0], : size[1]] = normalise(make(*items), self.preprocessing)
            mask[row, : size[0], : size[1]] = False

        spread(place, range(len(sizes)), sizes, *sequences)
        return {"image": image, "mask": mask}

    def _prepared(self, picture, size):
        return whole_picture(to_channels(pixels(picture), self.channels, self.name), size, self.preprocessing)

    def _changed(self, picture, change):
        image = to_channels(self._pixels(picture, change.window), self.channels, self.name)
        image = resized_window(image, change.size, self.preprocessing.interpolation, change.flip)
        image = image[::-1] if change.flip_vertical else image
        if change.operations:
            image = operate(image, change.operations, self.preprocessing.fill, self.preprocessing.interpolation)
        return image

    def _empty(self, rows):
        count = self.max_boxes
        return {
            "boxes": np.zeros((rows, count, 4), np.float32),
            "labels": np.zeros((rows, count), np.int32),
            "valid": np.zeros((rows, count), bool),
        }

    def _fill(self, y, row, boxes, labels):
        found = len(boxes)
        y["boxes"][row, :found], y["labels"][row, :found], y["valid"][row, :found] = boxes, labels, True

    def _require_room(self, image_id, count):
        if count > self.max_boxes:
            raise UserError(
                f"{self.name}: the image {image_id} has {count} objects, more than task.max_boxes={self.max_boxes}; "
                f"set overrides.num_queries to {count} or more, and task.max_boxes too where it is given."
            )


def whole_picture(image, size, preprocessing):
    """uint8 (h, w, C) resized to `size` (H, W) as evaluation does it: float32 in 0..255, or `image` if it fits."""
    if image.shape[:2] == tuple(size):
        return image
    return np.clip(resample(image, size, preprocessing.interpolation), 0, 255)  # bicubic overshoots


def on_canvas(pictures, canvases, preprocessing, name="the picture"):
    """uint8 pictures (h, w, C), each of its own size, as a detector takes them and evaluation shows them: ({"image"
    float32 (B, H, W, C), normalised, "mask" bool (B, H, W), True where it is padding}, [(height, width) that each fills
    of it]); canvases: a Canvases.
    """
    images = [to_channels(picture, len(preprocessing.mean), name) for picture in pictures]
    sizes = [canvases.shown(image.shape[:2]) for image in images]
    shown = [whole_picture(image, size, preprocessing) for image, size in zip(images, sizes, strict=True)]
    return placed(shown, canvases.canvas(sizes), preprocessing), sizes


def placed(pictures, canvas, preprocessing):
    """{"image", "mask"}, as on_canvas has them, of pictures (h, w, C) that fit the canvas (height, width) as they
    are.
    """
    shape = len(pictures), *canvas
    out, mask = np.zeros((*shape, len(preprocessing.mean)), np.float32), np.ones(shape, bool)
    for row, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        out[row, :height, :width], mask[row, :height, :width] = normalise(picture, preprocessing), False
    return {"image": out, "mask": mask}


def in_upper_left(picture, image_size, preprocessing, beside=0):
    """uint8 (h, w, C) brought to image_size, its ratio kept, as an artifact of one size takes it: (uint8 (H, W, C), the
    (height, width) that it fills of it); beside: what the rest of it is.
    """
    height, width = size = Canvases(image_size).shown(picture.shape[:2])
    out = np.full((*image_size, picture.shape[-1]), beside, np.uint8)
    out[:height, :width] = np.rint(whole_picture(picture, size, preprocessing))
    return out, size


def _chosen(objects, which):
    """The objects that an index or a mask names."""
    return {key: value if key == "image_id" else value[which] for key, value in objects.items()}

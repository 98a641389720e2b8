"""Batches for detectors: boxes move with the pixels they are around, canvases and masks, replay, both engines."""

import keras
import numpy as np
import pytest

from kzoo import data
from kzoo.data.box_augment import moved_boxes, plan
from kzoo.data.object_report import padding, padding_line
from kzoo.data.object_sources import ObjectSource
from kzoo.data.objects import Canvases, ObjectBatching, on_canvas
from kzoo.errors import UserError
from kzoo.ops.resize import fitted_size
from kzoo.schema import BoxAugment
from kzoo.specs import Preprocessing, Take

PLAIN = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="nearest")
CANVASES = ((48, 48), (48, 64), (64, 48), (64, 64))
AUGMENT = BoxAugment(
    flip_vertical=0.5, scales=(32, 40, 48), max_size=64, crop=0.5, crop_scales=(40, 50), crop_size=(24, 44)
)


class Blocks(ObjectSource):
    """Black pictures with blocks of one colour each, (60 + 60 * label, 10 + 20 * number, 0), the last one a crowd."""

    name, class_names, num_classes = "blocks", ("a", "b", "c"), 3

    def __init__(self, count=12, crowds=True):
        self._count, self._crowds = count, crowds

    def __len__(self):
        return self._count

    def annotated(self, i):
        picture, objects = self.open(i)
        return objects, picture.shape[:2]

    def open(self, i):
        random = np.random.default_rng(int(i))
        height, width = random.integers(60, 120, 2)
        picture, boxes = np.zeros((height, width, 3), np.uint8), []
        for cell in range(4):  # a quarter of the picture each
            top, left = random.integers(0, 10, 2) + (cell // 2 * (height // 2), cell % 2 * (width // 2))
            bottom, right = np.minimum((top, left) + random.integers(12, 18, 2), (height, width))
            picture[top:bottom, left:right] = 60 + 60 * (cell % 3), 10 + 20 * cell, 0
            boxes.append((left, top, right, bottom))
        boxes = np.array(boxes, np.float32)
        return picture, {
            "boxes": boxes,
            "labels": np.arange(4, dtype=np.int32) % 3,
            "crowd": np.arange(4) == (3 if self._crowds else -1),
            "area": (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / 2,
            "image_id": 100 + int(i),
        }


def batching(source, side=(48, 64), **options):
    options = {"max_boxes": 6, "canvases": CANVASES, "augment": AUGMENT, "seed": 3} | options
    return ObjectBatching(Take(side, 3, PLAIN), source, **options)


def seen(image, mask):
    """{number of a block: its extents x0, y0, x1, y1 in pixels of the canvas} in a picture of Blocks."""
    shown = np.rint(image * 255).astype(int)
    assert not shown[mask].any()
    found = {}
    for cell in range(4):
        rows, columns = np.nonzero((shown == (60 + 60 * (cell % 3), 10 + 20 * cell, 0)).all(axis=-1))
        if len(rows):
            found[cell] = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return found


def in_canvas(boxes, mask):
    """cx, cy, w, h in 0..1 as x0, y0, x1, y1 in pixels of the canvas, by the picture's size in the mask."""
    height, width = (~mask).any(axis=1).sum(), (~mask).any(axis=0).sum()
    centre, side = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([centre - side / 2, centre + side / 2], axis=1) * [width, height, width, height]


def test_boxes_move_with_their_pixels():
    source, changed = Blocks(crowds=False), {"flip": 0, "crop": 0}
    made = batching(source)
    for epoch in range(8):
        pictures, objects = source.batch(np.arange(12))
        x, y = made.train(pictures, objects, np.arange(12), epoch, 0)
        changes = plan(AUGMENT, 3, epoch, np.arange(12), [p.shape[:2] for p in pictures], (48, 64), (64, 64))
        for row in range(12):
            boxes = in_canvas(y["boxes"][row][y["valid"][row]], x["mask"][row])
            pixels, count = seen(x["image"][row], x["mask"][row]), y["valid"][row].sum()
            assert not y["valid"][row, count:].any() and not y["boxes"][row, count:].any()
            thin = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) < 1.5  # which may fall between pixels
            for box in boxes[~thin]:
                assert min(np.abs(box - extents).max() for extents in pixels.values()) < 1.01
            for extents in pixels.values():
                assert min(np.abs(box - extents).max() for box in boxes) < 1.01
            labels = y["labels"][row][y["valid"][row]][~thin]
            cells = [min(pixels, key=lambda cell: np.abs(pixels[cell] - box).max()) for box in boxes[~thin]]
            assert labels.tolist() == [cell % 3 for cell in cells]
            changed["flip"] += changes[row].flip
            changed["crop"] += changes[row].window[2:] != pictures[row].shape[:2]
    assert 30 < changed["flip"] < 66 and 30 < changed["crop"] < 66  # of 96


@pytest.mark.parametrize(("field", "axis"), [("flip", 1), ("flip_vertical", 0)])
def test_a_mirrored_picture_mirrored_again_is_itself(field, axis):
    source = Blocks(crowds=False)
    pictures, objects = source.batch(np.arange(12))
    mirrored = batching(source, augment=BoxAugment(**{"flip": 0.0, "crop": 0, "scales": (), field: 1.0}))
    x, y = mirrored.train(pictures, objects, np.arange(12), 0, 0)
    plain, truth, _ = mirrored.evaluate(pictures, objects, np.arange(12), 12)
    for row in range(12):
        count, (rows, columns) = y["valid"][row].sum(), np.nonzero(~x["mask"][row])
        height, width = rows.max() + 1, columns.max() + 1
        shown = np.flip(x["image"][row, :height, :width], axis)
        np.testing.assert_array_equal(shown, plain["image"][row, :height, :width])
        again = y["boxes"][row, :count].astype(np.float64)
        again[:, 1 - axis] = 1 - again[:, 1 - axis]
        np.testing.assert_allclose(again, truth["boxes"][row, :count], atol=1e-6)
    for one in objects:
        window = (0, 0, 120, 120)
        flips = {"flip": False, field: True}
        once, kept = moved_boxes(one, window, **flips)
        corners = np.concatenate([once[:, :2] - once[:, 2:] / 2, once[:, :2] + once[:, 2:] / 2], axis=1) * 120
        twice, _ = moved_boxes(one | {"boxes": corners}, window, **flips)
        np.testing.assert_allclose(twice, moved_boxes(one, window, False)[0], atol=1e-6)
        assert kept.all()


def official_size(height, width, size, longest=None):
    """The rule of DETR's transforms for a picture's new size, from its description: floats, and int() cuts."""
    if longest is not None:
        low, high = float(min(height, width)), float(max(height, width))
        if high / low * size > longest:
            size = int(round(longest * low / high))
    if (width <= height and width == size) or (height <= width and height == size):
        return height, width
    return (int(size * height / width), size) if width < height else (size, int(size * width / height))


def test_sizes_are_those_of_detrs_transforms():
    random = np.random.default_rng(1)
    for height, width in random.integers(40, 700, (300, 2)).tolist():
        size = int(random.choice(BoxAugment().scales))
        assert fitted_size(height, width, size, 1333) == official_size(height, width, size, 1333)
        assert fitted_size(height, width, size) == official_size(height, width, size)
        tall, wide = fitted_size(height, width, size, 1333, (512, 640))
        assert (
            tall <= 512
            and wide <= 640
            and (tall == 512 or wide == 640 or (tall, wide) == official_size(height, width, size, 1333))
        )
        assert abs(tall / height - wide / width) < 1 / min(height, width)


def test_a_plan_draws_what_the_paper_draws():
    keys = np.arange(4000)
    changes = plan(BoxAugment(), 0, 0, keys, [(480, 640)] * 4000, (800, 1333), (1344, 1344))
    whole = [change for change in changes if change.window == (0, 0, 480, 640)]
    assert abs(len(whole) / 4000 - 0.5) < 0.03 and abs(np.mean([change.flip for change in changes]) - 0.5) < 0.03
    counts = {scale: sum(change.size[0] == scale for change in whole) for scale in BoxAugment().scales}
    assert sum(counts.values()) == len(whole) and min(counts.values()) > len(whole) / 11 * 0.7
    crops = np.array([change.window for change in changes if change.window != (0, 0, 480, 640)])
    assert (crops[:, :2] >= 0).all() and (crops[:, :2] + crops[:, 2:] <= (480, 640)).all()
    # at 400, 500 and 600 a crop of 384 to 600 pixels: shares of the height, and of the width
    shares = crops[:, 2:] / (480, 640)
    assert shares.min(axis=0) == pytest.approx([384 / 600, 384 / 800], abs=0.01) and shares.max(axis=0)[0] == 1
    assert shares.max(axis=0)[1] == 1 and crops[:, 0].min() == 0
    assert max(max(change.size) for change in changes) <= 1334
    assert changes[7:9] == plan(BoxAugment(), 0, 0, [7, 8], [(480, 640)] * 2, (800, 1333), (1344, 1344))
    assert changes[:50] != plan(BoxAugment(), 0, 1, keys[:50], [(480, 640)] * 50, (800, 1333), (1344, 1344))


def test_the_smallest_canvas_that_holds_the_batch():
    made = batching(Blocks())
    for sizes, canvas in (([(48, 30)], (48, 48)), ([(48, 49), (20, 64)], (48, 64)), ([(49, 48)], (64, 48))):
        assert made.canvas(sizes) == canvas
    assert made.canvas([(64, 20), (20, 64)]) == (64, 64)
    assert batching(Blocks(), canvases=()).canvas([(48, 64)]) == (48, 64)


def test_evaluation_has_every_object_and_what_cocos_figures_need():
    source = Blocks()
    pictures, objects = source.batch(np.arange(3))
    x, y, weights = batching(source).evaluate(pictures, objects, np.arange(3), 4)
    assert weights.tolist() == [1, 1, 1, 0] and y["image_id"].tolist() == [100, 101, 102, 0]
    assert not x["mask"][3].any() and not y["valid"][3].any()
    for row in range(3):
        assert y["size"][row].tolist() == list(pictures[row].shape[:2])
        assert y["valid"][row].tolist() == [True] * 3 + [False] * 3
        assert y["crowd"][row].tolist() == [False] * 3 + [True] + [False] * 2
        np.testing.assert_array_equal(y["original"][row, :4], objects[row]["boxes"])
        np.testing.assert_array_equal(y["area"][row, :4], objects[row]["area"])
        assert y["labels"][row, :4].tolist() == [0, 1, 2, 0]
        boxes = y["boxes"][row, :4].astype(float)
        corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
        np.testing.assert_allclose(corners * np.tile(y["size"][row, ::-1], 2), objects[row]["boxes"], atol=1e-4)
        size = (~x["mask"][row]).any(axis=1).sum(), (~x["mask"][row]).any(axis=0).sum()
        assert size == fitted_size(*pictures[row].shape[:2], 48, 64, (64, 64))
        shown, (filled,) = on_canvas([pictures[row]], Canvases((48, 64)), PLAIN)
        image, mask = shown["image"][0], shown["mask"][0]
        assert image.shape == (48, 64, 3) and (~mask).sum() == filled[0] * filled[1] and not image[mask].any()
        if filled == size:
            np.testing.assert_array_equal(image[: size[0], : size[1]], x["image"][row, : size[0], : size[1]])


def test_training_leaves_crowds_out_and_too_many_objects_are_told():
    source = Blocks()
    pictures, objects = source.batch(np.arange(4))
    _, y = batching(source, max_boxes=3, augment=None).train(pictures, objects, np.arange(4), 0, 0)
    assert y["valid"].all() and y["labels"].tolist() == [[0, 1, 2]] * 4
    with pytest.raises(UserError, match="blocks: the image 100 has 3 objects, more than task.max_boxes=2; set .* to 3"):
        batching(source, max_boxes=2).train(pictures, objects, np.arange(4), 0, 0)
    with pytest.raises(UserError, match="the image 100 has 4 objects, more than task.max_boxes=3"):
        batching(source, max_boxes=3).evaluate(pictures, objects, np.arange(4), 4)


def test_pictures_without_objects_are_batches_too():
    source = data.open_source("shapes:n=40,size=32", "train")
    empty = [i for i in range(40) if not len(source.read(i)[1]["labels"])]
    assert empty
    made = ObjectBatching(Take((32, 32), 3, Preprocessing()), source, max_boxes=6, augment=BoxAugment(color_jitter=0.4))
    x, y = made.train(*source.batch(np.array(empty)), np.array(empty), 0, 0)
    assert not y["valid"].any() and x["image"].std() > 0.05 and np.isfinite(x["image"]).all()
    assert x["image"].shape == (len(empty), 32, 32, 3)


def of_epoch(source, engine, epoch=1, **options):
    made = data.Loader(source, batching(source, engine=engine, **options), 4, seed=3, engine=engine)
    return made, [keras.tree.map_structure(np.asarray, batch) for batch in made.epoch(epoch)]


@pytest.mark.parametrize("options", [{}, {"augment": None}, {"canvases": ()}], ids=["changed", "plain", "one size"])
def test_the_share_of_padding_is_known_before_a_picture_is_decoded(options):
    made, batches = of_epoch(Blocks(14), "numpy", epoch=0, **options)
    found, masks = padding(made), [x["mask"] for x, _ in batches]
    assert found["share"] == pytest.approx(sum(m.sum() for m in masks) / sum(m.size for m in masks))
    shapes = [mask.shape[1:] for mask in masks]
    assert found["canvases"] == {shape: shapes.count(shape) for shape in shapes} and len(shapes) == 3
    assert padding_line(found).startswith(f"padding: {found['share']:.0%} of a batch's pixels")
    assert len(padding(made, most=1)["canvases"]) == 1


@pytest.mark.parametrize("canvases", [CANVASES, ()], ids=["canvases", "one size"])
def test_engines_agree_and_epochs_replay_and_resume(canvases):
    source = Blocks(14)
    options = {"canvases": canvases, "augment": BoxAugment(**vars(AUGMENT) | {"color_jitter": 0.3})}
    (tf, whole), (numpy, same) = (of_epoch(source, engine, **options) for engine in ("tf", "numpy"))
    assert len(whole) == 3
    keras.tree.map_structure(np.testing.assert_array_equal, whole, same)
    for made in (tf, numpy):
        tail = [keras.tree.map_structure(np.asarray, batch) for batch in made.epoch(1, start_step=1)]
        keras.tree.map_structure(np.testing.assert_array_equal, tail, whole[1:])
    evaluated = [[keras.tree.map_structure(np.asarray, batch) for batch in made.evaluation()] for made in (tf, numpy)]
    keras.tree.map_structure(np.testing.assert_array_equal, *evaluated)
    shapes = {x["image"].shape[1:3] for x, *_ in (*whole, *evaluated[0])}
    assert shapes <= set(canvases or ((48, 64),)) and (len(shapes) > 1) == bool(canvases)
    for batches, training in ((whole, True), (evaluated[0], False)):
        wanted = tf.batching.signature(4, training=training)
        for batch in batches:
            keras.tree.assert_same_structure(batch, wanted)
            for array, sort in zip(keras.tree.flatten(batch), keras.tree.flatten(wanted), strict=True):
                assert array.dtype == sort.dtype and len(array.shape) == len(sort.shape)
                assert all(want in (None, have) for want, have in zip(sort.shape, array.shape, strict=True))
    open_sides = tf.epoch(0).element_spec[0]["image"].shape
    assert open_sides.as_list() == [4, *((None, None) if canvases else (48, 64)), 3]
    ids = np.concatenate([y["image_id"] for _, y, _ in evaluated[0]])
    assert ids.tolist() == [*range(100, 114), 0, 0]

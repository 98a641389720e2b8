"""Boxes and their overlaps against the formulas in float64, one pair at a time."""

import keras
import numpy as np
import pytest
from keras import ops

from kzoo.ops.boxes import box_iou, cxcywh_to_xyxy, generalized_box_iou, xyxy_to_cxcywh

pytestmark = pytest.mark.backends
RNG = np.random.default_rng(5)


def corners(*shape):
    """Random boxes (*shape, 4), xyxy, float32."""
    low, sides = RNG.uniform(-3, 3, (*shape, 2)), RNG.uniform(0.1, 4, (*shape, 2))
    return np.concatenate([low, low + sides], axis=-1).astype("float32")


def overlaps(a, b):
    """(IoU, generalised IoU) of two boxes, by the papers' formulas."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.astype("float64"), b.astype("float64")
    shared = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return shared / union, shared / union - (hull - union) / hull


def test_overlaps_of_every_pair_equal_the_formulas():
    one, two = corners(3, 6), corners(3, 5)
    expected = np.array(
        [[[overlaps(a, b) for b in theirs] for a in ours] for ours, theirs in zip(one, two, strict=True)]
    )
    assert (expected[..., 0] == 0).any() and (expected[..., 0] > 0.2).any() and (expected[..., 1] < -0.5).any()
    for number, function in enumerate((box_iou, generalized_box_iou)):
        found = ops.convert_to_numpy(function(one, two))
        np.testing.assert_allclose(found, expected[..., number], atol=2e-6)
        np.testing.assert_allclose(ops.convert_to_numpy(function(one[0], two))[0], found[0], atol=2e-6)


def test_the_formats_are_each_others_inverse():
    boxes = corners(7)
    middle = ops.convert_to_numpy(xyxy_to_cxcywh(boxes))
    np.testing.assert_allclose(middle[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2, atol=1e-6)
    np.testing.assert_allclose(middle[:, 2:], boxes[:, 2:] - boxes[:, :2], atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(cxcywh_to_xyxy(middle)), boxes, atol=1e-6)


POINT, FLAT, INVERTED, UNIT, FAR = [2, 2, 2, 2], [0, 0, 3, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1e6, 1e6, 1e6 + 1, 1e6 + 1]


@pytest.mark.parametrize(
    ("one", "two", "iou", "giou"),
    [
        (UNIT, UNIT, 1.0, 1.0),
        (POINT, POINT, 0.0, 0.0),
        (FLAT, FLAT, 0.0, 0.0),
        (POINT, UNIT, 0.0, -0.75),  # the hull is 2 x 2
        (INVERTED, UNIT, 0.0, 0.0),  # the inverted one has no area, and lies within the other
        (UNIT, FAR, 0.0, -1.0),
    ],
)
def test_boxes_without_area_have_finite_overlaps_and_gradients(one, two, iou, giou):
    one, two = np.array([one], "float32"), np.array([two], "float32")
    assert float(box_iou(one, two)[0, 0]) == pytest.approx(iou, abs=1e-6)
    assert float(generalized_box_iou(one, two)[0, 0]) == pytest.approx(giou, abs=1e-5)
    assert np.isfinite(gradient(lambda boxes: ops.sum(generalized_box_iou(boxes, two)), one)).all()


def gradient(function, value):
    """d function / d value, of the backend's own."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        variable = tf.Variable(value)
        with tf.GradientTape() as tape:
            result = function(variable)
        return tape.gradient(result, variable).numpy()
    if backend == "jax":
        import jax

        return np.asarray(jax.grad(function)(value))
    import torch

    tensor = torch.tensor(value, requires_grad=True)
    function(tensor).backward()
    return tensor.grad.numpy()


def test_sixteen_bits_are_computed_in_thirty_two():
    one, two = (ops.cast(corners(4), "bfloat16") for _ in "ab")
    found = box_iou(one, two)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    wide = [ops.convert_to_numpy(ops.cast(boxes, "float32")) for boxes in (one, two)]
    np.testing.assert_allclose(
        ops.convert_to_numpy(found), [[overlaps(a, b)[0] for b in wide[1]] for a in wide[0]], atol=2e-6
    )

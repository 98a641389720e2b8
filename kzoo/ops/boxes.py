"""Boxes: their two formats and how far they overlap, in float32 at least.

`xyxy` is x0, y0, x1, y1, the corners; `cxcywh` the middle, then width and height. The unit is the caller's: pixels, or
the picture's sides. A box without an extent, or whose corners are the wrong way round, has no area.
"""

from keras import ops


def cxcywh_to_xyxy(boxes):
    """Boxes (..., 4): x0 = cx - w / 2, y0 = cy - h / 2, x1 = cx + w / 2, y1 = cy + h / 2."""
    boxes = _wide(boxes)
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return ops.concatenate([middle - half, middle + half], axis=-1)


def xyxy_to_cxcywh(boxes):
    """Boxes (..., 4): cx = (x0 + x1) / 2, cy = (y0 + y1) / 2, w = x1 - x0, h = y1 - y0."""
    boxes = _wide(boxes)
    low, high = boxes[..., :2], boxes[..., 2:]
    return ops.concatenate([(low + high) / 2, high - low], axis=-1)


def box_iou(boxes1, boxes2):
    """Intersection over union of every pair, xyxy (..., N, 4) and (..., M, 4) -> (..., N, M) in 0..1.

    |A and B| / |A or B|; 0 where neither has an area. Leading sides are broadcast.
    """
    shared, union, _ = _areas(boxes1, boxes2)
    return _quotient(shared, union)


def generalized_box_iou(boxes1, boxes2):
    """Generalised intersection over union of every pair, xyxy (..., N, 4) and (..., M, 4) -> (..., N, M) in -1..1.

    IoU - |H without (A or B)| / |H|, H the smallest box around both (H. Rezatofighi et al., arXiv:1902.09630): 1 for
    equal boxes, towards -1 the farther they are apart. Where H has no area the second term is 0.
    """
    shared, union, hull = _areas(boxes1, boxes2)
    return _quotient(shared, union) - _quotient(hull - union, hull)


def _wide(boxes):
    boxes = ops.convert_to_tensor(boxes)
    return boxes if "float64" in str(boxes.dtype) else ops.cast(boxes, "float32")


def _areas(boxes1, boxes2):
    """The areas (..., N, M) of what each pair shares, of what either covers, and of the smallest box around both."""
    one, two = _wide(boxes1)[..., :, None, :], _wide(boxes2)[..., None, :, :]
    shared = _area(ops.maximum(one[..., :2], two[..., :2]), ops.minimum(one[..., 2:], two[..., 2:]))
    union = _area(one[..., :2], one[..., 2:]) + _area(two[..., :2], two[..., 2:]) - shared
    hull = _area(ops.minimum(one[..., :2], two[..., :2]), ops.maximum(one[..., 2:], two[..., 2:]))
    return shared, union, hull


def _area(low, high):
    sides = ops.maximum(high - low, 0.0)
    return sides[..., 0] * sides[..., 1]


def _quotient(part, whole):
    """part / whole, and 0 where there is no whole."""
    some = whole > 0
    return ops.where(some, part / ops.where(some, whole, 1.0), 0.0)

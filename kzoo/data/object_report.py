"""What a set of objects holds, told before a detector is trained on it: counts, sizes, and boxes that look misread."""

import collections

import numpy as np

from kzoo.data.object_sources import within
from kzoo.data.randomness import permutation

LOOKED_AT = 2000  # pictures of a set whose objects are not all in memory
SMALL, MEDIUM = 32**2, 96**2  # COCO's bounds of an area, in pixels of the picture as it is
_SLACK = 1.0  # pixels by which a box may leave its picture without being odd: annotators round
_FEW, _ENOUGH = 0.02, 0.99  # shares of boxes: that may leave their picture; that another reading must keep in it

# {format: (in words, function of (M, 4) to corners)}
FORMATS = {
    "xyxy": ("x0, y0, x1, y1", lambda n: n),
    "xywh": ("x, y, width, height", lambda n: np.concatenate([n[:, :2], n[:, :2] + n[:, 2:]], axis=1)),
    "yxyx": ("y0, x0, y1, x1", lambda n: n[:, [1, 0, 3, 2]]),
    "cxcywh": (
        "centre x, centre y, width, height",
        lambda n: np.concatenate([n[:, :2] - n[:, 2:] / 2, n[:, :2] + n[:, 2:] / 2], axis=1),
    ),
}


def survey(source, most=LOOKED_AT):
    """{fact: value} of an ObjectSource, of at most that many pictures where its objects are not all in memory.

    pictures, looked_at; objects, of no crowd; crowds; empty (pictures without objects), most (objects in a picture);
    cut (boxes that leave their picture), gone (those without area in it); classes {name: objects}; sizes {small |
    medium | large: objects}, COCO's; suspicion, a sentence or None.
    """
    found = [(objects, within(objects, *size), size) for objects, size in source.surveyed(most)]
    raw = np.concatenate([objects["boxes"] for objects, _, _ in found] or [np.zeros((0, 4))]).astype(np.float64)
    sizes = np.repeat([size for *_, size in found], [len(objects["labels"]) for objects, *_ in found], axis=0)
    real = [{key: kept[key][~kept["crowd"]] for key in ("labels", "area")} for _, kept, _ in found]
    counts = np.array([len(one["labels"]) for one in real], int)
    labels, area = (np.concatenate([one[key] for one in real] or [np.zeros(0, int)]) for key in ("labels", "area"))
    names = source.class_names or tuple(map(str, range(source.num_classes)))
    per_class = np.bincount(labels.astype(int), minlength=source.num_classes)
    bounds = np.searchsorted([SMALL, MEDIUM], area, side="right")
    kept = sum(len(one["labels"]) for _, one, _ in found)
    return {
        "pictures": len(source),
        "looked_at": len(found),
        "objects": int(counts.sum()),
        "crowds": int(sum(one["crowd"].sum() for _, one, _ in found)),
        "empty": int((counts == 0).sum()),
        "most": int(counts.max(initial=0)),
        "cut": int((~_inside(raw, sizes)).sum()),
        "gone": len(raw) - kept,
        "classes": dict(zip(names, per_class.tolist(), strict=True)),
        "sizes": dict(zip(("small", "medium", "large"), np.bincount(bounds, minlength=3).tolist(), strict=True)),
        "suspicion": suspicion(raw, sizes, source.box_format),
    }


def padding(loader, most=50):
    """{"share": of padding in the pixels of a batch, "canvases": {(height, width): batches}} of the first training
    batches, at most so many, of a Loader of an ObjectBatching; no picture is decoded. None for a stream.
    """
    source, batching, size = loader.source, loader.batching, loader.batch_size
    if source.streams:
        return None
    order, canvases, filled, whole = permutation(loader.seed, 0, len(source)), collections.Counter(), 0, 0
    for step in range(min(most, loader.steps_per_epoch)):
        index = order[step * size : (step + 1) * size]
        sizes = [source.annotated(i)[1] for i in index]
        shown = [change.size for change in batching.changes(sizes, index, 0)] or list(map(batching.shown, sizes))
        canvas = batching.canvas(shown)
        canvases[canvas] += 1
        filled, whole = filled + np.prod(shown, axis=1).sum(), whole + size * canvas[0] * canvas[1]
    return {"share": float(1 - filled / whole), "canvases": dict(sorted(canvases.items()))}


def padding_line(found):
    """What `padding` found as a line of text."""
    told = ", ".join(f"{height} x {width} {count}" for (height, width), count in found["canvases"].items())
    return f"padding: {found['share']:.0%} of a batch's pixels; batches by their canvas (height x width): {told}"


def suspicion(corners, sizes, claimed):
    """A sentence where boxes look as if they were written in another format than they were read in, else None.

    corners (M, 4): x0, y0, x1, y1 as they were read; sizes (M, 2): heights and widths of their pictures; claimed: the
    format of FORMATS by which the numbers of the file were read.
    """
    if not len(corners):
        return None
    sides = corners[:, 2:] - corners[:, :2]
    numbers = {"xywh": np.concatenate([corners[:, :2], sides], axis=1), "yxyx": corners[:, [1, 0, 3, 2]]}.get(
        claimed, corners
    )
    if corners.max() <= 2 and np.min(sizes) > 8:
        return (
            "all boxes lie in the first two pixels of their pictures: the numbers look like shares in 0..1; multiply "
            "them by the width and height"
        )
    shares = {name: _inside(read(numbers), sizes).mean() for name, (_, read) in FORMATS.items()}
    if 1 - shares[claimed] <= _FEW:
        return None
    outside = f"read as {FORMATS[claimed][0]}, {1 - shares[claimed]:.0%} of the boxes leave their pictures"
    likely = max(shares, key=shares.get)
    if shares[likely] < _ENOUGH:
        return f"{outside}: see whether the annotations are of these pictures, and at their size"
    return f"{outside}, and read as {FORMATS[likely][0]} {shares[likely]:.0%} lie in them: the numbers look like those"


def _inside(corners, sizes):
    """bool (M,): which boxes have an area and lie in their pictures."""
    high = np.asarray(sizes, np.float64).reshape(-1, 2)[:, ::-1] + _SLACK
    positive = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    return (
        positive
        & (corners >= -_SLACK).all(axis=1)
        & (corners[:, :2] <= high).all(axis=1)
        & (corners[:, 2:] <= high).all(axis=1)
    )


def lines(name, facts):
    """The facts of a survey as lines of text; a suspicion is the last one."""
    part = "" if facts["looked_at"] == facts["pictures"] else f" (of which {facts['looked_at']:,} were looked at)"
    told = [
        f"{name}: {facts['pictures']:,} pictures{part}, {facts['objects']:,} objects, at most {facts['most']} in one; "
        f"{facts['empty']:,} pictures without any, {facts['crowds']:,} crowds",
        "objects of each class: " + ", ".join(f"{name} {count:,}" for name, count in facts["classes"].items()),
        "their sizes: "
        + ", ".join(
            f"{count:,} {size} ({bound})"
            for (size, count), bound in zip(
                facts["sizes"].items(),
                ("less than 32 x 32 pixels", "less than 96 x 96", "from 96 x 96 on"),
                strict=True,
            )
        ),
    ]
    if missing := [name for name, count in facts["classes"].items() if not count]:
        told.append(f"no object of the classes {', '.join(missing)}: their figures will say nothing")
    if facts["cut"] or facts["gone"]:
        told.append(
            f"{facts['cut']:,} boxes have no area or leave their pictures, and are cut; {facts['gone']:,} have none "
            "left and are not used"
        )
    if facts["suspicion"]:
        told.append(f"look at the boxes: {facts['suspicion']}")
    return told

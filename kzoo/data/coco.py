"""Data sets in COCO's format: a folder of pictures and a JSON file of boxes (https://cocodataset.org/#format-data)."""

import json
import math
import os
import pathlib

import numpy as np

from kzoo.archives.reading import parsing, require_regular
from kzoo.data.division import refuse
from kzoo.data.object_sources import SYNONYMS, Table, TableSource, held_out, picture_of_size
from kzoo.data.randomness import uniforms
from kzoo.errors import UsageError, UserError
from kzoo.system import printable


def open_coco(spec, where, split, division=None, lenient=False):
    """The split of "IMAGES,ANNOTATIONS.json"; `{split}` in either is the split's name, or a synonym of it. Without it a
    tenth, chosen by the pictures' ids, is held out, or what a Division says, by their file names.

    Pictures come in the order of their ids, classes in that of the categories'. Raises UserError, naming the annotation
    where it is one, for what is missing, comes twice or is not what the format has there.
    """
    images, _, annotations = where.rpartition(",")
    if not images or not annotations:
        raise UsageError(f"{spec!r} names no annotations; it takes coco:IMAGES,ANNOTATIONS.json.")
    if "{split}" in where:
        refuse(spec, division)
    folder, path = _of_split(spec, images, annotations, split)
    content = _read(path)
    pictures, classes = _pictures(path, content), _classes(path, content)
    if not lenient:
        _require_files(folder, path, pictures)
    table = _table(path, content, pictures, classes)
    index = np.arange(len(pictures))
    if division is not None:
        index = division.chosen(spec, split, [image["file_name"] for image in pictures])
        table = table.part(index)
    elif "{split}" not in where:
        part = held_out(uniforms(0, 0, table.ids, 1)[:, 0])
        index = np.flatnonzero(part == (split != "train"))
        table = table.part(index)
    if not len(index):
        raise UserError(f"{spec} has no pictures in the split {split!r}; add some to {path}.")
    chosen = [pictures[i] for i in index]

    sizes = np.array([[_side(image.get(side)) for side in ("height", "width")] for image in chosen])

    def picture(i):
        return picture_of_size(folder / chosen[i]["file_name"], sizes[i])

    names = [name for _, name in classes]
    told = {"category_ids": tuple(number for number, _ in classes), "box_format": "xywh"}
    told["files"] = [str(folder / image["file_name"]) for image in chosen]
    return TableSource(spec, table, picture, names, sizes=sizes, **told)


def _of_split(spec, images, annotations, split):
    """(folder, file) of a split, by the first of its words for which both are there."""
    if "{split}" not in images + annotations:
        if split not in ("train", *SYNONYMS):
            raise UserError(f"{spec} has no split {split!r}; choose train or test.")
        words = (split,)
    else:
        words = (split, *(word for word in SYNONYMS if split in SYNONYMS and word != split))
    tried = [
        tuple(pathlib.Path(text.replace("{split}", word)).expanduser() for text in (images, annotations))
        for word in words
    ]
    for folder, path in tried:
        if folder.is_dir() and path.exists():
            return folder, path
    folder, path = tried[0]
    missing = f"folder {folder}" if not folder.is_dir() else f"file {path}"
    raise UserError(f"{spec}: there is no {missing}; check the path, or name a split that is there.")


def _read(path):
    """The JSON object of a file. Outlines, most of its bytes, are dropped while it is read."""
    require_regular(path)
    with parsing(path), open(path, "rb") as file:
        content = json.load(file, object_hook=_without_outline)
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise UserError(f"{path} is not in COCO's format, an object with the lists {', '.join(lists)}; check the path.")
    return content


def _without_outline(entry):
    entry.pop("segmentation", None)
    return entry


def _pictures(path, content):
    """The entries of the pictures, sorted by id."""
    pictures = content["images"]
    for number, image in enumerate(pictures):
        if (
            not isinstance(image, dict)
            or type(image.get("id")) is not int
            or not isinstance(image.get("file_name"), str)
        ):
            raise UserError(f"{path}: image number {number} has no id, a whole number, with a file_name; correct it.")
        if not 0 <= image["id"] < 2**63:
            raise UserError(f"{path}: the image id {image['id']} is not in 0..2^63 - 1; correct it.")
    _require_once(path, "image", pictures)
    return sorted(pictures, key=lambda image: image["id"])


def _classes(path, content):
    """[(id, name)] of the categories, sorted by id."""
    categories = content["categories"]
    for number, category in enumerate(categories):
        if not isinstance(category, dict) or type(category.get("id")) is not int:
            raise UserError(f"{path}: category number {number} has no id, a whole number; correct it.")
    _require_once(path, "category", categories)
    if not categories:
        raise UserError(f"{path} lists no categories; add one for each class, with id and name.")
    return sorted((category["id"], printable(str(category.get("name", category["id"])))) for category in categories)


def _require_once(path, kind, entries):
    seen = set()
    for entry in entries:
        if entry["id"] in seen:
            raise UserError(f"{path}: the {kind} id {entry['id']} comes twice; give each its own, or remove one.")
        seen.add(entry["id"])


def _require_files(folder, path, pictures):
    """Raises UserError where a picture is not in the folder; each folder is listed once, no file is touched."""
    listed, missing = {}, []
    for image in pictures:
        home, name = os.path.split(os.path.join(folder, image["file_name"]))
        if home not in listed:
            listed[home] = set(os.listdir(home)) if os.path.isdir(home) else set()
        if name not in listed[home]:
            missing.append(image)
    if missing:
        first = missing[0]
        raise UserError(
            f"{path} lists {len(pictures)} pictures, of which {len(missing)} are not in {folder}, for example "
            f"{printable(first['file_name'])} (image {first['id']}); check the path of the folder, or remove them from "
            "the file."
        )


def _table(path, content, pictures, classes):
    """The Table of the annotations. Raises UserError that names the first wrong one."""
    owners = {image["id"]: number for number, image in enumerate(pictures)}
    labels = {number: label for label, (number, _) in enumerate(classes)}
    rows, seen = [], set()
    for number, annotation in enumerate(content["annotations"]):
        called = f"number {number}"
        try:
            called = annotation.get("id", called)
            if called in seen:
                raise ValueError("comes twice: give each an id of its own, or remove one")
            seen.add(called)
            rows.append(_row(annotation, owners, labels))
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            why = (
                str(error) if type(error) is ValueError else "is not what COCO's format has there; correct or remove it"
            )
            raise UserError(f"{path}: annotation {called} {why}.") from None
    columns = np.array(rows, np.float64).reshape(-1, 8)
    corners = np.concatenate([columns[:, 1:3], columns[:, 1:3] + columns[:, 3:5]], axis=1)
    ids = [image["id"] for image in pictures]
    return Table.of_rows(ids, columns[:, 0].astype(int), corners, columns[:, 5], columns[:, 6] > 0, columns[:, 7])


def _row(annotation, owners, labels):
    """(number of the picture, x, y, width, height, class, crowd, area). Raises ValueError, what is wrong and the
    remedy.
    """
    image, category, box = (annotation.get(key) for key in ("image_id", "category_id", "bbox"))
    if image not in owners:
        raise ValueError(f"is of the image {image!r}, which the file does not list; correct or remove it")
    if category not in labels:
        raise ValueError(f"is of the category {category!r}, which the file does not list; correct or remove it")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"has the bbox {box!r}, not four numbers x, y, width, height; correct or remove it")
    if box[2] < 0 or box[3] < 0:
        raise ValueError(f"has the bbox {box!r}, whose width or height is below 0; correct or remove it")
    area = annotation.get("area", box[2] * box[3])
    if not _is_number(area):
        raise ValueError(f"has the area {area!r}, not a number; correct or remove it")
    return owners[image], *box, labels[category], bool(annotation.get("iscrowd", 0)), area


def _is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def _side(value):
    """A height or width as the file tells it, 0 where it does not."""
    return value if type(value) is int and value > 0 else 0


def splits_of(spec, where, data_dir=None):
    """The words for which there is a file of annotations."""
    annotations = where.rpartition(",")[2]
    if "{split}" not in where:
        return ()
    return [w for w in ("train", *SYNONYMS) if pathlib.Path(annotations.replace("{split}", w)).expanduser().exists()]

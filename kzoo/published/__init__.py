"""Published weights by tag: where they lie, under which licence, and how pictures are prepared for them.

tags.csv holds the facts, a line a tag, as timm names them, and of a few files that timm does not list;
`python -m tests.write_published` writes it anew. Standard library only, and the file is read when it is first asked
for.
"""

import csv
import functools
import pathlib
from dataclasses import dataclass

from kzoo.errors import UsageError, unknown
from kzoo.specs import Preprocessing

FOLDER = pathlib.Path(__file__).parent
FIELDS = (
    *("model", "tag", "address", "license", "act", "image_size", "num_classes", "classes"),
    *("mean", "std", "crop_pct", "crop_mode", "interpolation"),
)


@dataclass(frozen=True, kw_only=True)
class Tag:
    """The published weights `model.tag` and the settings that they were evaluated with."""

    model: str
    tag: str
    address: str  # hf://org/repo, or an https:// address that has to be downloaded by hand
    license: str  # as an SPDX or Hugging Face identifier; "unknown" where timm tells none
    act: str  # the activation they were trained with, where timm notes that the model's own is another; else ""
    image_size: int  # side in pixels
    # channels of the head: classes, or the space shared with a text tower; 0: no head; None: another work than classes'
    num_classes: int | None
    classes: str  # the set of class names (kzoo.published.classes), or ""
    preprocessing: Preprocessing

    @property
    def name(self):
        """What `kzoo.get` calls them."""
        return f"{self.model}.{self.tag}"

    @property
    def options(self):
        """The fields of the model's config that the weights decide."""
        head = {} if self.num_classes is None else {"num_classes": self.num_classes}
        return head | {"image_size": self.image_size, "preprocessing": self.preprocessing}

    @property
    def class_names(self):
        """The names of the classes in the order of the logits; () where none are known."""
        from kzoo.published.classes import class_names

        return class_names(self.classes) if self.classes else ()


@functools.cache
def published():
    """{model: {tag: Tag}}, sorted."""
    found = {}
    with open(FOLDER / "tags.csv", newline="", encoding="utf-8") as file:
        for tag in map(_tag, csv.DictReader(file)):
            found.setdefault(tag.model, {})[tag.tag] = tag
    return found


def _tag(row):
    mean, std = (tuple(map(float, row.pop(key).split())) for key in ("mean", "std"))
    words = {key: row.pop(key) for key in ("crop_mode", "interpolation")}
    preprocessing = Preprocessing(mean=mean, std=std, crop_pct=float(row.pop("crop_pct")), **words)
    numbers = {key: int(value) if (value := row.pop(key)) else None for key in ("image_size", "num_classes")}
    return Tag(**row, **numbers, preprocessing=preprocessing)


def tags(model):
    """{tag: Tag} of a model's name; {} where no weights are published."""
    return published().get(model, {})


def find_tag(model, tag):
    """The Tag. Raises UsageError with the nearest tags of the model, or that it has none."""
    known = tags(model)
    if not known:
        raise UsageError(
            f"{model} has no published weights in this version, so none tagged {tag!r}; use {model!r} with "
            "weights=FILE."
        )
    if tag not in known:
        raise unknown(f"tag of {model}", tag, known)
    return known[tag]


def same_weights(tag):
    """The Tags of other models that the same file fills, for example with the activation that it was trained with."""
    everywhere = (other for known in published().values() for other in known.values())
    return [other for other in everywhere if other.address == tag.address and other != tag]

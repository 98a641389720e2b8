"""The papers of an artifact as a reader meets them: whose they are, what the card must say, and the digests by which
damage is seen.

Standard library only, so that opening an artifact imports its runtime alone.
"""

import hashlib
import json
import math
import pathlib

from kzoo.errors import UserError
from kzoo.exporting.formats import FORMATS
from kzoo.settings import override, tupled
from kzoo.specs import Preprocessing

KIND = "kzoo artifact"  # the value of "kind" in card.json, by which a folder is known to be ours
CARD, LABELS = "card.json", "labels.txt"
# in the card: {name: SHA-256} of the files, and the SHA-256 of the card without this field
FILES, SEAL = "files", "seal"
LARGEST_CARD, LARGEST_SIDE = 1 << 26, 1 << 15  # bytes and pixels


def own_format(folder):
    """The format of an artifact that is surely ours, whatever else its card says; None for every other folder."""
    try:
        card = _parsed(folder)
    except (OSError, ValueError, RecursionError):
        return None
    ours = (
        isinstance(card, dict)
        and card.get("kind") == KIND
        and isinstance(card.get("format"), str)
        and card["format"] in FORMATS
    )
    return card["format"] if ours else None


def read_card(folder):
    """The card of an artifact, checked to say all that opening it needs; None where the folder holds no card of ours.

    Raises UserError where the card is ours and damaged.
    """
    path = pathlib.Path(folder) / CARD
    if own_format(folder) is None:
        return None
    card = _parsed(folder)
    try:
        _check(card)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({str(error).rstrip('.')}); export it again.") from error
    return card


def whole_card(folder):
    """read_card, after the artifact's files were found to be those that were exported; what earlier versions wrote has
    no digests.
    """
    folder, card = pathlib.Path(folder), read_card(folder)
    if card is None:
        raise UserError(
            f"{folder} holds no kzoo artifact, or its {CARD} is damaged; name the folder that kzoo export wrote."
        )
    for name, digest in card.get(FILES, {}).items():
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not complete, {name} is missing; export it again.")
        if _digest(folder / name) != digest:
            raise UserError(f"{folder / name} is damaged, it is not what was exported; export it again.")
    return card


def sealed(folder, card):
    """The card with the digests of the payload and the labels in `folder`, and of itself."""
    payload = folder / FORMATS[card["format"]].payload
    files = [path for path in (folder / LABELS, payload, *payload.rglob("*")) if path.is_file()]
    card = card | {FILES: {path.relative_to(folder).as_posix(): _digest(path) for path in sorted(files)}}
    return card | {SEAL: _digest_of_card(card)}


def _parsed(folder):
    path = pathlib.Path(folder) / CARD
    if not path.is_file() or path.stat().st_size > LARGEST_CARD:
        return None
    return json.loads(path.read_bytes())


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_card(card):
    text = json.dumps({key: value for key, value in card.items() if key != SEAL}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check(card):
    """Raises ValueError that names the first field that is missing or senseless."""

    def field(owner, name, fits, wanted):
        value = owner.get(name)
        if not fits(value):
            raise ValueError(f"{name} must be {wanted}, not {repr(value)[:60]}")
        return value

    def is_count(value):
        return type(value) is int and 0 < value <= LARGEST_SIDE

    def lists(fits, length=None):
        return lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(fits, value))

    if "task" in card:  # the first artifacts, of classifiers, name none
        field(card, "task", lambda value: isinstance(value, str), "a text")
    given = field(card, "input", lambda value: isinstance(value, dict), "an object")
    field(given, "image_size", lists(is_count, 2), "height and width")
    shape = field(
        given, "shape", lists(lambda value: value is None or is_count(value), 4), "batch, height, width and channels"
    )
    if shape[3] is None:
        raise ValueError("shape must name the number of channels")
    names = field(card, "class_names", lists(lambda value: isinstance(value, str)), "a list of texts")
    classes = field(
        card, "classes", lambda value: value is None or type(value) is int and value > 0, "a number or null"
    )
    if names and len(names) not in (classes, 2 if classes == 1 else None):  # one logit tells two apart
        raise ValueError(f"class_names are {len(names)}, and classes is {classes}")
    preprocessing = override(
        Preprocessing(), tupled(field(card, "preprocessing", lambda value: isinstance(value, dict), "an object"))
    )
    if len(preprocessing.mean) != shape[3] or not all(map(math.isfinite, (*preprocessing.mean, *preprocessing.std))):
        raise ValueError("preprocessing needs a finite mean and std of every channel")
    if (FILES in card) != (SEAL in card):
        raise ValueError("one of its digests is missing")
    if SEAL in card:
        field(
            card,
            FILES,
            lambda value: isinstance(value, dict) and all(isinstance(digest, str) for digest in value.values()),
            "digests",
        )
        if card[SEAL] != _digest_of_card(card):
            raise ValueError("its text was changed after the export")

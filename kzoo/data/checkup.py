"""Every picture of a source decoded once: what the source holds, and what is wrong with it."""

import collections
import hashlib
import pathlib
import warnings
from typing import NamedTuple

import numpy as np

from kzoo.data import object_report
from kzoo.data.decode import EXTENSIONS, Picture, pixels, why
from kzoo.data.skipping import Skipping
from kzoo.data.sources import open_source, splits_of, spread
from kzoo.errors import UserError
from kzoo.system import printable

FEW = 10  # pictures of a class, to learn from, below which it is told
_AT_ONCE = 64  # pictures between two reports of the progress
_STREAMED = 64
_SHOWN = 8  # of a long list; JSON has it whole
_NAMED = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF"}
_MOVING = ("GIF", "WEBP", "PNG")


class _Look(NamedTuple):
    """What was found of a picture."""

    reason: str | None = None  # why it cannot be read
    size: tuple[int, int] = (0, 0)  # (height, width) as it is shown
    mode: str = ""
    format: str = ""
    frames: int = 1
    turned: bool = False
    misnamed: bool = False
    content: bytes | None = None  # a digest of the file's bytes
    shown: bytes | None = None  # and of its pixels


def check(source, data_dir=None, progress=lambda done, total: None):
    """What the source named by a text holds, every picture of its splits decoded once by several threads: a dictionary
    for JSON.

    splits {split: {pictures, classes {name: pictures}, objects (of boxes: object_report.survey)}}; heights, widths and
    aspects (width / height) [least, median, greatest]; formats and modes, as the files have them, {name: pictures}; few
    {class: pictures to learn from}, where they are fewer than FEW. Lists of {split, picture, ...}: unreadable (with
    reason), turned (by Exif), animated (of which the first frame counts), misnamed (with format). Lists of {same: bytes
    | pixels, pictures}: leaks (one picture in several splits), conflicts (with several labels), duplicates (others).
    passed {what: [paths]}: what lies there and is no picture of the set. problems: sentences, of splits that are not to
    be had. wrong: whether any is unreadable, leaks or conflicts, or there are problems.

    progress(done, total) is called now and then. Raises UserError where no split can be opened.
    """
    opened, problems = _opened(source, data_dir)
    total, done, looks, labels = sum(map(len, opened.values())), 0, {}, {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        for split, of in opened.items():
            looks[split], labels[split] = [], []
            for found in _streamed(of) if of.streams else _read(of):
                for look, label in found:
                    looks[split].append(look)
                    labels[split].append(label)
                done += len(found)
                progress(done, total)
    every = [(split, i, look) for split in opened for i, look in enumerate(looks[split])]
    report = {"source": source, "splits": {split: _split(of, labels[split]) for split, of in opened.items()}}
    report |= _shapes([look for *_, look in every if look.reason is None])
    report |= _listed(opened, every) | _groups(opened, every, labels)
    learnt = report["splits"].get("train", {}).get("classes", {})
    report["few"] = {name: count for name, count in learnt.items() if count < FEW}
    report["passed"] = _passed(opened.values())
    report["problems"] = problems
    report["wrong"] = any(report[key] for key in ("unreadable", "leaks", "conflicts", "problems"))
    return report


def _opened(spec, data_dir):
    """({split: Source}, why others are not to be had)."""
    opened, problems = {}, []
    for split in splits_of(spec, data_dir):
        try:
            opened[split] = open_source(spec, split, data_dir, lenient=True)
        except UserError as error:
            problems.append(error)
    if not opened:
        raise problems[0]
    return opened, list(map(str, problems))


def _read(source):
    """Lists of (look, label) of a source with random access; the label of what cannot be read is None, unless the
    source knows it.
    """
    known = source.all_labels() if source.targets == "label" and source.knows_labels else None

    def one(i):
        given = [None]

        def picture():
            picture, given[0] = source.open(i)
            return picture

        look = _look(picture)
        label = given[0] if known is None else known[i]
        return look, _key(label) if source.targets == "label" and label is not None else None

    for start in range(0, len(source), _AT_ONCE):
        yield spread(one, range(start, min(start + _AT_ONCE, len(source))))


def _streamed(source):
    """The same of a stream."""
    number = 0
    for records in source.records().batch(_STREAMED).as_numpy_iterator():
        rows = [tuple(part[row : row + 1] for part in records) for row in range(len(records[0]))]
        looks = spread(
            lambda row, i: _look(lambda: source.decode(*row, [i])[0][0]), rows, range(number, number + len(rows))
        )
        labels = [_key(row[1][0]) if source.targets == "label" else None for row in rows]
        yield list(zip(looks, labels, strict=True))
        number += len(rows)


def _key(label):
    return int(label) if np.ndim(label) == 0 else tuple(np.flatnonzero(label).tolist())


def _look(opened):
    """The _Look of the picture that a function gives."""
    try:
        picture, told = opened(), {}
        if isinstance(picture, Picture):
            told = picture.facts()
            suffix = pathlib.Path(str(picture.name)).suffix.lower()
            told["misnamed"] = suffix in EXTENSIONS and _NAMED[suffix] != told["format"]
            told["content"] = _digest(picture.encoded)
        image = pixels(picture)
        return _Look(size=image.shape[:2], shown=_digest(np.ascontiguousarray(image), str(image.shape)), **told)
    except UserError as error:
        return _Look(reason=why(error))


def _digest(content, more=""):
    made = hashlib.blake2b(content, digest_size=16)
    made.update(more.encode())
    return made.digest()


def _split(source, labels):
    """What a split holds."""
    told = {"pictures": len(source)}
    if source.targets == "label":
        counts = collections.Counter(
            one for label in labels for one in (label if source.multilabel else (label,)) or ()
        )
        told["classes"] = {name: counts[i] for i, name in enumerate(_names(source))}
        if source.multilabel:
            told["without"] = labels.count(())
    if source.targets == "objects":
        try:
            told["objects"] = object_report.survey(source if source.streams else Skipping(source))
        except UserError as error:
            told["objects"] = {"problem": str(error)}
    return told


def _names(source):
    return source.class_names or tuple(map(str, range(source.num_classes)))


def _shapes(looks):
    sizes = np.array([look.size for look in looks], float).reshape(-1, 2)
    columns = {"heights": sizes[:, 0], "widths": sizes[:, 1], "aspects": sizes[:, 1] / sizes[:, 0]}
    told = {
        name: [round(float(f(column)), 3) for f in (np.min, np.median, np.max)] if len(column) else []
        for name, column in columns.items()
    }
    for key, name in (("format", "formats"), ("mode", "modes")):
        told[name] = dict(collections.Counter(getattr(look, key) for look in looks if getattr(look, key)).most_common())
    return told


def _listed(opened, every):
    """The lists of single pictures."""

    def those(which, more=lambda look: {}):
        return [_one(opened, split, i) | more(look) for split, i, look in every if which(look)]

    return {
        "unreadable": those(lambda look: look.reason is not None, lambda look: {"reason": look.reason}),
        "turned": those(lambda look: look.turned),
        "animated": those(lambda look: look.frames > 1 and look.format in _MOVING),
        "misnamed": those(lambda look: look.misnamed, lambda look: {"format": look.format}),
    }


def _one(opened, split, i):
    return {"split": split, "picture": printable(opened[split].where(i))}


def _groups(opened, every, labels):
    """The lists of pictures that come more than once."""
    same, found = collections.defaultdict(list), {"leaks": [], "conflicts": [], "duplicates": []}
    for split, i, look in every:
        if look.shown is not None:
            same[look.shown].append((split, i, look))
    for members in same.values():
        if len(members) == 1:
            continue
        contents = {look.content for *_, look in members}
        told = {
            "same": "bytes" if len(contents) == 1 and None not in contents else "pixels",
            "pictures": [
                _one(opened, split, i) | _labelled(opened[split], labels[split][i]) for split, i, _ in members
            ],
        }
        leaks = len({split for split, *_ in members}) > 1
        conflicts = len({labels[split][i] for split, i, _ in members}) > 1
        for name, fits in (("leaks", leaks), ("conflicts", conflicts), ("duplicates", not leaks and not conflicts)):
            if fits:
                found[name].append(told)
    return found


def _labelled(source, label):
    if source.targets != "label" or label is None:
        return {}
    return {"class": ", ".join(_names(source)[one] for one in (label if source.multilabel else (label,)))}


def _passed(sources):
    found = collections.defaultdict(set)
    for source in sources:
        for what, paths in source.passed.items():
            found[what].update(map(printable, paths))
    return {what: sorted(paths) for what, paths in sorted(found.items())}


def lines(report):
    """A report of `check` as lines of text."""
    told = []
    for split, of in report["splits"].items():
        facts = of.get("objects", {})
        if "classes" in facts:
            told += object_report.lines(split, facts)
        else:
            told += [f"{split}: {of['pictures']:,} pictures" + _told_classes(of), *facts.values()]
    for name, unit in (("heights", "pixels"), ("widths", "pixels"), ("aspects", "width / height")):
        if report[name]:
            low, middle, high = (f"{value:,.4g}" if value < 10_000 else f"{value:,.0f}" for value in report[name])
            told.append(f"{name}: {low} to {high}, median {middle} ({unit})")
    for name in ("formats", "modes"):
        if report[name]:
            told.append(f"{name}: " + ", ".join(f"{key} {count:,}" for key, count in report[name].items()))
    if report["few"]:
        few = ", ".join(f"{name} {count}" for name, count in report["few"].items())
        told.append(f"classes with fewer than {FEW} pictures to learn from: {few}")
    told += report["problems"]
    told += _told(report["unreadable"], "cannot be read", lambda one: f"{_called(one)}: {one['reason']}")
    told += _told(report["leaks"], "in several splits", _together)
    told += _told(report["conflicts"], "with several labels", _together)
    told += _told(report["duplicates"], "more than once in a split", _together)
    told += _told(report["animated"], "animated: the first frame counts", _called)
    told += _told(report["misnamed"], "named as what they are not", lambda one: f"{_called(one)} is {one['format']}")
    if report["turned"]:
        told.append(f"{len(report['turned']):,} pictures are turned as Exif says")
    for what, paths in report["passed"].items():
        told += _told(paths, f"passed over, {what}", str)
    return [*told, "something is wrong" if report["wrong"] else "nothing is wrong"]


def _told_classes(of):
    if "classes" not in of:
        return ""
    counts = collections.Counter(of["classes"]).most_common()
    shown = counts if len(counts) <= 2 * _SHOWN else [*counts[:_SHOWN], ("...", None), *counts[-_SHOWN:]]
    told = ", ".join(name if count is None else f"{name} {count:,}" for name, count in shown)
    without = f", {of['without']:,} without any" if of.get("without") else ""
    return f" of {len(counts):,} class{'es' if len(counts) > 1 else ''}: {told}{without}"


def _told(entries, what, spell):
    """The head of a list, and its first entries."""
    if not entries:
        return []
    more = [f"  and {len(entries) - _SHOWN:,} more (--json has them all)"] if len(entries) > _SHOWN else []
    return [f"{len(entries):,} {what}:", *(f"  {spell(entry)}" for entry in entries[:_SHOWN]), *more]


def _called(one):
    return f"{one['picture']} ({one['split']})"


def _together(group):
    pictures = group["pictures"]
    named = [f"{one['picture']} ({', '.join(filter(None, (one['split'], one.get('class'))))})" for one in pictures[:3]]
    more = [f"{len(pictures) - 3} more"] if len(pictures) > 3 else []
    return " = ".join([*named, *more]) + ("" if group["same"] == "bytes" else ", other files of the same pixels")

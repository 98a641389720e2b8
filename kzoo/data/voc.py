"""Data sets in Pascal VOC's format: an XML file a picture, as labelImg and its like write them."""

import collections
import os
import pathlib
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np

from kzoo.archives.reading import TEXT_LIMIT, parsing
from kzoo.data.decode import EXTENSIONS
from kzoo.data.division import refuse
from kzoo.data.object_sources import SYNONYMS, Table, TableSource, check_boxes, held_out, picture_of_size
from kzoo.data.sources import spread
from kzoo.errors import UserError
from kzoo.system import printable, read_file, say


def open_voc(spec, path, split, division=None):
    """The split of a folder: PATH/Annotations, PATH/JPEGImages and the lists of PATH/ImageSets/Main, or folders with
    the names of splits that hold pictures and XML files side by side. Without lists or such folders a tenth, chosen by
    the files' names, is held out, or what a Division says, by the same.

    Boxes, of which VOC counts the pixels from 1 and the last one in, become x0 = xmin - 1, y0 = ymin - 1, x1 = xmax, y1
    = ymax. Objects that are marked difficult count as crowd. Classes are the names in all XML files, sorted. Raises
    UserError that names the file for what is missing or no annotation.
    """
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"{spec}: there is no folder {root}; check the path.")
    homes, chosen = _layout(spec, root, split)
    every = {home: _files(home) for home in homes}
    files = [file for home in homes for file in every[home]]
    read = dict(zip(files, spread(_read, files), strict=True))
    names = sorted({name for _, objects in read.values() for name, *_ in objects})
    if not names:
        raise UserError(
            f"{root} has no objects in its {len(files)} XML files; draw some boxes first, or check the path."
        )
    if chosen is not None:
        refuse(spec, division)
    wanted = _wanted(spec, chosen, files, split, division)
    pictures = _pictures(spec, root, wanted)
    number = {file: i for i, file in enumerate(files)}
    label = {name: i for i, name in enumerate(names)}
    rows = [(i, *found, file) for i, file in enumerate(wanted) for found in read[file][1]]
    boxes = np.array([box for _, _, _, box, _ in rows], np.float64).reshape(-1, 4)
    owners = np.array([i for i, *_ in rows], int)
    check_boxes(spec, boxes, lambda row: f"object {row - np.searchsorted(owners, owners[row]) + 1} of {rows[row][-1]}")
    boxes -= [1, 1, 0, 0]
    labels, difficult = [label[row[1]] for row in rows], [row[2] for row in rows]
    table = Table.of_rows([number[file] for file in wanted], owners, boxes, labels, difficult)
    sizes = np.array([read[file][0] for file in wanted])

    def picture(i):
        return picture_of_size(pictures[i], sizes[i])

    return TableSource(spec, table, picture, list(map(printable, names)), sizes=sizes, files=list(map(str, pictures)))


def _layout(spec, root, split):
    """(folders of XML files that the classes are from, where the split is): a list of names, a folder, or None for all
    of them.
    """
    words = (split, *(word for word in SYNONYMS if split in SYNONYMS and word != split))
    if (root / "Annotations").is_dir():
        homes, lists = [root / "Annotations"], root / "ImageSets" / "Main"
        known = {word: lists / f"{word}.txt" for word in ("train", "trainval", *SYNONYMS)}
        known |= {split: lists / f"{split}.txt"}
    else:
        known = {word: root / word for word in ("train", *SYNONYMS)}
        homes = [folder for folder in known.values() if folder.is_dir() and _files(folder)] or [root]
    present = [word for word, place in known.items() if place.exists()]
    if not present:
        if split not in ("train", *SYNONYMS):
            raise UserError(f"{spec} has no split {split!r}; choose train or test.")
        return homes, None
    found = next((word for word in words if word in present), None)
    if found is None:
        raise UserError(
            f"{spec} has no split {split!r}, only {', '.join(present)}; add {known[words[0]]}, or name one."
        )
    return homes, known[found]


def _files(folder):
    """The XML files of a folder, sorted; hidden ones do not count."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() == ".xml" and file.name[0] != ".")


def _wanted(spec, chosen, files, split, division):
    """The XML files of the split, a part of `files`."""
    if division is not None:
        wanted = [files[i] for i in division.chosen(spec, split, [file.stem for file in files])]
    elif chosen is None:
        shares = [zlib.crc32(os.fsencode(file.stem)) / 2**32 for file in files]
        part = held_out(shares)
        wanted = [file for file, kept in zip(files, part, strict=True) if kept == (split != "train")]
    elif chosen.is_dir():
        wanted = [file for file in files if file.parent == chosen]
    else:
        known = {file.stem: file for file in files}
        lines = read_file(chosen, "a list of pictures").decode(errors="replace").splitlines()
        stems = [line.split()[0] for line in lines if line.strip()]
        for stem, count in collections.Counter(stems).items():
            if stem not in known or count > 1:
                why = "comes twice" if stem in known else f"has no {stem}.xml"
                raise UserError(f"{chosen}: the picture {printable(stem)} {why}; correct the list.")
        wanted = [known[stem] for stem in stems]
    if not wanted:
        raise UserError(f"{spec} has no pictures in the split {split!r}; add some with their XML files.")
    return wanted


def _pictures(spec, root, wanted):
    """The picture's file of each XML file: that of its name, in JPEGImages or beside it."""
    folders = {file.parent for file in wanted}
    apart = root / "JPEGImages"
    places = {folder: apart if folder.name == "Annotations" and apart.is_dir() else folder for folder in folders}
    found = {}
    for folder, place in places.items():
        entries = (entry for entry in sorted(place.iterdir()) if entry.suffix.lower() in EXTENSIONS)
        found[folder] = {entry.stem: entry for entry in entries if entry.name[0] != "."}
        alone = set(found[folder]) - {file.stem for file in _files(folder)}
        if alone:
            say(f"{printable(spec)}: passed over {len(alone)} pictures without an XML file, as {printable(min(alone))}")
    missing = [file for file in wanted if file.stem not in found[file.parent]]
    if missing:
        raise UserError(
            f"{missing[0]} has no picture of its name in {places[missing[0].parent]} ({len(missing)} such files); add "
            "it, or remove the XML file."
        )
    return [found[file.parent][file.stem] for file in wanted]


def _read(file):
    """((height, width), 0 where it is not told; [(name, difficult, (xmin, ymin, xmax, ymax))]) of an XML file."""
    text = read_file(file, "an annotation", TEXT_LIMIT)
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise UserError(f"{file} declares a document type, which annotations have no need of; remove the declaration.")
    with parsing(file, ElementTree.ParseError):
        top = ElementTree.fromstring(text)
    size = tuple(_whole(top.findtext(f"size/{side}")) for side in ("height", "width"))
    return size, [_object(file, number, entry) for number, entry in enumerate(top.iter("object"), 1)]


def _object(file, number, entry):
    name, box = entry.findtext("name", "").strip(), entry.find("bndbox")
    try:
        corners = tuple(float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
    except (AttributeError, TypeError, ValueError):
        corners = None
    if not name or corners is None:
        raise UserError(
            f"{file}: object {number} has no name with a bndbox of four numbers xmin, ymin, xmax, ymax; correct or "
            "remove it."
        )
    return name, entry.findtext("difficult", "0").strip() == "1", corners


def _whole(text):
    return int(text) if text and text.strip().isdecimal() else 0


def splits_of(spec, path, data_dir=None):
    """The words for which there is a list or a folder."""
    root = pathlib.Path(path).expanduser()
    lists = root / "ImageSets" / "Main"
    return [word for word in ("train", *SYNONYMS) if (root / word).is_dir() or (lists / f"{word}.txt").exists()]

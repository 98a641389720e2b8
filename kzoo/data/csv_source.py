"""Pictures listed in a CSV file (https://www.rfc-editor.org/rfc/rfc4180), each with its label or labels."""

import csv
import io
import os
import pathlib
from typing import NamedTuple

import numpy as np

from kzoo.data.decode import EXTENSIONS, Picture, read_picture
from kzoo.data.division import refuse
from kzoo.data.folder import held_out, is_evaluation
from kzoo.data.sources import EVALUATION, Source
from kzoo.errors import UserError
from kzoo.system import printable, read_file, say

PATHS = ("path", "image", "filename", "file", "file_name", "filepath", "image_path")
LABELS = ("label", "labels", "class", "category", "target")
_TRAINING = ("train", "training")
_WORDS = {**dict.fromkeys(_TRAINING, "train"), **{word: word for word in EVALUATION}, "valid": "validation"}
_BETWEEN = ("|", ";")  # labels of one picture
_COLUMNS = 'a header row says which columns there are, as "path,label" or "path,label,split"'


class Row(NamedTuple):
    """A picture that a file lists."""

    line: int
    file: str  # its path as it can be opened
    path: str  # below the CSV's folder, where it lies there
    labels: tuple[str, ...]
    split: str | None


class CsvSource(Source):
    """The pictures of some rows, each with one of the classes or, of a multilabel one, with any number of them."""

    def __init__(self, name, table, rows, class_names, multilabel):
        self.name, self.num_classes, self.multilabel = name, len(class_names), multilabel
        self.class_names = tuple(map(printable, class_names))
        self._table, self._rows = table, rows
        number = {label: i for i, label in enumerate(class_names)}
        if multilabel:
            self._labels = np.zeros((len(rows), len(class_names)), np.float32)
            for i, row in enumerate(rows):
                self._labels[i, [number[label] for label in row.labels]] = 1
        else:
            self._labels = np.array([number[row.labels[0]] for row in rows], np.int32)

    def __len__(self):
        return len(self._rows)

    def open(self, i):
        file = self._rows[i].file
        return Picture(read_picture(file), file), self._labels[i] if self.multilabel else int(self._labels[i])

    def all_labels(self):
        return self._labels

    def where(self, i):
        return f"{self._rows[i].file} ({self._table}, line {self._rows[i].line})"


def open_csv(spec, path, split, division=None, lenient=False):
    """The split of a CSV file: UTF-8, commas between the columns, fields with commas in quotes.

    A first row that names a column path (or one of PATHS) and no picture is a header. It may name a column label (or
    one of LABELS), and a column split: train, or one of test, validation, val, valid, which are synonyms where the file
    has one of them. Other columns are passed over, which is said. Without a label column all others are classes, each 1
    where the picture is of it and 0 where not. Without a header the columns are path and label. Paths are from the
    folder of the file; they may be absolute.

    `|` or `;` between labels in one of the cells, an empty one in a column called `labels`, and columns of 0 and 1 make
    the source multilabel: a picture has any number of labels, none only there. Classes are in the order of
    their names, by number where all are whole numbers; columns of 0 and 1 in their own. Where there is no split, a
    tenth is held out by the paths, or what a Division says, class by class unless there are several a picture.

    lenient: pictures that are not there are told when they are read. Raises UserError that names the line for a row
    that is none, a picture that is missing or comes again with other labels or in another split, an empty label and an
    unknown split.
    """
    table = pathlib.Path(path).expanduser()
    header, lines = _table(table)
    columns = _Columns(table, header, lines)
    rows = _once(table, spec, [columns.row(line, cells) for line, cells in lines])
    multilabel, names = columns.multilabel, columns.names
    if names is None:
        names = _sorted({label for row in rows for label in row.labels})
    if not lenient:
        _require_files(table, rows)
    if any(row.split is not None for row in rows):
        refuse(spec, division)
        chosen = _of_split(spec, table, rows, split, whole=columns.names is not None)
    else:
        chosen = _divided(spec, rows, split, division, multilabel)
    return CsvSource(spec, table, chosen, names, multilabel)


class _Columns:
    """What the columns of a table are: path, label and split, or one for each class (names)."""

    def __init__(self, table, header, lines):
        self.table, self.names, self.split = table, None, None
        words = [cell.strip().lower() for cell in header or ("path", "label")]
        self.count, self.header = len(words), header
        for word in words:
            if words.count(word) > 1 and word in (*PATHS, *LABELS, "split"):
                raise UserError(f"{table}, line 1: the column {word} comes twice; leave one of them out.")
        self.path = next(words.index(word) for word in PATHS if word in words)
        self.split = words.index("split") if "split" in words else None
        label = [i for i, word in enumerate(words) if word in LABELS and i != self.path]
        others = [i for i in range(len(words)) if i not in (self.path, self.split, *label)]
        if not label and not others:
            raise UserError(f"{table}, line 1: no column has labels; {_COLUMNS}.")
        self.label = label[0] if label else None
        self.classes = [] if label else others
        if not label:
            self.names = [header[i].strip() for i in others]
            if "" in self.names or len(set(self.names)) < len(self.names):
                raise UserError(f"{table}, line 1: the columns of the classes need a name each; give each its own.")
        if label and (more := [*label[1:], *others]):
            say(f"{table}: passed over the columns {', '.join(printable(header[i]) for i in more)}")
        self.optional = bool(label) and words[self.label] == "labels"
        found = [cells[self.label].strip() for _, cells in lines if len(cells) > self.label] if label else []
        several = any(mark in cell for cell in found for mark in _BETWEEN)
        self.multilabel = bool(self.names) or several or (self.optional and "" in found)

    def row(self, line, cells):
        """The Row of the cells of a line. Raises UserError for what is none."""
        here = f"{self.table}, line {line}"
        if len(cells) != self.count:
            hint = "; put a field with a comma into quotes" if len(cells) > self.count else ""
            raise UserError(f"{here} has {len(cells)} columns, not {self.count}: {_COLUMNS}{hint}.")
        path = cells[self.path]
        if not path.strip():
            raise UserError(f"{here} names no picture; add its path, or remove the line.")
        split = None if self.split is None else cells[self.split].strip().lower()
        if split is not None and split not in _WORDS:
            told = printable(cells[self.split])
            raise UserError(f"{here} has the split {told!r}, which is none of {', '.join(_WORDS)}; correct it.")
        home = os.path.abspath(self.table.parent)
        file = os.path.normpath(os.path.join(home, path))
        below = os.path.relpath(file, home) if file.startswith(os.path.join(home, "")) else file
        return Row(line, file, pathlib.Path(below).as_posix(), self._labels(here, cells), _WORDS.get(split))

    def _labels(self, here, cells):
        """The labels of a row, sorted."""
        if self.label is None:
            marked = [cells[i].strip() for i in self.classes]
            for name, mark in zip(self.names, marked, strict=True):
                if mark not in ("0", "1"):
                    raise UserError(
                        f"{here} has {printable(mark)!r} in the column {printable(name)}, which takes 0 or 1: name the "
                        "column of labels `label`, or correct it."
                    )
            return tuple(name for name, mark in zip(self.names, marked, strict=True) if mark == "1")
        text = cells[self.label].strip()
        if not text and self.optional:
            return ()
        mark = next((mark for mark in _BETWEEN if mark in text), None)
        labels = [label.strip() for label in (text.split(mark) if mark else [text])]
        if "" in labels:
            raise UserError(
                f"{here} has an empty label; add one, remove the line or, where a picture may have none, name the "
                "column `labels`."
            )
        return tuple(sorted(set(labels)))


def _table(path):
    """(the header or None, [(line, cells)]) of a file."""
    content = read_file(path, "a CSV file that lists pictures")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line} is not UTF-8; save the file as UTF-8.") from None
    reader, rows, before = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True), [], 0
    try:
        for cells in reader:
            if cells and any(cell.strip() for cell in cells):
                rows.append((before + 1, cells))
            before = reader.line_num
    except csv.Error as error:
        raise UserError(f"{path}, line {before + 1} cannot be read as CSV ({error}); correct it.") from None
    header = None
    if rows and any(cell.strip().lower() in PATHS for cell in rows[0][1]) and not any(map(_names_one, rows[0][1])):
        header = rows.pop(0)[1]
    if not rows:
        raise UserError(f"{path} lists no pictures; {_COLUMNS}, and each row after it is a picture.")
    if header is None and len(rows[0][1]) != 2:
        told = f"{path}, line {rows[0][0]} has {len(rows[0][1])} columns separated by commas"
        raise UserError(f"{told}; without a header they are two, path and label: {_COLUMNS}.")
    return header, rows


def _names_one(cell):
    return cell.strip().lower().endswith(EXTENSIONS)


def _once(table, spec, rows):
    """The rows, each picture once. Raises UserError where one comes again with other labels or in another split."""
    first, again = {}, 0
    for row in rows:
        known = first.setdefault(row.file, row)
        if known is row:
            continue
        again += 1
        for what, one, other in (("labels", known.labels, row.labels), ("split", known.split, row.split)):
            if one != other:
                remedy = "join several labels by |, or remove one" if what == "labels" else "remove one"
                raise UserError(
                    f"{table}, line {row.line} has the picture {printable(row.path)} of line {known.line} with another "
                    f"{what.removesuffix('s')}; {remedy}."
                )
    if again:
        say(f"{printable(spec)}: passed over {again} lines that come twice")
    return list(first.values())


def _sorted(labels):
    whole = all(label.isascii() and label.isdecimal() for label in labels)
    return sorted(labels, key=lambda label: (int(label), label)) if whole else sorted(labels)


def _require_files(table, rows):
    """Raises UserError where a picture is not there; each folder is listed once, no file is touched."""
    listed, missing = {}, []
    for row in rows:
        home, name = os.path.split(row.file)
        if home not in listed:
            listed[home] = set(os.listdir(home)) if os.path.isdir(home) else set()
        if name not in listed[home]:
            missing.append(row)
    if missing:
        more = f" ({len(missing)} such lines)" if len(missing) > 1 else ""
        raise UserError(
            f"{table}, line {missing[0].line}: there is no picture {printable(missing[0].file)}{more}; paths are from "
            "the CSV's folder: correct or remove it."
        )


def _of_split(spec, table, rows, split, whole):
    """The rows of a split of a file that has them. whole: classes are known without any row."""
    present = {row.split for row in rows}
    words = (_WORDS[split], *EVALUATION) if split in (*EVALUATION, "valid") else (split,)
    found = next((word for word in words if word in present), None)
    if found is None:
        raise UserError(
            f"{spec} has no split {split!r}, only {', '.join(sorted(present))}; add one or name one of them."
        )
    known = {label for row in rows if row.split == "train" for label in row.labels}
    if known and not whole:
        for row in rows:
            if extra := set(row.labels) - known:
                raise UserError(
                    f"{table}, line {row.line}: {printable(min(extra))} is no class of the training split; rename it, "
                    "or add pictures to train on."
                )
    return [row for row in rows if row.split == found]


def _divided(spec, rows, split, division, multilabel):
    """The rows of a split of a file without splits."""
    if division is not None:
        classes = None if multilabel else [row.labels[0] for row in rows]
        return [rows[i] for i in division.chosen(spec, split, [row.path for row in rows], classes)]
    wanted = is_evaluation(spec, split)
    chosen = [row for row in rows if held_out(row.path) == wanted]
    if not chosen:
        raise UserError(
            f"{spec} has too few pictures to hold some out as {split!r}; add a column split, or set data.holdout."
        )
    return chosen


def splits_of(spec, path, data_dir=None):
    """The splits in a file's column split."""
    table = pathlib.Path(path).expanduser()
    header, lines = _table(table)
    columns = _Columns(table, header, lines)
    return {columns.row(line, cells).split for line, cells in lines} - {None}

"""Answers as a table in a file, CSV, JSON lines or Parquet, written as they come."""

import contextlib
import csv
import io
import json
import pathlib

from kzoo.errors import UsageError, UserError, require
from kzoo.files import replacing
from kzoo.system import Terminated, output_folder, printable, reason

ROWS = 1024  # of a row group of Parquet
MISTAKEN = (".json", ".ndjson", ".tsv", ".txt", ".xls", ".xlsx", ".feather", ".h5")


def rows_of(answer):
    """[{column: value}, ...] of an Answer: of objects one each, of all else one in all; `error` says why there is none.

    Of classes label and probability, then label_2, probability_2, ...; of objects label, score, x0, y0, x1, y1 in
    pixels, a picture without any a row without these; of features feature_0, feature_1, ...; of other answers their
    numbers and texts.
    """
    first = {key: printable(str(answer[key])) for key in ("image", "true_label") if key in answer}
    if "error" in answer:
        return [first | {"error": printable(answer["error"])}]
    if "objects" in answer:
        found = [
            {"label": printable(one["label"]), "score": one["score"]}
            | dict(zip(("x0", "y0", "x1", "y1"), map(float, one["box"]), strict=True))
            for one in answer["objects"]
        ]
        return [first | one for one in found or [{}]]
    if "classes" in answer:
        for place, one in enumerate(answer["classes"], 1):
            after = "" if place == 1 else f"_{place}"
            first |= {f"label{after}": printable(one["label"]), f"probability{after}": one["probability"]}
    elif "features" in answer:
        first |= {f"feature_{i}": float(value) for i, value in enumerate(answer.outputs["features"])}
    else:
        first |= {key: value for key, value in answer.items() if isinstance(value, (int, float, str))}
    return [first]


def columns_of(answer):
    """{column: type} of the tables that hold such an answer; of the error of one picture, those of no answer."""
    if "objects" in answer:
        return {"label": str} | dict.fromkeys(("score", "x0", "y0", "x1", "y1"), float)
    values = rows_of(answer)[0]
    return {key: type(value) for key, value in values.items() if key not in ("image", "true_label", "error")}


class Table:
    """A file of rows: add() for each Answer in turn, in a `with` that closes it. Ended by SIGTERM or from the keyboard,
    it holds what was added before.

    The columns are `image`, `true_label` where `labelled`, those of the first answer, and `error`; pictures without an
    answer that come before it wait for it. Raises UserError where nothing can be written.
    """

    def __init__(self, path, labelled=False):
        self.path, self._labelled = path, labelled
        self._columns, self._early = None, []

    def __enter__(self):
        output_folder(self.path.parent)
        with self._told():
            self._open()
        return self

    def __exit__(self, kind, error, trace):
        whole = kind is None or issubclass(kind, (Terminated, KeyboardInterrupt))
        with self._told():
            try:
                if whole and self._columns is None:
                    self._begin({})
            finally:
                self._close(whole)

    def add(self, answer):
        with self._told():
            if self._columns is None:
                if "error" in answer:
                    self._early += rows_of(answer)
                    return
                self._begin(columns_of(answer))
            self._write(rows_of(answer))

    def _begin(self, own):
        self._columns = {"image": str} | ({"true_label": str} if self._labelled else {}) | own | {"error": str}
        self._head()
        self._write(self._early)

    @contextlib.contextmanager
    def _told(self):
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({reason(error)}); make room or name another file."
            ) from error

    def _open(self):
        # without Python's own buffer: what was written survives the process
        self._file = open(self.path, "wb", buffering=0)

    def _head(self):
        """Writes what stands before the rows."""

    def _write(self, rows):
        raise NotImplementedError

    def _close(self, whole):
        self._file.close()

    def _append(self, text):
        """Whole rows at once."""
        left = memoryview(text.encode())
        while left:
            left = left[self._file.write(left) :]


class Csv(Table):
    def _head(self):
        self._text([self._columns])

    def _write(self, rows):
        self._text([[row.get(column, "") for column in self._columns] for row in rows])

    def _text(self, rows):
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._append(text.getvalue())


class JsonLines(Table):
    """What `--json` tells of each picture, a line each, and the vector of features."""

    def add(self, answer):
        vector = {"vector": [float(value) for value in answer.outputs["features"]]} if "features" in answer else {}
        with self._told():
            self._append(json.dumps(answer | vector) + "\n")

    def _begin(self, own):
        """Has no columns."""


class Parquet(Table):
    """By groups of rows into a file beside, which comes into place when it is whole."""

    def _open(self):
        self._stack, self._rows, self._writer = contextlib.ExitStack(), [], None
        self._temporary = self._stack.enter_context(replacing(self.path))
        open(self._temporary, "wb").close()  # which tells before the work whether it can be written

    def _head(self):
        import pyarrow
        from pyarrow import parquet

        kinds = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int64(), bool: pyarrow.bool_()}
        self._schema = pyarrow.schema([(name, kinds[kind]) for name, kind in self._columns.items()])
        self._writer = parquet.ParquetWriter(self._temporary, self._schema)

    def _write(self, rows):
        self._rows += rows
        if len(self._rows) >= ROWS:
            self._group()

    def _group(self):
        import pyarrow

        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def _close(self, whole):
        if not whole:
            with contextlib.suppress(OSError):
                if self._writer is not None:
                    self._writer.close()
            self._stack.__exit__(OSError, OSError(), None)  # which removes it
            return
        if self._rows:
            self._group()
        self._writer.close()
        self._stack.close()


KINDS = {".csv": Csv, ".jsonl": JsonLines, ".parquet": Parquet}


def table_of(path, labelled=False):
    """The Table of a file by its suffix; None for what names a folder to draw into.

    Raises UsageError for the suffix of a file of another kind, MissingPackage for Parquet without its package,
    UserError where nothing can be written.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if path.is_dir() or suffix not in KINDS and (suffix not in MISTAKEN or path.exists()):
        return None
    if suffix in MISTAKEN:
        raise UsageError(f"--out takes FILE.csv, .jsonl or .parquet, or a folder to draw into, not {path}.")
    if suffix == ".parquet":
        require("pyarrow", why="writing Parquet")
    output_folder(path.parent, make=False)
    return KINDS[suffix](path, labelled)

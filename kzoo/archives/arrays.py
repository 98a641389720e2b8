"""NumPy's .npz archives: each array's header is compared with what the archive holds before anything is allocated."""

import math
import tokenize
from dataclasses import dataclass

import numpy as np

from kzoo.archives.reading import damaged, parsing
from kzoo.archives.zips import check_sums, open_zip, read_into

_NPY_HEADER = 4096  # characters; that of an array of numbers has about 100


@dataclass(frozen=True)
class Header:
    """What a member's header tells: shape, NumPy dtype, whether column-major; `skipped` are its own bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    column_major: bool
    skipped: int

    @property
    def nbytes(self):
        """Python's integers: a made-up shape does not wrap around."""
        return math.prod(self.shape) * self.dtype.itemsize


class Arrays:
    """An .npz of plain arrays, no pickled objects. `headers` {name: Header} are known at once, values when they are
    read.
    """

    def __init__(self, path):
        self.path, self.archive = path, open_zip(path)
        self.headers = {}
        for member in self.archive.infolist():
            if not member.filename.endswith(".npy"):
                raise damaged(path, f"its member {member.filename!r} is no array")
            self.headers[member.filename[:-4]] = self._header(member)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.archive.close()

    def check_sums(self):
        """Reads every member against its CRC. Raises UserError for a wrong one."""
        check_sums(self.archive, self.path)

    def _header(self, member):
        # the headers are Python literals
        with parsing(self.path, tokenize.TokenError), self.archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise damaged(
                    self.path,
                    f"{member.filename} has a header of version {version}, which arrays of numbers do not need",
                )
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, column_major, dtype = read(file, max_header_size=_NPY_HEADER)
            if dtype.hasobject:
                raise damaged(self.path, f"{member.filename} is a pickled Python object, which is never run")
            header, held = Header(shape, dtype, column_major, file.tell()), member.file_size - file.tell()
            if min(shape, default=0) < 0 or header.nbytes != held or not dtype.itemsize:
                raise damaged(self.path, f"{member.filename} declares {header.nbytes} bytes and holds {held}")
            return header

    def read(self, name):
        """The array `name`, in the dtype it is stored in. Raises UserError where its bytes are damaged."""
        header = self.headers[name]
        with parsing(self.path), self.archive.open(f"{name}.npy") as file:
            file.read(header.skipped)
            array = np.empty(header.shape[::-1] if header.column_major else header.shape, header.dtype)
            read_into(file, memoryview(array.reshape(-1).view(np.uint8)), self.path)
        return array.T if header.column_major else array

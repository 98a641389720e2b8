"""NumPy archives: Google's published ViTs and big_vision, and the checkpoint of a run of kzoo."""

import pathlib
import tokenize

import numpy as np

from kzoo.weights.formats.base import Checkpoint, damaged, entry, loads, numpy_dtype, parsing
from kzoo.weights.formats.zips import check_sums, open_zip, read_into

CHECKPOINT = "checkpoint.npz"  # of a run
_NPY_HEADER = 4096  # characters; that of an array of numbers has about 100


class Npz(Checkpoint):
    """An .npz of arrays of numbers. Two-byte void is bfloat16, which NumPy's format cannot name (big_vision's files hold it)."""

    format = "npz"

    def __init__(self, path):
        super().__init__(path)
        self._archive = open_zip(path)
        self._layout = {}  # name: (bytes before the data, NumPy dtype, whether column-major)
        for member in self._archive.infolist():
            name, ending = member.filename[:-4], member.filename[-4:]
            if ending != ".npy":
                raise damaged(path, f"its member {member.filename!r} is no array")
            self.tensors[name], self._layout[name] = self._header(name, member)

    def close(self):
        self._archive.close()

    def check_sums(self):
        """Every member's, of arrays that nobody reads too: a run whose optimizer's state is damaged is a damaged run."""
        check_sums(self._archive, self.path)

    def _header(self, name, member):
        """(Tensor, layout) of a member, its declared size compared with what the archive holds before anything is allocated."""
        with parsing(self.path, tokenize.TokenError), self._archive.open(member) as file:  # the headers are Python literals
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise damaged(self.path, f"{member.filename} has a header of version {version}, which arrays of numbers do not need")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, column_major, dtype = read(file, max_header_size=_NPY_HEADER)
            if dtype.hasobject:
                raise damaged(self.path, f"{member.filename} is a pickled Python object, which is never run")
            tensor = entry(self.path, name, shape, "bfloat16" if dtype.str == "|V2" else dtype.name)
            held = member.file_size - file.tell()
            if min(shape, default=0) < 0 or tensor.nbytes != held:
                raise damaged(self.path, f"{member.filename} declares {tensor.nbytes} bytes and holds {held}")
            return tensor, (file.tell(), dtype, column_major)

    def stored(self, name):
        tensor, (skipped, dtype, column_major) = self.tensors[name], self._layout[name]
        with parsing(self.path), self._archive.open(f"{name}.npy") as file:
            file.read(skipped)
            array = np.empty(tensor.shape[::-1] if column_major else tensor.shape, dtype)
            read_into(file, memoryview(array.reshape(-1).view(np.uint8)), self.path)
        native = numpy_dtype(tensor.dtype)
        array = array.view(native) if tensor.dtype == "bfloat16" else array.astype(native, copy=False)
        return array.T if column_major else array


class Run(Checkpoint):
    """The checkpoint of a run: the weights by their paths, averaged ones where the run keeps an average.

    path: the run's folder, or its checkpoint.npz. meta: what the run wrote beside its arrays.
    """

    format = "run"

    def __init__(self, path):
        file = pathlib.Path(path, CHECKPOINT) if pathlib.Path(path).is_dir() else path
        super().__init__(path, [file])
        self._archive = Npz(file)
        self.meta = loads(self._archive.stored("meta").tobytes(), file) if "meta" in self._archive.tensors else {}
        self._keys = {}  # path of a weight: name in the archive
        for prefix in ("weights/", "average/"):  # the second wins
            self._keys |= {key.removeprefix(prefix): key for key in self._archive.tensors if key.startswith(prefix)}
        self.tensors = {weight: self._archive.tensors[key] for weight, key in self._keys.items()}

    def close(self):
        self._archive.close()

    def check_sums(self):
        self._archive.check_sums()

    def stored(self, name):
        return self._archive.stored(self._keys[name])

    def _plain_spec(self):
        return self.meta["spec"]

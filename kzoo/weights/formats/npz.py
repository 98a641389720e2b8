"""NumPy archives: Google's published ViTs and big_vision, and the checkpoint of a run of kzoo."""

import pathlib

from kzoo.archives.arrays import Arrays
from kzoo.archives.reading import TEXT_LIMIT, damaged, loads
from kzoo.archives.zips import SEAL, check_seal
from kzoo.weights.formats.base import Checkpoint, entry, numpy_dtype

CHECKPOINT = "checkpoint.npz"  # of a run


class Npz(Checkpoint):
    """An .npz of arrays of numbers. Two-byte void is bfloat16, which NumPy's format cannot name (big_vision's files
    hold it).
    """

    format = "npz"

    def __init__(self, path):
        super().__init__(path)
        self._arrays = Arrays(path)
        for name, header in self._arrays.headers.items():
            self.tensors[name] = entry(
                path, name, header.shape, "bfloat16" if header.dtype.str == "|V2" else header.dtype.name
            )

    def close(self):
        self._arrays.archive.close()

    def check_sums(self):
        """Every member's, of arrays that nobody reads too: a run whose optimizer's state is damaged is a damaged
        run.
        """
        self._arrays.check_sums()

    def stored(self, name):
        array, native = self._arrays.read(name), numpy_dtype(self.tensors[name].dtype)
        return array.view(native) if native.name == "bfloat16" else array.astype(native, copy=False)

    def meta(self):
        """What a run wrote beside its arrays, {} where there is nothing; the seal is compared with the archive's
        content.

        The members `meta` and the seal are then no longer among the tensors. Raises UserError for a seal that does not
        fit.
        """
        held = self.tensors.pop("meta", None)
        if held and held.nbytes > TEXT_LIMIT:
            raise damaged(self.path, f"its meta takes {held.nbytes} bytes, far more than a run's record does")
        meta = loads(self._arrays.read("meta").tobytes(), self.path) if held else {}
        check_seal(self._arrays.archive, self.path, promised=meta.get("sealed", False))
        self.tensors.pop(SEAL.removesuffix(".npy"), None)
        return meta


class Run(Checkpoint):
    """The checkpoint of a run: the weights by their paths, averaged ones where the run keeps an average.

    path: the run's folder, or its checkpoint.npz. meta: what the run wrote beside its arrays.
    """

    format = "run"

    def __init__(self, path):
        file = pathlib.Path(path, CHECKPOINT) if pathlib.Path(path).is_dir() else path
        super().__init__(path, [file])
        self._archive = Npz(file)
        self.meta = self._archive.meta()
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
        if not isinstance(self.meta.get("spec"), dict):
            raise damaged(self.path, "its meta names no model")
        return self.meta["spec"]

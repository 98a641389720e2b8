"""What checkpoints of all formats share: a table of tensors, checked reading, the spec, the seal, the digest."""

import functools
import hashlib
import json
import math
import pathlib
from dataclasses import dataclass

import numpy as np

from kzoo.archives.reading import REMEDY, damaged, loads, parsing
from kzoo.errors import MissingPackage, UserError

SEAL = "kzoo_sha256"  # the metadata key of a file's fingerprint(), in formats that have no checksum of their own
SPEC = "kzoo_spec"  # the metadata key of a model's Spec, as JSON
FLOATS_16 = ("float16", "bfloat16")
DTYPES = (
    *FLOATS_16,
    "float32",
    "float64",
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
)
_PIECE = 1 << 20  # values that one step of a check looks at


@dataclass(frozen=True)
class Tensor:
    """An entry of a checkpoint's table: its shape and the name of the dtype it is stored in ("float32", "bfloat16",
    ...).
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self):
        """The bytes that the tensor takes uncompressed."""
        # Python's integers: a made-up shape does not wrap around
        return math.prod(self.shape) * numpy_dtype(self.dtype).itemsize


class Checkpoint:
    """An open file, or set of files, of weights. A context manager; nothing in it is trusted and nothing is executed.

    path: what was opened; files: every file that holds a part of it; format: "run", "keras", "weights.h5",
    "safetensors", "torch" or "npz". tensors: {name: Tensor}, known before any of them is read. metadata: the texts the
    file carries beside them, {key: text}. config: the config.json of a Hugging Face folder, else {}. part: the key
    under which they lay, where the file holds several models.
    """

    format, part = "", ""

    def __init__(self, path, files=None):
        self.path = pathlib.Path(path)
        self.files = tuple(files or (self.path,))
        self.tensors, self.metadata, self.config = {}, {}, {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Lets go of the file; arrays that were read stay valid."""

    def stored(self, name):
        """The array `name` in the dtype it is stored in; perhaps read-only, perhaps a view of the mapped file."""
        raise NotImplementedError

    def read(self, name):
        """The array `name`, 16-bit floats widened to float32 (exactly); perhaps read-only, perhaps a view of the mapped
        file.

        Raises UserError where its bytes are damaged.
        """
        array = self.stored(name)
        return array.astype(np.float32) if array.dtype.name in FLOATS_16 else array

    def verify(self, names):
        """Reads the tensors `names` once, holding one at a time. Raises UserError where a checksum, the seal or a value
        is wrong.

        Every value must be finite. A seal covers all tensors and the metadata, so that with one all of them are read.
        """
        self.check_sums()
        seal = self.metadata.get(SEAL)
        if seal is None and SPEC in self.metadata:
            raise damaged(self.path, "kzoo wrote it, but its fingerprint is gone")
        if seal is None:
            for name in names:
                self._require_finite(name, self.stored(name))
        elif fingerprint(self._checked(set(names)), self.metadata) != seal:
            raise UserError(
                f"{self.path} was changed after it was written: its tensors do not have the fingerprint it carries; "
                f"{REMEDY}."
            )

    def check_sums(self):
        """Compares the file with the checksums of its format, of those that reading the tensors does not compare.
        Raises UserError.
        """

    def digest(self):
        """SHA-256 of the file; of several files, that of the lines `SHA-256  NAME` in the order of their names (as
        sha256sum prints).
        """
        with parsing(self.path):
            sums = {}
            for path in self.files:
                with open(path, "rb") as file:
                    sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        if len(sums) == 1:
            return next(iter(sums.values()))
        return hashlib.sha256("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()).hexdigest()

    @functools.cached_property
    def spec(self):
        """The kzoo.specs.Spec of the model whose weights these are, where kzoo wrote it into the file; else None.

        Raises UserError for one that is malformed, or names what this version does not have.
        """
        from kzoo import registry
        from kzoo.models.base import spec_from_dict

        plain = self._plain_spec()
        try:
            spec = spec_from_dict(plain) if plain is not None else None
            if spec:
                registry.config_of(spec.name, spec.overrides)
        except MissingPackage:
            raise
        except (ValueError, TypeError, ArithmeticError) as error:  # UserError is a ValueError
            told = str(error).rstrip(".?")
            raise UserError(
                f"the spec in {self.path} is not one that this version of kzoo can use: {told}; "
                f"load it with the version that wrote it, or {REMEDY}."
            ) from error
        return spec

    def _plain_spec(self):
        return loads(self.metadata[SPEC], self.path) if SPEC in self.metadata else None

    def _checked(self, names):
        for name in sorted(self.tensors):
            array = self.stored(name)
            if name in names:
                self._require_finite(name, array)
            yield name, array

    def _require_finite(self, name, array):
        if not is_finite(array):
            raise UserError(
                f"{self.path} holds NaN or infinity in {name}: it was saved from a model that had diverged, or is "
                f"damaged; {REMEDY}."
            )


def numpy_dtype(name):
    """The NumPy dtype of a stored dtype's name; bfloat16 is ml_dtypes'."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def entry(path, name, shape, dtype):
    """The Tensor of a table. Raises UserError for a dtype that weights do not have (complex, text, objects, ...)."""
    if dtype not in DTYPES:
        raise UserError(f"{path} stores {name} as {dtype}, which kzoo does not read; save it as float32.")
    return Tensor(tuple(int(side) for side in shape), dtype)


def is_finite(array):
    """Whether an array holds neither NaN nor infinity; takes no memory of the array's size where its values lie close
    together.
    """
    if array.dtype.kind in "biu":
        return True
    flat = array.reshape(-1) if array.flags.c_contiguous else array.ravel(order="K")
    return all(_piece_is_finite(flat[i : i + _PIECE]) for i in range(0, flat.size, _PIECE))


def _piece_is_finite(piece):
    exponent = {"float16": 0x7C00, "bfloat16": 0x7F80}.get(piece.dtype.name)  # all ones in NaN and infinity
    if exponent:
        return not ((piece.view(np.uint16) & exponent) == exponent).any()
    with np.errstate(all="ignore"):
        total = np.dot(piece, piece)  # fast; not finite if any value is not, or if the squares overflow
    return bool(np.isfinite(total) or np.isfinite(piece).all())


def fingerprint(items, metadata=None):
    """SHA-256, in hex, over (name, array) pairs in the order given, which must be that of the sorted names, and {key:
    text} metadata.

    Covered are the names, dtypes, shapes and values (little-endian, row-major) and all metadata but the seal itself.
    Two contents never feed the hash the same bytes: every part comes after its length.
    """
    sha = hashlib.sha256()
    texts = sorted((key, text) for key, text in (metadata or {}).items() if key != SEAL)
    sha.update(json.dumps(texts).encode() + b"\n")
    for name, array in items:
        sha.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode() + b"\n")
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        sha.update(np.ascontiguousarray(little).reshape(-1).view(np.uint8))
    return sha.hexdigest()

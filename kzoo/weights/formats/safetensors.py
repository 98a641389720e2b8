"""safetensors: a JSON header, then the tensors' bytes (https://huggingface.co/docs/safetensors)."""

import numpy as np

from kzoo.archives.reading import JSON_LIMIT, damaged, loads, parsing
from kzoo.errors import require
from kzoo.weights.formats.base import Checkpoint, entry, numpy_dtype

_DTYPES = {
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "BOOL": "bool"},
    **{
        f"{letter}{bits}": f"{kind}{bits}" for letter, kind in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
    },
}


class Safetensors(Checkpoint):
    """One .safetensors file. The safetensors library validates it; the tensors are views of the mapped file, copied by
    nobody.
    """

    format = "safetensors"

    def __init__(self, path):
        super().__init__(path)
        require("safetensors", why="reading .safetensors files")
        import safetensors

        # The library checks every offset, size and dtype, but of a name that comes twice it silently takes one.
        with (
            parsing(path, safetensors.SafetensorError),
            safetensors.safe_open(path, framework="numpy"),
            open(path, "rb") as file,
        ):
            length = int.from_bytes(file.read(8), "little")
            if length > JSON_LIMIT:
                raise damaged(path, f"its header claims {length} bytes")
            header = loads(file.read(length), path)
            self.metadata = header.pop("__metadata__", None) or {}
            self.tensors = {
                name: entry(path, name, e["shape"], _DTYPES.get(e["dtype"], e["dtype"])) for name, e in header.items()
            }
            self._spans = {name: [8 + length + offset for offset in e["data_offsets"]] for name, e in header.items()}
            self._bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def close(self):
        self._bytes = None

    def stored(self, name):
        tensor, (start, end) = self.tensors[name], self._spans[name]
        return self._bytes[start:end].view(np.ndarray).view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)

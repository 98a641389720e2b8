"""What torch.save writes: zip archives, and the plain pickles from before torch 1.6. Loaded as tensors only; no code in
them is run.
"""

import argparse
import pickle
import re

from kzoo.archives.reading import REMEDY, damaged
from kzoo.archives.zips import check_sums, most_unpacked, open_zip
from kzoo.errors import UserError, require
from kzoo.weights.formats.base import Checkpoint, entry

# Where training scripts keep the weights in what they save, averaged ones first, as timm reads them, and of a teacher
# and a student the teacher, an average too, which DINO evaluates. `ema` holds a `module` (RT-DETR).
_AVERAGED = ("state_dict_ema", "model_ema", "ema", "params_ema")
_WRAPPERS = (
    *_AVERAGED,
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
    "teacher",
    "student",
)


class Torch(Checkpoint):
    """A file of torch.save: a dictionary of tensors, perhaps wrapped.

    Of several wrappers the averaged weights win, in the order of _WRAPPERS; one may lie in another. `part` tells which
    was taken where the file holds several. What is no tensor is dropped. Raises MissingPackage without torch, UserError
    for a pickle that asks for code.
    """

    format = "torch"

    def __init__(self, path, zipped):
        super().__init__(path)
        require("torch", why="reading torch's .pth, .pt and .bin files")
        self._archive = open_zip(path) if zipped else None
        self._arrays = {}
        size, room = self.path.stat().st_size, most_unpacked(path)
        content = _load(self.path, mapped=zipped)
        found, self.part = _unwrap(content)
        for name, tensor in found.items():
            self.tensors[name] = entry(path, name, tensor.shape, _dtype_of(tensor))
            room -= self.tensors[name].nbytes  # many may share one storage
            if self.tensors[name].nbytes > min(size, room) or tensor.untyped_storage().nbytes() > size:
                raise damaged(path, f"{name} declares more bytes than the file holds")
            self._arrays[name] = tensor
        if not self.tensors:
            keys = (
                ", ".join(map(repr, list(content)[:8]))
                if isinstance(content, dict) and content
                else f"a {type(content).__name__}"
            )
            raise UserError(
                f"{path} holds no tensors where weights are looked for, by names or under {', '.join(_WRAPPERS)}: it "
                f"holds {keys}; "
                "save the model's state_dict alone."
            )

    def close(self):
        self._arrays = {}
        if self._archive:
            self._archive.close()

    def check_sums(self):
        """Every member of a zip archive, whose tensors torch maps without a look at their CRCs."""
        if self._archive:
            check_sums(self._archive, self.path)

    def stored(self, name):
        import torch

        tensor = self._arrays[name].detach().resolve_conj().resolve_neg()
        if tensor.dtype != torch.bfloat16:  # which NumPy does not know
            return tensor.numpy()
        import ml_dtypes

        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _load(path, mapped):
    """What torch.load gives, tensors and plain containers only; tensors of a zip archive are mapped, not read."""
    import torch

    try:  # published DeiT and DETR files hold the command line's Namespace, which is data
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # its unpickler, fed broken bytes, fails in any way Python knows
        if isinstance(error, pickle.UnpicklingError):  # torch's own text advises to run it
            asked = re.search(r"GLOBAL (\S+)", str(error))
            what = f" (it asks for {asked[1].rstrip('.')})" if asked else " or is damaged"
            raise UserError(
                f"{path} holds more than tensors{what}; what else a pickle holds "
                "is code and is never run: save the model's state_dict alone."
            ) from error
        told = (str(error) or type(error).__name__).splitlines()[0][:200].rstrip(".")
        raise UserError(
            f"{path} cannot be read by torch: it is damaged or not what it seems ({told}); {REMEDY}."
        ) from error


def _unwrap(content, depth=3):
    """({name: tensor}, the key under which they lay, "" unless other tensors lay beside it) of what a file holds; see
    Torch.
    """
    import torch

    if not isinstance(content, dict):
        return {}, ""
    inner = {key: content[key] for key in _WRAPPERS if depth and isinstance(content.get(key), dict)}
    holding = {key: found for key, part in inner.items() if (found := _unwrap(part, depth - 1))[0]}
    for key, (tensors, below) in holding.items():  # the best first
        return tensors, below or (key if len(holding) > 1 else "")
    return {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }, ""


def _dtype_of(tensor):
    """The name of the dtype; that of the layout for what is no plain array, which entry() then refuses."""
    plain = str(tensor.layout) == "torch.strided" and not tensor.is_quantized and tensor.device.type == "cpu"
    return str(tensor.dtype if plain else tensor.layout).removeprefix("torch.")

"""What torch.save writes: zip archives, and the plain pickles from before torch 1.6. Loaded as tensors only; no code in them is run."""

import argparse
import pickle
import re

from kzoo.archives.reading import REMEDY, damaged
from kzoo.archives.zips import check_sums, open_zip
from kzoo.errors import UserError, require
from kzoo.weights.formats.base import Checkpoint, entry

# Where training scripts keep the weights in what they save, averaged ones first, as timm reads them. `ema` holds a `module` (RT-DETR).
_WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model")


class Torch(Checkpoint):
    """A file of torch.save: a dictionary of tensors, perhaps wrapped.

    Of several wrappers the averaged weights win: `state_dict_ema`, `model_ema`, `ema.module`, then `state_dict`, `model`; one may lie in
    another. What is no tensor is dropped. Raises MissingPackage without torch, UserError for a pickle that asks for code.
    """

    format = "torch"

    def __init__(self, path, zipped):
        super().__init__(path)
        require("torch", why="reading torch's .pth, .pt and .bin files")
        self._archive = open_zip(path) if zipped else None
        self._arrays = {}
        size = self.path.stat().st_size
        for name, tensor in _unwrap(_load(self.path, mapped=zipped)).items():
            self.tensors[name] = entry(path, name, tensor.shape, _dtype_of(tensor))
            if self.tensors[name].nbytes > size or tensor.untyped_storage().nbytes() > size:
                raise damaged(path, f"{name} declares more bytes than the file holds")
            self._arrays[name] = tensor
        if not self.tensors:
            raise UserError(f"{path} holds no tensors: it is no checkpoint of weights; give the file that holds the model's state_dict.")

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
        raise UserError(f"{path} cannot be read by torch: it is damaged or not what it seems ({told}); {REMEDY}.") from error


def _unwrap(content, depth=2):
    """{name: tensor} of what a file holds; see Torch."""
    import torch

    if not isinstance(content, dict):
        return {}
    for key in _WRAPPERS if depth else ():
        inner = content.get(key)
        inner = inner.get("module", inner) if key == "ema" and isinstance(inner, dict) else inner
        if isinstance(inner, dict) and (found := _unwrap(inner, depth - 1)):
            return found
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}


def _dtype_of(tensor):
    """The name of the dtype; that of the layout for what is no plain array, which entry() then refuses."""
    plain = str(tensor.layout) == "torch.strided" and not tensor.is_quantized and tensor.device.type == "cpu"
    return str(tensor.dtype if plain else tensor.layout).removeprefix("torch.")

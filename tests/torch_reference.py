"""The torch reference implementations, importable wherever torch is: `import_timm()`."""

import importlib
import importlib.util
import pathlib
import re

_LIBRARIES = []  # torch forgets a library's operators when the library object is collected


def _declare_operators():
    """Declares the compiled operators that importing torchvision registers shapes for; declared, not implemented, they
    suffice.
    """
    import torch

    source = (
        pathlib.Path(importlib.util.find_spec("torchvision").origin).with_name("_meta_registrations.py").read_text()
    )
    library = torch.library.Library("torchvision", "DEF")
    for name in re.findall(r'register_fake\("torchvision::(\w+)"\)', source):
        library.define(f"{name}(Tensor x) -> Tensor")
    _LIBRARIES.append(library)


def import_timm(module="timm"):
    """timm or a module of it, also beside a CPU build of torch, for which pip finds no torchvision whose operators
    load.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _declare_operators()
    return importlib.import_module(module)

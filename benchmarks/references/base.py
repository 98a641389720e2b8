"""What every reference shares: random weights, files, and the outputs that kzoo's are compared with."""

import hashlib
import re

import numpy as np

from kzoo.models.vit import VitConfig
from kzoo.registry import config_of
from tests.torch_reference import import_timm

PLAIN = {  # the fields of a VitConfig, or of a hybrid's, that tell architectures apart, and what the original ViT has
    **{"class_token": True, "reg_tokens": 0, "pos_embed": "learned", "no_embed_class": False, "qkv_bias": True},
    **{"global_pool": "token", "norm_after_pooling": False, "pre_norm": False, "qk_norm": False, "init_values": None},
    **{"stem": "patch", "stride": None, "head_dim": None, "representation_size": None, "backbone": None},
}
# how the tensors of torch's batch norms end that count batches; no number depends on them
COUNTER = "num_batches_tracked"


def anything(value):
    return True


def one_of(*values):
    return lambda value: value in values


def square(size):
    return size[0] == size[1]


class Reference:
    """One model of another library, every weight and every running statistic random and none at a constant.

    name, overrides: as for kzoo.get. layout: of kzoo.save_weights, what `accepts` takes, or None. exact: what kzoo
    writes in that layout has the very tensors of the reference's own file. reader: who, other than kzoo, reads the
    format. of: the class of configurations it is for. rules: {field: test of its value}, for vision transformers where
    the library's architectures are others than PLAIN. layers: the names of the layers of kzoo's whose outputs are
    compared, in order.
    """

    of = VitConfig
    format = layout = reader = ""
    blocks = "blocks"  # where the module keeps its blocks
    exact = True
    rules = {}

    def __init__(self, name, overrides=None, seed=0):
        import torch

        import_timm()  # transformers too imports torchvision
        self.name, self.overrides = name, overrides or {}
        self.config = config_of(name, self.overrides)[1]
        torch.manual_seed(seed)
        self.module = self.build().eval()
        randomise(self.module)
        self.layers = list(self.taps(self.module))

    @classmethod
    def covers(cls, config):
        """Whether the library, and the format, have the architecture of that configuration."""
        plain = {field: one_of(value) for field, value in PLAIN.items()} if issubclass(cls.of, VitConfig) else {}
        return isinstance(config, cls.of) and all(
            test(getattr(config, field, None)) for field, test in (plain | cls.rules).items()
        )

    def build(self):
        """The module as the library initialises it."""
        raise NotImplementedError

    def write(self, folder):
        """Writes the weights into a new folder and returns the path that kzoo is given: of a file, or of the folder."""
        raise NotImplementedError

    def accepts(self, path):
        """A module that the library has read, strictly, from what kzoo saved in `layout`. Raises where a tensor is
        missing or too much.
        """
        raise NotImplementedError

    def taps(self, module):
        """{name of a layer of kzoo's model: the module that computes the same}, in order."""
        return {f"blocks_{i}": block for i, block in enumerate(module.get_submodule(self.blocks))}

    def result(self, output):
        """The logits or the pooled vector (B, ...) among what the module returns."""
        return output

    @property
    def title(self):
        """What built the module, for a reader."""
        return type(self.module).__name__

    def parameters(self):
        """How many weights kzoo's model of this module has."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def images(self, batch=1, seed=1):
        """Normally distributed pictures (B, H, W, C) float32 of the model's size."""
        shape = (batch, *self.config.size, self.config.in_channels)
        return np.random.default_rng(seed).normal(size=shape).astype("float32")

    def called(self, module, images):
        """What the module returns of images()."""
        import torch

        return module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))

    def outputs(self, images, module=None):
        """[the output of every one of `layers` (B, N, D) or (B, H, W, C), ..., the result (B, ...)] of what images()
        gives.
        """
        import torch

        module = self.module if module is None else module
        recorded, hooks = {}, []
        for name, part in self.taps(module).items():
            hooks.append(part.register_forward_hook(lambda _, args, output, name=name: recorded.update({name: output})))
        with torch.no_grad():
            result = self.result(self.called(module, images))
        for hook in hooks:
            hook.remove()
        outputs = {name: recorded[name] for name in self.layers} | {None: result}
        return [
            self.arranged(name, output[0] if isinstance(output, tuple) else output) for name, output in outputs.items()
        ]

    def arranged(self, name, tensor):
        """The output of a layer, or the result (None), as kzoo has it: an array, of a map (B, H, W, C)."""
        return np.asarray(tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor)


def randomise(module):
    """Draws every parameter and running statistic anew, so large that no part of the model is too weak for a mistake in
    it to be seen.

    Libraries start biases, norms and tokens at constants, LayerScale and a residual block's last norm at or near 0, and
    kernels so small that even another activation would hardly show in the results of a toy.
    """
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if re.search(r"\.(gamma|lambda1)$", name):
                parameter.normal_(0.5, 0.1)
            elif name.endswith("weight") and parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            elif name.endswith("weight"):
                parameter.normal_(1, 0.1)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for name, statistic in module.named_buffers():
            if name.endswith("running_mean"):
                statistic.normal_(0, 0.3)
            elif name.endswith("running_var"):
                statistic.uniform_(0.5, 1.5)
            elif name.endswith(".weight"):  # of frozen batch norms
                statistic.normal_(1, 0.1)
            elif name.endswith(".bias"):
                statistic.normal_(0, 0.1)


def fingerprints(module):
    """{name: SHA-256 of the tensor}."""
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in module.state_dict().items()}

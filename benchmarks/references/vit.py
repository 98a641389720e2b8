"""timm's vision transformers, in safetensors and in Google's .npz."""

import functools

import numpy as np

from benchmarks.references.base import COUNTER, Reference, anything, fingerprints, one_of
from tests.torch_reference import import_timm


class Timm(Reference):
    """timm's model of the row's name; where timm has none, its VisionTransformer in the row's settings."""

    format, layout = "safetensors", "timm"
    reader = "timm.models.load_state_dict and a strict load_state_dict"
    rules = {
        **dict.fromkeys(("class_token", "reg_tokens", "no_embed_class", "qkv_bias"), anything),
        **dict.fromkeys(("norm_after_pooling", "pre_norm", "qk_norm", "init_values"), anything),
        **{"pos_embed": one_of("learned", "none"), "global_pool": one_of("token", "avg", "map")},
    }
    fields = {  # of the configuration: what timm calls them
        **{
            name: name
            for name in (
                "patch_size",
                "embed_dim",
                "depth",
                "num_heads",
                "mlp_ratio",
                "qkv_bias",
                "qk_norm",
                "init_values",
            )
        },
        **{
            name: name
            for name in (
                "num_classes",
                "class_token",
                "reg_tokens",
                "no_embed_class",
                "pre_norm",
                "global_pool",
                "fc_norm",
            )
        },
        **{
            "image_size": "img_size",
            "in_channels": "in_chans",
            "act": "act_layer",
            "norm_eps": "norm_layer",
            "pos_embed": "pos_embed",
        },
    }

    @classmethod
    def arguments(cls, settings):
        """kzoo's words for an architecture in timm's."""
        import torch

        said = {cls.fields[key]: value for key, value in settings.items()}
        if "norm_layer" in said:
            said["norm_layer"] = functools.partial(torch.nn.LayerNorm, eps=said["norm_layer"])
        if "pos_embed" in said:
            said["pos_embed"] = {"learned": "learn", "none": "none"}[said["pos_embed"]]
        return said

    def build(self, **settings):
        timm = import_timm()
        if self.listed:
            said = self.arguments({"num_classes": self.config.num_classes} | self.overrides)
            return timm.create_model(self.name, **said | settings)
        said = self.arguments({field: getattr(self.config, field) for field in self.fields})
        return timm.models.VisionTransformer(**said | settings)

    @property
    def listed(self):
        """Whether timm has a model of the row's name."""
        return self.name in import_timm().list_models()

    @property
    def title(self):
        return "timm" if self.listed else "timm's VisionTransformer"

    def write(self, folder):
        from safetensors.torch import save_file

        folder.mkdir()
        save_file(self.module.state_dict(), folder / "model.safetensors")
        return folder / "model.safetensors"

    def unfilled(self):
        """A module for weights to be read into, its own ones in no memory."""
        import torch

        with torch.device("meta"):
            return self.build(weight_init="skip")

    def accepts(self, path):
        """As in Reference; the batch counters of torch's batch norms alone may be missing, and are 0 then."""
        import torch

        module, state = self.unfilled().eval(), import_timm("timm.models").load_state_dict(str(path))
        counters = {name: torch.tensor(0) for name in module.state_dict() if name.endswith(COUNTER)}
        module.load_state_dict(counters | state, strict=True, assign=True)
        return module


class GoogleNpz(Timm):
    """Google's ViT: timm's module with the tanh GELU of the original code, its weights read by timm from an .npz
    file.
    """

    format, layout = "npz", None
    reader = "timm's VisionTransformer.load_pretrained"
    big_vision = False
    prefix = ""  # of every name in the file
    rules = {}

    @property
    def title(self):
        return "timm, tanh GELU"

    def build(self, **settings):
        return super().build(act_layer="gelu_tanh", **settings)

    def write(self, folder):
        import torch

        folder.mkdir()
        path = folder / "model.npz"
        state = {name: tensor.numpy() for name, tensor in self.module.state_dict().items()}
        np.savez(path, **{self.prefix + name: array for name, array in self.arrays(state).items()})
        before = fingerprints(self.module)
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.zero_()
            self.module.load_pretrained(str(path))
        if fingerprints(self.module) != before:
            raise ValueError(f"timm read other weights from {path} than were written")
        return path

    def arrays(self, state):
        """The file's content without the prefix, from timm's weights {name: array}."""
        return to_npz(state, self.config.num_heads, self.config.depth, self.big_vision)


class BigVisionNpz(GoogleNpz):
    """big_vision's ViT without a class token, pooled by the mean or by attention."""

    big_vision, prefix = True, "params/"
    rules = {"class_token": one_of(False), "global_pool": one_of("avg", "map")}


def to_npz(state, heads, depth, big_vision=False):
    """{name in Google's .npz: array} of timm's weights {name: array}.

    Dense kernels are (in, out); those of the attention have their heads apart, (D, heads, head_dim) and back (heads,
    head_dim, D). Names of https://github.com/google-research/vision_transformer, or
    https://github.com/google-research/big_vision.
    """
    attention, mlp, second = ("MultiHeadDotProductAttention_0", "MlpBlock_0", "LayerNorm_1")
    if not big_vision:
        attention, mlp, second = ("MultiHeadDotProductAttention_1", "MlpBlock_3", "LayerNorm_2")
    positions = "pos_embedding" if big_vision else "Transformer/posembed_input/pos_embedding"
    arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
    }
    arrays[positions] = state["pos_embed"]

    def norm(target, source):
        arrays[f"{target}/scale"], arrays[f"{target}/bias"] = state[f"{source}.weight"], state[f"{source}.bias"]

    def dense(target, source):
        arrays[f"{target}/kernel"], arrays[f"{target}/bias"] = state[f"{source}.weight"].T, state[f"{source}.bias"]

    def attend(target, source, fused):
        for matrix, words in fused.items():
            weights, biases = (np.split(state[f"{source}.{matrix}.{leaf}"], len(words)) for leaf in ("weight", "bias"))
            for word, weight, bias in zip(words, weights, biases, strict=True):
                arrays[f"{target}/{word}/kernel"] = weight.T.reshape(weight.shape[1], heads, -1)
                arrays[f"{target}/{word}/bias"] = bias.reshape(heads, -1)
        out = state[f"{source}.proj.weight"].T
        arrays[f"{target}/out/kernel"] = out.reshape(heads, -1, out.shape[1])
        arrays[f"{target}/out/bias"] = state[f"{source}.proj.bias"]

    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        norm(f"{block}/LayerNorm_0", f"blocks.{i}.norm1")
        attend(f"{block}/{attention}", f"blocks.{i}.attn", {"qkv": ("query", "key", "value")})
        norm(f"{block}/{second}", f"blocks.{i}.norm2")
        for number in (0, 1):
            dense(f"{block}/{mlp}/Dense_{number}", f"blocks.{i}.mlp.fc{number + 1}")
    norm("Transformer/encoder_norm", "norm")
    if "cls_token" in state:
        arrays["cls"] = state["cls_token"]
    if "attn_pool.latent" in state:
        arrays["MAPHead_0/probe"] = state["attn_pool.latent"]
        attend("MAPHead_0/MultiHeadDotProductAttention_0", "attn_pool", {"q": ("query",), "kv": ("key", "value")})
        norm("MAPHead_0/LayerNorm_0", "attn_pool.norm")
        for number in (0, 1):
            dense(f"MAPHead_0/MlpBlock_0/Dense_{number}", f"attn_pool.mlp.fc{number + 1}")
    if "head.weight" in state:
        dense("head", "head")
    return arrays

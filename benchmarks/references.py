"""The reference implementations that kzoo's numbers are held to: random weights, in files of their own formats, and what they compute.

A reference is built by the name of a row of kzoo's, with overrides in kzoo's words. timm and transformers write their files themselves;
Google's .npz is written here, from timm's weights, and counts only once timm's own loader has read those weights back from it.
Needs torch, timm, transformers and safetensors.
"""

import functools
import hashlib
import re

import numpy as np

from kzoo.registry import config_of
from tests.torch_reference import import_timm

PLAIN = {  # the fields of kzoo.models.vit.VitConfig that tell architectures apart, and what the original ViT has
    **{"class_token": True, "reg_tokens": 0, "pos_embed": "learned", "no_embed_class": False, "qkv_bias": True},
    **{"global_pool": "token", "norm_after_pooling": False, "pre_norm": False, "qk_norm": False, "init_values": None},
    **{"stem": "patch", "stride": None, "head_dim": None, "representation_size": None},
}
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}  # as transformers calls them


def anything(value):
    return True


def one_of(*values):
    return lambda value: value in values


def square(size):
    return size[0] == size[1]


class Reference:
    """One model of another library, every weight random and none at a constant.

    name, overrides: as for kzoo.get. layout: of kzoo.save_weights, what `accepts` takes, or None. exact: what kzoo writes in that layout
    has the very tensors of the reference's own file. reader: who, other than kzoo, reads the format. rules: {field: test of its value}
    where the library's architectures are others than PLAIN.
    """

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

    @classmethod
    def covers(cls, config):
        """Whether the library, and the format, have the architecture of that configuration."""
        rules = {field: one_of(value) for field, value in PLAIN.items()} | cls.rules
        return all(test(getattr(config, field)) for field, test in rules.items())

    def build(self):
        """The module as the library initialises it."""
        raise NotImplementedError

    def write(self, folder):
        """Writes the weights into a new folder and returns the path that kzoo is given: of a file, or of the folder."""
        raise NotImplementedError

    def accepts(self, path):
        """A module that the library has read, strictly, from what kzoo saved in `layout`. Raises where a tensor is missing or too much."""
        raise NotImplementedError

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

    def outputs(self, images, module=None):
        """[every block's output (B, N, D), ..., the result (B, ...)] of images (B, H, W, C)."""
        import torch

        module = self.module if module is None else module
        recorded, hooks = [], []
        for block in module.get_submodule(self.blocks):
            hooks.append(block.register_forward_hook(lambda _, args, output: recorded.append(output)))
        with torch.no_grad():
            result = self.result(module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())))
        for hook in hooks:
            hook.remove()
        return [np.asarray(output[0] if isinstance(output, tuple) else output) for output in (*recorded, result)]


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
        **{name: name for name in ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "qk_norm", "init_values")},
        **{name: name for name in ("num_classes", "class_token", "reg_tokens", "no_embed_class", "pre_norm", "global_pool", "fc_norm")},
        **{"image_size": "img_size", "in_channels": "in_chans", "act": "act_layer", "norm_eps": "norm_layer", "pos_embed": "pos_embed"},
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
        if self.name in timm.list_models():
            said = self.arguments({"num_classes": self.config.num_classes} | self.overrides)
            return timm.create_model(self.name, **said | settings)
        said = self.arguments({field: getattr(self.config, field) for field in self.fields})
        return timm.models.VisionTransformer(**said | settings)

    @property
    def title(self):
        return "timm" if self.name in import_timm().list_models() else "timm's VisionTransformer"

    def write(self, folder):
        from safetensors.torch import save_file

        folder.mkdir()
        save_file(self.module.state_dict(), folder / "model.safetensors")
        return folder / "model.safetensors"

    def accepts(self, path):
        import torch

        with torch.device("meta"):
            module = self.build(weight_init="skip").eval()
        state = import_timm("timm.models").load_state_dict(str(path))
        module.load_state_dict(state, strict=True, assign=True)
        return module


class GoogleNpz(Timm):
    """Google's ViT: timm's module with the tanh GELU of the original code, its weights read by timm from an .npz file."""

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
        np.savez(path, **{self.prefix + k: v for k, v in to_npz(state, self.config.num_heads, self.config.depth, self.big_vision).items()})
        before = fingerprints(self.module)
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.zero_()
            self.module.load_pretrained(str(path))
        if fingerprints(self.module) != before:
            raise ValueError(f"timm read other weights from {path} than were written")
        return path


class BigVisionNpz(GoogleNpz):
    """big_vision's ViT without a class token, pooled by the mean or by attention."""

    big_vision, prefix = True, "params/"
    rules = {"class_token": one_of(False), "global_pool": one_of("avg", "map")}


def randomise(module):
    """Draws every parameter anew, so large that no part of the model is too weak for a mistake in it to be seen.

    Libraries start biases, norms and tokens at constants, LayerScale near 0, and kernels so small that even another activation would
    hardly show in the results of a toy.
    """
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if re.search(r"\.(gamma|lambda1)$", name):
                parameter.normal_(0.5, 0.1)
            elif name.endswith("weight") and parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def fingerprints(module):
    """{name: SHA-256 of the tensor}."""
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in module.state_dict().items()}


def to_npz(state, heads, depth, big_vision=False):
    """{name in Google's .npz: array} of timm's weights {name: array}.

    Dense kernels are (in, out); those of the attention have their heads apart, (D, heads, head_dim) and back (heads, head_dim, D).
    Names of https://github.com/google-research/vision_transformer, or https://github.com/google-research/big_vision.
    """
    attention, mlp, second = ("MultiHeadDotProductAttention_0", "MlpBlock_0", "LayerNorm_1")
    if not big_vision:
        attention, mlp, second = ("MultiHeadDotProductAttention_1", "MlpBlock_3", "LayerNorm_2")
    positions = "pos_embedding" if big_vision else "Transformer/posembed_input/pos_embedding"
    arrays = {"embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0), "embedding/bias": state["patch_embed.proj.bias"]}
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


class Transformers(Reference):
    """A model of transformers; its folder holds config.json and model.safetensors. `model`, `config_class`: names of its classes."""

    format, layout = "safetensors, config.json", "hf"
    model = config_class = ""
    reader = "from_pretrained, nothing missing or unexpected"
    answer = "pooler_output"  # the result among what the module returns

    def settings(self):
        """Arguments of the configuration class beyond those that all have."""
        raise NotImplementedError

    def build(self):
        import transformers

        config = self.config
        side = config.size[0] if config.size[0] == config.size[1] else list(config.size)
        settings = dict(image_size=side, patch_size=config.patch_size, num_channels=config.in_channels, hidden_size=config.embed_dim)
        settings |= dict(num_hidden_layers=config.depth, num_attention_heads=config.num_heads, hidden_act=ACTIVATIONS[config.act])
        return getattr(transformers, self.model)(getattr(transformers, self.config_class)(**settings | self.settings()))

    def result(self, output):
        return output[self.answer]

    def write(self, folder):
        self.module.save_pretrained(folder)
        return folder

    def accepts(self, path):
        import transformers

        module, told = getattr(transformers, self.model).from_pretrained(path, output_loading_info=True)
        if wrong := {what: found for what, found in told.items() if found}:
            raise ValueError(f"{self.model}.from_pretrained did not take {path} as it is: {wrong}")
        return module.eval()


class HfVit(Transformers):
    """The plain ViT with a classifier, its norms with transformers' epsilon of 1e-12."""

    model, config_class, blocks, answer = "ViTForImageClassification", "ViTConfig", "vit.layers", "logits"

    rules = {"qkv_bias": anything, "num_classes": bool}

    def settings(self):
        config = self.config
        mlp = int(config.embed_dim * config.mlp_ratio)
        return {"intermediate_size": mlp, "qkv_bias": config.qkv_bias, "num_labels": config.num_classes}


class HfDinov2(Transformers):
    """DINOv2's encoder, with the mask token of its training, which nothing uses here."""

    model, config_class, blocks = "Dinov2Model", "Dinov2Config", "encoder.layer"
    exact = False
    rules = {"num_classes": one_of(0), "init_values": bool, "mlp_ratio": lambda ratio: ratio == int(ratio)}

    def settings(self):
        return {"mlp_ratio": int(self.config.mlp_ratio), "layer_norm_eps": self.config.norm_eps}

    def parameters(self):
        return super().parameters() - self.config.embed_dim


class HfDinov2Registers(HfDinov2):
    """DINOv2's encoder with registers. Its class token has a position, which kzoo and timm add to the token itself."""

    model, config_class = "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"
    rules = HfDinov2.rules | {"reg_tokens": bool, "no_embed_class": bool}

    def settings(self):
        return super().settings() | {"num_register_tokens": self.config.reg_tokens}

    def parameters(self):
        return super().parameters() - self.config.embed_dim  # that position


class HfClip(Transformers):
    """CLIP's image tower and its projection, which has no bias."""

    model, config_class, blocks = "CLIPVisionModelWithProjection", "CLIPVisionConfig", "vision_model.encoder.layers"
    answer = "image_embeds"

    rules = {"pre_norm": bool, "num_classes": bool, "size": square}

    def settings(self):
        config = self.config
        mlp = int(config.embed_dim * config.mlp_ratio)
        return {"intermediate_size": mlp, "projection_dim": config.num_classes, "layer_norm_eps": config.norm_eps}

    def parameters(self):
        return super().parameters() + self.config.num_classes


class HfSiglip(Transformers):
    """SigLIP's image tower with its attention pooling."""

    model, config_class, blocks = "SiglipVisionModel", "SiglipVisionConfig", "encoder.layers"

    rules = BigVisionNpz.rules | {"global_pool": one_of("map"), "num_classes": one_of(0), "size": square}

    def settings(self):
        return {"intermediate_size": int(self.config.embed_dim * self.config.mlp_ratio), "layer_norm_eps": self.config.norm_eps}


REFERENCES = {
    "timm": Timm,
    "google_npz": GoogleNpz,
    "big_vision_npz": BigVisionNpz,
    "hf_vit": HfVit,
    "hf_dinov2": HfDinov2,
    "hf_dinov2_registers": HfDinov2Registers,
    "hf_clip": HfClip,
    "hf_siglip": HfSiglip,
}

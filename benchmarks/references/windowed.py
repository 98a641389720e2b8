"""timm's and transformers' Swins, and the official files, which timm reads."""

import re

from benchmarks.references.base import fingerprints, one_of, square
from benchmarks.references.hugging_face import ACTIVATIONS, Transformers
from benchmarks.references.vit import Timm
from kzoo.models.swin import SwinConfig
from tests.torch_reference import import_timm


def blocks_of(stages):
    return {f"layers_{i}_blocks_{j}": block for i, stage in enumerate(stages) for j, block in enumerate(stage.blocks)}


class TimmSwin(Timm):
    """timm's Swin of the row's name; of the toy, its class in those sizes."""

    of = SwinConfig
    rules = {"pad_first": one_of(False), "norm_eps": one_of(1e-5), "act": one_of("gelu"), "global_pool": one_of("avg")}
    fields = {  # of the configuration: what timm calls them
        **{name: name for name in ("num_classes", "patch_size", "embed_dim", "depths", "num_heads", "window_size")},
        **{name: name for name in ("mlp_ratio", "qkv_bias", "always_partition")},
        **{"image_size": "img_size", "in_channels": "in_chans"},
    }

    def build(self, **settings):
        timm = import_timm()
        if self.listed:
            return super().build(**settings)
        said = self.arguments({field: getattr(self.config, field) for field in self.fields})
        return timm.models.swin_transformer.SwinTransformer(**said | settings)

    @property
    def title(self):
        return "timm" if self.listed else "timm's SwinTransformer"

    def unfilled(self):
        return self.build()  # its buffers are made with the weights

    def taps(self, module):
        return {"patch_embed": module.patch_embed} | blocks_of(module.layers)

    def arranged(self, name, tensor):
        return tensor.numpy()  # its maps are (B, H, W, C) already


class OfficialSwin(TimmSwin):
    """The official files, written here from timm's weights; timm's own loader has to make those weights of them again.

    What they compute at sizes that windows divide is what timm computes.
    """

    format, layout = "pth", "official"
    reader = "timm's checkpoint_filter_fn and a strict load_state_dict"
    exact = False
    rules = TimmSwin.rules | {"pad_first": one_of(False, True)}

    def write(self, folder):
        import torch

        folder.mkdir()
        state = {official(name): tensor for name, tensor in self.module.state_dict().items()}
        for name in [name for name in state if name.endswith("bias_table")]:  # buffers that such files hold
            block = name.rpartition(".attn.")[0]
            state[f"{block}.attn.relative_position_index"] = torch.zeros(4, 4, dtype=torch.int64)
            if block.endswith("blocks.1"):
                state[f"{block}.attn_mask"] = torch.zeros(2, 4, 4)
        torch.save({"model": state}, folder / "model.pth")
        if fingerprints(self.accepts(folder / "model.pth")) != fingerprints(self.module):
            raise ValueError("timm read other weights than were written")
        return folder / "model.pth"

    def accepts(self, path):
        models = import_timm("timm.models")
        module = self.unfilled().eval()
        state = models.load_state_dict(str(path)) if path.suffix == ".safetensors" else _content(path)
        module.load_state_dict(models.swin_transformer.checkpoint_filter_fn(state, module), strict=True)
        return module


def _content(path):
    import torch

    return torch.load(path, weights_only=True)


def official(name):
    """The official file's name for one of timm's: the merging belongs to the stage before, the head has no layers."""
    name = re.sub(r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)
    return name.replace("head.fc.", "head.")


class HfSwin(Transformers):
    """transformers' Swin with a classifier. Its window is one number, cut to the smaller side of a map that is no
    larger.
    """

    of = SwinConfig
    model, config_class, answer = "SwinForImageClassification", "SwinConfig", "logits"
    rules = {
        **{"num_classes": bool, "always_partition": one_of(False), "global_pool": one_of("avg"), "size": square},
        "window_size": lambda size: isinstance(size, int),
    }

    def build(self):
        import transformers

        config = self.config
        return transformers.SwinForImageClassification(
            transformers.SwinConfig(
                image_size=config.size[0],
                patch_size=config.patch_size,
                num_channels=config.in_channels,
                embed_dim=config.embed_dim,
                depths=config.depths,
                num_heads=config.num_heads,
                window_size=config.window_size,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
                hidden_act=ACTIVATIONS[config.act],
                layer_norm_eps=config.norm_eps,
                num_labels=config.num_classes,
            )
        )

    def taps(self, module):
        return {"patch_embed": module.swin.embeddings} | blocks_of(module.swin.encoder.layers)

    def arranged(self, name, tensor):
        """Tokens (B, N, C) as the map that they are."""
        if name is None:
            return tensor.numpy()
        stage = 0 if name == "patch_embed" else int(name.split("_")[1])
        return tensor.numpy().reshape(len(tensor), *self.config.map_sizes()[stage], -1)

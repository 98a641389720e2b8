"""timm's ResNets, hybrids and CoAtNets, and Google's hybrids in their .npz."""

import functools
import re

from benchmarks.references.base import one_of
from benchmarks.references.vit import GoogleNpz, Timm
from kzoo.models.coatnet import CoatnetConfig
from kzoo.models.hybrid import HybridConfig
from kzoo.models.resnet import ResNetConfig
from tests.torch_reference import import_timm


class TimmResNet(Timm):
    """timm's ResNet of the row's name; compared are the stem and every block."""

    of = ResNetConfig
    rules = {
        "width": one_of(64),
        "stem_stride": one_of(4),
        "norm": one_of("batch"),
        "weight_std": one_of("none"),
        "padding": one_of("symmetric"),
    }
    fields = {"depths": "layers", "in_channels": "in_chans"} | {name: name for name in ("num_classes", "output_stride")}

    def build(self):
        overrides = {key: value for key, value in self.overrides.items() if key != "image_size"}  # torch's takes any
        return import_timm().create_model(self.name, **self.arguments(overrides))

    def unfilled(self):
        return self.build()

    def taps(self, module):
        stages = {f"layer{i}": module.get_submodule(f"layer{i}") for i in range(1, len(self.config.depths) + 1)}
        return {"stem": module.maxpool} | {
            f"{stage}_blocks_{j}": block for stage in stages for j, block in enumerate(stages[stage])
        }


class TimmHybrid(Timm):
    """timm's hybrid of the row's name; where timm has none, its VisionTransformer on the row's ResNet. The embedded
    patches and blocks.
    """

    of = HybridConfig
    rules = Timm.rules | {"backbone": lambda name: name is not None and name.startswith("resnet")}

    def build(self, **settings):
        if not self.listed:
            embed = import_timm("timm.layers").HybridEmbed
            settings["embed_layer"] = functools.partial(embed, backbone=self.backbone())
        return super().build(**settings)

    def backbone(self):
        """What the patches are cut from, as the configuration says: timm's ResNet, or the ResNet of its hybrids, or
        that one's stem.
        """
        config, network = self.config, self.config.network
        if network.norm == "batch":
            index = config.tapped["index"] + 1  # timm's first map is the stem's
            return import_timm().create_model(
                config.backbone, features_only=True, out_indices=[index], in_chans=config.in_channels
            )
        resnetv2 = import_timm("timm.models.resnetv2")
        conv = functools.partial(import_timm("timm.layers").StdConv2dSame, eps=1e-8)
        if not network.depths:
            return resnetv2.create_resnetv2_stem(
                config.in_channels, network.width, "same", preact=False, conv_layer=conv
            )
        channels = [4 * network.width * 2**i for i in range(len(network.depths))]
        width = {
            "layers": network.depths,
            "channels": channels,
            "stem_chs": network.width,
            "in_chans": config.in_channels,
        }
        return resnetv2.ResNetV2(
            **width, num_classes=0, global_pool="", preact=False, stem_type="same", conv_layer=conv
        )

    def taps(self, module):
        return {"patch_embed": module.patch_embed} | super().taps(module)


class GoogleHybridNpz(TimmHybrid, GoogleNpz):
    """Google's hybrids: the tanh GELU, the standardisation and the epsilons of the original code."""

    rules = GoogleNpz.rules | {
        "backbone": lambda name: name is not None and re.fullmatch(r"resnet.*_ws|resnet_toy", name) is not None
    }

    @property
    def title(self):
        return f"{super().title}, JAX's standardisation"

    def build(self, **settings):
        layers, module = import_timm("timm.layers"), super().build(**settings)
        for part in module.modules():
            if isinstance(part, layers.StdConv2dSame):
                part.forward = functools.partial(standardised_as_jax, part)
            elif isinstance(part, layers.GroupNormAct):
                part.eps = 1e-6
        return module

    def arrays(self, state):
        return super().arrays(state) | backbone_to_npz(state)


def backbone_to_npz(state, prefix="patch_embed.backbone."):
    """{name in Google's .npz: array} of a hybrid's convolutions and their norms (1, 1, 1, C), from timm's weights
    {name: array}.
    """
    arrays = {}
    for name in [name for name in state if name.startswith(prefix)]:
        layer, _, leaf = name.removeprefix(prefix).rpartition(".")
        *place, part = (
            layer.removeprefix("stem.")
            .replace("downsample.conv", "conv_proj")
            .replace("downsample.norm", "gn_proj")
            .split(".")
        )
        if place:  # stages.I.blocks.J, counted from 0
            target = f"block{int(place[1]) + 1}/unit{int(place[3]) + 1}/{part.replace('norm', 'gn')}"
        else:
            target = {"conv": "conv_root", "norm": "gn_root"}[part]
        array = state[name]
        if array.ndim == 4:
            arrays[f"{target}/kernel"] = array.transpose(2, 3, 1, 0)
        else:
            arrays[f"{target}/{'scale' if leaf == 'weight' else 'bias'}"] = array.reshape(1, 1, 1, -1)
    return arrays


def standardised_as_jax(conv, x):
    """What Google's code computes in a convolution of timm's (C, H, W of x as torch has them): filters (w - mean) /
    (deviation + 1e-5).
    """
    import torch

    weight = conv.weight - conv.weight.mean((1, 2, 3), keepdim=True)
    weight = weight / (weight.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-5)
    x = import_timm("timm.layers").pad_same(x, conv.kernel_size, conv.stride, conv.dilation)
    return torch.nn.functional.conv2d(x, weight, conv.bias, conv.stride)


class TimmCoatnet(Timm):
    """timm's CoAtNet of the row's name or, for another resolution, of its twin at 224; else its coatnet_0_224 in the
    row's sizes.
    """

    of = CoatnetConfig
    rules = {
        **{"stem": one_of("conv"), "stem_stride": one_of(2), "strides": lambda strides: set(strides) == {2}},
        **{"bias_place": one_of("pre"), "global_pool": one_of("avg")},
    }
    fields = {  # of the configuration: what timm calls them
        **{name: name for name in ("num_classes", "depths", "embed_dim", "stem_width")},
        **{
            "image_size": "img_size",
            "in_channels": "in_chans",
            "layout": "block_type",
            "head_dim": "transformer_dim_head",
        },
        **{"representation_size": "head_hidden_size"},
    }

    @property
    def twin(self):
        """The name in timm that the row goes by; None where there is none."""
        names = import_timm().list_models()
        return next((name for name in (self.name, re.sub(r"_\d+$", "_224", self.name)) if name in names), None)

    @property
    def title(self):
        return f"timm's {self.twin}" if self.twin else "timm's coatnet_0_224 in its sizes"

    def build(self):
        fields = ("image_size", "num_classes") if self.twin else self.fields
        said = self.arguments({field: getattr(self.config, field) for field in fields} | self.overrides)
        return import_timm().create_model(self.twin or "coatnet_0_224", **said)

    def unfilled(self):
        return self.build()  # what its buffers hold beside the weights is in no file

    def taps(self, module):
        blocks = {
            f"stages_{i}_blocks_{j}": block
            for i, stage in enumerate(module.stages)
            for j, block in enumerate(stage.blocks)
        }
        return {"stem": module.stem} | blocks

"""Hybrid vision transformers: the patches are cut from the feature map of a convolutional network instead of from the
picture.

"An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929, section 3.1, and "How to train your ViT?",
https://arxiv.org/abs/2106.10270; numerics of timm's `vit_*_r*`. The transformer is `vit`; what it stands on is any
model of kzoo that has feature maps: `kzoo.get("vit_base_r50_s16_224", backbone="resnet50", backbone_index=-1,
patch_size=1)`.
"""

from dataclasses import dataclass

import keras

from kzoo.errors import UsageError
from kzoo.layers.base import ZooLayer
from kzoo.models.backbone import OnBackbone, build_below
from kzoo.models.vit import BASE, LARGE, SMALL, TINY, VitConfig, transformer
from kzoo.registry import register
from kzoo.specs import FULL

TASK = "classify"
PAPER = "https://arxiv.org/abs/2010.11929"
CPU_XLA = False  # on CPU the training step of vit_small_r26_s32_224 is three times as fast as a graph as under XLA

PREFIXES = {"timm": "patch_embed.backbone.", "google": ""}  # of the backbone's weights in other libraries' files


@dataclass(frozen=True, kw_only=True)
class HybridConfig(OnBackbone, VitConfig):
    """A ViT on a feature map. Its image_size and in_channels are the backbone's too; patch_size is in pixels of the
    map.
    """

    backbone: str = "resnet50_s16_ws"
    backbone_index: int = -1  # which of its maps (kzoo.info(backbone).feature_info); negative: from the coarsest
    patch_size: int = 1

    numerics = (*VitConfig.numerics, "backbone_options")
    below = "patch_embed/backbone/"

    def layouts(self):
        """Those that both the transformer and the backbone have."""
        from kzoo.models.layouts import joined
        from kzoo.models.names.vit import LAYOUTS

        return {
            key: joined(LAYOUTS[key], self, key, prefix)
            for key, prefix in PREFIXES.items()
            if key in self.network.layouts()
        }

    def __post_init__(self):
        if self.stem != "patch" or self.stride is not None:
            raise UsageError(
                "a hybrid's patches lie side by side on the backbone's map: leave stem and stride as they are."
            )
        super().__post_init__()
        if any(side % self.step for side in self.size):
            raise UsageError(
                f"image_size {self.size} must be divisible by {self.step}: the stride of the backbone's map times "
                "patch_size."
            )

    @property
    def step(self):
        """Pixels of the picture from one patch to the next."""
        return self.tapped["stride"] * self.patch_size

    @property
    def grid(self):
        """(rows, columns) of patches."""
        return tuple(side // self.step for side in self.size)

    @property
    def tapped(self):
        """The entry of the backbone's feature_info for the chosen map."""
        return self.feature_map(self.backbone_index)


@register
def hybrid(config):
    """images (B, H, W, C) -> what `kzoo.models.vit.vit` gives: logits (B, num_classes), or the pooled vector (B, D)
    without a head.
    """
    images = keras.Input((*config.size, config.in_channels), name="images")
    embed = HybridEmbed(
        config.backbone,
        config.backbone_options,
        config.tapped["index"],
        config.patch_size,
        config.embed_dim,
        use_bias=not config.pre_norm,
        name="patch_embed",
    )
    return transformer(config, images, embed(images))


@keras.saving.register_keras_serializable(package="kzoo")
class HybridEmbed(ZooLayer):
    """Patches of another model's feature map through one linear map: (B, H, W, C) -> (B, rows * columns, D), row by
    row.

    The model, `network` with `options` as in OnBackbone, is built for the pictures' size; `index` is that of the map in
    its feature_info.
    """

    def __init__(self, network, options, index, patch_size, dim, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.network, self.options, self.index, self.dim = network, options, index, dim
        policy = self.dtype_policy
        self.proj = keras.layers.Conv2D(
            dim, patch_size, patch_size, use_bias=use_bias, kernel_initializer="lecun_normal", dtype=policy, name="proj"
        )

    def build(self, input_shape):
        self.backbone = build_below(self.network, self.options, (self.index,), input_shape, self.dtype_policy)
        self.proj.build(self.backbone.outputs[0].shape)

    def call(self, images, training=None):
        (features,) = keras.tree.flatten(self.backbone(images, training=training))
        x = self.proj(features)
        return keras.ops.reshape(x, (-1, x.shape[1] * x.shape[2], self.dim))

    def compute_output_shape(self, input_shape):
        _, rows, columns, dim = self.proj.compute_output_shape(self.backbone.outputs[0].shape)
        return (input_shape[0], rows * columns, dim)


# fmt: off
R, R26, R50_S16, R50 = ({"backbone": f"resnet{name}_ws"} for name in ("_stem", "26", "50_s16", "50"))

VARIANTS = {
    "hybrid_toy": HybridConfig(
        image_size=32, backbone="resnet_toy",
        backbone_options={"norm": "group", "weight_std": "timm", "padding": "same", "width": 32, "depths": (1,)},
        patch_size=2, embed_dim=32, depth=2, num_heads=2, num_classes=10, preprocessing=FULL,
    ),
    "vit_tiny_r_s16_p8_224":  HybridConfig(image_size=224, **R,       patch_size=8, **TINY),  # of stride 32, whatever the name says
    "vit_tiny_r_s16_p8_384":  HybridConfig(image_size=384, **R,       patch_size=8, **TINY,  preprocessing=FULL),
    "vit_small_r26_s32_224":  HybridConfig(image_size=224, **R26,     **SMALL),
    "vit_small_r26_s32_384":  HybridConfig(image_size=384, **R26,     **SMALL, preprocessing=FULL),
    "vit_base_r26_s32_224":   HybridConfig(image_size=224, **R26,     **BASE),
    "vit_base_r26_s32_384":   HybridConfig(image_size=384, **R26,     **BASE,  preprocessing=FULL),
    "vit_base_r50_s16_224":   HybridConfig(image_size=224, **R50_S16, **BASE),
    "vit_base_r50_s16_384":   HybridConfig(image_size=384, **R50_S16, **BASE,  preprocessing=FULL),
    "vit_large_r50_s32_224":  HybridConfig(image_size=224, **R50,     **LARGE),
    "vit_large_r50_s32_384":  HybridConfig(image_size=384, **R50,     **LARGE, preprocessing=FULL),
}
# fmt: on

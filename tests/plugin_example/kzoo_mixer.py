"""MLP-Mixer: patches, then layers that mix over the patches and over the channels in turn, mean, one linear head.

"MLP-Mixer: An all-MLP Architecture for Vision", https://arxiv.org/abs/2105.01601.
"""

from dataclasses import dataclass

from keras import Input, layers

import kzoo
from kzoo.layers.embed import PatchEmbed
from kzoo.layers.transformer import Mlp
from kzoo.models.base import ModelConfig, ZooModel
from kzoo.schema import Preprocessing

TASK = "classify"
PAPER = "https://arxiv.org/abs/2105.01601"


@dataclass(frozen=True, kw_only=True)
class MixerConfig(ModelConfig):
    """The architecture of one Mixer."""

    patch_size: int = 16
    embed_dim: int = 512
    depth: int = 8
    preprocessing: Preprocessing = Preprocessing(crop_pct=0.875)

    @property
    def grid(self):
        """(rows, columns) of patches."""
        return tuple(side // self.patch_size for side in self.size)

    def feature_info(self):
        return [
            {"index": i, "name": f"blocks_{i}", "stride": self.patch_size, "channels": self.embed_dim}
            for i in range(self.depth)
        ]


@kzoo.register
def mixer(config):
    """images (B, H, W, C) -> logits (B, num_classes) float32; pooled (B, D) without a head; a list of maps with
    features_only.
    """
    rows, columns = config.grid
    images = Input((*config.size, config.in_channels), name="images")
    x = PatchEmbed(config.patch_size, config.embed_dim, name="patch_embed")(images)  # (B, N, D)
    maps = []
    for i in range(config.depth):
        x = block(x, f"blocks_{i}")
        maps.append(layers.Reshape((rows, columns, config.embed_dim), name=f"feature_{i}")(x))
    if config.features_only:
        return ZooModel(images, [maps[i] for i in config.selected_features(default=(config.depth - 1,))], name="mixer")
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    x = layers.GlobalAveragePooling1D(dtype="float32", name="pool")(x)
    if config.num_classes:
        x = layers.Dense(config.num_classes, dtype="float32", name="head")(x)
    return ZooModel(images, x, name="mixer")


def block(x, name):
    """x + MLP over the patches (D / 2 wide), then x + MLP over the channels (4 D wide): (B, N, D) -> (B, N, D)."""
    _, tokens, dim = x.shape
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm1")(x)
    y = layers.Permute((2, 1))(y)
    y = Mlp(tokens, dim // 2, name=f"{name}_mlp_tokens")(y)
    x = layers.Add()([x, layers.Permute((2, 1))(y)])
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm2")(x)
    return layers.Add()([x, Mlp(dim, 4 * dim, name=f"{name}_mlp_channels")(y)])


VARIANTS = {
    "mixer_toy": MixerConfig(image_size=32, patch_size=8, embed_dim=32, depth=2, num_classes=10),
    "mixer_s16_224": MixerConfig(patch_size=16, embed_dim=512, depth=8),
    "mixer_b16_224": MixerConfig(patch_size=16, embed_dim=768, depth=12),
}

"""Vision Transformer: patches, a plain pre-norm transformer, one linear head.

"An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929; numerics of timm's `vision_transformer` (erf GELU, epsilon 1e-6).
Read top to bottom: the configuration, the builder, the table of sizes.
"""

from dataclasses import dataclass

import keras

from kzoo.errors import UsageError, unknown
from kzoo.layers.embed import ClassToken, ConvStem, PatchEmbed, PositionEmbedding
from kzoo.layers.transformer import TransformerBlock
from kzoo.models.base import ModelConfig, ZooModel
from kzoo.registry import register
from kzoo.schema import Preprocessing

TASK = "classify"
PAPER = "https://arxiv.org/abs/2010.11929"
CPU_XLA = True  # on CPU too the training step is faster under XLA: ViT-S/16 12.2 images/s against 10.4 as a graph, on 2 cores


@dataclass(frozen=True, kw_only=True)
class VitConfig(ModelConfig):
    """The architecture of one ViT. Rates are probabilities in 0..1; drop_path_rate grows linearly from 0 to its value at the last block."""

    patch_size: int = 16
    embed_dim: int = 192
    depth: int = 12
    num_heads: int = 3
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    stem: str = "patch"  # patch | conv (3x3 convolutions of stride 2, for small pictures and few of them)
    class_token: bool = True
    global_pool: str = "token"  # token | avg (patch tokens, norm after the mean) | none (all normalised tokens)
    pos_embed: str = "learned"  # learned | sincos (fixed)
    drop_rate: float = 0.0  # after the positions and in every block
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    norm_eps: float = 1e-6
    preprocessing: Preprocessing = Preprocessing(crop_pct=0.9)

    def __post_init__(self):
        super().__post_init__()
        for name, valid in (("global_pool", ("token", "avg", "none")), ("pos_embed", ("learned", "sincos")), ("stem", ("patch", "conv"))):
            if getattr(self, name) not in valid:
                raise unknown(name, getattr(self, name), valid)
        for name in ("patch_size", "embed_dim", "depth", "num_heads"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must lie in [0, 1), not {getattr(self, name)}.")
        if self.embed_dim % self.num_heads:
            raise UsageError(f"embed_dim {self.embed_dim} must be divisible by num_heads {self.num_heads}.")
        if self.stem == "conv" and (self.patch_size & (self.patch_size - 1) or any(side % self.patch_size for side in self.size)):
            raise UsageError(f"stem='conv' needs a patch_size that is a power of two and divides the image size, not {self.patch_size}.")
        if self.pos_embed == "sincos" and self.embed_dim % 4:
            raise UsageError(f"pos_embed='sincos' needs an embed_dim divisible by 4, not {self.embed_dim}.")
        if self.global_pool == "token" and not self.class_token:
            raise UsageError("global_pool='token' needs class_token=True; use global_pool='avg' without a class token.")
        if min(self.grid) < 1:
            raise UsageError(f"image_size {self.size} is smaller than one patch of {self.patch_size} pixels.")

    @property
    def grid(self):
        """(rows, columns) of patches."""
        return tuple(side // self.patch_size for side in self.size)

    def feature_info(self):
        return [{"index": i, "name": f"blocks_{i}", "stride": self.patch_size, "channels": self.embed_dim} for i in range(self.depth)]


@register
def vit(config):
    """images (B, H, W, C) -> logits (B, num_classes) float32; pooled (B, D) without a head; tokens (B, N, D) with global_pool "none"."""
    prefix = int(config.class_token)
    images = keras.Input((*config.size, config.in_channels), name="images")
    embed = PatchEmbed if config.stem == "patch" else ConvStem
    x = embed(config.patch_size, config.embed_dim, name="patch_embed")(images)  # (B, N, D)
    if config.class_token:
        x = ClassToken(name="cls_token")(x)
    x = PositionEmbedding(config.grid, prefix, config.pos_embed, name="pos_embed")(x)
    x = keras.layers.Dropout(config.drop_rate, name="pos_drop")(x)

    tapped = []
    for i in range(config.depth):
        x = TransformerBlock(
            config.embed_dim,
            config.num_heads,
            mlp_ratio=config.mlp_ratio,
            qkv_bias=config.qkv_bias,
            drop_rate=config.drop_rate,
            attn_drop_rate=config.attn_drop_rate,
            drop_path_rate=config.drop_path_rate * i / max(config.depth - 1, 1),
            norm_eps=config.norm_eps,
            name=f"blocks_{i}",
        )(x)
        tapped.append(x)
    outputs = feature_maps(config, tapped, prefix) if config.features_only else head(config, x, prefix)
    return ZooModel(images, outputs, name="vit")


def head(config, x, prefix):
    """Final norm, pooling and the linear head: tokens (B, N, D) -> what the configuration asks for."""
    # timm's order: with average pooling the norm comes after the mean, and the class token takes no part in it.
    if config.global_pool == "avg":
        if prefix:
            x = x[:, prefix:]
        x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
        x = keras.layers.LayerNormalization(epsilon=config.norm_eps, name="fc_norm")(x)
    else:
        x = keras.layers.LayerNormalization(epsilon=config.norm_eps, name="norm")(x)
        if config.global_pool == "token":
            x = x[:, 0]
    if config.num_classes == 0 or config.global_pool == "none":
        return keras.layers.Activation("linear", dtype="float32", name="features")(x)
    return keras.layers.Dense(config.num_classes, kernel_initializer="zeros", dtype="float32", name="head")(x)


def feature_maps(config, tapped, prefix):
    """The chosen blocks' outputs as maps (B, rows, columns, D), without class token and final norm; by default the last three."""
    default = tuple(range(config.depth))[-3:]
    shape = (*config.grid, config.embed_dim)
    return [keras.layers.Reshape(shape, name=f"feature_{i}")(tapped[i][:, prefix:]) for i in config.selected_features(default)]


FULL = Preprocessing(crop_pct=1.0)  # sizes above 224 are evaluated on the whole picture

# fmt: off
VARIANTS = {
    "vit_toy": VitConfig(image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=10, preprocessing=FULL),
    "vit_tiny_patch8_224":    VitConfig(image_size=224, patch_size= 8, embed_dim= 192, depth=12, num_heads= 3),
    "vit_tiny_patch8_384":    VitConfig(image_size=384, patch_size= 8, embed_dim= 192, depth=12, num_heads= 3, preprocessing=FULL),
    "vit_tiny_patch14_224":   VitConfig(image_size=224, patch_size=14, embed_dim= 192, depth=12, num_heads= 3),
    "vit_tiny_patch14_384":   VitConfig(image_size=384, patch_size=14, embed_dim= 192, depth=12, num_heads= 3, preprocessing=FULL),
    "vit_tiny_patch16_224":   VitConfig(image_size=224, patch_size=16, embed_dim= 192, depth=12, num_heads= 3),
    "vit_tiny_patch16_384":   VitConfig(image_size=384, patch_size=16, embed_dim= 192, depth=12, num_heads= 3, preprocessing=FULL),
    "vit_tiny_patch32_224":   VitConfig(image_size=224, patch_size=32, embed_dim= 192, depth=12, num_heads= 3),
    "vit_tiny_patch32_384":   VitConfig(image_size=384, patch_size=32, embed_dim= 192, depth=12, num_heads= 3, preprocessing=FULL),
    "vit_small_patch8_224":   VitConfig(image_size=224, patch_size= 8, embed_dim= 384, depth=12, num_heads= 6),
    "vit_small_patch8_384":   VitConfig(image_size=384, patch_size= 8, embed_dim= 384, depth=12, num_heads= 6, preprocessing=FULL),
    "vit_small_patch14_224":  VitConfig(image_size=224, patch_size=14, embed_dim= 384, depth=12, num_heads= 6),
    "vit_small_patch14_384":  VitConfig(image_size=384, patch_size=14, embed_dim= 384, depth=12, num_heads= 6, preprocessing=FULL),
    "vit_small_patch16_224":  VitConfig(image_size=224, patch_size=16, embed_dim= 384, depth=12, num_heads= 6),
    "vit_small_patch16_384":  VitConfig(image_size=384, patch_size=16, embed_dim= 384, depth=12, num_heads= 6, preprocessing=FULL),
    "vit_small_patch32_224":  VitConfig(image_size=224, patch_size=32, embed_dim= 384, depth=12, num_heads= 6),
    "vit_small_patch32_384":  VitConfig(image_size=384, patch_size=32, embed_dim= 384, depth=12, num_heads= 6, preprocessing=FULL),
    "vit_base_patch8_224":    VitConfig(image_size=224, patch_size= 8, embed_dim= 768, depth=12, num_heads=12),
    "vit_base_patch8_384":    VitConfig(image_size=384, patch_size= 8, embed_dim= 768, depth=12, num_heads=12, preprocessing=FULL),
    "vit_base_patch14_224":   VitConfig(image_size=224, patch_size=14, embed_dim= 768, depth=12, num_heads=12),
    "vit_base_patch14_384":   VitConfig(image_size=384, patch_size=14, embed_dim= 768, depth=12, num_heads=12, preprocessing=FULL),
    "vit_base_patch16_224":   VitConfig(image_size=224, patch_size=16, embed_dim= 768, depth=12, num_heads=12),
    "vit_base_patch16_384":   VitConfig(image_size=384, patch_size=16, embed_dim= 768, depth=12, num_heads=12, preprocessing=FULL),
    "vit_base_patch32_224":   VitConfig(image_size=224, patch_size=32, embed_dim= 768, depth=12, num_heads=12),
    "vit_base_patch32_384":   VitConfig(image_size=384, patch_size=32, embed_dim= 768, depth=12, num_heads=12, preprocessing=FULL),
    "vit_large_patch8_224":   VitConfig(image_size=224, patch_size= 8, embed_dim=1024, depth=24, num_heads=16),
    "vit_large_patch8_384":   VitConfig(image_size=384, patch_size= 8, embed_dim=1024, depth=24, num_heads=16, preprocessing=FULL),
    "vit_large_patch14_224":  VitConfig(image_size=224, patch_size=14, embed_dim=1024, depth=24, num_heads=16),
    "vit_large_patch14_384":  VitConfig(image_size=384, patch_size=14, embed_dim=1024, depth=24, num_heads=16, preprocessing=FULL),
    "vit_large_patch16_224":  VitConfig(image_size=224, patch_size=16, embed_dim=1024, depth=24, num_heads=16),
    "vit_large_patch16_384":  VitConfig(image_size=384, patch_size=16, embed_dim=1024, depth=24, num_heads=16, preprocessing=FULL),
    "vit_large_patch32_224":  VitConfig(image_size=224, patch_size=32, embed_dim=1024, depth=24, num_heads=16),
    "vit_large_patch32_384":  VitConfig(image_size=384, patch_size=32, embed_dim=1024, depth=24, num_heads=16, preprocessing=FULL),
    "vit_huge_patch8_224":    VitConfig(image_size=224, patch_size= 8, embed_dim=1280, depth=32, num_heads=16),
    "vit_huge_patch8_384":    VitConfig(image_size=384, patch_size= 8, embed_dim=1280, depth=32, num_heads=16, preprocessing=FULL),
    "vit_huge_patch14_224":   VitConfig(image_size=224, patch_size=14, embed_dim=1280, depth=32, num_heads=16),
    "vit_huge_patch14_518":   VitConfig(image_size=518, patch_size=14, embed_dim=1280, depth=32, num_heads=16, preprocessing=FULL),
    "vit_huge_patch16_224":   VitConfig(image_size=224, patch_size=16, embed_dim=1280, depth=32, num_heads=16),
    "vit_huge_patch16_384":   VitConfig(image_size=384, patch_size=16, embed_dim=1280, depth=32, num_heads=16, preprocessing=FULL),
    "vit_huge_patch32_224":   VitConfig(image_size=224, patch_size=32, embed_dim=1280, depth=32, num_heads=16),
    "vit_huge_patch32_384":   VitConfig(image_size=384, patch_size=32, embed_dim=1280, depth=32, num_heads=16, preprocessing=FULL),
}
# fmt: on

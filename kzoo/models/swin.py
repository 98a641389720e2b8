"""Swin: attention within windows that shift from block to block, in stages whose maps halve as they widen.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", https://arxiv.org/abs/2103.14030; numerics of
timm's `swin_*`, first weights of kzoo's ViT. Pictures may have any size: sides that the patches do not divide are
filled with zeros, as the official detectors and transformers do, maps that the windows do not divide as `pad_first`
says. Read top to bottom: the configuration, the builder, the table of sizes.
"""

from dataclasses import dataclass

import keras

from kzoo.errors import UsageError
from kzoo.layers.embed import NormedConv
from kzoo.layers.transformer import ACTIVATIONS
from kzoo.layers.windows import PatchMerging, WindowBlock
from kzoo.models.base import ModelConfig, ZooModel, classifier
from kzoo.registry import register
from kzoo.specs import IN_90, IN_FULL, Preprocessing

TASK = "classify"
PAPER = "https://arxiv.org/abs/2103.14030"
CPU_XLA = True  # as for the ViT, whose parts these are


@dataclass(frozen=True, kw_only=True)
class SwinConfig(ModelConfig):
    """The architecture of one Swin, in timm's words. Tuples have an entry for each stage, whose width is twice that of
    the one before.

    Rates are probabilities in 0..1; drop_path_rate grows linearly from 0 at the first block to its value at the last.
    """

    patch_size: int = 4
    embed_dim: int = 96  # of the first stage
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int | tuple[int, ...] = 7  # cells a side, of all stages or of each
    # a map that is no larger than a window has windows of its own size, an axis at a time, and no shift (timm's);
    # True: full windows in any case, filled with zeros, as the official detectors have them
    always_partition: bool = False
    # fill a map before it is shifted (transformers, the official detectors) rather than after (timm)
    pad_first: bool = False
    mlp_ratio: float = 4.0
    act: str = "gelu"  # gelu (erf) | gelu_tanh | quick_gelu
    qkv_bias: bool = True
    norm_eps: float = 1e-5
    global_pool: str = "avg"  # avg | none (the normalised map)
    drop_rate: float = 0.0  # before the head
    pos_drop_rate: float = 0.0  # after the embedding
    proj_drop_rate: float = 0.0  # in every block, after the attention's projection and both layers of the MLP
    attn_drop_rate: float = 0.0  # of the attention weights
    drop_path_rate: float = 0.0
    preprocessing: Preprocessing = IN_90

    numerics = ("act", "norm_eps", "pad_first")
    stem_kernels = ("patch_embed/conv/kernel",)
    regrids = ("image_size", "window_size", "always_partition", "open_size")
    opens = True

    def layouts(self):
        from kzoo.models.names.swin import LAYOUTS

        return LAYOUTS

    def __post_init__(self):
        super().__post_init__()
        self.require_choices(act=ACTIVATIONS, global_pool=("avg", "none"))
        self.require_at_least(1, "patch_size", "embed_dim", "num_heads", "window_size")
        self.require_at_least(0, "norm_eps")
        self.require_blocks("depths")
        self.require_mlp(self.embed_dim)
        self.require_rates("drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
        stages = len(self.depths)
        if not stages or len(self.num_heads) != stages or len(self.window_sizes) != stages:
            raise UsageError(
                f"depths, num_heads and window_size (where it is not one number) have an entry for each stage: "
                f"{self.depths}, {self.num_heads} and {self.window_size} do not go together."
            )
        for dim, heads in zip(self.widths, self.num_heads, strict=True):
            if dim % heads:
                raise UsageError(f"a stage's width {dim} must be divisible by its num_heads {heads}.")

    @property
    def widths(self):
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**i for i in range(len(self.depths)))

    @property
    def window_sizes(self):
        """The side of each stage's windows, on maps that are large enough."""
        return (self.window_size,) * len(self.depths) if isinstance(self.window_size, int) else self.window_size

    def map_sizes(self):
        """[(rows, columns)] of each stage."""
        sizes = [tuple(-(-side // self.patch_size) for side in self.size)]
        for _ in self.depths[1:]:
            sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
        return sizes

    def windows(self):
        """[(window, shift)] of each stage, (rows, columns) each: its own windows, and by how much every second block
        shifts.
        """
        found = []
        for sides, window in zip(self.map_sizes(), self.window_sizes, strict=True):
            fits = [not (self.open_size or self.always_partition) and length <= window for length in sides]
            own = tuple(length if small else window for length, small in zip(sides, fits, strict=True))
            found.append((own, tuple(0 if small else window // 2 for small in fits)))
        return found

    def block_names(self):
        return tuple(f"layers_{i}_blocks_{j}" for i, depth in enumerate(self.depths) for j in range(depth))

    def feature_info(self):
        return [
            {
                "index": i,
                "name": f"layers_{i}_blocks_{self.depths[i] - 1}",
                "stride": self.patch_size * 2**i,
                "channels": dim,
            }
            for i, dim in enumerate(self.widths)
        ]


@register
def swin(config):
    """images (B, H, W, C) -> logits (B, num_classes) float32; pooled (B, D) without a head; the map (B, h, w, D) with
    global_pool "none"; all stages' maps, without a final norm, with features_only.
    """
    images = keras.Input((*config.sides, config.in_channels), name="images")
    maps = stages(config, images)
    if config.features_only:
        outputs = [maps[i] for i in config.selected_features(range(len(maps)))]
    else:
        outputs = pooled(config, maps[-1])
    return ZooModel(images, outputs, name="swin")


def stages(config, images):
    """images (B, H, W, C) -> the map of every stage, (B, ceil(H / stride), ceil(W / stride), D)."""
    patch, names = config.patch_size, iter(config.block_names())
    x = NormedConv(config.embed_dim, patch, patch, norm_eps=config.norm_eps, name="patch_embed")(images)
    x = keras.layers.Dropout(config.pos_drop_rate, name="pos_drop")(x)
    maps, before, count = [], 0, sum(config.depths)
    for i, (depth, (window, shift)) in enumerate(zip(config.depths, config.windows(), strict=True)):
        if i:
            x = PatchMerging(config.widths[i - 1], config.norm_eps, name=f"layers_{i}_downsample")(x)
        for j in range(depth):
            x = WindowBlock(
                config.widths[i],
                config.num_heads[i],
                window_size=window,
                shift_size=shift if j % 2 else (0, 0),
                pad_first=config.pad_first,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
                act=config.act,
                proj_drop_rate=config.proj_drop_rate,
                attn_drop_rate=config.attn_drop_rate,
                drop_path_rate=config.drop_path_rate * (before + j) / max(count - 1, 1),
                norm_eps=config.norm_eps,
                remat=config.remat,
                name=next(names),
            )(x)
        maps.append(x)
        before += depth
    return maps


def pooled(config, x):
    """The last map (B, h, w, D) -> what the configuration asks for, float32."""
    x = keras.layers.LayerNormalization(epsilon=config.norm_eps, name="norm")(x)
    if config.global_pool == "none":
        return classifier(x, 0)
    return classifier(keras.layers.GlobalAveragePooling2D(name="pool")(x), config.num_classes, config.drop_rate)


# fmt: off
# Sizes.
TINY  = {"embed_dim":  96, "depths": (2, 2,  6, 2), "num_heads": (3,  6, 12, 24)}
SMALL = {"embed_dim":  96, "depths": (2, 2, 18, 2), "num_heads": (3,  6, 12, 24)}
BASE  = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4,  8, 16, 32)}
LARGE = {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)}
AT_384 = {"image_size": 384, "window_size": 12, "preprocessing": IN_FULL}

VARIANTS = {
    "swin_toy": SwinConfig(image_size=32, embed_dim=16, depths=(2, 1), num_heads=(2, 4), window_size=3, num_classes=10),
    "swin_tiny_patch4_window7_224":   SwinConfig(image_size=224, window_size=7, **TINY),
    "swin_small_patch4_window7_224":  SwinConfig(image_size=224, window_size=7, **SMALL),
    "swin_base_patch4_window7_224":   SwinConfig(image_size=224, window_size=7, **BASE),
    "swin_base_patch4_window12_384":  SwinConfig(**AT_384, **BASE),
    "swin_large_patch4_window7_224":  SwinConfig(image_size=224, window_size=7, **LARGE),
    "swin_large_patch4_window12_384": SwinConfig(**AT_384, **LARGE),
    # Found by a search (https://arxiv.org/abs/2111.14725).
    "swin_s3_tiny_224":  SwinConfig(image_size=224, **TINY,  window_size=(7, 7, 14, 7)),
    "swin_s3_small_224": SwinConfig(image_size=224, **SMALL, window_size=(14, 14, 14, 7)),
    "swin_s3_base_224":  SwinConfig(image_size=224, **SMALL | {"depths": (2, 2, 30, 2)}, window_size=(7, 7, 14, 7)),
}
# fmt: on

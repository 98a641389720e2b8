"""CSWin: half of the heads look within upright stripes, half within level ones, which widen from stage to stage.

"CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows", https://arxiv.org/abs/2107.00652;
numerics of the official code, first weights of kzoo's ViT. No weight depends on the size of the picture, which may be
any: the paper and the classifier's code know squares that the stripes divide; here other maps are filled with zeros
that no cell looks at. A map that is one stripe long and wide is attended to whole, as in the official code, whose
halves then share one name in its files; here they keep two. Read top to bottom: the configuration, the builder, the
table of sizes.
"""

from dataclasses import dataclass

import keras

from kzoo.errors import UsageError
from kzoo.layers.embed import NormedConv
from kzoo.layers.stripes import StripeBlock
from kzoo.layers.transformer import ACTIVATIONS
from kzoo.models.base import ModelConfig, ZooModel
from kzoo.models.swin import pooled
from kzoo.registry import register
from kzoo.specs import IN_90, IN_FULL, Preprocessing

TASK = "classify"
PAPER = "https://arxiv.org/abs/2107.00652"
CPU_XLA = False  # on CPU, XLA computes depthwise convolutions several times slower than the graph does


@dataclass(frozen=True, kw_only=True)
class CswinConfig(ModelConfig):
    """The architecture of one CSWin, in the official code's words. Tuples have an entry for each stage, whose width is
    twice that of the one before.

    Rates are probabilities in 0..1; drop_path_rate grows linearly from 0 at the first block to its value at the last.
    """

    stem_kernel: int = 7  # of the first convolution, which overlaps where it exceeds
    stem_stride: int = 4  # the pixels from cell to cell
    embed_dim: int = 64  # of the first stage
    depths: tuple[int, ...] = (1, 2, 21, 1)
    num_heads: tuple[int, ...] = (2, 4, 8, 16)  # even but in the last stage
    split_size: tuple[int, ...] = (1, 2, 7, 7)  # width of a stripe; the last stage looks at the whole map
    mlp_ratio: float = 4.0
    act: str = "gelu"  # gelu (erf) | gelu_tanh | quick_gelu
    qkv_bias: bool = True
    norm_eps: float = 1e-5
    global_pool: str = "avg"  # avg | none (the normalised map)
    drop_rate: float = 0.0  # before the head
    proj_drop_rate: float = 0.0  # in every block, after the attention's projection and both layers of the MLP
    attn_drop_rate: float = 0.0  # of the attention weights
    drop_path_rate: float = 0.0
    preprocessing: Preprocessing = IN_90

    numerics = ("act", "norm_eps")
    stem_kernels = ("patch_embed/conv/kernel",)
    opens = True

    def layouts(self):
        from kzoo.models.names.cswin import LAYOUTS

        return LAYOUTS

    def __post_init__(self):
        super().__post_init__()
        self.require_choices(act=ACTIVATIONS, global_pool=("avg", "none"))
        self.require_at_least(1, "stem_kernel", "stem_stride", "embed_dim", "num_heads", "split_size")
        self.require_at_least(0, "norm_eps")
        self.require_blocks("depths")
        self.require_mlp(self.embed_dim)
        self.require_rates("drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
        stages = len(self.depths)
        if not stages or len(self.num_heads) != stages or len(self.split_size) != stages:
            raise UsageError(
                f"depths, num_heads and split_size have an entry for each stage: {self.depths}, {self.num_heads} and "
                f"{self.split_size} do not go together."
            )
        for dim, heads in zip(self.widths, self.num_heads, strict=True):
            if dim % heads:
                raise UsageError(f"a stage's width {dim} must be divisible by its num_heads {heads}.")
        if any(heads % 2 for heads in self.num_heads[:-1]):
            raise UsageError(
                f"half of a stage's heads look upright and half level: num_heads {self.num_heads} must be even but for "
                "the last stage, which looks at the whole map."
            )
        if self.stem_kernel < self.stem_stride:
            raise UsageError(
                f"a stem_kernel of {self.stem_kernel} leaves pixels out at stem_stride {self.stem_stride}."
            )
        if min(self.size) + 2 * self.reach < self.stem_kernel:
            raise UsageError(f"image_size {self.size} is too small for a stem_kernel of {self.stem_kernel}.")

    @property
    def reach(self):
        """Pixels of zeros on every side of the picture."""
        return (self.stem_kernel - self.stem_stride + 1) // 2

    @property
    def widths(self):
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**i for i in range(len(self.depths)))

    def block_names(self):
        return tuple(f"stage{i}_blocks_{j}" for i, depth in enumerate(self.depths, 1) for j in range(depth))

    def feature_info(self):
        names = [f"stage{i}_blocks_{depth - 1}" for i, depth in enumerate(self.depths, 1)]
        return [
            {"index": i, "name": name, "stride": self.stem_stride * 2**i, "channels": self.widths[i]}
            for i, name in enumerate(names)
        ]


@register
def cswin(config):
    """images (B, H, W, C) -> logits (B, num_classes) float32; pooled (B, D) without a head; the map (B, h, w, D) with
    global_pool "none"; all stages' maps, without a final norm, with features_only.
    """
    images = keras.Input((*config.sides, config.in_channels), name="images")
    maps = stages(config, images)
    if config.features_only:
        outputs = [maps[i] for i in config.selected_features(range(len(maps)))]
    else:
        outputs = pooled(config, maps[-1])
    return ZooModel(images, outputs, name="cswin")


def stages(config, images):
    """images (B, H, W, C) -> the map of every stage, (B, h, w, D)."""
    kernel, eps, names = (config.stem_kernel, config.stem_stride, config.reach), config.norm_eps, config.block_names()
    x = NormedConv(config.embed_dim, *kernel, norm_eps=eps, name="patch_embed")(images)
    maps, before, last = [], 0, len(config.depths) - 1
    for i, depth in enumerate(config.depths):
        if i:
            x = NormedConv(config.widths[i], 3, 2, 1, norm_eps=eps, name=f"merge{i}")(x)
        for j in range(before, before + depth):
            x = StripeBlock(
                config.widths[i],
                config.num_heads[i],
                split_size=None if i == last else config.split_size[i],
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
                act=config.act,
                proj_drop_rate=config.proj_drop_rate,
                attn_drop_rate=config.attn_drop_rate,
                drop_path_rate=config.drop_path_rate * j / max(len(names) - 1, 1),
                norm_eps=eps,
                remat=config.remat,
                name=names[j],
            )(x)
        maps.append(x)
        before += depth
    return maps


# fmt: off
# Sizes.
TINY  = {"embed_dim":  64, "depths": (1, 2, 21, 1), "num_heads": (2,  4,  8, 16)}
SMALL = {"embed_dim":  64, "depths": (2, 4, 32, 2), "num_heads": (2,  4,  8, 16)}
BASE  = {"embed_dim":  96, "depths": (2, 4, 32, 2), "num_heads": (4,  8, 16, 32)}
LARGE = {"embed_dim": 144, "depths": (2, 4, 32, 2), "num_heads": (6, 12, 24, 24)}
AT_384 = {"image_size": 384, "split_size": (1, 2, 12, 12), "preprocessing": IN_FULL}

VARIANTS = {
    "cswin_toy": CswinConfig(
        image_size=32, embed_dim=16, depths=(1, 1), num_heads=(2, 4), split_size=(3, 2), num_classes=10,
    ),
    "cswin_tiny_224":  CswinConfig(image_size=224, **TINY),
    "cswin_small_224": CswinConfig(image_size=224, **SMALL),
    "cswin_base_224":  CswinConfig(image_size=224, **BASE),
    "cswin_base_384":  CswinConfig(**AT_384, **BASE),
    "cswin_large_224": CswinConfig(image_size=224, **LARGE),
    "cswin_large_384": CswinConfig(**AT_384, **LARGE),
}
# fmt: on

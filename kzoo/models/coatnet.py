"""CoAtNet: stages of convolutions, then stages of attention that knows how far apart two cells are.

"CoAtNet: Marrying Convolution and Attention for All Data Sizes", https://arxiv.org/abs/2106.04803; numerics of timm's
`coatnet_*`, which stride in the depthwise convolution and pool by means. The paper's own form is stride_mode="1x1",
pool_type="max2" (and head_dim=64 in CoAtNet-5). Read top to bottom: the configuration, the builder, the table of sizes.
"""

from dataclasses import dataclass

import keras

from kzoo.errors import UsageError
from kzoo.layers.embed import PatchEmbed
from kzoo.layers.mbconv import CONV_ACTIVATIONS, POOLS, STRIDES, MBConv, TwoConvStem, strided
from kzoo.layers.relative import RelativeBlock, channel_norm
from kzoo.layers.transformer import ACTIVATIONS
from kzoo.models.base import LARGEST, ModelConfig, ZooModel
from kzoo.models.vit import head
from kzoo.registry import register
from kzoo.specs import FULL, HALF, HALF_95, HALF_SQUASH, IMAGENET, Preprocessing

TASK = "classify"
PAPER = "https://arxiv.org/abs/2106.04803"
CPU_XLA = False  # on CPU, XLA computes depthwise convolutions several times slower than the graph does


@dataclass(frozen=True, kw_only=True)
class CoatnetConfig(ModelConfig):
    """The architecture of one CoAtNet, mostly in timm's words. Tuples have an entry for each stage after the stem.

    Rates are probabilities in 0..1; drop_path_rate grows linearly from 0 at the first block to its value at the last.
    Maps whose sides are odd are halved up, so that any image size will do.
    """

    # C MBConv, T attention; "CT" is one C, then T: the last letter fills the stage
    layout: tuple[str, ...] = ("C", "C", "T", "T")
    depths: tuple[int, ...] = (2, 3, 5, 2)
    embed_dim: tuple[int, ...] = (96, 192, 384, 768)
    strides: tuple[int, ...] = (2, 2, 2, 2)  # 1 or 2, in the first block of a stage
    stem: str = "conv"  # conv (two 3x3 convolutions) | patch (ViT's)
    stem_stride: int = 2  # 1 or 2 of the first convolution; of "patch", its side in pixels
    stem_width: int | tuple[int, int] = 64  # channels; (of the first convolution, of the second)
    expand_ratio: float = 4.0  # how much wider an MBConv is inside than
    expand_output: bool = True  # its output, or (False) its input
    # where an MBConv strides: dw (depthwise convolution) | 1x1 (its first one: the paper's) | pool (before)
    stride_mode: str = "dw"
    pool_type: str = "avg2"  # avg2 | max2 (of 2x2 cells) | max (of 3x3), in the shortcuts and before the attention
    conv_act: str = "gelu"  # gelu (erf) | gelu_tanh | quick_gelu | silu | relu, in the stem and every MBConv
    pre_norm_act: bool = False  # in an MBConv, after its first norm too
    se_act: str = "silu"  # as conv_act
    se_early: bool = False  # squeeze-and-excitation before the norm of the depthwise convolution
    output_bias: bool = True  # in an MBConv, of the last convolution and the shortcut
    head_dim: int = 32
    expand_first: bool = True  # attention works in a stage's width at once, or (False) widens only its output
    shortcut_bias: bool = True  # of the shortcuts around attention
    # of the relative bias: pre (inside the softmax) | post (added after it), the paper's two forms
    bias_place: str = "pre"
    rel_pos_dim: int | None = None  # hidden width of an MLP that computes the relative bias; None: a table
    mlp_ratio: float = 4.0
    act: str = "gelu"  # gelu (erf) | gelu_tanh | quick_gelu, of the transformer blocks
    norm: str = "layer"  # layer | batch, of the transformer blocks and before the head
    norm_eps: float = 1e-6  # of those norms; all others are batch norms of 1e-5
    init_values: float | None = None  # where the transformer blocks' LayerScale starts; None: no LayerScale
    global_pool: str = "avg"  # avg | none (the normalised map)
    # width of a tanh layer before the head, the final norm then after the pooling; None: neither
    representation_size: int | None = None
    head_bias: float = 0.0  # where the head's bias starts
    drop_rate: float = 0.0  # before the head
    # in the transformer blocks, after the attention's projection and both layers of the MLP
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0  # of the attention weights
    drop_path_rate: float = 0.0
    preprocessing: Preprocessing = HALF_95

    numerics = (
        *("act", "norm_eps", "conv_act", "se_act", "pre_norm_act", "se_early"),
        *("stride_mode", "pool_type", "bias_place", "expand_first"),
    )
    stem_kernels = ("stem/conv1/kernel", "patch_embed/proj/kernel")

    def layouts(self):
        from kzoo.models.names.coatnet import LAYOUTS

        return LAYOUTS

    def __post_init__(self):
        super().__post_init__()
        self._check_values()
        self._check_stages()

    def _check_values(self):
        self.require_choices(
            stem=("conv", "patch"),
            stride_mode=STRIDES,
            pool_type=POOLS,
            conv_act=CONV_ACTIVATIONS,
            se_act=CONV_ACTIVATIONS,
            act=ACTIVATIONS,
            bias_place=("pre", "post"),
            norm=("layer", "batch"),
            global_pool=("avg", "none"),
        )
        self.require_rates("drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
        self.require_at_least(
            1, "stem_stride", "stem_width", "head_dim", "rel_pos_dim", "representation_size", "expand_ratio"
        )
        if len(self.stem_widths) != 2:
            raise UsageError(
                f"stem_width must be a whole number, or one for each of the two convolutions, not {self.stem_width}."
            )
        self.require_at_least(0, "norm_eps")
        self.require_at_least(-LARGEST, "init_values", "head_bias")
        if self.global_pool == "none" and self.representation_size:
            raise UsageError(
                "representation_size acts on the pooled vector; global_pool='none' needs representation_size=None."
            )

    def _check_stages(self):
        count = len(self.layout)
        if not count or not all(isinstance(kinds, str) and kinds and set(kinds) <= {"C", "T"} for kinds in self.layout):
            raise UsageError(
                f"layout names the blocks of each stage by C and T, as in ('C', 'C', 'T', 'T'), not {self.layout!r}."
            )
        for name in ("depths", "embed_dim", "strides"):
            values = getattr(self, name)
            if len(values) != count or not all(isinstance(value, int) and value > 0 for value in values):
                raise UsageError(
                    f"{name} takes {count} positive whole numbers, one for each stage of the layout, not {values}."
                )
        self.require_at_least(4, "embed_dim")  # of which an MBConv squeezes a quarter
        self.require_blocks("depths")
        self.require_mlp(min(self.embed_dim))
        if not set(self.strides) <= {1, 2} or (self.stem == "conv" and self.stem_stride > 2):
            raise UsageError(f"strides are 1 or 2, not {self.strides} after a stem of {self.stem_stride}.")
        if self.stem == "patch" and min(self.size) < self.stem_stride:
            raise UsageError(f"image_size {self.size} is smaller than one patch of {self.stem_stride} pixels.")
        for block in self.blocks:
            width = block.dim if self.expand_first else block.in_dim
            if block.kind == "T" and width % self.head_dim:
                raise UsageError(
                    f"{block.name} attends in {width} channels, which head_dim {self.head_dim} must divide."
                )

    @property
    def stem_widths(self):
        """Channels of the stem's two convolutions."""
        return (self.stem_width,) * 2 if isinstance(self.stem_width, int) else tuple(self.stem_width)

    @property
    def blocks(self):
        """Where every block stands, in order: [Place]."""
        cut = (
            (lambda side: side // self.stem_stride)
            if self.stem == "patch"
            else (lambda side: strided(side, self.stem_stride))
        )
        places, in_dim, map_size, reduction = [], self.stem_widths[1], tuple(map(cut, self.size)), self.stem_stride
        for i, kinds in enumerate(self.layout):
            for j in range(self.depths[i]):
                stride = self.strides[i] if j == 0 else 1
                map_size, reduction = tuple(strided(side, stride) for side in map_size), reduction * stride
                kind = kinds[min(j, len(kinds) - 1)]
                places.append(
                    Place(f"stages_{i}_blocks_{j}", kind, in_dim, self.embed_dim[i], stride, map_size, reduction)
                )
                in_dim = self.embed_dim[i]
        return places

    def block_names(self):
        return tuple(block.name for block in self.blocks)

    def feature_info(self):
        """The stem's map and the last one of each stride."""
        last = {self.stem_stride: ("stem", self.stem_widths[1])}
        for block in self.blocks:
            last[block.reduction] = (block.name, block.dim)
        return [{"index": i, "name": n, "stride": s, "channels": c} for i, (s, (n, c)) in enumerate(last.items())]


@dataclass(frozen=True)
class Place:
    """A block of the model: its layer's name, its kind (C or T), its widths, its stride, its output's (rows, columns)
    and stride in all.
    """

    name: str
    kind: str
    in_dim: int
    dim: int
    stride: int
    map_size: tuple[int, int]
    reduction: int


@register
def coatnet(config):
    """images (B, H, W, C) -> logits (B, num_classes) float32; pooled (B, D) without a head; the map (B, h, w, D) with
    global_pool "none".

    With a representation_size the pooled vector is what its layer makes of it.
    """
    images = keras.Input((*config.size, config.in_channels), name="images")
    x = stem(config, images)
    tapped, places = {"stem": x}, config.blocks
    for i, place in enumerate(places):
        block = mbconv if place.kind == "C" else attention_block
        x = tapped[place.name] = block(config, place, config.drop_path_rate * i / max(len(places) - 1, 1))(x)
    if config.features_only:
        facts = config.feature_info()
        outputs = [tapped[facts[i]["name"]] for i in config.selected_features(range(len(facts)))]
    else:
        outputs = head(config, pooled(config, x))
    return ZooModel(images, outputs, name="coatnet")


def stem(config, images):
    """(B, H, W, C) -> (B, rows, columns, D)."""
    if config.stem == "conv":
        return TwoConvStem(config.stem_widths, config.stem_stride, config.conv_act, name="stem")(images)
    width, patch = config.stem_widths[1], config.stem_stride
    rows, columns = (side // patch for side in config.size)
    return keras.layers.Reshape((rows, columns, width), name="stem")(
        PatchEmbed(patch, width, name="patch_embed")(images)
    )


def mbconv(config, place, drop_path_rate):
    """The layer of a place of kind C."""
    return MBConv(
        place.in_dim,
        place.dim,
        place.stride,
        expand_ratio=config.expand_ratio,
        expand_output=config.expand_output,
        stride_mode=config.stride_mode,
        pool_type=config.pool_type,
        act=config.conv_act,
        pre_norm_act=config.pre_norm_act,
        se_act=config.se_act,
        se_early=config.se_early,
        output_bias=config.output_bias,
        drop_path_rate=drop_path_rate,
        remat=config.remat,
        name=place.name,
    )


def attention_block(config, place, drop_path_rate):
    """The layer of a place of kind T."""
    return RelativeBlock(
        place.in_dim,
        place.dim,
        place.map_size,
        config.head_dim,
        place.stride,
        pool_type=config.pool_type,
        expand_first=config.expand_first,
        shortcut_bias=config.shortcut_bias,
        bias_place=config.bias_place,
        mlp_dim=config.rel_pos_dim,
        mlp_ratio=config.mlp_ratio,
        act=config.act,
        norm=config.norm,
        norm_eps=config.norm_eps,
        init_values=config.init_values,
        proj_drop_rate=config.proj_drop_rate,
        attn_drop_rate=config.attn_drop_rate,
        drop_path_rate=drop_path_rate,
        remat=config.remat,
        name=place.name,
    )


def pooled(config, x):
    """Final norm and mean: the map (B, h, w, D) -> (B, D), or the normalised map for "none"."""
    after = config.representation_size is not None
    if not after:
        x = channel_norm(config.norm, config.norm_eps, None, "norm")(x)
    if config.global_pool == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return channel_norm(config.norm, config.norm_eps, None, "fc_norm")(x) if after else x


# fmt: off
# Widths, and the depths that go with them.
PICO   = {"embed_dim": ( 64, 128,  256,  512), "stem_width": (32, 64)}
NANO   = {**PICO, "depths": (3, 4, 6, 3)}
SMALL  = {"embed_dim": ( 96, 192,  384,  768), "stem_width": 64, "depths": (2, 3, 5, 2)}
SMALL7 = {**SMALL, "stem_width": (32, 64), "depths": (2, 3, 7, 2)}  # timm's "0", deeper than the paper's
DEEP   = {**SMALL, "depths": (2, 6, 14, 2)}
BASE   = {"embed_dim": (128, 256,  512, 1024), "stem_width": 128, "depths": (2, 6, 14, 2)}
LARGE  = {"embed_dim": (192, 384,  768, 1536), "stem_width": 192, "depths": (2, 6, 14, 2)}

# What lines of models have in common: the paper's, with a tanh layer before the head, and timm's re-designs.
C0 = {**SMALL, "representation_size":  768}
C1 = {**DEEP,  "representation_size":  768}
C2 = {**BASE,  "representation_size": 1024}
C3 = {**LARGE, "representation_size": 1536}
C4 = {**C3, "depths": (2, 12, 28, 2)}
C5 = {**C4, "embed_dim": (256, 512, 1280, 2048), "representation_size": 2048}
# The paper's two largest: MBConvs and attention on the same grid in its S3. As printed, CoAtNet-6 has 1.35 billion weights; with
# embed_dim[4] = representation_size = 3072 it has the 1.47 billion, and the computation, of the paper's own Table 5.
HUGE = {
    "layout": ("C", "C", "C", "T", "T"), "strides": (2, 2, 2, 1, 2), "depths": (2, 4, 8, 42, 2), "stem_width": 192, "head_dim": 128,
    "stride_mode": "1x1", "pool_type": "max2",
}
C6 = {**HUGE, "embed_dim": (192, 384,  768, 1536, 2048), "representation_size": 2048}
C7 = {**HUGE, "embed_dim": (256, 512, 1024, 2048, 3072), "representation_size": 3072}
RW    = {"expand_output": False, "expand_first": False, "conv_act": "silu", "output_bias": False, "pre_norm_act": True, "se_act": "relu"}
EARLY = {**RW, "se_early": True, "shortcut_bias": False}
LATE  = {**RW, "se_act": "silu", "init_values": 1e-6}
MAX   = {**RW, "output_bias": True, "pre_norm_act": False, "se_act": "silu"}
REL   = {"layout": ("T",), "strides": (1,), "stem": "patch", "stem_stride": 16}  # a ViT with relative attention, and no class token
HALF_90 = Preprocessing(**HALF, crop_pct=0.9)
IN_95 = Preprocessing(**IMAGENET, crop_pct=0.95)

VARIANTS = {
    "coatnet_toy": CoatnetConfig(
        image_size=32, layout=("C", "T"), depths=(1, 1), embed_dim=(16, 24), strides=(2, 2), stem_width=8, head_dim=8,
        representation_size=20, num_classes=10,
    ),
    "coatnet_0_224": CoatnetConfig(image_size=224, **C0),
    "coatnet_0_384": CoatnetConfig(image_size=384, **C0, preprocessing=FULL),
    "coatnet_0_512": CoatnetConfig(image_size=512, **C0, preprocessing=FULL),
    "coatnet_1_224": CoatnetConfig(image_size=224, **C1),
    "coatnet_1_384": CoatnetConfig(image_size=384, **C1, preprocessing=FULL),
    "coatnet_1_512": CoatnetConfig(image_size=512, **C1, preprocessing=FULL),
    "coatnet_2_224": CoatnetConfig(image_size=224, **C2),
    "coatnet_2_384": CoatnetConfig(image_size=384, **C2, preprocessing=FULL),
    "coatnet_2_512": CoatnetConfig(image_size=512, **C2, preprocessing=FULL),
    "coatnet_3_224": CoatnetConfig(image_size=224, **C3),
    "coatnet_3_384": CoatnetConfig(image_size=384, **C3, preprocessing=FULL),
    "coatnet_3_512": CoatnetConfig(image_size=512, **C3, preprocessing=FULL),
    "coatnet_4_224": CoatnetConfig(image_size=224, **C4),
    "coatnet_4_384": CoatnetConfig(image_size=384, **C4, preprocessing=FULL),
    "coatnet_4_512": CoatnetConfig(image_size=512, **C4, preprocessing=FULL),
    "coatnet_5_224": CoatnetConfig(image_size=224, **C5),
    "coatnet_5_384": CoatnetConfig(image_size=384, **C5, preprocessing=FULL),
    "coatnet_5_512": CoatnetConfig(image_size=512, **C5, preprocessing=FULL),
    "coatnet_6_224": CoatnetConfig(image_size=224, **C6),
    "coatnet_6_512": CoatnetConfig(image_size=512, **C6, preprocessing=FULL),
    "coatnet_7_224": CoatnetConfig(image_size=224, **C7),
    "coatnet_7_512": CoatnetConfig(image_size=512, **C7, preprocessing=FULL),
    # The paper's ablation of layouts, at CoAtNet-0's widths and depths (the paper gives none), and plain attention of like sizes.
    "coatnet_cccc_224": CoatnetConfig(image_size=224, **C0, layout=("C", "C", "C", "C")),
    "coatnet_ccct_224": CoatnetConfig(image_size=224, **C0, layout=("C", "C", "C", "T")),
    "coatnet_cctt_224": CoatnetConfig(image_size=224, **C0),
    "coatnet_cttt_224": CoatnetConfig(image_size=224, **C0, layout=("C", "T", "T", "T")),
    "vit_rel_d384_l12_patch16_224": CoatnetConfig(**REL, depths=(12,), embed_dim=(384,), stem_width=384, representation_size=384),
    "vit_rel_d384_l14_patch16_224": CoatnetConfig(**REL, depths=(14,), embed_dim=(384,), stem_width=384, representation_size=384),
    "vit_rel_d448_l10_patch16_224": CoatnetConfig(**REL, depths=(10,), embed_dim=(448,), stem_width=448, representation_size=448),
    # timm's re-designs.
    "coatnet_pico_rw_224":      CoatnetConfig(**PICO,   **MAX),
    "coatnet_nano_rw_224":      CoatnetConfig(**NANO,   **MAX,   stride_mode="pool", preprocessing=HALF_90),
    "coatnet_nano_cc_224":      CoatnetConfig(**NANO,   **RW,    stride_mode="pool", layout=("C", "C", "CT", "CT")),
    "coatnet_0_rw_224":         CoatnetConfig(**SMALL7, **EARLY, stride_mode="pool"),
    "coatnet_1_rw_224":         CoatnetConfig(**DEEP | {"stem_width": (32, 64)}, **EARLY),
    "coatnet_2_rw_224":         CoatnetConfig(**BASE | {"stem_width": (64, 128)}, **RW | {"se_act": "silu"}),
    "coatnet_3_rw_224":         CoatnetConfig(**LARGE | {"stem_width": (96, 192)}, **LATE),
    "coatnet_bn_0_rw_224":      CoatnetConfig(**SMALL7, **EARLY, norm="batch", preprocessing=IN_95),
    "coatnet_rmlp_nano_rw_224": CoatnetConfig(**NANO,   **MAX,   rel_pos_dim=384, preprocessing=HALF_90),
    "coatnet_rmlp_0_rw_224":    CoatnetConfig(**SMALL7, **RW,    rel_pos_dim=512),
    "coatnet_rmlp_1_rw_224":    CoatnetConfig(
        **DEEP | {"stem_width": (32, 64)}, **EARLY, stride_mode="pool", pool_type="max", rel_pos_dim=384,
    ),
    "coatnet_rmlp_1_rw2_224":   CoatnetConfig(**DEEP | {"stem_width": (32, 64)}, **RW, rel_pos_dim=512),
    "coatnet_rmlp_2_rw_224":    CoatnetConfig(**BASE | {"stem_width": (64, 128)}, **LATE, rel_pos_dim=512),
    "coatnet_rmlp_2_rw_384":    CoatnetConfig(
        image_size=384, **BASE | {"stem_width": (64, 128)}, **LATE, rel_pos_dim=512, preprocessing=HALF_SQUASH,
    ),
    "coatnet_rmlp_3_rw_224":    CoatnetConfig(**LARGE | {"stem_width": (96, 192)}, **LATE, rel_pos_dim=512),
}
# fmt: on

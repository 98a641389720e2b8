"""Vision Transformer: patches, a plain pre-norm transformer, one linear head.

"An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929; numerics of timm's `vision_transformer` (erf GELU,
epsilon 1e-6). Read top to bottom: the configuration, the builder, the table of sizes.
"""

from dataclasses import dataclass

import keras

from kzoo.errors import UsageError
from kzoo.layers.embed import ConvStem, LearnedTokens, PatchEmbed, PositionEmbedding
from kzoo.layers.transformer import ACTIVATIONS, AttentionPool, TransformerBlock
from kzoo.models.base import LARGEST, ModelConfig, ZooModel, classifier
from kzoo.registry import register
from kzoo.specs import FULL, HALF, HALF_95, HALF_95_SQUASH, HALF_SQUASH, IN_90, IN_FULL, MIIL, Preprocessing

TASK = "classify"
PAPER = "https://arxiv.org/abs/2010.11929"
# on CPU too the training step is faster under XLA: ViT-S/16 11.6 images/s, 10.7 as a graph (benchmarks.step)
CPU_XLA = True


@dataclass(frozen=True, kw_only=True)
class VitConfig(ModelConfig):
    """The architecture of one ViT, in timm's words.

    Rates are probabilities in 0..1; drop_path_rate grows linearly from 0 at the first block to its value at the last.
    """

    patch_size: int = 16
    stride: int | None = None  # pixels between patches; None: patch_size; less: patches overlap
    stem: str = "patch"  # patch | conv (3x3 convolutions of stride 2, for small pictures and few of them)
    embed_dim: int = 192
    depth: int = 12
    num_heads: int = 3
    head_dim: int | None = None  # None: embed_dim / num_heads
    mlp_ratio: float = 4.0
    act: str = "gelu"  # gelu (erf) | gelu_tanh | quick_gelu
    qkv_bias: bool = True
    qk_norm: bool = False
    init_values: float | None = None  # where LayerScale starts; None: no LayerScale
    norm_eps: float = 1e-6
    class_token: bool = True
    reg_tokens: int = 0  # register tokens (https://arxiv.org/abs/2309.16588), between the class token and the patches
    # learned | sincos (fixed, MAE's) | sincos_kept (the same as a weight) | sincos2d (big_vision's) | none
    pos_embed: str = "learned"
    no_embed_class: bool = False  # positions for the patches alone, not for class and register tokens
    pre_norm: bool = False  # CLIP's: a norm before the blocks, no bias in the patch embedding
    # token | avg (of the patches) | map (attention pooling of the patches) | none (all normalised tokens)
    global_pool: str = "token"
    fc_norm: bool | None = None  # the final norm after the pooling rather than before; None: for avg
    representation_size: int | None = None  # width of a tanh layer before the head; None: no such layer
    head_bias: float = 0.0  # where the head's bias starts; -10 for many independent classes under a sigmoid
    drop_rate: float = 0.0  # before the head
    pos_drop_rate: float = 0.0  # after the positions
    proj_drop_rate: float = 0.0  # in every block, after the attention's projection and both layers of the MLP
    attn_drop_rate: float = 0.0  # of the attention weights
    drop_path_rate: float = 0.0
    preprocessing: Preprocessing = Preprocessing(crop_pct=0.9)

    numerics = ("act", "norm_eps")
    head_layers = ("head", "pre_logits")
    pool_norms = ("norm", "fc_norm")
    stem_kernels = ("patch_embed/proj/kernel", "patch_embed/conv_0/kernel")

    def layouts(self):
        from kzoo.models.names.vit import LAYOUTS

        return LAYOUTS

    def __post_init__(self):
        super().__post_init__()
        self._check_values()
        self._check_combinations()

    def _check_values(self):
        self.require_choices(
            global_pool=("token", "avg", "map", "none"),
            pos_embed=("learned", PositionEmbedding.kept, *PositionEmbedding.fixed_tables, "none"),
            stem=("patch", "conv"),
            act=ACTIVATIONS,
        )
        self.require_at_least(1, "patch_size", "stride", "embed_dim", "num_heads", "head_dim")
        self.require_blocks("depth")
        self.require_at_least(0, "reg_tokens", "representation_size", "norm_eps")
        self.require_at_least(-LARGEST, "init_values", "head_bias")
        self.require_mlp(self.embed_dim)
        self.require_rates("drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")

    def _check_combinations(self):
        pool, width, patch = self.global_pool, self.embed_dim, self.patch_size
        if width % self.num_heads and (self.head_dim is None or pool == "map"):
            remedy = "" if pool == "map" else ", or head_dim set"
            raise UsageError(f"embed_dim {width} must be divisible by num_heads {self.num_heads}{remedy}.")
        if self.stride is not None and self.stride > patch:
            raise UsageError(
                f"stride {self.stride} leaves pixels between patches of {patch} out; it must be at most patch_size."
            )
        if self.stem == "conv" and (
            patch & (patch - 1) or any(side % patch for side in self.size) or self.step != patch
        ):
            raise UsageError(
                f"stem='conv' needs a patch_size that is a power of two and divides the image size, not {patch}, and "
                "no other stride."
            )
        if self.pos_embed.startswith("sincos") and (width % 4 or width < 8):
            raise UsageError(
                f"pos_embed={self.pos_embed!r} needs an embed_dim divisible by 4, of at least 8, not {width}."
            )
        if pool == "token" and not self.class_token:
            raise UsageError(
                "global_pool='token' needs class_token=True; use global_pool='avg' or 'map' without a class token."
            )
        if pool == "none" and (self.fc_norm or self.representation_size):
            raise UsageError("fc_norm and representation_size act on the pooled vector; global_pool='none' has none.")
        if min(self.grid) < 1:
            raise UsageError(f"image_size {self.size} is smaller than one patch of {patch} pixels.")

    @property
    def step(self):
        """Pixels from one patch to the next."""
        return self.stride or self.patch_size

    @property
    def grid(self):
        """(rows, columns) of patches."""
        return tuple((side - self.patch_size) // self.step + 1 for side in self.size)

    @property
    def prefix(self):
        """How many tokens come before the patches."""
        return self.class_token + self.reg_tokens

    @property
    def norm_after_pooling(self):
        """fc_norm, its default resolved by timm's rule."""
        return self.global_pool == "avg" if self.fc_norm is None else self.fc_norm

    def block_names(self):
        return tuple(f"blocks_{i}" for i in range(self.depth))

    def feature_info(self):
        common = {"stride": self.step, "channels": self.embed_dim}
        return [{"index": i, "name": name} | common for i, name in enumerate(self.block_names())]


@register
def vit(config):
    """images (B, H, W, C) -> logits (B, num_classes) float32; pooled (B, D) without a head; tokens (B, N, D) with
    global_pool "none".

    With a representation_size the pooled vector is what its layer makes of it.
    """
    images = keras.Input((*config.size, config.in_channels), name="images")
    return transformer(config, images, patches(config, images))


def transformer(config, images, x):
    """The model from `images` to what `vit` gives, over the embedded patches x (B, N, D) that were made of them, row by
    row.
    """
    tapped = blocks(config, tokens(config, x))
    outputs = feature_maps(config, tapped) if config.features_only else head(config, pool(config, tapped[-1]))
    return ZooModel(images, outputs, name="vit")


def blocks(config, x, prefix="", begin=lambda block: None):
    """What each of the blocks makes of the tokens x (B, N, D), in order.

    `prefix` comes before their names; begin(block) may change how the parts of a TransformerBlock are initialised.
    """
    tapped = []
    for i, name in enumerate(config.block_names()):
        block = TransformerBlock(
            config.embed_dim,
            config.num_heads,
            head_dim=config.head_dim,
            mlp_ratio=config.mlp_ratio,
            qkv_bias=config.qkv_bias,
            qk_norm=config.qk_norm,
            init_values=config.init_values,
            act=config.act,
            proj_drop_rate=config.proj_drop_rate,
            attn_drop_rate=config.attn_drop_rate,
            drop_path_rate=config.drop_path_rate * i / max(config.depth - 1, 1),
            norm_eps=config.norm_eps,
            remat=config.remat,
            name=prefix + name,
        )
        begin(block)
        x = block(x)
        tapped.append(x)
    return tapped


def patches(config, images):
    """images (B, H, W, C) -> embedded patches (B, N, D), row by row."""
    if config.stem == "conv":
        return ConvStem(config.patch_size, config.embed_dim, name="patch_embed")(images)
    return PatchEmbed(
        config.patch_size, config.embed_dim, config.stride, use_bias=not config.pre_norm, name="patch_embed"
    )(images)


def tokens(config, x):
    """What enters the first block: embedded patches (B, N, D) -> class token, register tokens, patches, with their
    positions.
    """
    if config.no_embed_class:
        x = prepend_tokens(config, add_positions(config, x, prefix=0))
    else:
        x = add_positions(config, prepend_tokens(config, x), config.prefix)
    x = keras.layers.Dropout(config.pos_drop_rate, name="pos_drop")(x)
    return norm(config, "norm_pre")(x) if config.pre_norm else x


def prepend_tokens(config, x):
    """(B, N, D) -> (B, prefix + N, D)."""
    if config.reg_tokens:
        x = LearnedTokens(config.reg_tokens, stddev=1e-6, name="reg_token")(x)
    return LearnedTokens(name="cls_token")(x) if config.class_token else x


def add_positions(config, x, prefix):
    """Positions for `prefix` tokens and the patches after them, (B, N, D), as the configuration asks."""
    return (
        x
        if config.pos_embed == "none"
        else PositionEmbedding(config.grid, prefix, config.pos_embed, name="pos_embed")(x)
    )


def norm(config, name):
    """A layer norm of the model's epsilon."""
    return keras.layers.LayerNormalization(epsilon=config.norm_eps, name=name)


def pool(config, x):
    """Final norm and pooling, in the order that the configuration asks for: tokens (B, N, D) -> (B, D), or tokens still
    for "none".
    """
    if not config.norm_after_pooling:
        x = norm(config, "norm")(x)
    if config.global_pool == "token":
        x = x[:, 0]
    elif config.global_pool != "none" and config.prefix:
        x = x[:, config.prefix :]
    if config.global_pool == "avg":
        x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    elif config.global_pool == "map":
        x = AttentionPool(
            config.embed_dim, config.num_heads, config.mlp_ratio, config.act, config.norm_eps, name="attn_pool"
        )(x)
    return norm(config, "fc_norm")(x) if config.norm_after_pooling else x


def head(config, x):
    """Pooled (B, D), or tokens, -> what the configuration asks for, float32."""
    if config.representation_size:
        x = keras.layers.Dense(
            config.representation_size, "tanh", kernel_initializer="lecun_normal", name="pre_logits"
        )(x)
    classes = 0 if config.global_pool == "none" else config.num_classes
    return classifier(x, classes, config.drop_rate, config.head_bias)


def feature_maps(config, tapped):
    """The chosen blocks' outputs as maps (B, rows, columns, D), of the patches alone, without final norm; by default
    the last three.
    """
    default = tuple(range(config.depth))[-3:]
    shape = (*config.grid, config.embed_dim)
    return [
        keras.layers.Reshape(shape, name=f"feature_{i}")(tapped[i][:, config.prefix :])
        for i in config.selected_features(default)
    ]


# fmt: off
# Sizes.
TINY      = {"embed_dim":  192, "depth": 12, "num_heads":  3}
WEE       = {"embed_dim":  256, "depth": 14, "num_heads":  4, "mlp_ratio": 5.0}
LITTLE    = {"embed_dim":  320, "depth": 14, "num_heads":  5, "mlp_ratio": 5.6}
SMALL     = {"embed_dim":  384, "depth": 12, "num_heads":  6}
MEDIUM    = {"embed_dim":  512, "depth": 12, "num_heads":  8}
MEDIUMD   = {"embed_dim":  512, "depth": 20, "num_heads":  8}
BETWIXT   = {"embed_dim":  640, "depth": 12, "num_heads": 10}
BASE      = {"embed_dim":  768, "depth": 12, "num_heads": 12}
PLUS      = {"embed_dim":  896, "depth": 12, "num_heads": 14}
SO150M    = {"embed_dim":  896, "depth": 18, "num_heads": 14, "mlp_ratio": 2.572}
SO150M2   = {"embed_dim":  832, "depth": 21, "num_heads": 13, "mlp_ratio": 34 / 13}
LARGE     = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
SO400M    = {"embed_dim": 1152, "depth": 27, "num_heads": 16, "mlp_ratio": 3.7362}
HUGE      = {"embed_dim": 1280, "depth": 32, "num_heads": 16}
GIANT     = {"embed_dim": 1408, "depth": 40, "num_heads": 16, "mlp_ratio": 48 / 11}
GIGANTIC  = {"embed_dim": 1664, "depth": 48, "num_heads": 16, "mlp_ratio": 64 / 13}

# What lines of models have in common.
GAP    = {"class_token": False, "global_pool": "avg", "fc_norm": False}
SW     = {**GAP, "qkv_bias": False, "init_values": 1e-6}
SBB    = {"class_token": False, "no_embed_class": True, "global_pool": "avg", "init_values": 1e-5}
SO2    = {"class_token": False, "reg_tokens": 1, "global_pool": "avg", "qkv_bias": False, "init_values": 1e-5}
SIMPLE  = {  # "Better plain ViT baselines for ImageNet-1k", https://arxiv.org/abs/2205.01580, as its official code configures it
    **GAP, "image_size": 224, "patch_size": 16, "pos_embed": "sincos2d", "act": "gelu_tanh",
    "preprocessing": Preprocessing(**HALF, crop_pct=0.875, interpolation="bilinear"),
}

VARIANTS = {
    "vit_toy": VitConfig(image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=10, preprocessing=FULL),
    "vit_tiny_patch8_224":        VitConfig(image_size=224, patch_size= 8, **TINY),
    "vit_tiny_patch8_384":        VitConfig(image_size=384, patch_size= 8, **TINY,  preprocessing=FULL),
    "vit_tiny_patch14_224":       VitConfig(image_size=224, patch_size=14, **TINY),
    "vit_tiny_patch14_384":       VitConfig(image_size=384, patch_size=14, **TINY,  preprocessing=FULL),
    "vit_tiny_patch16_224":       VitConfig(image_size=224, patch_size=16, **TINY),
    "vit_tiny_patch16_384":       VitConfig(image_size=384, patch_size=16, **TINY,  preprocessing=FULL),
    "vit_tiny_patch32_224":       VitConfig(image_size=224, patch_size=32, **TINY),
    "vit_tiny_patch32_384":       VitConfig(image_size=384, patch_size=32, **TINY,  preprocessing=FULL),
    "vit_small_patch8_224":       VitConfig(image_size=224, patch_size= 8, **SMALL),
    "vit_small_patch8_384":       VitConfig(image_size=384, patch_size= 8, **SMALL, preprocessing=FULL),
    "vit_small_patch14_224":      VitConfig(image_size=224, patch_size=14, **SMALL),
    "vit_small_patch14_384":      VitConfig(image_size=384, patch_size=14, **SMALL, preprocessing=FULL),
    "vit_small_patch16_224":      VitConfig(image_size=224, patch_size=16, **SMALL),
    "vit_small_patch16_384":      VitConfig(image_size=384, patch_size=16, **SMALL, preprocessing=FULL),
    "vit_small_patch32_224":      VitConfig(image_size=224, patch_size=32, **SMALL),
    "vit_small_patch32_384":      VitConfig(image_size=384, patch_size=32, **SMALL, preprocessing=FULL),
    "vit_base_patch8_224":        VitConfig(image_size=224, patch_size= 8, **BASE),
    "vit_base_patch8_384":        VitConfig(image_size=384, patch_size= 8, **BASE,  preprocessing=FULL),
    "vit_base_patch14_224":       VitConfig(image_size=224, patch_size=14, **BASE),
    "vit_base_patch14_384":       VitConfig(image_size=384, patch_size=14, **BASE,  preprocessing=FULL),
    "vit_base_patch16_224":       VitConfig(image_size=224, patch_size=16, **BASE),
    "vit_base_patch16_384":       VitConfig(image_size=384, patch_size=16, **BASE,  preprocessing=FULL),
    "vit_base_patch32_224":       VitConfig(image_size=224, patch_size=32, **BASE),
    "vit_base_patch32_384":       VitConfig(image_size=384, patch_size=32, **BASE,  preprocessing=FULL),
    "vit_large_patch8_224":       VitConfig(image_size=224, patch_size= 8, **LARGE),
    "vit_large_patch8_384":       VitConfig(image_size=384, patch_size= 8, **LARGE, preprocessing=FULL),
    "vit_large_patch14_224":      VitConfig(image_size=224, patch_size=14, **LARGE),
    "vit_large_patch14_384":      VitConfig(image_size=384, patch_size=14, **LARGE, preprocessing=FULL),
    "vit_large_patch16_224":      VitConfig(image_size=224, patch_size=16, **LARGE),
    "vit_large_patch16_384":      VitConfig(image_size=384, patch_size=16, **LARGE, preprocessing=FULL),
    "vit_large_patch32_224":      VitConfig(image_size=224, patch_size=32, **LARGE),
    "vit_large_patch32_384":      VitConfig(image_size=384, patch_size=32, **LARGE, preprocessing=FULL),
    "vit_huge_patch8_224":        VitConfig(image_size=224, patch_size= 8, **HUGE),
    "vit_huge_patch8_384":        VitConfig(image_size=384, patch_size= 8, **HUGE,  preprocessing=FULL),
    "vit_huge_patch14_224":       VitConfig(image_size=224, patch_size=14, **HUGE),
    "vit_huge_patch14_518":       VitConfig(image_size=518, patch_size=14, **HUGE,  preprocessing=FULL),
    "vit_huge_patch16_224":       VitConfig(image_size=224, patch_size=16, **HUGE),
    "vit_huge_patch16_384":       VitConfig(image_size=384, patch_size=16, **HUGE,  preprocessing=FULL),
    "vit_huge_patch32_224":       VitConfig(image_size=224, patch_size=32, **HUGE),
    "vit_huge_patch32_384":       VitConfig(image_size=384, patch_size=32, **HUGE,  preprocessing=FULL),
    "vit_base_patch64_256":       VitConfig(image_size=256, patch_size=64, **BASE,  preprocessing=FULL),
    "vit_giant_patch14_224":      VitConfig(image_size=224, patch_size=14, **GIANT),
    "vit_gigantic_patch14_224":   VitConfig(image_size=224, patch_size=14, **GIGANTIC),
    "vit_small_patch16_36x1_224": VitConfig(image_size=224, patch_size=16, **SMALL | {"depth": 36}, init_values=1e-5),
    "vit_base_patch32_plus_256":  VitConfig(image_size=256, patch_size=32, **PLUS,  init_values=1e-5, preprocessing=HALF_95),
    "vit_base_patch16_plus_240":  VitConfig(image_size=240, patch_size=16, **PLUS,  init_values=1e-5, preprocessing=HALF_95),
    "vit_base_patch16_224_miil":  VitConfig(image_size=224, patch_size=16, **BASE,  num_classes=11221, qkv_bias=False, preprocessing=MIIL),
    # Average pooling without a class token, and registers (timm's and I-JEPA's).
    "vit_medium_patch16_gap_240":       VitConfig(image_size=240, patch_size=16, **MEDIUM,  **SW, num_classes=11821, preprocessing=HALF_95),
    "vit_medium_patch16_gap_256":       VitConfig(image_size=256, patch_size=16, **MEDIUM,  **SW, preprocessing=HALF_95),
    "vit_medium_patch16_gap_384":       VitConfig(image_size=384, patch_size=16, **MEDIUM,  **SW, preprocessing=HALF_95_SQUASH),
    "vit_betwixt_patch16_gap_256":      VitConfig(image_size=256, patch_size=16, **BETWIXT, **SW, preprocessing=HALF_95),
    "vit_base_patch16_gap_224":         VitConfig(image_size=224, patch_size=16, **BASE | {"num_heads": 16}, **GAP),
    "vit_huge_patch14_gap_224":         VitConfig(image_size=224, patch_size=14, **HUGE,    **GAP, num_classes=0, preprocessing=IN_90),
    "vit_huge_patch16_gap_448":         VitConfig(image_size=448, patch_size=16, **HUGE,    **GAP, num_classes=0, preprocessing=IN_FULL),
    "vit_giant_patch16_gap_224":        VitConfig(image_size=224, patch_size=16, **GIANT,   **GAP, num_classes=0, preprocessing=IN_90),
    "vit_wee_patch16_reg1_gap_256":     VitConfig(image_size=256, patch_size=16, **WEE,     **SBB, reg_tokens=1, preprocessing=HALF_95),
    "vit_little_patch16_reg1_gap_256":  VitConfig(image_size=256, patch_size=16, **LITTLE,  **SBB, reg_tokens=1, preprocessing=HALF_95),
    "vit_little_patch16_reg4_gap_256":  VitConfig(image_size=256, patch_size=16, **LITTLE,  **SBB, reg_tokens=4, preprocessing=HALF_95),
    "vit_medium_patch16_reg1_gap_256":  VitConfig(image_size=256, patch_size=16, **MEDIUM,  **SBB, reg_tokens=1, preprocessing=HALF_95),
    "vit_medium_patch16_reg4_gap_256":  VitConfig(image_size=256, patch_size=16, **MEDIUM,  **SBB, reg_tokens=4, preprocessing=HALF_95),
    "vit_mediumd_patch16_reg4_gap_256": VitConfig(image_size=256, patch_size=16, **MEDIUMD, **SBB, reg_tokens=4, preprocessing=HALF_95),
    "vit_mediumd_patch16_reg4_gap_384": VitConfig(image_size=384, patch_size=16, **MEDIUMD, **SBB, reg_tokens=4, preprocessing=FULL),
    "vit_betwixt_patch16_reg1_gap_256": VitConfig(image_size=256, patch_size=16, **BETWIXT, **SBB, reg_tokens=1, preprocessing=HALF_95),
    "vit_betwixt_patch16_reg4_gap_256": VitConfig(image_size=256, patch_size=16, **BETWIXT, **SBB, reg_tokens=4, preprocessing=HALF_95),
    "vit_betwixt_patch16_reg4_gap_384": VitConfig(image_size=384, patch_size=16, **BETWIXT, **SBB, reg_tokens=4, preprocessing=FULL),
    "vit_base_patch16_reg4_gap_256":    VitConfig(image_size=256, patch_size=16, **BASE,    **SBB | {"init_values": None}, reg_tokens=4),
    "vit_so150m_patch16_reg4_map_256":  VitConfig(image_size=256, patch_size=16, **SO150M,  **GAP | {"global_pool": "map"}, reg_tokens=4),
    "vit_so150m_patch16_reg4_gap_256":  VitConfig(image_size=256, patch_size=16, **SO150M,  **GAP, reg_tokens=4, preprocessing=HALF_95),
    "vit_so150m_patch16_reg4_gap_384":  VitConfig(image_size=384, patch_size=16, **SO150M,  **GAP, reg_tokens=4, preprocessing=FULL),
    "vit_so150m2_patch16_reg1_gap_256": VitConfig(image_size=256, patch_size=16, **SO150M2, **SO2, preprocessing=FULL),
    "vit_so150m2_patch16_reg1_gap_384": VitConfig(image_size=384, patch_size=16, **SO150M2, **SO2, preprocessing=FULL),
    "vit_so150m2_patch16_reg1_gap_448": VitConfig(image_size=448, patch_size=16, **SO150M2, **SO2, preprocessing=HALF_SQUASH),
    # SimpleViT.
    "simple_vit_tiny_patch16_224":  VitConfig(**TINY,  **SIMPLE, representation_size=192),
    "simple_vit_small_patch16_224": VitConfig(**SMALL, **SIMPLE, representation_size=384),
    "simple_vit_base_patch16_224":  VitConfig(**BASE,  **SIMPLE, representation_size=768),
    "simple_vit_large_patch16_224": VitConfig(**LARGE, **SIMPLE, representation_size=1024),
}
# fmt: on

"""Masked autoencoders: a ViT sees a quarter of the patches, a small decoder draws the others; the encoder is what is
kept.

"Masked Autoencoders Are Scalable Vision Learners", https://arxiv.org/abs/2111.06377; numerics of the official code and
of transformers' ViTMAE. The encoder is `vit` under its own names: without a decoder (num_classes=0) it is called with
images alone, and a `vit_*` model of its size starts from its weights. First weights are drawn as the official code
draws them. Read top to bottom: the configuration, the builder, what hides and restores patches, the table of sizes.
"""

import dataclasses
from dataclasses import dataclass

import keras
from keras import ops

from kzoo.errors import UsageError
from kzoo.layers.base import ZooLayer
from kzoo.layers.embed import LearnedTokens, PatchEmbed, PositionEmbedding
from kzoo.layers.transformer import dense
from kzoo.models import vit
from kzoo.models.base import ModelConfig, ZooModel
from kzoo.registry import register
from kzoo.specs import IN_90, IN_FULL, Preprocessing

TASK = "masked"
PAPER = "https://arxiv.org/abs/2111.06377"
CPU_XLA = True  # the blocks are ViT's


@dataclass(frozen=True, kw_only=True)
class MaeConfig(ModelConfig):
    """The architecture of one masked autoencoder. drop_path_rate is the encoder's, and grows over its blocks as in a
    ViT.
    """

    num_classes: int | None = None  # None: the autoencoder; 0: its encoder alone, the pooled vector
    patch_size: int = 16
    embed_dim: int = 192
    depth: int = 12
    num_heads: int = 3
    mlp_ratio: float = 4.0  # of encoder and decoder
    act: str = "gelu"  # as VitConfig.act
    qkv_bias: bool = True
    norm_eps: float = 1e-6
    # of the encoder alone: token | avg (of the patches) | none (all tokens); the norm comes before it
    global_pool: str = "token"
    drop_path_rate: float = 0.0
    # share of the patches that the encoder does not see; it sees int(patches * (1 - mask_ratio))
    mask_ratio: float = 0.75
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    preprocessing: Preprocessing = IN_90

    numerics = ("act", "norm_eps")
    stem_kernels = vit.VitConfig.stem_kernels
    training_only = ("mask_token/", "decoder_")
    class_token = True

    def layouts(self):
        from kzoo.models.names.mae import LAYOUTS

        return LAYOUTS

    def __post_init__(self):
        super().__post_init__()
        self.require_choices(global_pool=("token", "avg", "none"))
        self.require_rates("mask_ratio", "drop_path_rate")
        self.require_at_least(1, "patch_size", "decoder_embed_dim", "decoder_num_heads")
        self.require_blocks("decoder_depth")
        # the encoder checks itself
        encoder, width, heads = self.encoder, self.decoder_embed_dim, self.decoder_num_heads
        if self.num_classes:
            raise UsageError(
                f"a masked autoencoder has no classes: for {self.num_classes} of them train {_vit_of(encoder)} with "
                "init_from=, the run or "
                "the weights of this one; num_classes=0 gives its encoder."
            )
        if width % heads or width % 4 or width < 8:
            raise UsageError(
                f"decoder_embed_dim must be divisible by 4 and by decoder_num_heads {heads}, and at least 8, not "
                f"{width}."
            )
        if self.encoder_alone:
            return
        if any(side % self.patch_size for side in self.size):
            raise UsageError(
                f"image_size {self.size} must be divisible by patch_size {self.patch_size}: every pixel is to be drawn "
                "again."
            )
        if self.seen < 1:
            raise UsageError(
                f"mask_ratio {self.mask_ratio} leaves none of {self.patches} patches to be seen; choose a smaller one."
            )

    @property
    def encoder_alone(self):
        """Whether the model is the encoder, called with images."""
        return self.num_classes == 0 or self.features_only

    @property
    def encoder(self):
        """The VitConfig of the encoder, which has no head. Raises UsageError where there is no such ViT."""
        shared = {field.name for field in dataclasses.fields(vit.VitConfig)} & {
            field.name for field in dataclasses.fields(self)
        }
        said = {name: getattr(self, name) for name in shared} | {"num_classes": 0, "pos_embed": PositionEmbedding.kept}
        return vit.VitConfig(**said, fc_norm=False if self.global_pool == "avg" else None)

    @property
    def decoder(self):
        """The VitConfig of the decoder's blocks."""
        sizes = {"embed_dim": self.decoder_embed_dim, "depth": self.decoder_depth, "num_heads": self.decoder_num_heads}
        return dataclasses.replace(self.encoder, **sizes, drop_path_rate=0.0)

    @property
    def grid(self):
        """(rows, columns) of patches."""
        return self.encoder.grid

    @property
    def patches(self):
        """How many patches a picture has."""
        rows, columns = self.grid
        return rows * columns

    @property
    def seen(self):
        """How many of them the encoder sees."""
        return int(self.patches * (1 - self.mask_ratio))

    def block_names(self):
        return self.encoder.block_names()

    def feature_info(self):
        return self.encoder.feature_info()


def _vit_of(encoder):
    """The name of the ViT that has the encoder's blocks and patches, or what to look for."""
    fields = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "class_token")
    sizes = [getattr(encoder, field) for field in fields]
    found = (name for name, row in vit.VARIANTS.items() if [getattr(row, field) for field in fields] == sizes)
    return next(found, "a vit_* model of its sizes")


@register
def mae(config):
    """{"image": (B, H, W, C), "noise": (B, N) in 0..1} -> {"pred": (B, N, P * P * C), "mask": (B, N) float32,
    "ids_restore": (B, N) int32}.

    The patches of the smallest noise are seen, in its order; mask is 1 where a patch was not. ids_restore tells the
    place of each patch in that order. pred, float32, has the pixels of each patch row by row, channels last. The
    encoder alone: images (B, H, W, C) -> what `kzoo.models.vit.vit` gives without a head, the pooled vector (B, D).
    """
    encoder, decoder = config.encoder, config.decoder
    if config.encoder_alone:
        return vit.vit(encoder)
    image = keras.Input((*config.size, config.in_channels), name="image")
    noise = keras.Input((config.patches,), name="noise")
    x = ClassToken(stddev=0.02, name="cls_token")(embedded(config, image))
    x = vit.add_positions(encoder, x, prefix=1)
    x, mask, ids_restore = HidePatches(config.seen, name="hide_patches")(x, noise)
    x = vit.norm(encoder, "norm")(vit.blocks(encoder, x, begin=begin)[-1])
    x = RestorePatches(name="mask_token")(dense(decoder.embed_dim, None, "decoder_embed")(x), ids_restore)
    x = PositionEmbedding(config.grid, 1, PositionEmbedding.kept, name="decoder_pos_embed")(x)
    x = vit.norm(decoder, "decoder_norm")(vit.blocks(decoder, x, "decoder_", begin)[-1])
    x = dense(config.patch_size**2 * config.in_channels, None, "decoder_pred")(x[:, 1:])
    pred = keras.layers.Activation("linear", dtype="float32", name="pred")(x)
    return ZooModel(
        {"image": image, "noise": noise}, {"pred": pred, "mask": mask, "ids_restore": ids_restore}, name="mae"
    )


def embedded(config, image):
    """image (B, H, W, C) -> embedded patches (B, N, D); the kernel starts Xavier-uniform as the one matrix that it
    is, the bias as torch's convolutions have it.
    """
    layer = PatchEmbed(config.patch_size, config.embed_dim, name="patch_embed")
    inputs = config.patch_size**2 * config.in_channels
    layer.proj.kernel_initializer = keras.initializers.VarianceScaling(
        2 * inputs / (inputs + config.embed_dim), "fan_in", "uniform"
    )
    layer.proj.bias_initializer = keras.initializers.RandomUniform(-(inputs**-0.5), inputs**-0.5)
    return layer(image)


def begin(block):
    """Lets a TransformerBlock start as in the official code: queries, keys and values drawn as one matrix, no bias."""
    block.attn.qkv.kernel_initializer = keras.initializers.GlorotUniform()
    for layer in (block.mlp.fc1, block.mlp.fc2):
        layer.bias_initializer = keras.initializers.Zeros()


def rows_of(x, ids):
    """Of each sample of x (B, N, D) the rows ids (B, K) int32: (B, K, D). A gather of whole rows, several times
    faster than of values.
    """
    count, dim = x.shape[1:]
    first = count * ops.arange(ops.shape(x)[0], dtype="int32")[:, None]
    return ops.reshape(
        ops.take(ops.reshape(x, (-1, dim)), ops.reshape(ids + first, (-1,)), axis=0), (-1, ids.shape[1], dim)
    )


def after_class_token(ids):
    """Places among patches (B, K) -> places among all tokens (B, 1 + K), the class token's first."""
    return ops.pad(ids + 1, ((0, 0), (1, 0)))


@keras.saving.register_keras_serializable(package="kzoo")
class ClassToken(LearnedTokens):
    """The class token of pre-training: like the mask token it decays as matrices do, in the official code. A ViT that
    starts from it leaves it alone.
    """

    no_weight_decay = False


@keras.saving.register_keras_serializable(package="kzoo")
class HidePatches(ZooLayer):
    """Keeps the class token and the `seen` patches of the smallest noise.

    (B, 1 + N, D), noise (B, N) -> (B, 1 + seen, D) in the order of the noise, mask (B, N) float32, 1 where a patch was
    hidden, and the place of each patch in that order, (B, N) int32.
    """

    def __init__(self, seen, **kwargs):
        super().__init__(autocast=False, **kwargs)  # in 16 bits, noises would become equal
        self.seen = seen

    def build(self, x_shape, noise_shape):
        """Nothing: Keras asks for it where a layer with two inputs is built by their shapes."""

    def call(self, x, noise):
        shuffled = ops.argsort(noise, axis=1)
        ids_restore = ops.cast(ops.argsort(shuffled, axis=1), "int32")
        kept = rows_of(x, after_class_token(ops.cast(shuffled[:, : self.seen], "int32")))
        return kept, ops.cast(ids_restore >= self.seen, "float32"), ids_restore


@keras.saving.register_keras_serializable(package="kzoo")
class RestorePatches(ZooLayer):
    """Puts the seen tokens back into their places, one learned token into all others.

    (B, 1 + seen, D), ids_restore (B, N) as of HidePatches -> (B, 1 + N, D).
    """

    def build(self, x_shape, ids_restore_shape):
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.token = self.add_weight((1, 1, x_shape[-1]), initializer=normal, name="token")

    def call(self, x, ids_restore):
        hidden = 1 + ids_restore.shape[1] - x.shape[1]
        tokens = ops.broadcast_to(ops.cast(self.token, x.dtype), (ops.shape(x)[0], hidden, x.shape[-1]))
        return rows_of(ops.concatenate([x, tokens], axis=1), after_class_token(ids_restore))


# fmt: off
VARIANTS = {
    "mae_toy": MaeConfig(
        image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2,
        preprocessing=IN_FULL,
    ),
    # No size of the paper's. 8 blocks of 512 channels would be four fifths of its weights; in the paper's ablations fine-tuning depends
    # little on the decoder's depth and width (Table 1), so it has half of both, with heads 32 wide as in the others.
    "mae_vit_tiny_patch16_224":  MaeConfig(**vit.TINY, decoder_embed_dim=256, decoder_depth=4, decoder_num_heads=8),
    "mae_vit_base_patch16_224":  MaeConfig(**vit.BASE),
    "mae_vit_large_patch16_224": MaeConfig(**vit.LARGE),
    "mae_vit_huge_patch14_224":  MaeConfig(patch_size=14, **vit.HUGE),
}
# fmt: on

"""DETR: a convolutional network's last map, a transformer's encoder over its cells, and a decoder whose learned queries
each give one box with its class, or none.

"End-to-End Object Detection with Transformers", https://arxiv.org/abs/2005.12872; numerics and first weights of the
official code. The backbone is any model of kzoo with a feature map: `kzoo.get("detr_resnet50", backbone="resnet34",
...)`. Read top to bottom: the configuration, the builder, the decoder's parts, the table of sizes.
"""

from dataclasses import dataclass

import keras
from keras import ops

from kzoo.errors import UsageError
from kzoo.layers.base import ZooLayer
from kzoo.layers.detector import (
    FeedForward,
    FitPadding,
    PostNormBlock,
    QueryAttention,
    QueryBlock,
    SinePositions,
    linear,
    side,
)
from kzoo.models.backbone import Backbone, OnBackbone
from kzoo.models.base import ModelConfig, ZooModel
from kzoo.registry import register
from kzoo.specs import IMAGENET, Preprocessing

TASK = "detect"
PAPER = "https://arxiv.org/abs/2005.12872"
CPU_XLA = False  # most of the work is the ResNet's


@dataclass(frozen=True, kw_only=True)
class DetrConfig(OnBackbone, ModelConfig):
    """The architecture of one DETR. image_size and in_channels are the backbone's too; drop_rate, in [0, 1), is of
    every dropout of the transformer, that of its attention weights among them.
    """

    image_size: int | tuple[int, int] = (800, 1066)
    num_classes: int = 91  # without the "no object" that comes last in the logits
    backbone: str = "resnet50"
    backbone_index: int = -1  # which of its maps (kzoo.info(backbone).feature_info); negative: from the coarsest
    # how the names of the backbone's layers begin that never learn; () for none
    backbone_frozen: tuple[str, ...] = ()
    num_queries: int = 100  # the most objects of a picture
    embed_dim: int = 256
    depth: int = 6  # blocks of the encoder; it may have none
    decoder_depth: int = 6
    num_heads: int = 8  # of encoder and decoder
    mlp_ratio: float = 8.0  # of both
    norm_eps: float = 1e-5
    drop_rate: float = 0.1
    aux_outputs: bool = False  # also what every block of the decoder but the last gives, as training asks for it
    preprocessing: Preprocessing = Preprocessing(**IMAGENET, crop_mode="squash", interpolation="bilinear")

    below = "features/backbone/"
    numerics = ("backbone_options",)
    head_layers = ("class_embed",)
    counted = {"query_embed/table": "num_queries"}
    last_norms = ("decoder_norm",)
    builds_random = True

    def layouts(self):
        from kzoo.models.names.detr import layouts

        return layouts(self)

    def __post_init__(self):
        super().__post_init__()
        width, heads = self.embed_dim, self.num_heads
        self.require_at_least(1, "num_queries", "embed_dim", "num_heads")
        self.require_at_least(0, "depth", "norm_eps")
        self.require_blocks("decoder_depth")
        if self.depth:
            self.require_blocks("depth")
        self.require_mlp(width)
        self.require_rates("drop_rate")
        if self.num_classes < 1:
            raise UsageError(
                "a detector tells classes: num_classes must be at least 1; features_only=True gives the map of its "
                "encoder."
            )
        if width % heads or width % 4:
            raise UsageError(f"embed_dim must be divisible by 4 and by num_heads {heads}, not {width}.")
        if self.features_only and self.aux_outputs:
            raise UsageError("aux_outputs are the decoder's, of which features_only=True has none.")

    @property
    def opens(self):
        return self.network.opens

    @property
    def still(self):
        """A key's bias moves all scores of a query alike; queries that carry nothing yet have one value for all."""
        first = "decoder_blocks_0/self_attn/"
        attentions = [f"encoder_blocks_{i}/self_attn" for i in range(self.depth)]
        attentions += [f"decoder_blocks_{i}/{a}_attn" for i in range(self.decoder_depth) for a in ("self", "cross")]
        return (f"{first}q/", f"{first}k/", f"{first}v/kernel", *(f"{path}/k/bias" for path in attentions))

    @property
    def tapped(self):
        """The entry of the backbone's feature_info for the chosen map."""
        return self.feature_map(self.backbone_index)

    def needs_weights(self):
        frozen = f"backbone_frozen={self.backbone_frozen!r}" if self.backbone_frozen else ""
        return " and ".join(filter(None, (super().needs_weights(), frozen)))

    def block_names(self):
        depths = ("encoder", self.depth), ("decoder", self.decoder_depth)
        return tuple(f"{part}_blocks_{i}" for part, depth in depths for i in range(depth))

    def feature_info(self):
        return [{"index": 0, "name": "encoder", "stride": self.tapped["stride"], "channels": self.embed_dim}]


@register
def detr(config):
    """{"image": (B, H, W, C), "mask": (B, H, W) bool, True = padding} -> {"logits": (B, Q, num_classes + 1), "boxes":
    (B, Q, 4)}, float32.

    The last of the logits is that of "no object"; boxes are cx, cy, w, h in 0..1 of the picture without its padding.
    With aux_outputs also "aux_logits" (B, L - 1, Q, num_classes + 1) and "aux_boxes" (B, L - 1, Q, 4), of the decoder's
    blocks but the last, in order. With features_only the encoder's map alone, [(B, h, w, D)].
    """
    image = keras.Input((*config.sides, config.in_channels), name="image")
    mask = keras.Input(config.sides, dtype="bool", name="mask")
    inputs = {"image": image, "mask": mask}
    features, positions, padded = placed(config, image, mask)
    memory, positions, padded = (
        keras.layers.Reshape((-1, *x.shape[3:]), name=name)(x)
        for x, name in ((features, "cells"), (positions, "positions_of_cells"), (padded, "padded_cells"))
    )
    common = {"drop_rate": config.drop_rate, "norm_eps": config.norm_eps, "remat": config.remat}
    sizes = (config.embed_dim, config.num_heads, int(config.embed_dim * config.mlp_ratio))
    for i in range(config.depth):
        memory = PostNormBlock(*sizes, **common, name=f"encoder_blocks_{i}")(memory, positions, padded)
    if config.features_only:
        config.selected_features((0,))
        return ZooModel(inputs, [AsMap(name="feature_0")(memory, features)], name="detr")
    places = LearnedQueries(config.num_queries, name="query_embed")(memory)
    x, hidden = ops.zeros_like(places), []
    for i in range(config.decoder_depth):
        block = DetrDecoderBlock(*sizes, **common, name=f"decoder_blocks_{i}")
        x = block(x, places, memory, positions, padded)
        hidden.append(x)
    return ZooModel(inputs, answers(config, hidden), name="detr")


def placed(config, image, mask):
    """The projected map of the backbone (B, h, w, D), the positions of its cells (B, h, w, D), which are padding (B, h,
    w) bool.
    """
    index, frozen = config.tapped["index"], config.backbone_frozen
    (features,) = Backbone(config.backbone, config.backbone_options, (index,), frozen, name="features")(image)
    first = features.shape[-1] ** -0.5  # torch's first values of a convolution
    features = keras.layers.Conv2D(
        config.embed_dim,
        1,
        kernel_initializer=keras.initializers.RandomUniform(-first, first),
        bias_initializer=keras.initializers.RandomUniform(-first, first),
        name="input_proj",
    )(features)
    padded = FitPadding(name="padding")(mask, features)
    return features, SinePositions(config.embed_dim, name="positions")(padded), padded


def answers(config, hidden):
    """The outputs of `detr` from what the decoder's blocks give, (B, Q, D) each: one norm and one pair of heads for
    all.
    """
    x = ops.stack(hidden, axis=1) if config.aux_outputs else hidden[-1]
    x = keras.layers.LayerNormalization(epsilon=config.norm_eps, name="decoder_norm")(x)
    logits = linear(config.embed_dim, config.num_classes + 1, "float32", "class_embed")(x)
    boxes = BoxHead(config.embed_dim, dtype="float32", name="bbox_embed")(x)
    if not config.aux_outputs:
        return {"logits": logits, "boxes": boxes}
    last = {"logits": logits[:, -1], "boxes": boxes[:, -1]}
    return last | {"aux_logits": logits[:, :-1], "aux_boxes": boxes[:, :-1]}


@keras.saving.register_keras_serializable(package="kzoo")
class AsMap(ZooLayer):
    """Cells (B, h * w, D) in the places of a map (B, h, w, D'): (B, h, w, D)."""

    def build(self, cells_shape, features_shape):
        """Nothing: Keras asks for it where a layer with two inputs is built by their shapes."""

    def call(self, cells, features):
        return ops.reshape(cells, (-1, side(features, 1), side(features, 2), cells.shape[-1]))

    def compute_output_shape(self, cells_shape, features_shape):
        return (*features_shape[:3], cells_shape[-1])


@keras.saving.register_keras_serializable(package="kzoo")
class LearnedQueries(ZooLayer):
    """`count` learned vectors, drawn from N(0, 1), for every sample of the tokens (B, N, D): (B, count, D)."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, input_shape):
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.table = self.add_weight((self.count, input_shape[-1]), initializer=normal, name="table")

    def call(self, x):
        table = ops.cast(self.table, x.dtype)
        return ops.broadcast_to(table[None], (ops.shape(x)[0], self.count, x.shape[-1]))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.count, input_shape[-1])


@keras.saving.register_keras_serializable(package="kzoo")
class DetrDecoderBlock(QueryBlock):
    """Queries look at each other, then at the encoder's cells: x (B, Q, D) -> (B, Q, D), every norm after its sum.

    places (B, Q, D) are the learned queries, added to x where it asks, and to the keys among queries; positions (B, N,
    D) to the cells (B, N, D) as keys; padded (B, N) bool. drop_rate, remat: as in PostNormBlock.
    """

    def __init__(self, dim, num_heads, mlp_dim, drop_rate=0.0, norm_eps=1e-5, remat=False, **kwargs):
        super().__init__(remat, **kwargs)
        policy = self.dtype_policy
        self.self_attn, self.cross_attn = (
            QueryAttention(dim, num_heads, drop_rate, dtype=policy, name=name) for name in ("self_attn", "cross_attn")
        )
        self.mlp = FeedForward(dim, mlp_dim, drop_rate, dtype=policy, name="mlp")
        self.norms = [
            keras.layers.LayerNormalization(epsilon=norm_eps, dtype=policy, name=f"norm{i}") for i in (1, 2, 3)
        ]
        self.drops = [keras.layers.Dropout(drop_rate, dtype=policy, name=f"drop{i}") for i in (1, 2)]

    def build(self, x_shape, places_shape, cells_shape, positions_shape, padded_shape):
        self.self_attn.build(x_shape, x_shape, x_shape)
        self.cross_attn.build(x_shape, cells_shape, cells_shape, padded_shape)
        for part in (self.mlp, *self.norms):
            part.build(x_shape)

    def compute_output_shape(self, x_shape, places_shape, cells_shape, positions_shape, padded_shape):
        return x_shape

    def call(self, x, places, cells, positions, padded, training=None):
        return self.computed(x, places, cells, positions, padded, training=training)

    def compute(self, x, places, cells, positions, padded, training):
        (norm1, norm2, norm3), (drop1, drop2) = self.norms, self.drops
        placed = x + places
        x = norm1(x + drop1(self.self_attn(placed, placed, x, training=training), training=training))
        seen = self.cross_attn(x + places, cells + positions, cells, padded, training=training)
        x = norm2(x + drop2(seen, training=training))
        return norm3(x + self.mlp(x, training=training))

    def attend(self, x, places, cells, positions, padded):
        """The weights (B, heads, Q, N) by which each query looks at the cells, outside of training."""
        placed = x + places
        x = self.norms[0](x + self.self_attn(placed, placed, x, training=False))
        return self.cross_attn.attend(x + places, cells + positions, cells, padded, training=False)[1]


@keras.saving.register_keras_serializable(package="kzoo")
class BoxHead(ZooLayer):
    """Three layers and a sigmoid: (..., D) -> boxes (..., 4) in 0..1."""

    def __init__(self, dim, **kwargs):
        super().__init__(**kwargs)
        self.layers = [linear(dim, units, self.dtype_policy, f"layers_{i}") for i, units in enumerate((dim, dim, 4))]

    def build(self, input_shape):
        for layer in self.layers:
            layer.build(input_shape)

    def call(self, x):
        first, second, last = self.layers
        return ops.sigmoid(last(ops.relu(second(ops.relu(first(x))))))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 4)


# fmt: off
# The official code's: batch norm as loaded, the stem and the first stage too; DC5 dilates the last stage instead of striding.
FROZEN = {"backbone_frozen": ("stem", "layer1")}
AS_LOADED, DC5 = {"norm": "frozen"}, {"norm": "frozen", "output_stride": 16}
# For small pictures and few of them, to learn from nothing: live norms, nothing frozen.
LIGHT = {"width": 32, "output_stride": 16}

VARIANTS = {
    "detr_toy": DetrConfig(
        image_size=64, backbone="resnet_toy", num_classes=5, num_queries=6, embed_dim=32, depth=1, decoder_depth=2, num_heads=4,
        mlp_ratio=2.0,
    ),
    "detr_small": DetrConfig(
        image_size=(240, 320), backbone="resnet18", backbone_options=LIGHT, num_classes=20, num_queries=64, embed_dim=128, depth=3,
        decoder_depth=3, num_heads=4, mlp_ratio=4.0,
    ),
    "detr_resnet50":      DetrConfig(backbone="resnet50",  backbone_options=AS_LOADED, **FROZEN),
    "detr_resnet50_dc5":  DetrConfig(backbone="resnet50",  backbone_options=DC5,       **FROZEN),
    "detr_resnet101":     DetrConfig(backbone="resnet101", backbone_options=AS_LOADED, **FROZEN),
    "detr_resnet101_dc5": DetrConfig(backbone="resnet101", backbone_options=DC5,       **FROZEN),
}
# fmt: on

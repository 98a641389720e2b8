"""ResNets: residual convolutions, v1.5 (the stride on the 3x3), as classifiers and as feature pyramids for what stands
on them.

"Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385; numerics of timm's `resnet*`, which
are torchvision's. The rows `*_ws` are what hybrid vision transformers stand on (https://arxiv.org/abs/2010.11929):
weight standardisation, group norm and TensorFlow's padding, as in Big Transfer, but with the activations after the
convolutions.
"""

from dataclasses import dataclass

import keras
from keras import ops

from kzoo.errors import UsageError
from kzoo.layers.base import Remat, ZooLayer
from kzoo.layers.conv import NORMS, PADDINGS, STANDARDISATIONS, Conv, MaxPool, make_norm
from kzoo.layers.transformer import DropPath
from kzoo.models.base import ModelConfig, ZooModel, classifier
from kzoo.registry import register
from kzoo.specs import Preprocessing

TASK = "classify"
PAPER = "https://arxiv.org/abs/1512.03385"
CPU_XLA = False  # on CPU the training step is faster as a graph: residual blocks 109 images/s, under XLA 67

EXPANSION = {"basic": 1, "bottleneck": 4}  # output channels of a block, in widths of its 3x3 convolution


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(ModelConfig):
    """The architecture of one ResNet. Rates are probabilities in 0..1; drop_path_rate grows linearly from 0 at the
    first block.
    """

    block: str = "bottleneck"  # basic (3x3, 3x3) | bottleneck (1x1, 3x3, 1x1 to four times the width)
    depths: tuple[int, ...] = (3, 4, 6, 3)  # blocks of each stage; none: the stem alone
    width: int = 64  # channels of the stem and of the first stage's 3x3 convolutions; it doubles from stage to stage
    stem_stride: int = 4  # 4 (7x7 convolution, max-pooling) | 1 (3x3 convolution alone, the paper's for 32 px)
    output_stride: int = 32  # 32 | 16 | 8: where it is reached, stages dilate instead of striding ("DC5" is 16)
    norm: str = "batch"  # batch | frozen (batch norm as loaded, never learning: needs weights) | group (of 32)
    norm_eps: float = 1e-5
    weight_std: str = "none"  # none | timm | jax: weight standardisation, in the form of either's hybrids
    padding: str = "symmetric"  # symmetric (torch's) | same (TensorFlow's)
    drop_rate: float = 0.0  # before the head
    drop_path_rate: float = 0.0
    preprocessing: Preprocessing = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=0.95)

    numerics = ("norm_eps", "weight_std", "padding")
    stem_kernels = ("stem/conv/kernel", "root/conv/kernel")
    opens = True

    def layouts(self):
        from kzoo.models.names.resnet import LAYOUTS, WS_LAYOUTS

        return WS_LAYOUTS if self.norm == "group" else LAYOUTS

    def __post_init__(self):
        super().__post_init__()
        self.require_choices(block=EXPANSION, norm=NORMS, weight_std=STANDARDISATIONS, padding=PADDINGS)
        if self.stem_stride not in (1, 4):
            raise UsageError(f"stem_stride must be 1 or 4, not {self.stem_stride}.")
        if self.output_stride not in (8, 16, 32):
            raise UsageError(f"output_stride must be 8, 16 or 32, not {self.output_stride}.")
        if self.width < 1 or not all(isinstance(depth, int) and depth > 0 for depth in self.depths):
            raise UsageError(
                f"width and depths must be whole numbers of at least 1, not {self.width} and {self.depths}."
            )
        self.require_at_least(1, "width")
        self.require_blocks("depths")
        self.require_at_least(0, "norm_eps")
        self.require_rates("drop_rate", "drop_path_rate")

    def stages(self):
        """(blocks, width of the 3x3 convolutions, stride, dilation, dilation of the first block) of each stage."""
        reached, dilation, found = self.stem_stride, 1, []
        for i, depth in enumerate(self.depths):
            stride, first = 1 if i == 0 else 2, dilation
            if reached * stride > self.output_stride:
                stride, dilation = 1, dilation * stride
            reached *= stride
            found.append((depth, self.width * 2**i, stride, dilation, first))
        return found

    def block_names(self):
        return tuple(f"layer{i}_blocks_{j}" for i, depth in enumerate(self.depths, 1) for j in range(depth))

    def needs_weights(self):
        return "norm='frozen'" if self.norm == "frozen" else ""

    def feature_info(self):
        if not self.depths:
            return [{"index": 0, "name": "root", "stride": self.stem_stride, "channels": self.width}]
        facts, reached = [], self.stem_stride
        for i, (_, width, stride, _, _) in enumerate(self.stages()):
            reached *= stride
            facts.append(
                {"index": i, "name": f"layer{i + 1}", "stride": reached, "channels": width * EXPANSION[self.block]}
            )
        return facts


@register
def resnet(config):
    """images (B, H, W, C) -> logits (B, num_classes) float32; the pooled vector (B, D) without a head; all stages with
    features_only.
    """
    images = keras.Input((*config.sides, config.in_channels), name="images")
    maps = stages(config, images)
    if config.features_only:
        outputs = [maps[i] for i in config.selected_features(range(len(maps)))]
    else:
        pooled = keras.layers.GlobalAveragePooling2D(name="pool")(maps[-1])
        outputs = classifier(pooled, config.num_classes, config.drop_rate)
    return ZooModel(images, outputs, name="resnet")


def stages(config, images):
    """images (B, H, W, C) -> the map of every stage, or that of the stem where there are none: (B, H / stride, W /
    stride, channels).
    """
    common = {
        "norm": config.norm,
        "norm_eps": config.norm_eps,
        "padding": config.padding,
        "weight_std": config.weight_std,
    }
    x = ResNetStem(config.width, config.stem_stride, **common, name="stem" if config.depths else "root")(images)
    maps, before, names = [], 0, config.block_names()
    for depth, width, stride, dilation, first_dilation in config.stages():
        for j in range(depth):
            x = ResidualBlock(
                width,
                config.block,
                stride if j == 0 else 1,
                dilation,
                dilation if j else first_dilation,
                project=j == 0 and (stride > 1 or x.shape[-1] != width * EXPANSION[config.block]),
                drop_path_rate=config.drop_path_rate * (before + j) / max(len(names) - 1, 1),
                remat=config.remat,
                **common,
                name=names[before + j],
            )(x)
        maps.append(x)
        before += depth
    return maps or [x]


@keras.saving.register_keras_serializable(package="kzoo")
class ResNetStem(ZooLayer):
    """Convolution, norm, ReLU: (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), width).

    stride 4: a 7x7 convolution of stride 2, and 3x3 max-pooling of stride 2 at the end; stride 1: a 3x3 convolution.
    """

    def __init__(self, width, stride=4, norm="batch", norm_eps=1e-5, padding="symmetric", weight_std="none", **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        kernel_size, conv_stride = (7, 2) if stride == 4 else (3, 1)
        self.conv = Conv(
            width, kernel_size, conv_stride, padding=padding, weight_std=weight_std, dtype=policy, name="conv"
        )
        self.norm = make_norm(norm, norm_eps, policy, "norm")
        self.pool = MaxPool(padding, dtype=policy, name="pool") if stride == 4 else None

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.norm.build(self.conv.compute_output_shape(input_shape))

    def call(self, images, training=None):
        x = ops.relu(self.norm(self.conv(images), training=training))
        return self.pool(x) if self.pool else x


@keras.saving.register_keras_serializable(package="kzoo")
class ResidualBlock(Remat):
    """ReLU(x + convolutions(x)), a norm after every convolution: (B, H, W, C) -> (B, ceil(H / stride), ceil(W /
    stride), C').

    C' is `width` for a basic block, four times that for a bottleneck. `first_dilation` is that of the convolution that
    may stride. project: the shortcut goes through a 1x1 convolution and a norm, as it must where stride or width
    change.
    """

    def __init__(
        self,
        width,
        block="bottleneck",
        stride=1,
        dilation=1,
        first_dilation=1,
        project=False,
        drop_path_rate=0.0,
        norm="batch",
        norm_eps=1e-5,
        padding="symmetric",
        weight_std="none",
        **kwargs,
    ):
        super().__init__(**kwargs)
        policy, out = self.dtype_policy, width * EXPANSION[block]
        plans = {  # width, kernel, stride, dilation
            "basic": [(width, 3, stride, first_dilation), (out, 3, 1, dilation)],
            "bottleneck": [(width, 1, 1, 1), (width, 3, stride, first_dilation), (out, 1, 1, 1)],
        }

        def conv(plan, name):
            return Conv(*plan, padding=padding, weight_std=weight_std, dtype=policy, name=name)

        def normed(name, gamma="ones"):
            return make_norm(norm, norm_eps, policy, name, gamma)

        self.convs = [conv(plan, f"conv{i}") for i, plan in enumerate(plans[block], 1)]
        # The last factors start at 0, a block as its shortcut (https://arxiv.org/abs/1706.02677).
        self.norms = [
            normed(f"norm{i}", "ones" if i < len(self.convs) else "zeros") for i in range(1, len(self.convs) + 1)
        ]
        self.drop_path = DropPath(drop_path_rate, dtype=policy, name="drop_path")
        self.shortcut = [conv((out, 1, stride, 1), "downsample_conv"), normed("downsample_norm")] if project else []

    def build(self, input_shape):
        shape = input_shape
        for conv, norm in zip(self.convs, self.norms, strict=True):
            conv.build(shape)
            shape = conv.compute_output_shape(shape)
            norm.build(shape)
        if self.shortcut:
            conv, norm = self.shortcut
            conv.build(input_shape)
            norm.build(shape)

    def compute(self, x, training):
        branch = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            branch = norm(conv(ops.relu(branch) if i else branch), training=training)
        for layer in self.shortcut:
            x = layer(x)
        return ops.relu(x + self.drop_path(branch, training=training))

    def compute_output_shape(self, input_shape):
        for conv in self.convs:
            input_shape = conv.compute_output_shape(input_shape)
        return input_shape


# fmt: off
WS = {"norm": "group", "weight_std": "timm", "padding": "same", "preprocessing": Preprocessing(crop_pct=0.9)}

VARIANTS = {
    "resnet_toy": ResNetConfig(image_size=32, depths=(1, 1), width=8, num_classes=10),
    "resnet18":  ResNetConfig(block="basic",      depths=(2, 2,  2, 2)),
    "resnet34":  ResNetConfig(block="basic",      depths=(3, 4,  6, 3)),
    "resnet50":  ResNetConfig(block="bottleneck", depths=(3, 4,  6, 3)),
    "resnet101": ResNetConfig(block="bottleneck", depths=(3, 4, 23, 3)),
    # The convolutions of the hybrids; "s16" has its fourth stage's blocks in the third, and stops at stride 16.
    "resnet_stem_ws":   ResNetConfig(depths=(),           **WS),
    "resnet26_ws":      ResNetConfig(depths=(2, 2, 2, 2), **WS),
    "resnet50_ws":      ResNetConfig(depths=(3, 4, 6, 3), **WS),
    "resnet50_s16_ws":  ResNetConfig(depths=(3, 4, 9),    **WS),
}
# fmt: on

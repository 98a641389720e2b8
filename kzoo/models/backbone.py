"""A network under another: any model of kzoo that has feature maps, below one that works on them.

What stands on top names it in its config (`OnBackbone`) and has its maps from the layer `Backbone`, or builds it inside
a layer of its own (`build_below`). Its weights are found in files by the names that its own family knows
(kzoo.models.layouts.joined).
"""

import functools
from dataclasses import dataclass, field

import keras

from kzoo import registry
from kzoo.errors import UsageError, unknown
from kzoo.layers.base import ZooLayer
from kzoo.models.base import computing_in
from kzoo.settings import option_table


@dataclass(frozen=True, kw_only=True)
class OnBackbone:
    """What a family's config has beside ModelConfig's where its models stand on another network; named before that
    base.
    """

    backbone: str = "resnet50"  # the name of any model with feature maps
    # Fields of the backbone's config, {"norm": "frozen"}. Texts ("norm=frozen",) are the older spelling, and made such
    # a table.
    backbone_options: dict | tuple[str, ...] = field(default_factory=dict, hash=False)

    below = "backbone/"  # where the backbone's weights lie in the model

    def __post_init__(self):
        object.__setattr__(self, "backbone_options", option_table(self.backbone_options))
        super().__post_init__()

    @functools.cached_property
    def network(self):
        """The backbone's own config. Made once: it may stand on another one in turn, and so on."""
        return registry.config_of(self.backbone, self.backbone_options)[1]

    @property
    def stem_kernels(self):
        return tuple(self.below + path for path in self.network.stem_kernels)

    def needs_weights(self):
        return self.network.needs_weights()

    def feature_map(self, index=None, stride=None):
        """The entry of the backbone's feature_info for one map: by index (negative: from the coarsest), or the deepest
        of a stride.

        Raises UsageError where the backbone has no such map.
        """
        facts = self.network.feature_info()
        if stride is not None:
            found = [fact for fact in facts if fact["stride"] == stride]
            if not found:
                has = ", ".join(str(fact["stride"]) for fact in facts)
                raise UsageError(f"{self.backbone} has no feature map of stride {stride}; its maps have strides {has}.")
            return found[-1]
        if not -len(facts) <= index < len(facts):
            raise UsageError(f"{self.backbone} has {len(facts)} feature maps, so backbone_index {index} names none.")
        return facts[index]


def build_below(name, options, indices, input_shape, policy):
    """The network `name` with options as in OnBackbone, called "backbone" and computing in `policy`, for pictures (B,
    H, W, C), whose sides may be open (None).

    It gives its feature maps of those indices, finest first: [(B, h, w, D), ...]. For the `build` of the layer that
    holds it.
    """
    height, width, channels = input_shape[1:]
    sizes = {"open_size": True} if height is None else {"image_size": (height, width)}
    maps = {"in_channels": channels, "features_only": True, "out_indices": tuple(indices)}
    builder, config = registry.config_of(name, option_table(options) | sizes | maps)
    with keras.name_scope("backbone"), computing_in(policy):  # that of the file when a model is loaded
        network = builder(config)
    network.name = "backbone"
    return network


@keras.saving.register_keras_serializable(package="kzoo")
class Backbone(ZooLayer):
    """Feature maps of another model: (B, H, W, C) -> [(B, h, w, D), ...], finest first.

    The model, `network` with `options` as in OnBackbone, is built for the pictures' size, or for any where their sides
    are open; `indices` are those of the maps in its feature_info. frozen: how the names of its layers begin that never
    learn. Raises UsageError where no layer's does.
    """

    def __init__(self, network, options, indices, frozen=(), **kwargs):
        super().__init__(**kwargs)
        self.network, self.options, self.indices, self.frozen = network, options, tuple(indices), tuple(frozen)

    def build(self, input_shape):
        self.backbone = build_below(self.network, self.options, self.indices, input_shape, self.dtype_policy)
        for word in self.frozen:
            layers = [layer for layer in self.backbone.layers if layer.name.startswith(word)]
            if not layers:
                names = [layer.name for layer in self.backbone.layers if layer.weights]
                raise unknown(f"layer of {self.network} to freeze", word, names)
            for layer in layers:
                layer.trainable = False

    def call(self, images, training=None):
        return keras.tree.flatten(self.backbone(images, training=training))

    def compute_output_shape(self, input_shape):
        return [(input_shape[0], *output.shape[1:]) for output in self.backbone.outputs]

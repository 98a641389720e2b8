"""What every family shares: the configuration's common fields and the model class that carries its spec."""

import contextlib
import dataclasses
import importlib
from dataclasses import dataclass

import keras

from kzoo import registry
from kzoo.errors import UsageError
from kzoo.schema import Preprocessing, Spec


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Fields that `kzoo.get` can override in every family. A family's own frozen config adds its architecture."""

    image_size: int | tuple[int, int] = 224  # square side, or (height, width), in pixels
    in_channels: int = 3
    num_classes: int = 1000  # 0: no head, the pooled vector
    features_only: bool = False  # a list of feature maps (B, H, W, C) instead
    out_indices: tuple[int, ...] | None = None  # which of feature_info; None: the family's default
    preprocessing: Preprocessing = Preprocessing()

    def __post_init__(self):
        size = self.image_size
        pair = (size, size) if isinstance(size, int) else tuple(size)
        if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
            raise UsageError(f"image_size must be a positive whole number or (height, width), not {size!r}.")
        if not isinstance(self.in_channels, int) or self.in_channels < 1:
            raise UsageError(f"in_channels must be a whole number of at least 1, not {self.in_channels!r}.")
        if not isinstance(self.num_classes, int) or self.num_classes < 0:
            raise UsageError(f"num_classes must be a whole number of at least 0, not {self.num_classes!r}.")
        if self.out_indices is not None and not self.features_only:
            raise UsageError("out_indices selects feature maps; it needs features_only=True.")

    @property
    def size(self):
        """(height, width) of the input in pixels."""
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else tuple(self.image_size)

    def feature_info(self):
        """One dictionary a feature map that features_only can return: index, name, stride, channels; finest first."""
        return []

    def selected_features(self, default):
        """The checked out_indices, negative ones counted from the end; `default` where none were given."""
        count = len(self.feature_info())
        wanted = default if self.out_indices is None else self.out_indices
        if not wanted or not all(isinstance(i, int) and -count <= i < count for i in wanted):
            raise UsageError(f"out_indices must be whole numbers from 0 to {count - 1}, not {wanted!r}.")
        return sorted({i % count for i in wanted})


@keras.saving.register_keras_serializable(package="kzoo")
class ZooModel(keras.Model):
    """Keras' functional model with a `spec` (kzoo.schema.Spec) that survives saving and loading."""

    spec = None
    load_report = None

    def get_config(self):
        return super().get_config() | {"spec": dataclasses.asdict(self.spec) if self.spec else None}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        spec = config.pop("spec", None)
        if spec:  # registers the family's layers; the file names a model, never a module to import
            importlib.import_module(registry.find(spec["name"]).module)
        model = super().from_config(config, custom_objects=custom_objects)
        if spec:
            model.spec = spec_from_dict(spec)
        return model


@contextlib.contextmanager
def computing_in(policy):
    """Within it models are built under that Keras dtype policy, for example "float32" or "mixed_bfloat16"."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def spec_from_dict(plain):
    """Rebuilds a Spec from its JSON form (lists become tuples again)."""
    pre = {k: tuple(v) if isinstance(v, list) else v for k, v in plain["preprocessing"].items()}
    overrides = {k: tuple(v) if isinstance(v, list) else v for k, v in plain["overrides"].items()}
    return Spec(name=plain["name"], overrides=overrides, preprocessing=Preprocessing(**pre), class_names=tuple(plain["class_names"]))

"""What every family shares: the configuration's common fields and the model class that carries its spec."""

import contextlib
import dataclasses
import os
import pathlib
import warnings
from dataclasses import dataclass

import keras

from kzoo import registry
from kzoo.errors import UsageError, UserError
from kzoo.layers.base import parts_config, set_parts, split_config
from kzoo.settings import Settings
from kzoo.specs import Preprocessing, Spec, Take

LARGEST = 1 << 20  # of every size and factor: beyond it lies a slip, or no machine's memory
MOST_BLOCKS = 500  # Keras follows a graph by recursion


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Fields that `kzoo.get` can override in every family. A family's own frozen config adds its architecture."""

    image_size: int | tuple[int, int] = 224  # square side, or (height, width), in pixels
    in_channels: int = 3
    num_classes: int = 1000  # 0: no head, the pooled vector
    multilabel: bool = False  # a picture may have any number of the classes: probabilities by sigmoid, not by softmax
    features_only: bool = False  # a list of feature maps (B, H, W, C) instead
    out_indices: tuple[int, ...] | None = None  # which of feature_info; None: the family's default
    # height and width left open: pictures of any size, which image_size then prepares them for
    open_size: bool = False
    # in training, compute each block again in the backward pass instead of keeping what it computed
    remat: bool = False
    preprocessing: Preprocessing = Preprocessing()

    most = LARGEST  # of every number

    # What `kzoo.weights` asks a family.
    numerics = ()  # fields that weights are made for, which a file may tell
    head_layers = ("head",)  # what another number of classes replaces
    pool_norms = ()  # final norms of which a model has one, by how it pools: no other one's weights belong to it
    stem_kernels = ()  # paths of the kernels that other input channels change
    # how the paths of weights begin that only this family's own training needs; models that start from it leave them
    training_only = ()
    counted = {}  # {path of a table: the option that says how many rows it has}: more or fewer keep those there are
    regrids = ("image_size",)  # options that give position tables another grid, for which get() resizes loaded ones
    opens = False  # whether its models can be built with open_size: none of their weights belongs to one size
    # whether get() builds without weights, and tells in the load_report, what needs_weights() speaks of
    builds_random = False
    still = ()  # how the paths of weights begin that get no gradient, in the published architecture either

    # What layer-wise rates ask beside block_names().
    last_norms = ("norm",)  # layers after the blocks that count with the last of them, as in timm

    def layouts(self):
        """{name: kzoo.models.layouts.Layout}: how other libraries name and arrange this family's weights."""
        return {}

    def __post_init__(self):
        if len(self.size) != 2:
            raise UsageError(f"image_size must be a side or (height, width), not {self.image_size!r}.")
        self.require_at_least(1, "image_size", "in_channels")
        self.require_at_least(0, "num_classes")
        if self.out_indices is not None and not self.features_only:
            raise UsageError("out_indices selects feature maps; it needs features_only=True.")
        if self.open_size and not self.opens:
            raise UsageError("open_size: weights of this model belong to one size of pictures; give it by image_size.")

    def require_blocks(self, name):
        """Raises UsageError where the field of that name is no number of blocks, or numbers of each stage's, or they
        are too many.
        """
        self.require_at_least(1, name)
        depths = getattr(self, name)
        count = sum(depths) if isinstance(depths, tuple | list) else depths
        if count > MOST_BLOCKS:
            raise UsageError(f"{name} must be at most {MOST_BLOCKS} blocks in all, not {count}.")

    def require_mlp(self, width):
        """Raises UsageError where mlp_ratio leaves an MLP of that width no channel inside, or is beyond any bounds."""
        self.require_at_least(0, "mlp_ratio")
        if int(width * self.mlp_ratio) < 1:
            raise UsageError(
                f"mlp_ratio must leave at least 1 of {width} channels inside an MLP, which {self.mlp_ratio} does not."
            )

    @property
    def size(self):
        """(height, width) of the input in pixels."""
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else tuple(self.image_size)

    @property
    def sides(self):
        """(height, width) of the model's input as it is built; (None, None) where they are open."""
        return (None, None) if self.open_size else self.size

    @property
    def take(self):
        """The Take of the models that are built by this config."""
        own = self.preprocessing.for_channels(self.in_channels)
        parts = (getattr(self, name, None) for name in ("patch_size", "num_queries"))
        return Take(self.size, self.in_channels, own, self.num_classes, *parts)

    def needs_weights(self):
        """What of this configuration makes no sense without loaded weights, such as frozen parts, in a few words; ""
        for nothing.
        """
        return ""

    def block_names(self):
        """The names of the layers that are the model's blocks, in order; None where the family does not tell."""
        return None

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
    """Keras' functional model with a `spec` (kzoo.specs.Spec) that survives saving and loading."""

    spec = None
    load_report = None
    precision_report = None

    @property
    def config(self):
        """The family's config of this model, a ModelConfig. Raises UserError for a model without a spec, such as a
        clone.
        """
        return registry.config_of_model(self)

    @property
    def take(self):
        """The Take of this model, with the preprocessing of its spec, which a recipe may have chosen. Raises as
        `config`.
        """
        return self.config.take._replace(preprocessing=self.spec.preprocessing)

    @property
    def classes(self):
        """How many logits a classifier's head gives, (B, classes); 0 for a model that gives anything else. Raises as
        `config`.
        """
        count = self.config.num_classes
        return count if count and self.output_shape == (None, count) else 0

    def layer_depths(self):
        """{path of a weight: its depth}, from 0 for what comes before the blocks to the greatest for the head; for
        layer-wise rates.

        The blocks that the family's config names count from 1, its last norms with the last block; what follows makes
        one more depth. Raises UserError for a family that names none, and for a model without a spec.
        """
        config = self.config
        names = config.block_names()
        if names is None:
            raise UserError(
                f"{self.spec.name} does not tell its blocks, which layer-wise rates count: give its config "
                "block_names()."
            )
        order, depths, depth = {name: place for place, name in enumerate(names, 1)}, {}, 0
        for layer in self.layers:
            if layer.name in order:
                depth = order[layer.name]
            elif depth == len(order) > 0 and layer.name not in config.last_norms:
                depth += 1
            depths |= {weight.path: depth for weight in layer.weights}
        return depths

    def call(self, inputs, training=None, mask=None, **kwargs):
        for images in keras.tree.flatten(inputs):
            dtype = keras.backend.standardize_dtype(images.dtype)
            if not keras.backend.is_float_dtype(dtype) and dtype != "bool":  # as a padding mask is
                warnings.warn(
                    f"pictures of whole numbers ({dtype}) reach this model as they are; it takes normalised ones: "
                    "kzoo.preprocessor(model)(pictures).",
                    stacklevel=2,
                )
        return super().call(inputs, training=training, mask=mask, **kwargs)

    _sealed = False  # whether the file that is being written will be

    def save(self, filepath, overwrite=True, **kwargs):
        """Keras' saving of the whole model; a .keras file is sealed, which `kzoo.load` checks, and takes its place when
        it is whole.

        Raises UserError for .h5, Keras' older format, which kzoo does not read back, and for a file that is not to be
        overwritten.
        """
        from kzoo.archives.zips import seal
        from kzoo.files import replacing

        path = pathlib.Path(filepath)
        if path.suffix in (".h5", ".hdf5"):
            raise UserError(
                f"{path}: a whole model is saved as NAME.keras, its weights by kzoo.save_weights as NAME.weights.h5."
            )
        if path.suffix != ".keras" or "://" in str(filepath) or kwargs.get("zipped") is False:
            return super().save(filepath, overwrite=overwrite, **kwargs)
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists; give another name, or overwrite=True.")
        self._sealed = True
        try:
            with replacing(path) as temporary:
                super().save(temporary, **kwargs)
                seal(temporary)
        finally:
            self._sealed = False

    def get_config(self):
        own = {"spec": dataclasses.asdict(self.spec) if self.spec else None} | (
            {"sealed": True} if self._sealed else {}
        )
        # of Keras' own layers too, which leave single weights out
        return super().get_config() | own | parts_config(self)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config, parts = split_config(config)
        config.pop("sealed", None)
        spec = config.pop("spec", None)
        spec = spec_from_dict(spec) if spec else None
        if spec:  # registers the family's layers; the file names a model, never a module to import
            registry.module_of(spec.name)
        model = super().from_config(config, custom_objects=custom_objects)
        model.spec = spec
        set_parts(model, parts)
        return model


def build(name, overrides, filled=False):
    """A random model with its spec; filled: the caller fills in the weights. Raises UsageError for frozen parts that
    stay random, where the config does not have builds_random.
    """
    builder, config = registry.config_of(name, overrides)
    if (needs := config.needs_weights()) and not filled and not config.builds_random:
        raise UsageError(
            f"{name} with {needs} would stay as random as it starts: give it trained weights by weights=PATH."
        )
    _require_memory(name, overrides, lambda: builder(config))
    model, tag = builder(config), registry.split(name)[1]
    model.spec = _spec(name, overrides, config)
    if tag and model.classes == tag.num_classes:
        model.spec = dataclasses.replace(model.spec, class_names=tag.class_names)
    return model


def _spec(name, overrides, config):
    """The Spec of a model to be built: it rebuilds without the tag."""
    row, tag = registry.split(name)
    settings = {k: v for k, v in ((tag.options if tag else {}) | overrides).items() if k != "preprocessing"}
    published = {"tag": tag.tag, "license": tag.license} if tag else {}
    return Spec(name=row.name, overrides=settings, preprocessing=config.take.preprocessing, **published)


def _require_memory(name, overrides, builds):
    """Raises UserError for a model that leaves this machine no memory. Its weights are counted only where a size is far
    beyond the row's.

    Counting takes as long as building does, without the memory.
    """
    row, memory = registry.config_of(name)[1], _memory()
    large = [
        key for key, value in overrides.items() if key != "num_classes" and _size(value) > 8 * _size(getattr(row, key))
    ]
    if not large or not memory:
        return
    from kzoo.keras_private import skeleton

    weights = skeleton(builds).count_params()
    if 4 * weights > memory / 4:  # what fills them needs room too
        sizes = ", ".join(f"{key}={overrides[key]}" for key in large)
        raise UserError(
            f"{name} with {sizes} has {weights:,} weights, {4 * weights / 1e9:,.0f} GB in float32, and this machine "
            f"{memory / 1e9:,.0f} GB "
            "of memory; choose smaller sizes."
        )


def _memory():
    """Bytes of this machine's memory; 0 where the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def _size(value):
    """The largest number of an option's value; 0 where it holds none."""
    numbers = value if isinstance(value, tuple | list) else (value,)
    return max((number for number in numbers if isinstance(number, int | float)), default=0)


def classifier(x, num_classes, drop_rate=0.0, bias=0.0):
    """The end of a model: x (B, D) -> logits (B, num_classes), all of them `bias` at the start; or x itself for 0
    classes. float32.
    """
    if num_classes == 0:
        return keras.layers.Activation("linear", dtype="float32", name="features")(x)
    x = keras.layers.Dropout(drop_rate, name="head_drop")(x)
    bias = keras.initializers.Constant(bias)
    return keras.layers.Dense(
        num_classes, kernel_initializer="zeros", bias_initializer=bias, dtype="float32", name="head"
    )(x)


@contextlib.contextmanager
def computing_in(policy):
    """Within it models are built under that Keras dtype policy, for example "float32" or "mixed_bfloat16"."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def precision_of(model):
    """The policy the model computes in: "float32", or the reduced one of any of its layers."""
    return next((layer.dtype_policy.name for layer in model.layers if layer.compute_dtype != "float32"), "float32")


def spec_from_dict(plain):
    """Rebuilds a Spec from its JSON form (lists become tuples again). Raises UserError for a malformed one."""
    from kzoo.archives.typed import from_json

    for key in ("overrides", "preprocessing"):
        if isinstance(plain, dict) and key not in plain:
            raise UserError(f"spec lacks {key!r}")
    return from_json(Spec, plain, "spec")

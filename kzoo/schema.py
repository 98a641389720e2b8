"""What a model, a picture and a run are, as data: frozen dataclasses that load, override and dump. Standard library only."""

import dataclasses
import functools
import json
import math
import re
import types
import typing
from dataclasses import dataclass, field

from kzoo.errors import UsageError, unknown


def _part(owner):
    """What a dataclass is called in messages."""
    return "task" if isinstance(owner, TaskSettings) else type(owner).__name__.lower()


def _choice(owner, name, valid):
    value = getattr(owner, name)
    if value not in valid:
        raise unknown(f"{_part(owner)}.{name}", value, valid)


def _at_least(owner, low, *names):
    for name in names:
        value = getattr(owner, name)
        if value is not None and not value >= low:
            raise UsageError(f"{_part(owner)}.{name} must be at least {low}, not {value}.")


def _probability(owner, *names):
    for name in names:
        if not 0 <= getattr(owner, name) <= 1:
            raise UsageError(f"{_part(owner)}.{name} is a probability in 0..1, not {getattr(owner, name)}.")


def _below_one(owner, *names):
    for name in names:
        value = getattr(owner, name)
        if value is not None and not 0 <= value < 1:
            raise UsageError(f"{_part(owner)}.{name} must lie in [0, 1), not {value}.")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a picture (0..255) to the model's input: resize so that the centre crop is `crop_pct` of it, crop, (x / 255 - mean) / std."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    crop_pct: float = 1.0
    interpolation: str = "bicubic"
    crop_mode: str = "center"  # center (short side resized, centre cropped) | squash (both sides resized) | border (whole picture, padded)

    def __post_init__(self):
        _choice(self, "crop_mode", ("center", "squash", "border"))
        _choice(self, "interpolation", ("nearest", "bilinear", "bicubic"))
        if not 0 < self.crop_pct <= 1:
            raise UsageError(f"preprocessing.crop_pct must lie in (0, 1], not {self.crop_pct}.")
        if len(self.mean) != len(self.std) or not min(self.std) > 0:
            raise UsageError("preprocessing.mean and .std must have the same length and every std must be above 0.")

    @property
    def fill(self):
        """The colour (0..255, whole numbers) of what lies outside of a picture: about 0 once normalised, as timm rounds it."""
        return tuple(round(255 * mean) for mean in self.mean)

    def for_channels(self, channels):
        """The same preprocessing for pictures of another number of channels: each channel then gets the average."""
        if channels == len(self.mean):
            return self
        mean, std = (sum(v) / len(v) for v in (self.mean, self.std))
        return dataclasses.replace(self, mean=(mean,) * channels, std=(std,) * channels)


class Take(typing.NamedTuple):
    """What a network takes: pictures (B, *image_size, channels), prepared as `preprocessing` says, and targets of so many classes."""

    image_size: tuple[int, int]  # (height, width)
    channels: int
    preprocessing: Preprocessing
    classes: int | None = None  # 0 and None: the source's own


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a model is beyond its weights: the name and overrides that rebuild it, its preprocessing, its class names (or none).

    Where it was given published weights, also which: their tag, their licence and the address with the resolved revision.
    """

    name: str
    overrides: dict = field(default_factory=dict)
    preprocessing: Preprocessing = Preprocessing()
    class_names: tuple[str, ...] = ()
    tag: str = ""
    license: str = ""
    source: str = ""  # hf://org/repo@COMMIT/FILE

    def __post_init__(self):
        _spell_options(self)


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Random operations on a picture, timm's `rand-m9-mstd0.5-inc1` and its like (https://arxiv.org/abs/1909.13719)."""

    layers: int = 2  # operations in a row
    magnitude: float = 9.0  # 0..10 and beyond, in the operations' own scales
    magnitude_std: float = 0.0  # of a normal draw around the magnitude
    increasing: bool = True  # every operation grows stronger with the magnitude
    probability: float = 0.5  # of each operation

    def __post_init__(self):
        _at_least(self, 1, "layers")
        _at_least(self, 0, "magnitude", "magnitude_std")
        _probability(self, "probability")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a training picture; each is a pure function of seed, epoch and sample index, or for mixing of the batch."""

    crop_scale: tuple[float, ...] = ()  # (low, high) share of the area of a random resized crop; empty: the evaluation resize
    crop_ratio: tuple[float, ...] = (3 / 4, 4 / 3)  # (low, high) width / height of that crop
    flip: float = 0.0  # probability of a horizontal flip
    shift: int = 0  # largest translation in pixels of the model's input, each way, the edge pixels repeated
    crop_pad: int | None = None  # simple random crop (DeiT III): short side resized, this many pixels reflected around, a random crop
    color_jitter: float = 0.0  # brightness, contrast and saturation times a factor drawn from 1 - this .. 1 + this
    rand_augment: RandAugment | None = None
    three_augment: bool = False  # one of grey, solarised, blurred (DeiT III, https://arxiv.org/abs/2204.07118)
    erase: float = 0.0  # probability of random erasing, by noise (https://arxiv.org/abs/1708.04896)
    mixup: float = 0.0  # alpha of the Beta distribution (https://arxiv.org/abs/1710.09412)
    cutmix: float = 0.0  # alpha of the Beta distribution (https://arxiv.org/abs/1905.04899)
    mix_probability: float = 1.0  # of mixing a batch at all
    mix_switch: float = 0.5  # probability of CutMix rather than MixUp where both are on
    repeats: int = 1  # times each drawn picture comes in an epoch, every time changed anew (https://arxiv.org/abs/1901.09335)
    library: str = "kzoo"  # of rand_augment: kzoo | keras_cv (its randomness cannot be replayed: a resumed run sees other pictures)

    def __post_init__(self):
        for name in ("crop_scale", "crop_ratio"):
            pair = getattr(self, name)
            if pair and (len(pair) != 2 or not 0 < pair[0] <= pair[1]):
                raise UsageError(f"augment.{name} must be two numbers, 0 < low <= high, not {pair}.")
        if self.crop_scale and self.crop_scale[1] > 1:
            raise UsageError(f"augment.crop_scale is a share of the area, at most 1, not {self.crop_scale}.")
        if self.crop_scale and self.crop_pad is not None:
            raise UsageError("augment.crop_scale and augment.crop_pad are two ways to crop; set one of them.")
        _choice(self, "library", ("kzoo", "keras_cv"))
        _probability(self, "flip", "erase", "mix_probability", "mix_switch")
        _at_least(self, 0, "shift", "crop_pad", "color_jitter", "mixup", "cutmix")
        _at_least(self, 1, "repeats")

    @property
    def mixes(self):
        """Whether targets become probabilities, mixed from two pictures."""
        return bool((self.mixup or self.cutmix) and self.mix_probability)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where pictures come from and how they are batched."""

    source: str = "fake"  # tfds:NAME | folder:PATH | npz:FILE | digits | fake | KIND:REST of a plugin
    data_dir: str | None = None  # of TFDS; None: the setting KZOO_DATA_DIR, else TFDS' own default
    train_split: str = "train"
    eval_split: str = "test"
    batch_size: int = 128
    eval_batch_size: int | None = None  # None: batch_size
    eval_crops: int = 1  # 1 | 5 (centre and corners) | 10 (those and their mirror images): probabilities averaged
    augment: Augment | None = None  # or the class of its task; a recipe puts the task's own, as it is by default, in the place of None

    def __post_init__(self):
        _choice(self, "eval_crops", (1, 5, 10))
        _at_least(self, 1, "batch_size", "eval_batch_size")


@dataclass(frozen=True, kw_only=True)
class Optim:
    """The optimizer. Weight decay is decoupled and leaves out biases, norms, class tokens and position tables.

    Patterns are regular expressions, searched in a weight's path (`blocks_3/attn/qkv/kernel`).
    """

    name: str = "adamw"  # adamw | sgd | lamb | lion | muon (AdamW for what is no matrix, heads, and what a task adds) | lars
    lr: float = 1e-3  # the peak
    weight_decay: float = 0.05
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    momentum: float = 0.9  # sgd, lars, muon
    nesterov: bool = False  # sgd, lars, muon
    clip_norm: float | None = 1.0  # global norm of the gradients; None: no clipping
    ema: float | None = None  # momentum of the averaged weights, which evaluation and saved models then use
    layer_decay: float | None = None  # the rate of each layer is this share of the next one's; the head's is whole
    lr_scales: dict[str, float] = field(default_factory=dict)  # pattern: factor of the rate; the factors of all patterns that fit multiply
    freeze: tuple[str, ...] = ()  # patterns of weights that stay as they are; norms' running statistics among them
    accumulate: int = 1  # batches whose mean gradient makes one step; rates, warm-up and averages count those steps

    def __post_init__(self):
        _choice(self, "name", ("adamw", "sgd", "lamb", "lion", "muon", "lars"))
        _at_least(self, 0, "lr", "weight_decay", "epsilon")
        _at_least(self, 1, "accumulate")
        _below_one(self, "beta_1", "beta_2", "momentum", "ema")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UsageError(f"optim.clip_norm must be above 0, not {self.clip_norm}; None leaves gradients as they are.")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise UsageError(f"optim.layer_decay must lie in (0, 1], not {self.layer_decay}.")
        for pattern, scale in self.lr_scales.items():
            if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 <= scale < math.inf:
                raise UsageError(f"optim.lr_scales.{pattern} must be a number of at least 0, not {scale!r}.")
        for pattern in (*self.lr_scales, *self.freeze):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(f"{pattern!r} in optim is not a regular expression: {error}.") from None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over the run: linear warm-up from `warmup_from` (at most half of the run), then down to `min_lr`."""

    name: str = "cosine"  # cosine | linear | step | constant
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None  # takes the place of warmup_epochs
    warmup_from: float = 0.0
    min_lr: float = 0.0  # cosine and linear end here
    drop_epochs: tuple[float, ...] = ()  # step: the rate is multiplied by drop_factor after each of these
    drop_factor: float = 0.1

    def __post_init__(self):
        _choice(self, "name", ("cosine", "linear", "step", "constant"))
        _at_least(self, 0, "warmup_epochs", "warmup_steps", "warmup_from", "min_lr", "drop_factor")
        if (self.name == "step") != bool(self.drop_epochs) or any(e <= 0 for e in self.drop_epochs):
            raise UsageError("schedule.drop_epochs lists the epochs (above 0) after which schedule.name='step' drops the rate.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """When the run saves what it needs to continue: whichever limit is reached first, and at every epoch's end."""

    every_steps: int | None = None
    every_minutes: float | None = 10.0

    def __post_init__(self):
        _at_least(self, 1, "every_steps")
        _at_least(self, 0, "every_minutes")


SETTINGS = {}  # {kind: the class of its settings}


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """What a recipe says of its task. A frozen dataclass of each task's own, found by its `kind`, which is no field."""

    kind = ""
    augments = Augment  # the class of the random changes that its pictures can undergo, a frozen dataclass: a recipe's data.augment
    smoke_source = "fake"  # generated data of its sort

    def __init_subclass__(cls):
        if "kind" in vars(cls):
            SETTINGS[cls.kind] = cls


@dataclass(frozen=True, kw_only=True)
class Classify(TaskSettings):
    """One class for each picture."""

    kind = "classify"
    loss: str = "cross_entropy"  # cross_entropy | binary_cross_entropy (mean over classes) | binary_cross_entropy_sum (sum over classes)
    label_smoothing: float = 0.0
    target_threshold: float | None = None  # classes with more than this share of a mixed picture count whole, others not (binary losses)

    def __post_init__(self):
        _choice(self, "loss", ("cross_entropy", "binary_cross_entropy", "binary_cross_entropy_sum"))
        _below_one(self, "label_smoothing", "target_threshold")
        if self.target_threshold is not None and self.loss == "cross_entropy":
            raise UsageError("task.target_threshold belongs to the binary losses; set loss='binary_cross_entropy' or leave it out.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, whole. `kzoo.train` needs nothing else; `recipe.txt` in the run's folder is its dump."""

    model: str
    task: TaskSettings = Classify()
    overrides: dict = field(default_factory=dict)  # of kzoo.get: num_classes, image_size, in_channels and the family's fields
    preprocessing: Preprocessing | None = None  # None: the model's own
    init_from: str | None = None  # a run, a weights file or hf://org/repo[@revision][/file] to start from
    keep_architecture: bool = False  # the model is that of init_from, a run or .keras file: its name, overrides, preprocessing; ours on top
    data: Data = Data()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    checkpoint: Checkpoint = Checkpoint()
    epochs: int = 1
    steps: int | None = None  # stop after so many steps in all, whatever the epochs say
    progressive: tuple[int, ...] = ()  # sides in pixels, one for each equal share of the epochs; evaluation is at the model's own size
    remat: bool = False  # blocks compute their activations again for the gradient instead of keeping them
    data_parallel: bool = False  # batches are split over all devices of this host
    precision: str = "float32"  # float32 | mixed_bfloat16
    xla: str = "auto"  # required | auto | off
    eval_every: int = 1  # epochs between evaluations; the last epoch is always evaluated
    seed: int = 0

    def __post_init__(self):
        _spell_options(self)
        self._settle_augment()
        if "preprocessing" in self.overrides:
            raise UsageError("recipe.overrides.preprocessing is not read; set preprocessing.mean and its like, the recipe's own fields.")
        if "." in self.model:
            raise UsageError(
                f"recipe.model takes a name without a tag, not {self.model!r}; the address of published weights, as kzoo info shows it, "
                "goes into init_from."
            )
        _choice(self, "precision", ("float32", "mixed_bfloat16"))
        _choice(self, "xla", ("required", "auto", "off"))
        _at_least(self, 1, "epochs", "steps", "eval_every")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"recipe.seed must lie in 0..2^32 - 1, not {self.seed}.")
        if self.keep_architecture and not self.init_from:
            raise UsageError("recipe.keep_architecture needs init_from, the run or .keras file whose model it is.")
        if self.schedule.min_lr > self.optim.lr:
            raise UsageError(f"schedule.min_lr {self.schedule.min_lr} must not exceed optim.lr {self.optim.lr}, the peak.")

    def _settle_augment(self):
        """Puts the task's own augmentation in the place of none, and of another class's that says nothing."""
        given, wanted = self.data.augment, self.task.augments
        if type(given) is wanted:
            return
        if given is not None and given != type(given)():
            raise UsageError(
                f"data.augment is {type(given).__name__}, and the task {self.task.kind} takes {wanted.__name__}; give it that, or none."
            )
        object.__setattr__(self, "data", dataclasses.replace(self.data, augment=wanted()))


def smoke(recipe, toy):
    """The one rule that shrinks any recipe: the family's toy row, generated data, two steps.

    Overrides that are sizes (whole numbers and tuples) come from the toy row; choices (words, shares, switches) stay.
    """
    kept = {k: v for k, v in recipe.overrides.items() if isinstance(v, (str, bool, float))}
    data = dataclasses.replace(
        recipe.data,
        source=recipe.task.smoke_source,
        data_dir=None,
        train_split="train",
        eval_split="test",
        batch_size=4,
        eval_batch_size=4,
    )
    small = {
        "progressive": (),
        "data_parallel": False,
        "init_from": None,
        "keep_architecture": False,
        "optim": dataclasses.replace(recipe.optim, accumulate=min(recipe.optim.accumulate, 2)),
        "epochs": 1,
        "steps": 2,
        "eval_every": 1,
    }
    return dataclasses.replace(recipe, model=toy, overrides=kept, data=data, **small)


def flatten(value, prefix=""):
    """A nested dataclass as {dotted key: plain value}; a mapping that is a field (overrides) is spread into keys too.

    A task's settings have their kind as the first key.
    """
    items = value.items() if isinstance(value, dict) else ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    flat = {prefix + "kind": value.kind} if isinstance(value, TaskSettings) else {}
    for key, item in items:
        if dataclasses.is_dataclass(item) or (isinstance(item, dict) and item):
            flat.update(flatten(item, f"{prefix}{key}."))
        elif not isinstance(item, dict) or isinstance(value, dict):  # an empty field is its default, an empty option is not
            flat[prefix + key] = item
    return flat


def override(owner, changes, prefix=""):
    """A copy of a (nested) dataclass with dotted keys changed; values may be typed or text from the command line.

    All changes take effect together, then the fields are checked. Raises UsageError for an unknown key, naming the nearest, and for
    a value of the wrong type.
    """
    if isinstance(owner, Recipe) and "task.kind" in changes:
        owner, changes = _of_kind(owner, dict(changes))
    hints = typing.get_type_hints(type(owner))
    if isinstance(owner, Data) and owner.augment is not None:
        hints["augment"] = type(owner.augment) | None  # its task's
    updates, nested = {}, {}
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if head not in hints or (rest and not _nests(owner, head, hints[head])):
            raise _unknown_key(owner, key, prefix)
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            updates[head] = coerce(value, hints[head], prefix + key)
    for head, inner in nested.items():
        current = updates.get(head, getattr(owner, head))
        if isinstance(current, dict):
            put = _put if hints[head] is dict else _put_whole
            updates[head] = functools.reduce(lambda found, item: put(found, *item), inner.items(), current)
        else:
            current = _dataclass_in(hints[head])() if current is None else current
            updates[head] = override(current, inner, f"{prefix}{head}.")
    return dataclasses.replace(owner, **updates)


def _of_kind(recipe, changes):
    """(the recipe with a task of the kind that the changes name, of another kind as it is by default; the other changes).

    An augmentation that is not of that task's class goes with the task before.
    """
    from kzoo.registry import settings_class

    kind, data = coerce(changes.pop("task.kind"), str, "task.kind"), recipe.data
    if kind == recipe.task.kind:
        return recipe, changes
    task = settings_class(kind)()
    data = data if type(data.augment) is task.augments else dataclasses.replace(data, augment=None)
    return dataclasses.replace(recipe, task=task, data=data), changes


def _put_whole(mapping, key, value):
    """The mapping with that value, typed or text, under the key as it is: a pattern may hold dots."""
    return mapping | {key: plain(value)}


def _put(mapping, key, value):
    """The mapping with that value, typed or text, under a dotted key, which leads into the mappings inside it."""
    head, _, rest = key.partition(".")
    if not rest:
        return _put_whole(mapping, key, value)
    below = option_table(mapping.get(head, {}))
    return mapping | {head: _put(below if isinstance(below, dict) else {}, rest, value)}


def _unknown_key(owner, key, prefix):
    """The error for a key that is not there: a key of another part with the same last word is the nearest, `lr` means `optim.lr`."""
    valid = {f.name for f in dataclasses.fields(owner)} | set(flatten(owner))
    nearest = [name for name in valid if name.rpartition(".")[2] == key] or valid
    return unknown("recipe key", prefix + key, [prefix + name for name in nearest])


def _nests(owner, head, hint):
    return isinstance(getattr(owner, head), dict) or _dataclass_in(hint) is not None


def _dataclass_in(hint):
    return next((h for h in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(h)), None)


def plain(value):
    """Text from the command line or a recipe.txt as a number, truth value, tuple, None or the text itself."""
    if not isinstance(value, str):
        return tuple(plain(v) for v in value) if isinstance(value, (list, tuple)) else value
    words = {"True": True, "False": False, "None": None}
    if value in words:
        return words[value]
    text = f"[{value[1:-1].rstrip(',')}]" if value.startswith("(") and value.endswith(")") else value
    try:
        return plain(json.loads(text)) if not text.startswith('"') else json.loads(text)
    except ValueError:
        return value


def tupled(value):
    """A value read from JSON, which has no tuples: its lists as tuples, in mappings and lists inside it too."""
    if isinstance(value, dict):
        return {key: tupled(item) for key, item in value.items()}
    return tuple(map(tupled, value)) if isinstance(value, list | tuple) else value


def option_table(given):
    """Options of a model as {field: value}, from that or from texts ("field=value", ...), the older spelling; anything else as it is."""
    if isinstance(given, list | tuple) and all(isinstance(text, str) for text in given):
        return {field: plain(value) for field, _, value in (text.partition("=") for text in given)}
    return tupled(given)


def _spell_options(owner):
    """Options of the network under a model, in the overrides of a recipe or spec, in the one spelling by which they are compared."""
    if "backbone_options" in owner.overrides:
        options = option_table(owner.overrides["backbone_options"])
        object.__setattr__(owner, "overrides", owner.overrides | {"backbone_options": options})


def coerce(value, hint, key):
    """`value` as the annotated type `hint`; raises UsageError that names the key and the type it wants."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in options and value in (None, "None", "null"):
        return None
    nested = _dataclass_in(hint)
    if nested:
        if isinstance(value, nested):
            return value
        raise UsageError(f"{key} has fields of its own; set one of them, for example {key}.{next(iter(flatten(nested())))}.")
    if str in options and isinstance(value, str):
        return json.loads(value) if len(value) > 1 and value[0] == value[-1] == '"' else value
    value = plain(value)
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is tuple and isinstance(value, tuple):
            return tuple(coerce(v, typing.get_args(option)[0], key) for v in value)
        if origin is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise UsageError(f"{key} takes a finite number, not {value}.")
            return float(value)
        if origin in (int, bool, dict) and type(value) is origin:
            return value
    names = " or ".join("None" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
    raise UsageError(f"{key} takes {names}, not {value!r}.")


FORMER = {"task": "task.kind"} | {key: f"task.{key}" for key in ("loss", "label_smoothing", "target_threshold")}  # keys of old records


def dump(recipe, record=None):
    """The text of recipe.txt: sorted `key = JSON value` lines; `record` adds what was found at run time under `record.`."""
    flat = flatten(recipe) | {f"record.{k}": v for k, v in (record or {}).items()}
    return "".join(f"{key} = {json.dumps(flat[key])}\n" for key in sorted(flat))


def parse(text, origin="recipe.txt"):
    """Reads dump()'s text back: (Recipe, record). It is only ever data; raises UsageError naming the line that is not."""
    flat = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            key, equals, value = line.partition(" = ")
            try:
                flat[key.strip()] = json.loads(value)
            except (ValueError, RecursionError):
                raise UsageError(f"{origin}, line {number}: expected `key = JSON value`, found {line[:60]!r}.") from None
            if "\0" in str(flat[key.strip()]):
                raise UsageError(f"{origin}, line {number}: no name or path of a recipe holds a NUL character.")
    record = {k.removeprefix("record."): flat.pop(k) for k in list(flat) if k.startswith("record.")}
    if not isinstance(flat.get("model"), str):
        raise UsageError(f"{origin} names no model; it is not the record of a run.")
    changes = tupled({FORMER.get(key, key): value for key, value in flat.items()})
    try:
        return override(Recipe(model=changes.pop("model")), changes), record
    except RecursionError:
        raise UsageError(f"{origin} is nested too deeply; it is not the record of a run.") from None


def run_as_script(module_name, recipes):
    """The last line of a recipe file: `python recipes/X.py [NAME] [options of kzoo train]` runs it."""
    if module_name == "__main__":
        import sys

        from kzoo.cli import main

        words = sys.argv[1:]
        name = ":" + words.pop(0) if words and not words[0].startswith("-") else ""
        sys.exit(main(["train", sys.argv[0] + name, *words]))

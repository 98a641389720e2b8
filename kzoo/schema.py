"""What a model, a picture and a run are, as data: frozen dataclasses that load, override and dump. Standard library only."""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field

from kzoo.errors import UsageError, unknown


def _choice(owner, name, valid):
    value = getattr(owner, name)
    if value not in valid:
        raise unknown(f"{type(owner).__name__.lower()}.{name}", value, valid)


def _at_least(owner, low, *names):
    for name in names:
        value = getattr(owner, name)
        if value is not None and not value >= low:
            raise UsageError(f"{type(owner).__name__.lower()}.{name} must be at least {low}, not {value}.")


def _below_one(owner, *names):
    for name in names:
        value = getattr(owner, name)
        if value is not None and not 0 <= value < 1:
            raise UsageError(f"{type(owner).__name__.lower()}.{name} must lie in [0, 1), not {value}.")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a picture (0..255) to the model's input: resize so that the centre crop is `crop_pct` of it, crop, (x / 255 - mean) / std."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    crop_pct: float = 1.0
    interpolation: str = "bicubic"

    def __post_init__(self):
        _choice(self, "interpolation", ("nearest", "bilinear", "bicubic"))
        if not 0 < self.crop_pct <= 1:
            raise UsageError(f"preprocessing.crop_pct must lie in (0, 1], not {self.crop_pct}.")
        if len(self.mean) != len(self.std) or not min(self.std) > 0:
            raise UsageError("preprocessing.mean and .std must have the same length and every std must be above 0.")

    def for_channels(self, channels):
        """The same preprocessing for pictures of another number of channels: each channel then gets the average."""
        if channels == len(self.mean):
            return self
        mean, std = (sum(v) / len(v) for v in (self.mean, self.std))
        return dataclasses.replace(self, mean=(mean,) * channels, std=(std,) * channels)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a model is beyond its weights: the name and overrides that rebuild it, its preprocessing, its class names (or none)."""

    name: str
    overrides: dict = field(default_factory=dict)
    preprocessing: Preprocessing = Preprocessing()
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a training picture; each is a pure function of seed, epoch and sample index."""

    crop_scale: tuple[float, ...] = ()  # (low, high) share of the area of a random resized crop; empty: the evaluation resize
    crop_ratio: tuple[float, ...] = (3 / 4, 4 / 3)  # (low, high) width / height of that crop
    flip: float = 0.0  # probability of a horizontal flip
    shift: int = 0  # largest translation in pixels of the model's input, each way, the edge pixels repeated

    def __post_init__(self):
        for name in ("crop_scale", "crop_ratio"):
            pair = getattr(self, name)
            if pair and (len(pair) != 2 or not 0 < pair[0] <= pair[1]):
                raise UsageError(f"augment.{name} must be two numbers, 0 < low <= high, not {pair}.")
        if self.crop_scale and self.crop_scale[1] > 1:
            raise UsageError(f"augment.crop_scale is a share of the area, at most 1, not {self.crop_scale}.")
        if not 0 <= self.flip <= 1:
            raise UsageError(f"augment.flip is a probability in 0..1, not {self.flip}.")
        _at_least(self, 0, "shift")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where pictures come from and how they are batched."""

    source: str = "fake"  # tfds:NAME | folder:PATH | npz:FILE | digits | fake
    data_dir: str | None = None  # of TFDS; None: the setting KZOO_DATA_DIR, else TFDS' own default
    train_split: str = "train"
    eval_split: str = "test"
    batch_size: int = 128
    eval_batch_size: int | None = None  # None: batch_size
    augment: Augment = Augment()

    def __post_init__(self):
        _at_least(self, 1, "batch_size", "eval_batch_size")


@dataclass(frozen=True, kw_only=True)
class Optim:
    """The optimizer. Weight decay is decoupled and leaves out biases, norms, class tokens and position tables."""

    name: str = "adamw"  # adamw | sgd
    lr: float = 1e-3  # the peak
    weight_decay: float = 0.05
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    momentum: float = 0.9  # sgd
    nesterov: bool = False  # sgd
    clip_norm: float | None = 1.0  # global norm of the gradients; None: no clipping
    ema: float | None = None  # momentum of the averaged weights, which evaluation and saved models then use

    def __post_init__(self):
        _choice(self, "name", ("adamw", "sgd"))
        _at_least(self, 0, "lr", "weight_decay", "epsilon")
        _below_one(self, "beta_1", "beta_2", "momentum", "ema")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UsageError(f"optim.clip_norm must be above 0, not {self.clip_norm}; None leaves gradients as they are.")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over the run: linear warm-up from `warmup_from` (at most half of the run), then the cosine to `min_lr`."""

    name: str = "cosine"
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None  # takes the place of warmup_epochs
    warmup_from: float = 0.0
    min_lr: float = 0.0

    def __post_init__(self):
        _choice(self, "name", ("cosine",))
        _at_least(self, 0, "warmup_epochs", "warmup_steps", "warmup_from", "min_lr")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """When the run saves what it needs to continue: whichever limit is reached first, and at every epoch's end."""

    every_steps: int | None = None
    every_minutes: float | None = 10.0

    def __post_init__(self):
        _at_least(self, 1, "every_steps")
        _at_least(self, 0, "every_minutes")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, whole. `kzoo.train` needs nothing else; `recipe.txt` in the run's folder is its dump."""

    model: str
    task: str = "classify"
    overrides: dict = field(default_factory=dict)  # of kzoo.get: num_classes, image_size, in_channels and the family's fields
    preprocessing: Preprocessing | None = None  # None: the model's own
    init_from: str | None = None  # a run or a weights file to start from
    data: Data = Data()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    checkpoint: Checkpoint = Checkpoint()
    epochs: int = 1
    steps: int | None = None  # stop after so many steps in all, whatever the epochs say
    label_smoothing: float = 0.0
    precision: str = "float32"  # float32 | mixed_bfloat16
    xla: str = "auto"  # required | auto | off
    eval_every: int = 1  # epochs between evaluations; the last epoch is always evaluated
    seed: int = 0

    def __post_init__(self):
        _choice(self, "precision", ("float32", "mixed_bfloat16"))
        _choice(self, "xla", ("required", "auto", "off"))
        _choice(self, "task", ("classify",))
        _at_least(self, 1, "epochs", "steps", "eval_every")
        _below_one(self, "label_smoothing")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"recipe.seed must lie in 0..2^32 - 1, not {self.seed}.")
        if self.schedule.min_lr > self.optim.lr:
            raise UsageError(f"schedule.min_lr {self.schedule.min_lr} must not exceed optim.lr {self.optim.lr}, the peak.")


def smoke(recipe, toy):
    """The one rule that shrinks any recipe: the family's toy row, generated data, two steps.

    Overrides that are sizes (whole numbers and tuples) come from the toy row; choices (words, shares, switches) stay.
    """
    kept = {k: v for k, v in recipe.overrides.items() if isinstance(v, (str, bool, float))}
    data = dataclasses.replace(
        recipe.data, source="fake", data_dir=None, train_split="train", eval_split="test", batch_size=4, eval_batch_size=4
    )
    return dataclasses.replace(recipe, model=toy, overrides=kept, init_from=None, data=data, epochs=1, steps=2, eval_every=1)


def flatten(value, prefix=""):
    """A nested dataclass as {dotted key: plain value}; a mapping that is a field (overrides) is spread into keys too."""
    items = value.items() if isinstance(value, dict) else ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    flat = {}
    for key, item in items:
        if dataclasses.is_dataclass(item) or (isinstance(item, dict) and item):
            flat.update(flatten(item, f"{prefix}{key}."))
        elif not isinstance(item, dict):
            flat[prefix + key] = item
    return flat


def override(owner, changes, prefix=""):
    """A copy of a (nested) dataclass with dotted keys changed; values may be typed or text from the command line.

    All changes take effect together, then the fields are checked. Raises UsageError for an unknown key, naming the nearest, and for
    a value of the wrong type.
    """
    hints = typing.get_type_hints(type(owner))
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
            updates[head] = current | {key: plain(value) for key, value in inner.items()}
        else:
            current = _dataclass_in(hints[head])() if current is None else current
            updates[head] = override(current, inner, f"{prefix}{head}.")
    return dataclasses.replace(owner, **updates)


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


def coerce(value, hint, key):
    """`value` as the annotated type `hint`; raises UsageError that names the key and the type it wants."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in options and value in (None, "None", "null"):
        return None
    nested = _dataclass_in(hint)
    if nested:
        if isinstance(value, nested):
            return value
        raise UsageError(f"{key} has fields of its own; set one of them, for example {key}.{dataclasses.fields(nested)[0].name}.")
    if str in options and isinstance(value, str):
        return json.loads(value) if len(value) > 1 and value[0] == value[-1] == '"' else value
    value = plain(value)
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is tuple and isinstance(value, tuple):
            return tuple(coerce(v, typing.get_args(option)[0], key) for v in value)
        if origin is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if origin in (int, bool, dict) and type(value) is origin:
            return value
    names = " or ".join("None" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
    raise UsageError(f"{key} takes {names}, not {value!r}.")


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
            except ValueError:
                raise UsageError(f"{origin}, line {number}: expected `key = JSON value`, found {line[:60]!r}.") from None
    record = {k.removeprefix("record."): flat.pop(k) for k in list(flat) if k.startswith("record.")}
    if "model" not in flat:
        raise UsageError(f"{origin} names no model; it is not the record of a run.")
    # JSON has no tuples.
    changes = {key: tuple(value) if isinstance(value, list) else value for key, value in flat.items()}
    return override(Recipe(model=changes.pop("model")), changes), record


def run_as_script(module_name, recipes):
    """The last line of a recipe file: `python recipes/X.py [NAME] [options of kzoo train]` runs it."""
    if module_name == "__main__":
        import sys

        from kzoo.cli import main

        words = sys.argv[1:]
        name = words.pop(0) if words and not words[0].startswith("-") else next(iter(recipes))
        if name not in recipes:
            sys.exit(str(unknown("recipe of this file", name, recipes)))
        sys.exit(main(["train", sys.argv[0] + ":" + name, *words]))

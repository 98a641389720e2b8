"""What a run is, as data: frozen dataclasses, which recipe files import. Standard library only."""

import dataclasses
import math
import re
import runpy
import sys
from dataclasses import dataclass, field

from kzoo.augments import Augment, BoxAugment, RandAugment
from kzoo.errors import UsageError, unknown
from kzoo.kinds import SETTINGS, Classify, Detect, Masked, TaskSettings, is_ours, settings_class
from kzoo.settings import Settings, coerce
from kzoo.specs import Preprocessing, spell_options

TRACKERS = ("wandb", "mlflow")

# recipe files take all that they name from here
# fmt: off
__all__ = [
    "Augment", "BoxAugment", "Checkpoint", "Classify", "Data", "Detect", "Masked", "Optim",
    "EarlyStop",
    "Preprocessing", "RandAugment", "Recipe", "Schedule", "TaskSettings", "SETTINGS", "is_ours", "run_as_script", "settings_class",
]
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Data(Settings):
    """Where pictures come from and how they are batched."""

    part = "data"
    # tfds:NAME | folder:PATH | csv:FILE | npz:FILE | digits | fake | with objects coco:IMAGES,ANNOTATIONS.json
    # | voc:PATH | shapes | KIND:REST of a plugin
    source: str = "fake"
    data_dir: str | None = None  # of TFDS; None: the setting KZOO_DATA_DIR, else TFDS' own default
    train_split: str = "train"
    eval_split: str = "test"
    # the share of a source without splits that is held out, class by class, by a hash of the paths; None: its own tenth
    holdout: float | None = None
    folds: int | None = None  # or so many parts, likewise, of which one is held out
    fold: int | None = None  # which, 0 to folds - 1
    batch_size: int = 128
    eval_batch_size: int | None = None  # None: batch_size
    eval_crops: int = 1  # 1 | 5 (centre and corners) | 10 (those and their mirror images): probabilities averaged
    # or the class of its task; a recipe puts the task's own, as it is by default, in the place of None
    augment: Augment | None = None
    # of classes in training: "balanced" (n / (C * n_c)) | {class name: weight}, 1 for what is left out
    class_weight: str | dict[str, float] | None = field(default_factory=dict)
    sampler: str = "shuffle"  # shuffle | balanced (each class equally often in an epoch)
    bad_pictures: str = "stop"  # stop | skip (another takes its place in training, evaluation leaves it out)

    def __post_init__(self):
        self.require_choices(eval_crops=(1, 5, 10), sampler=("shuffle", "balanced"), bad_pictures=("stop", "skip"))
        self.require_at_least(1, "batch_size", "eval_batch_size")
        self._require_division()
        self._require_weights()

    def _require_division(self):
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise UsageError(f"data.holdout is a share between 0 and 1, not {self.holdout}.")
        if (self.folds is None) != (self.fold is None):
            raise UsageError("data.folds, how many, and data.fold, which of them is held out, are set together.")
        if self.folds is None:
            return
        if self.holdout is not None:
            raise UsageError("data.holdout and data.folds exclude each other; leave one of them out.")
        self.require_at_least(2, "folds")
        if not 0 <= self.fold < self.folds:
            raise UsageError(f"data.fold must lie in 0..{self.folds - 1}, as data.folds is, not {self.fold}.")

    def _require_weights(self):
        asked = self.class_weight
        if isinstance(asked, str) and asked != "balanced":
            raise UsageError(
                f"data.class_weight is 'balanced' or a table, data.class_weight.CLASS=WEIGHT, not {asked!r}."
            )
        if asked == self.sampler == "balanced":
            raise UsageError("data.class_weight and data.sampler both balance the classes; leave one of them out.")
        for name, weight in asked.items() if isinstance(asked, dict) else ():
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < math.inf
            if not isinstance(name, str) or not number:
                raise UsageError(
                    f"data.class_weight gives names of classes numbers of at least 0, not {name!r} {weight!r}."
                )

    def types(self):
        return super().types() | ({} if self.augment is None else {"augment": type(self.augment) | None})  # its task's


@dataclass(frozen=True, kw_only=True)
class Optim(Settings):
    """The optimizer. Weight decay is decoupled and leaves out biases, norms and, where a layer says so, tokens.

    Patterns are regular expressions, searched in a weight's path (`blocks_3/attn/qkv/kernel`).
    """

    part = "optim"
    # adamw | sgd | lamb | lion | muon (AdamW for what is no matrix, heads, and what a task adds) | lars
    name: str = "adamw"
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
    # pattern: factor of the rate; the factors of all patterns that fit multiply
    lr_scales: dict[str, float] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()  # patterns of weights that stay as they are; norms' running statistics among them
    accumulate: int = 1  # batches whose mean gradient makes one step; rates, warm-up and averages count those steps

    def __post_init__(self):
        self.require_choices(name=("adamw", "sgd", "lamb", "lion", "muon", "lars"))
        self.require_at_least(0, "lr", "weight_decay", "epsilon")
        self.require_at_least(1, "accumulate")
        self.require_rates("beta_1", "beta_2", "momentum", "ema")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UsageError(
                f"optim.clip_norm must be above 0, not {self.clip_norm}; None leaves gradients as they are."
            )
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
class Schedule(Settings):
    """The learning rate over the run: linear warm-up from `warmup_from` (at most half of the run), then down to
    `min_lr`.
    """

    part = "schedule"
    name: str = "cosine"  # cosine | linear | step | constant
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None  # takes the place of warmup_epochs
    warmup_from: float = 0.0
    min_lr: float = 0.0  # cosine and linear end here
    drop_epochs: tuple[float, ...] = ()  # step: the rate is multiplied by drop_factor after each of these
    drop_factor: float = 0.1

    def __post_init__(self):
        self.require_choices(name=("cosine", "linear", "step", "constant"))
        self.require_at_least(0, "warmup_epochs", "warmup_steps", "warmup_from", "min_lr", "drop_factor")
        if (self.name == "step") != bool(self.drop_epochs) or any(e <= 0 for e in self.drop_epochs):
            raise UsageError(
                "schedule.drop_epochs lists the epochs (above 0) after which schedule.name='step' drops the rate."
            )


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Settings):
    """When the run saves what it needs to continue: whichever limit is reached first, and at every epoch's end."""

    part = "checkpoint"
    every_steps: int | None = None
    every_minutes: float | None = 10.0

    def __post_init__(self):
        self.require_at_least(1, "every_steps")
        self.require_at_least(0, "every_minutes")


@dataclass(frozen=True, kw_only=True)
class EarlyStop(Settings):
    """When a run ends before its epochs do: it then no longer gets better, by its task's headline figure."""

    part = "early_stop"
    patience: int | None = None  # evaluations in a row (with eval_every=1 epochs) without a better one; None: off
    min_delta: float = 0.0  # by how much more than this it has to be better, in the figure's own unit

    def __post_init__(self):
        self.require_at_least(1, "patience")
        self.require_at_least(0, "min_delta")


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """One run, whole. `kzoo.train` needs nothing else; `recipe.txt` in the run's folder is its dump."""

    part = "recipe"
    model: str
    task: TaskSettings = Classify()
    # of kzoo.get: num_classes, image_size, in_channels and the family's fields
    overrides: dict = field(default_factory=dict)
    preprocessing: Preprocessing | None = None  # None: the model's own
    init_from: str | None = None  # a run, a weights file or hf://org/repo[@revision][/file] to start from
    # the model is that of init_from, where it is a run or .keras file: its name, overrides, preprocessing; ours on top
    keep_architecture: bool = False
    data: Data = Data()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    checkpoint: Checkpoint = Checkpoint()
    early_stop: EarlyStop = EarlyStop()
    epochs: int = 1
    steps: int | None = None  # stop after so many steps in all, whatever the epochs say
    # sides in pixels, one for each equal share of the epochs; evaluation is at the model's own size
    progressive: tuple[int, ...] = ()
    remat: bool = False  # blocks compute their activations again for the gradient instead of keeping them
    data_parallel: bool = False  # batches are split over all devices of this host
    precision: str = "float32"  # float32 | mixed_bfloat16
    xla: str = "auto"  # required | auto | off
    eval_every: int = 1  # epochs between evaluations; the last epoch is always evaluated
    seed: int = 0
    # of wandb, mlflow: experiment trackers that are told of the run; on the command line track=wandb,mlflow
    track: tuple[str, ...] | str = ()

    def __post_init__(self):
        spell_options(self)
        self._settle_track()
        self._settle_augment()
        if self.data.class_weight and not self.task.weighs:
            raise UsageError(f"data.class_weight weighs classes, and the task {self.task.kind} has none; leave it out.")
        if "preprocessing" in self.overrides:
            raise UsageError(
                "recipe.overrides.preprocessing is not read; set preprocessing.mean and its like, the recipe's own "
                "fields."
            )
        if "." in self.model:
            raise UsageError(
                f"recipe.model takes a name without a tag, not {self.model!r}; the address of published weights, as "
                "kzoo info shows it, "
                "goes into init_from."
            )
        self.require_choices(precision=("float32", "mixed_bfloat16"))
        self.require_choices(xla=("required", "auto", "off"))
        self.require_at_least(1, "epochs", "steps", "eval_every")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"recipe.seed must lie in 0..2^32 - 1, not {self.seed}.")
        if self.keep_architecture and not self.init_from:
            raise UsageError("recipe.keep_architecture needs init_from, the run or .keras file whose model it is.")
        if self.schedule.min_lr > self.optim.lr:
            raise UsageError(
                f"schedule.min_lr {self.schedule.min_lr} must not exceed optim.lr {self.optim.lr}, the peak."
            )

    def settled(self, changes):
        """A task of another kind is as it is by default; an augmentation that is not of its class goes with the task
        before.
        """
        changes = dict(changes)
        kind = coerce(changes.pop("task.kind", self.task.kind), str, "task.kind")
        if kind == self.task.kind:
            return self, changes
        task, data = settings_class(kind)(), self.data
        data = data if type(data.augment) is task.augments else dataclasses.replace(data, augment=None)
        return dataclasses.replace(self, task=task, data=data), changes

    def _settle_track(self):
        """Names in one text, as the command line has them, become a tuple."""
        if isinstance(self.track, str):
            names = (name.strip(" '\"") for name in self.track.strip("()[] ").split(","))
            object.__setattr__(self, "track", tuple(filter(None, names)))
        for name in self.track:
            if name not in TRACKERS:
                raise unknown("tracker", name, TRACKERS)

    def _settle_augment(self):
        """Puts the task's own augmentation in the place of none, and of another class's that says nothing."""
        given, wanted = self.data.augment, self.task.augments
        if type(given) is wanted:
            return
        if given is not None and given != type(given)():
            raise UsageError(
                f"data.augment is {type(given).__name__}, and the task {self.task.kind} takes {wanted.__name__}; give "
                "it that, or none."
            )
        object.__setattr__(self, "data", dataclasses.replace(self.data, augment=wanted()))


def run_as_script(module_name, *_):
    """The last line of a recipe file: `python recipes/X.py [NAME] [options of kzoo train]` runs it. Files may hand over
    their table too.
    """
    if module_name == "__main__":
        file, *words = sys.argv
        name = ":" + words.pop(0) if words and not words[0].startswith("-") else ""
        sys.argv = ["kzoo", "train", file + name, *words]
        runpy.run_module("kzoo", run_name="__main__")

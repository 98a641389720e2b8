"""What a recipe says of its task: a frozen dataclass of each kind, which schema hands to recipe files. Standard library
only.
"""

import dataclasses
from dataclasses import dataclass

from kzoo.augments import Augment, BoxAugment
from kzoo.errors import UsageError
from kzoo.settings import Settings
from kzoo.specs import OURS

SETTINGS = {}  # {kind: the class of its settings}


def settings_class(kind):
    """The class of a task's settings, of ours or of a plugin, whose module is then imported and registers the task.

    Raises UsageError with the nearest kinds, UserError for one that two packages claim and for a plugin that fails.
    """
    from kzoo.plugins import settings_of

    return settings_of(kind, SETTINGS, [(OURS, f"kzoo.tasks.{kind}")] if is_ours(SETTINGS.get(kind)) else [])


def is_ours(settings):
    """Whether a class of settings is one of kzoo's own."""
    return getattr(settings, "__module__", "") == __name__


@dataclass(frozen=True, kw_only=True)
class TaskSettings(Settings):
    """What a recipe says of its task. A frozen dataclass of each task's own, found by its `kind`, which is no field."""

    part = "task"
    kind = ""
    # the class of the random changes that its pictures can undergo, a frozen dataclass: a recipe's data.augment
    augments = Augment
    smoke_source = "fake"  # generated data of its sort
    weighs = False  # whether data.class_weight has classes to weigh

    def __init_subclass__(cls):
        if "kind" in vars(cls):
            SETTINGS[cls.kind] = cls

    def smoked(self):
        """The same for a smoke run, without sizes that a toy does not have."""
        return self


@dataclass(frozen=True, kw_only=True)
class Classify(TaskSettings):
    """One class for each picture."""

    kind = "classify"
    weighs = True
    # cross_entropy | binary_cross_entropy (mean over classes) | binary_cross_entropy_sum (sum over classes)
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    # classes with more than this share of a mixed picture count whole, others not (binary losses)
    target_threshold: float | None = None

    def __post_init__(self):
        self.require_choices(loss=("cross_entropy", "binary_cross_entropy", "binary_cross_entropy_sum"))
        self.require_rates("label_smoothing", "target_threshold")
        if self.target_threshold is not None and self.loss == "cross_entropy":
            raise UsageError(
                "task.target_threshold belongs to the binary losses; set loss='binary_cross_entropy' or leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class Masked(TaskSettings):
    """Most patches of a picture are hidden, and the network paints them (https://arxiv.org/abs/2111.06377). No label is
    needed.

    Where there are labels, evaluation asks the nearest neighbours of the encoder's vectors, in DINO's protocol: while
    training among knn_reference pictures about knn_queries (None: all of them), those of a finished run among all about
    all.
    """

    kind = "masked"
    norm_pix: bool = True  # the target is each patch less its mean, in its own standard deviations
    knn_k: int = 20
    knn_temperature: float = 0.07  # a neighbour's vote weighs exp(cosine / temperature)
    knn_reference: int | None = 5000
    knn_queries: int | None = 2000

    def __post_init__(self):
        self.require_at_least(1, "knn_k", "knn_reference", "knn_queries")
        if not self.knn_temperature > 0:
            raise UsageError(f"task.knn_temperature must be above 0, not {self.knn_temperature}.")


@dataclass(frozen=True, kw_only=True)
class Detect(TaskSettings):
    """Boxes and classes of the objects in a picture, each found by one query (DETR, https://arxiv.org/abs/2005.12872).

    Predictions are matched to objects at the least total cost, and the losses are of the pairs; those of boxes are
    divided by the number of objects in the batch.
    """

    kind = "detect"
    augments = BoxAugment
    smoke_source = "shapes"
    # objects of a picture, to which targets are padded; more are an error; None: as many as the model has queries
    max_boxes: int | None = None
    # (height, width) of the padded pictures: a batch takes the smallest that holds it, and each makes one compiled
    # step; empty: the model's own size alone
    canvases: tuple[tuple[int, ...], ...] = ()
    no_object: float = 0.1  # weight of the class "no object" in the class loss
    cost_class: float = 1.0  # of the matching: minus the probability of the object's class,
    cost_bbox: float = 5.0  # the L1 distance of the boxes, in 0..1 of the picture,
    cost_giou: float = 2.0  # and minus their generalised IoU
    loss_ce: float = 1.0  # weights of the losses
    loss_bbox: float = 5.0
    loss_giou: float = 2.0
    aux_loss: bool = True  # the same losses of every decoder layer before the last, each with a matching of its own

    def __post_init__(self):
        self.require_at_least(1, "max_boxes")
        self.require_at_least(0, "no_object", "cost_class", "cost_bbox", "cost_giou", "loss_ce", "loss_bbox")
        self.require_at_least(0, "loss_giou")
        if any(len(canvas) != 2 or min(canvas) < 1 for canvas in self.canvases):
            raise UsageError(f"task.canvases lists pairs (height, width) in pixels, not {self.canvases}.")
        largest = tuple(map(max, zip(*self.canvases, strict=True)))
        if self.canvases and largest not in self.canvases:
            raise UsageError(
                f"task.canvases must hold any batch, a tall picture beside a wide one too; add {largest} to them."
            )

    @property
    def costs(self):
        """{name: weight} of the matching's costs."""
        return {name: getattr(self, name) for name in ("cost_class", "cost_bbox", "cost_giou")}

    def smoked(self):
        return dataclasses.replace(self, canvases=())

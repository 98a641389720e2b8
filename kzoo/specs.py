"""What a model and its pictures are, as data: frozen dataclasses. Standard library only."""

import dataclasses
import typing
from dataclasses import dataclass, field

from kzoo.errors import UsageError
from kzoo.settings import Settings, option_table

OURS = "kzoo"  # the distribution of our own parts


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Settings):
    """From a picture (0..255) to the model's input: resize so that the centre crop is `crop_pct` of it, crop, (x / 255
    - mean) / std.
    """

    part = "preprocessing"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    crop_pct: float = 1.0
    interpolation: str = "bicubic"
    # center (short side resized, centre cropped) | squash (both sides resized) | border (whole picture, padded)
    crop_mode: str = "center"

    def __post_init__(self):
        self.require_choices(crop_mode=("center", "squash", "border"))
        self.require_choices(interpolation=("nearest", "bilinear", "bicubic"))
        if not 0 < self.crop_pct <= 1:
            raise UsageError(f"preprocessing.crop_pct must lie in (0, 1], not {self.crop_pct}.")
        if len(self.mean) != len(self.std) or not min(self.std) > 0:
            raise UsageError("preprocessing.mean and .std must have the same length and every std must be above 0.")

    @property
    def fill(self):
        """The colour (0..255, whole numbers) of what lies outside of a picture: about 0 once normalised, as timm rounds
        it.
        """
        return tuple(round(255 * mean) for mean in self.mean)

    def for_channels(self, channels):
        """The same preprocessing for pictures of another number of channels: each channel then gets the average."""
        if channels == len(self.mean):
            return self
        mean, std = (sum(v) / len(v) for v in (self.mean, self.std))
        return dataclasses.replace(self, mean=(mean,) * channels, std=(std,) * channels)


class Take(typing.NamedTuple):
    """What a network takes: pictures (B, *image_size, channels), prepared as `preprocessing` says, and targets of so
    many classes.
    """

    image_size: tuple[int, int]  # (height, width)
    channels: int
    preprocessing: Preprocessing
    classes: int | None = None  # 0 and None: the source's own
    patch_size: int | None = None  # of the patches, side by side, that a picture is cut into; None: into none
    queries: int | None = None  # the most objects that a detector finds in a picture

    @property
    def grid(self):
        """(rows, columns) of whole patches."""
        return tuple(side // self.patch_size for side in self.image_size)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a model is beyond its weights: the name and overrides that rebuild it, its preprocessing, its class names
    (or none).

    Where it was given published weights, also which: their tag, their licence and the address with the resolved
    revision.
    """

    name: str
    overrides: dict = field(default_factory=dict)
    preprocessing: Preprocessing = Preprocessing()
    class_names: tuple[str, ...] = ()
    tag: str = ""
    license: str = ""
    source: str = ""  # hf://org/repo@COMMIT/FILE

    def __post_init__(self):
        spell_options(self)


def spell_options(owner):
    """Options of the network under a model, in the overrides of a recipe or spec, in the one spelling by which they are
    compared.
    """
    if "backbone_options" in owner.overrides:
        options = option_table(owner.overrides["backbone_options"])
        object.__setattr__(owner, "overrides", owner.overrides | {"backbone_options": options})


# How pictures are prepared: mean and standard deviation, share of the picture, fit.
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
FULL = Preprocessing(**HALF)  # sizes above 224 are evaluated on the whole picture
HALF_95, HALF_SQUASH = Preprocessing(**HALF, crop_pct=0.95), Preprocessing(**HALF, crop_mode="squash")
HALF_95_SQUASH = Preprocessing(**HALF, crop_pct=0.95, crop_mode="squash")
IN_90, IN_FULL = Preprocessing(**IMAGENET, crop_pct=0.9), Preprocessing(**IMAGENET)
UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
MIIL = Preprocessing(**UNIT, crop_pct=0.875, interpolation="bilinear")

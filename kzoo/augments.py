"""Random changes of training pictures, as data: frozen dataclasses, which recipes hold. Standard library only."""

from dataclasses import dataclass

from kzoo.errors import UsageError
from kzoo.settings import Settings


@dataclass(frozen=True, kw_only=True)
class RandAugment(Settings):
    """Random operations on a picture, timm's `rand-m9-mstd0.5-inc1` and its like (https://arxiv.org/abs/1909.13719)."""

    part = "augment.rand_augment"
    layers: int = 2  # operations in a row
    magnitude: float = 9.0  # 0..10 and beyond, in the operations' own scales
    magnitude_std: float = 0.0  # of a normal draw around the magnitude
    increasing: bool = True  # every operation grows stronger with the magnitude
    probability: float = 0.5  # of each operation

    def __post_init__(self):
        self.require_at_least(1, "layers")
        self.require_at_least(0, "magnitude", "magnitude_std")
        self.require_probabilities("probability")


@dataclass(frozen=True, kw_only=True)
class Augment(Settings):
    """Random changes of a training picture; each is a pure function of seed, epoch and sample index, or for mixing of
    the batch.
    """

    part = "augment"
    # (low, high) share of the area of a random resized crop; empty: the evaluation resize
    crop_scale: tuple[float, ...] = ()
    crop_ratio: tuple[float, ...] = (3 / 4, 4 / 3)  # (low, high) width / height of that crop
    flip: float = 0.0  # probability of a horizontal flip
    shift: int = 0  # largest translation in pixels of the model's input, each way, the edge pixels repeated
    # simple random crop (DeiT III): short side resized, this many pixels reflected around, a random crop
    crop_pad: int | None = None
    color_jitter: float = 0.0  # brightness, contrast and saturation times a factor drawn from 1 - this .. 1 + this
    rand_augment: RandAugment | None = None
    three_augment: bool = False  # one of grey, solarised, blurred (DeiT III, https://arxiv.org/abs/2204.07118)
    erase: float = 0.0  # probability of random erasing, by noise (https://arxiv.org/abs/1708.04896)
    mixup: float = 0.0  # alpha of the Beta distribution (https://arxiv.org/abs/1710.09412)
    cutmix: float = 0.0  # alpha of the Beta distribution (https://arxiv.org/abs/1905.04899)
    mix_probability: float = 1.0  # of mixing a batch at all
    mix_switch: float = 0.5  # probability of CutMix rather than MixUp where both are on
    # times each drawn picture comes in an epoch, every time changed anew (https://arxiv.org/abs/1901.09335)
    repeats: int = 1
    # of rand_augment: kzoo | keras_cv (its randomness cannot be replayed: a resumed run sees other pictures)
    library: str = "kzoo"

    def __post_init__(self):
        for name in ("crop_scale", "crop_ratio"):
            pair = getattr(self, name)
            if pair and (len(pair) != 2 or not 0 < pair[0] <= pair[1]):
                raise UsageError(f"augment.{name} must be two numbers, 0 < low <= high, not {pair}.")
        if self.crop_scale and self.crop_scale[1] > 1:
            raise UsageError(f"augment.crop_scale is a share of the area, at most 1, not {self.crop_scale}.")
        if self.crop_scale and self.crop_pad is not None:
            raise UsageError("augment.crop_scale and augment.crop_pad are two ways to crop; set one of them.")
        self.require_choices(library=("kzoo", "keras_cv"))
        self.require_probabilities("flip", "erase", "mix_probability", "mix_switch")
        self.require_at_least(0, "shift", "crop_pad", "color_jitter", "mixup", "cutmix")
        self.require_at_least(1, "repeats")

    @property
    def mixes(self):
        """Whether targets become probabilities, mixed from two pictures."""
        return bool((self.mixup or self.cutmix) and self.mix_probability)


@dataclass(frozen=True, kw_only=True)
class BoxAugment(Settings):
    """Random changes of a training picture and its boxes; each is a pure function of seed, epoch and sample index.

    DETR's (https://arxiv.org/abs/2005.12872): mirrored, then resized, or resized, cropped and resized. Where the result
    would not fit the largest canvas, it is made smaller until it does.
    """

    part = "augment"
    flip: float = 0.5  # probability of a horizontal flip
    flip_vertical: float = 0.0  # of a vertical one: for pictures without an up, seen through a microscope or from above
    # shortest sides in pixels, of which one is drawn; empty: the size of evaluation
    scales: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    max_size: int | None = 1333  # of the longest side
    crop: float = 0.5  # probability of a crop before that
    # what the crop is cut from: the picture at one of these shortest sides; empty: as it is
    crop_scales: tuple[int, ...] = (400, 500, 600)
    crop_size: tuple[int, ...] = (384, 600)  # (low, high) of the crop's height and width, drawn apart, in its pixels
    color_jitter: float = 0.0  # brightness, contrast and saturation times a factor drawn from 1 - this .. 1 + this

    def __post_init__(self):
        self.require_probabilities("flip", "flip_vertical", "crop")
        self.require_at_least(0, "color_jitter")
        self.require_at_least(1, "scales", "max_size", "crop_scales", "crop_size")
        if len(self.crop_size) != 2 or self.crop_size[0] > self.crop_size[1]:
            raise UsageError(f"augment.crop_size must be two whole numbers, low <= high, not {self.crop_size}.")

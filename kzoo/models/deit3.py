"""DeiT III: plain vision transformers with LayerScale, their positions on the patches alone, trained on ImageNet
without a teacher.

"DeiT III: Revenge of the ViT", https://arxiv.org/abs/2204.07118; numerics of timm's `deit3_*`. It is `vit` in other
settings.
"""

from dataclasses import dataclass

from kzoo.models.vit import BASE, HUGE, LARGE, MEDIUM, SMALL, VitConfig, vit
from kzoo.registry import register
from kzoo.specs import IN_90, IN_FULL, Preprocessing

TASK = "classify"
PAPER = "https://arxiv.org/abs/2204.07118"
CPU_XLA = True  # the same graph as ViT's


@dataclass(frozen=True, kw_only=True)
class Deit3Config(VitConfig):
    """A ViT as DeiT III has it."""

    init_values: float | None = 1e-6
    no_embed_class: bool = True
    preprocessing: Preprocessing = IN_90

    def layouts(self):
        from kzoo.models.names.deit3 import LAYOUTS

        return LAYOUTS


@register
def deit3(config):
    """images (B, H, W, C) -> what `kzoo.models.vit.vit` gives: logits (B, num_classes), or the pooled vector (B, D)
    without a head.
    """
    return vit(config)


# fmt: off
VARIANTS = {
    "deit3_toy": Deit3Config(image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=10, preprocessing=IN_FULL),
    "deit3_small_patch16_224":  Deit3Config(image_size=224, patch_size=16, **SMALL),
    "deit3_small_patch16_384":  Deit3Config(image_size=384, patch_size=16, **SMALL, preprocessing=IN_FULL),
    "deit3_medium_patch16_224": Deit3Config(image_size=224, patch_size=16, **MEDIUM),
    "deit3_base_patch16_224":   Deit3Config(image_size=224, patch_size=16, **BASE),
    "deit3_base_patch16_384":   Deit3Config(image_size=384, patch_size=16, **BASE,  preprocessing=IN_FULL),
    "deit3_large_patch16_224":  Deit3Config(image_size=224, patch_size=16, **LARGE),
    "deit3_large_patch16_384":  Deit3Config(image_size=384, patch_size=16, **LARGE, preprocessing=IN_FULL),
    "deit3_huge_patch14_224":   Deit3Config(image_size=224, patch_size=14, **HUGE),
}
# fmt: on

"""DINOv2, and TIPSv2 in its likeness: vision transformers trained without labels, for features.

"DINOv2: Learning Robust Visual Features without Supervision", https://arxiv.org/abs/2304.07193; with register tokens,
https://arxiv.org/abs/2309.16588; numerics of timm's `vit_*_dinov2`. They are `vit` in other settings.
"""

from dataclasses import dataclass

from kzoo.models.vit import BASE, LARGE, SMALL, SO400M, VitConfig, vit
from kzoo.registry import register
from kzoo.specs import IN_FULL, UNIT, Preprocessing

TASK = "classify"
PAPER = "https://arxiv.org/abs/2304.07193"
CPU_XLA = True  # the same graph as ViT's


@dataclass(frozen=True, kw_only=True)
class DinoConfig(VitConfig):
    """A ViT as DINOv2 has it: the normalised class token as features."""

    image_size: int | tuple[int, int] = 518
    patch_size: int = 14
    num_classes: int = 0
    init_values: float | None = 1e-5
    preprocessing: Preprocessing = IN_FULL

    def layouts(self):
        from kzoo.models.names.vit_dino import LAYOUTS

        return LAYOUTS


@register
def vit_dino(config):
    """images (B, H, W, C) -> what `kzoo.models.vit.vit` gives: the pooled vector (B, D), or logits (B, num_classes)
    with a head.
    """
    return vit(config)


# fmt: off
REG4 = {"reg_tokens": 4, "no_embed_class": True}
TIPS = {"image_size": 448, "init_values": 1.0, "reg_tokens": 1, "no_embed_class": True, "preprocessing": Preprocessing(**UNIT)}

VARIANTS = {
    "vit_dino_toy": DinoConfig(image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=10, **REG4),
    "vit_small_patch14_dinov2":       DinoConfig(**SMALL),
    "vit_base_patch14_dinov2":        DinoConfig(**BASE),
    "vit_large_patch14_dinov2":       DinoConfig(**LARGE),
    "vit_small_patch14_reg4_dinov2":  DinoConfig(**SMALL,  **REG4),
    "vit_base_patch14_reg4_dinov2":   DinoConfig(**BASE,   **REG4),
    "vit_large_patch14_reg4_dinov2":  DinoConfig(**LARGE,  **REG4),
    "vit_base_patch14_reg1_tipsv2":   DinoConfig(**BASE,   **TIPS),
    "vit_large_patch14_reg1_tipsv2":  DinoConfig(**LARGE,  **TIPS),
    "vit_so400m_patch14_reg1_tipsv2": DinoConfig(**SO400M, **TIPS),
}
# fmt: on

"""Image towers of CLIP and SigLIP: vision transformers whose published weights were trained beside a text tower.

"Learning Transferable Visual Models From Natural Language Supervision", https://arxiv.org/abs/2103.00020: a norm before
the blocks, and the projection into the space shared with the text as head. "Sigmoid Loss for Language Image
Pre-Training", https://arxiv.org/abs/2303.15343: no class token, attention pooling, and the pooled vector itself. Both
are `vit` in other settings.
"""

from dataclasses import dataclass

from kzoo.models.vit import BASE, BETWIXT, GAP, GIANT, GIGANTIC, HUGE, LARGE, MEDIUM, PLUS, SO400M, VitConfig, vit
from kzoo.registry import register
from kzoo.specs import FULL, HALF_SQUASH, OPENAI, Preprocessing

TASK = "classify"
PAPER = "https://arxiv.org/abs/2103.00020"
CPU_XLA = True  # the same graph as ViT's

CLIP_90, CLIP_95 = (Preprocessing(**OPENAI, crop_pct=share) for share in (0.9, 0.95))
CLIP_SQUASH = Preprocessing(**OPENAI, crop_mode="squash")


@dataclass(frozen=True, kw_only=True)
class ClipConfig(VitConfig):
    """A ViT as CLIP has it. num_classes counts the channels of the space shared with the text, or the classes of
    fine-tuned weights.
    """

    pre_norm: bool = True
    norm_eps: float = 1e-5
    preprocessing: Preprocessing = Preprocessing(**OPENAI)

    def layouts(self):
        from kzoo.models.names.vit_clip import LAYOUTS

        return LAYOUTS


@dataclass(frozen=True, kw_only=True)
class SiglipConfig(VitConfig):
    """A ViT as SigLIP has it."""

    class_token: bool = False
    global_pool: str = "map"
    num_classes: int = 0

    def layouts(self):
        from kzoo.models.names.vit_clip import LAYOUTS

        return LAYOUTS


@register
def vit_clip(config):
    """images (B, H, W, C) -> what `kzoo.models.vit.vit` gives: logits (B, num_classes), or the pooled vector (B, D)
    without a head.
    """
    return vit(config)


# fmt: off
XSMALL   = {"embed_dim":  256, "depth": 10, "num_heads":  4}
GIANTOPT = {"embed_dim": 1536, "depth": 40, "num_heads": 16}

VARIANTS = {
    "vit_clip_toy": ClipConfig(
        image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, act="quick_gelu", class_token=False, global_pool="map",
        num_classes=10,
    ),
    # CLIP's image towers, each with the head of the first weights that timm lists for it.
    "vit_xsmall_patch16_clip_224":     ClipConfig(image_size=224, patch_size=16, **XSMALL,   num_classes=512, preprocessing=CLIP_90),
    "vit_medium_patch32_clip_224":     ClipConfig(image_size=224, patch_size=32, **MEDIUM,   num_classes=512, preprocessing=CLIP_90),
    "vit_medium_patch16_clip_224":     ClipConfig(image_size=224, patch_size=16, **MEDIUM,   num_classes=512, preprocessing=CLIP_90),
    "vit_betwixt_patch32_clip_224":    ClipConfig(image_size=224, patch_size=32, **BETWIXT,  num_classes=512, preprocessing=CLIP_90),
    "vit_base_patch32_clip_224":       ClipConfig(image_size=224, patch_size=32, **BASE,     preprocessing=CLIP_90),
    "vit_base_patch32_clip_256":       ClipConfig(image_size=256, patch_size=32, **BASE,     num_classes=512),
    "vit_base_patch32_clip_384":       ClipConfig(image_size=384, patch_size=32, **BASE),
    "vit_base_patch32_clip_448":       ClipConfig(image_size=448, patch_size=32, **BASE),
    "vit_base_patch16_clip_224":       ClipConfig(image_size=224, patch_size=16, **BASE,     preprocessing=CLIP_95),
    "vit_base_patch16_clip_384":       ClipConfig(image_size=384, patch_size=16, **BASE,     preprocessing=CLIP_SQUASH),
    "vit_base_patch16_plus_clip_240":  ClipConfig(image_size=240, patch_size=16, **PLUS,     num_classes=640),
    "vit_large_patch14_clip_224":      ClipConfig(image_size=224, patch_size=14, **LARGE,    preprocessing=FULL),
    "vit_large_patch14_clip_336":      ClipConfig(image_size=336, patch_size=14, **LARGE,    preprocessing=HALF_SQUASH),
    "vit_huge_patch14_clip_224":       ClipConfig(image_size=224, patch_size=14, **HUGE),
    "vit_huge_patch14_clip_336":       ClipConfig(image_size=336, patch_size=14, **HUGE,     preprocessing=CLIP_SQUASH),
    "vit_huge_patch14_clip_378":       ClipConfig(image_size=378, patch_size=14, **HUGE,     num_classes=1024),
    "vit_giant_patch14_clip_224":      ClipConfig(image_size=224, patch_size=14, **GIANT,    num_classes=1024),
    "vit_gigantic_patch14_clip_224":   ClipConfig(image_size=224, patch_size=14, **GIGANTIC, num_classes=1280),
    "vit_gigantic_patch14_clip_378":   ClipConfig(image_size=378, patch_size=14, **GIGANTIC, num_classes=1280, preprocessing=CLIP_SQUASH),
    # The same with the activation of OpenAI's own.
    "vit_base_patch32_clip_quickgelu_224":     ClipConfig(image_size=224, patch_size=32, **BASE,     act="quick_gelu", num_classes=512,
                                                          preprocessing=CLIP_90),
    "vit_base_patch16_clip_quickgelu_224":     ClipConfig(image_size=224, patch_size=16, **BASE,     act="quick_gelu", num_classes=512),
    "vit_large_patch14_clip_quickgelu_224":    ClipConfig(image_size=224, patch_size=14, **LARGE,    act="quick_gelu", num_classes=768),
    "vit_large_patch14_clip_quickgelu_336":    ClipConfig(image_size=336, patch_size=14, **LARGE,    act="quick_gelu", num_classes=768),
    "vit_huge_patch14_clip_quickgelu_224":     ClipConfig(image_size=224, patch_size=14, **HUGE,     act="quick_gelu", num_classes=1024),
    "vit_huge_patch14_clip_quickgelu_378":     ClipConfig(image_size=378, patch_size=14, **HUGE,     act="quick_gelu", num_classes=1024),
    "vit_gigantic_patch14_clip_quickgelu_224": ClipConfig(image_size=224, patch_size=14, **GIGANTIC, act="quick_gelu", num_classes=1280),
    # SigLIP's image towers (https://arxiv.org/abs/2303.15343), their attention pooling or the mean in its place: features.
    "vit_base_patch32_siglip_256":         SiglipConfig(image_size=256, patch_size=32, **BASE,     act="gelu_tanh"),
    "vit_base_patch16_siglip_224":         SiglipConfig(image_size=224, patch_size=16, **BASE),
    "vit_base_patch16_siglip_256":         SiglipConfig(image_size=256, patch_size=16, **BASE),
    "vit_base_patch16_siglip_384":         SiglipConfig(image_size=384, patch_size=16, **BASE),
    "vit_base_patch16_siglip_512":         SiglipConfig(image_size=512, patch_size=16, **BASE),
    "vit_large_patch16_siglip_256":        SiglipConfig(image_size=256, patch_size=16, **LARGE),
    "vit_large_patch16_siglip_384":        SiglipConfig(image_size=384, patch_size=16, **LARGE),
    "vit_large_patch16_siglip_512":        SiglipConfig(image_size=512, patch_size=16, **LARGE,    act="gelu_tanh"),
    "vit_so400m_patch14_siglip_224":       SiglipConfig(image_size=224, patch_size=14, **SO400M),
    "vit_so400m_patch14_siglip_378":       SiglipConfig(image_size=378, patch_size=14, **SO400M),
    "vit_so400m_patch14_siglip_384":       SiglipConfig(image_size=384, patch_size=14, **SO400M),
    "vit_so400m_patch16_siglip_256":       SiglipConfig(image_size=256, patch_size=16, **SO400M,   act="gelu_tanh"),
    "vit_so400m_patch16_siglip_384":       SiglipConfig(image_size=384, patch_size=16, **SO400M,   act="gelu_tanh"),
    "vit_so400m_patch16_siglip_512":       SiglipConfig(image_size=512, patch_size=16, **SO400M,   act="gelu_tanh"),
    "vit_giantopt_patch16_siglip_256":     SiglipConfig(image_size=256, patch_size=16, **GIANTOPT, act="gelu_tanh"),
    "vit_giantopt_patch16_siglip_384":     SiglipConfig(image_size=384, patch_size=16, **GIANTOPT, act="gelu_tanh"),
    "vit_base_patch32_siglip_gap_256":     SiglipConfig(image_size=256, patch_size=32, **BASE,     **GAP, act="gelu_tanh"),
    "vit_base_patch16_siglip_gap_224":     SiglipConfig(image_size=224, patch_size=16, **BASE,     **GAP),
    "vit_base_patch16_siglip_gap_256":     SiglipConfig(image_size=256, patch_size=16, **BASE,     **GAP),
    "vit_base_patch16_siglip_gap_384":     SiglipConfig(image_size=384, patch_size=16, **BASE,     **GAP),
    "vit_base_patch16_siglip_gap_512":     SiglipConfig(image_size=512, patch_size=16, **BASE,     **GAP),
    "vit_large_patch16_siglip_gap_256":    SiglipConfig(image_size=256, patch_size=16, **LARGE,    **GAP),
    "vit_large_patch16_siglip_gap_384":    SiglipConfig(image_size=384, patch_size=16, **LARGE,    **GAP),
    "vit_large_patch16_siglip_gap_512":    SiglipConfig(image_size=512, patch_size=16, **LARGE,    **GAP, act="gelu_tanh"),
    "vit_so400m_patch14_siglip_gap_224":   SiglipConfig(image_size=224, patch_size=14, **SO400M,   **GAP),
    "vit_so400m_patch14_siglip_gap_378":   SiglipConfig(image_size=378, patch_size=14, **SO400M,   **GAP),
    "vit_so400m_patch14_siglip_gap_384":   SiglipConfig(image_size=384, patch_size=14, **SO400M,   **GAP, preprocessing=FULL),
    "vit_so400m_patch14_siglip_gap_448":   SiglipConfig(image_size=448, patch_size=14, **SO400M,   **GAP, preprocessing=FULL),
    "vit_so400m_patch14_siglip_gap_896":   SiglipConfig(image_size=896, patch_size=14, **SO400M,   **GAP, preprocessing=FULL),
    "vit_so400m_patch16_siglip_gap_256":   SiglipConfig(image_size=256, patch_size=16, **SO400M,   **GAP, act="gelu_tanh"),
    "vit_so400m_patch16_siglip_gap_384":   SiglipConfig(image_size=384, patch_size=16, **SO400M,   **GAP, act="gelu_tanh"),
    "vit_so400m_patch16_siglip_gap_512":   SiglipConfig(image_size=512, patch_size=16, **SO400M,   **GAP, act="gelu_tanh"),
    "vit_giantopt_patch16_siglip_gap_256": SiglipConfig(image_size=256, patch_size=16, **GIANTOPT, **GAP, act="gelu_tanh"),
    "vit_giantopt_patch16_siglip_gap_384": SiglipConfig(image_size=384, patch_size=16, **GIANTOPT, **GAP, act="gelu_tanh"),
}
# fmt: on

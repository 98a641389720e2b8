"""DINOv2, and TIPSv2 in its likeness: vision transformers trained without labels, for features.

"DINOv2: Learning Robust Visual Features without Supervision", https://arxiv.org/abs/2304.07193; with register tokens,
https://arxiv.org/abs/2309.16588; numerics of timm's `vit_*_dinov2`. They are `vit` in other settings.
"""

from dataclasses import dataclass, replace

from kzoo.models.layouts import Foreign, transformers_config, transformers_numerics
from kzoo.models.vit import BASE, IN_FULL, LARGE, PLAIN, SMALL, SO400M, TIMM, TRANSFORMERS, UNIT, VitConfig, vit
from kzoo.registry import register
from kzoo.schema import Preprocessing

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
        return LAYOUTS


@register
def vit_dino(config):
    """images (B, H, W, C) -> what `kzoo.models.vit.vit` gives: the pooled vector (B, D), or logits (B, num_classes) with a head."""
    return vit(config)


def _transformers(model_type, tensors, needs):
    """One of its two classes in transformers: ViT's names without the prefix, but for the blocks."""
    blocks = {"blocks_{i}/norm{j}": "encoder.layer.{i}.norm{j}", "blocks_{i}/mlp/fc{j}": "encoder.layer.{i}.mlp.fc{j}"}
    shared = {
        ours: theirs.removeprefix("vit.")
        for ours, theirs in TRANSFORMERS.layers.items()
        if ours.startswith(("patch_embed", "blocks_{i}/attn", "norm"))
    }
    return replace(
        TRANSFORMERS,
        layers=blocks | shared,
        tensors=tensors | {"blocks_{i}/ls{j}/gamma": "encoder.layer.{i}.layer_scale{j}.lambda1"},
        aliases=((r"^dinov2(_with_registers)?\.", ""),),
        ignored=r"embeddings\.mask_token",
        blanks=lambda config: {"embeddings.mask_token": (1, config.embed_dim)},
        numerics=transformers_numerics("gelu", 1e-6),
        config=lambda config: transformers_config(
            config,
            PLAIN
            | {"pos_embed": "learned", "global_pool": "token", "num_classes": 0, "features_only": False}
            | needs
            | {"mlp_ratio": round(config.mlp_ratio)},
            model_type=model_type,
            architectures=["Dinov2Model" if model_type == "dinov2" else "Dinov2WithRegistersModel"],
            mlp_ratio=round(config.mlp_ratio),
            qkv_bias=config.qkv_bias,
            num_register_tokens=config.reg_tokens,
        ),
    )


def _folded(cls, registers, positions):
    """Files with a position for the class token of models that have none: it is added to the token itself, as timm does."""
    return {
        "cls_token/token": Foreign(cls, plus_row_of=positions),
        "reg_token/token": registers,
        "pos_embed/table": Foreign(positions, drop_rows=1),
    }


LAYOUTS = {
    "timm": replace(TIMM, ignored="mask_token"),
    "facebook": replace(TIMM, tensors=TIMM.tensors | _folded("cls_token", "register_tokens", "pos_embed"), ignored="mask_token"),
    "hf": _transformers(
        "dinov2",
        {"cls_token/token": "embeddings.cls_token", "pos_embed/table": "embeddings.position_embeddings"},
        {"no_embed_class": False},
    ),
    "hf_registers": _transformers(
        "dinov2_with_registers",
        _folded("embeddings.cls_token", "embeddings.register_tokens", "embeddings.position_embeddings"),
        {"no_embed_class": True},
    ),
}

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

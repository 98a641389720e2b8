"""How other libraries name the weights of DINOv2's vision transformers."""

from dataclasses import replace

from kzoo.models.layouts import Foreign, transformers_config, transformers_numerics
from kzoo.models.names.vit import PLAIN, TIMM, TRANSFORMERS


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
    """Files with a position for the class token of models that have none: it is added to the token itself, as timm
    does.
    """
    return {
        "cls_token/token": Foreign(cls, plus_row_of=positions),
        "reg_token/token": registers,
        "pos_embed/table": Foreign(positions, drop_rows=1),
    }


LAYOUTS = {
    "timm": replace(TIMM, ignored="mask_token"),
    "facebook": replace(
        TIMM, tensors=TIMM.tensors | _folded("cls_token", "register_tokens", "pos_embed"), ignored="mask_token"
    ),
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

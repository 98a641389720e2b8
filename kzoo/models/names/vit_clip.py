"""How other libraries name the weights of CLIP's and SigLIP's image towers."""

from dataclasses import replace

from kzoo.models.layouts import ZEROS, Foreign, Layout, transformers_config, transformers_numerics
from kzoo.models.names.vit import LAYOUTS as VIT
from kzoo.models.names.vit import PLAIN, TIMM


def _transformers(prefix, layers, tensors, numerics, needs, model_type, name):
    """A vision tower of transformers; both have the same blocks. Files of the whole model hold a text tower beside
    it.
    """
    block = f"{prefix}encoder.layers.{{i}}"
    blocks = {
        "patch_embed/proj": f"{prefix}embeddings.patch_embedding",
        "blocks_{i}/norm{j}": f"{block}.layer_norm{{j}}",
        "blocks_{i}/attn/qkv": f"{block}.self_attn.{{q_proj,k_proj,v_proj}}",
        "blocks_{i}/attn/proj": f"{block}.self_attn.out_proj",
        "blocks_{i}/mlp/fc{j}": f"{block}.mlp.fc{{j}}",
        "norm": f"{prefix}post_layernorm",
    }
    positions = {"pos_embed/table": Foreign(f"{prefix}embeddings.position_embedding.weight", ndim=2)}
    spelt = (
        (r"^(embeddings|encoder|pre_layrnorm|post_layernorm)\.", rf"{prefix}\1.")
        if prefix
        else (r"^vision_model\.", "")
    )
    return Layout(
        style="torch",
        layers=blocks | layers,
        tensors=positions | tensors,
        aliases=(spelt,),
        ignored=r"text_.*|logit_(scale|bias)|.*\.position_ids",
        numerics=numerics,
        config=lambda config: transformers_config(
            config,
            PLAIN
            | {
                "pos_embed": "learned",
                "no_embed_class": False,
                "qkv_bias": True,
                "init_values": None,
                "features_only": False,
            }
            | needs,
            model_type=model_type,
            architectures=[name],
            projection_dim=config.num_classes,
        ),
    )


_OPEN = "visual.transformer.resblocks.{i}"
_OF_TEXT = r"(?!visual\.).*"
LAYOUTS = {
    "timm": TIMM,
    "hf_clip": _transformers(
        "vision_model.",
        {"norm_pre": "vision_model.pre_layrnorm"},  # sic
        {
            "cls_token/token": Foreign("vision_model.embeddings.class_embedding", ndim=1),
            "head/kernel": "visual_projection.weight",
            "head/bias": ZEROS,
        },
        transformers_numerics("quick_gelu", 1e-5),
        needs={"pre_norm": True, "global_pool": "token"},
        model_type="clip_vision_model",
        name="CLIPVisionModelWithProjection",
    ),
    "hf_siglip": _transformers(
        "",
        {
            "attn_pool/q": Foreign("head.attention.in_proj_{leaf}", share=(0, 1, 3)),
            "attn_pool/kv": Foreign("head.attention.in_proj_{leaf}", share=(1, 3, 3)),
            "attn_pool/proj": "head.attention.out_proj",
            "attn_pool/norm": "head.layernorm",
            "attn_pool/mlp/fc{j}": "head.mlp.fc{j}",
        },
        {"attn_pool/latent": Foreign("head.probe", ndim=3)},
        transformers_numerics("gelu_tanh", 1e-6),
        needs={"pre_norm": False, "global_pool": "map", "class_token": False, "num_classes": 0},
        model_type="siglip_vision_model",
        name="SiglipVisionModel",
    ),
    "openai": Layout(  # and open_clip's
        style="torch",
        layers={
            "patch_embed/proj": "visual.conv1",
            "norm_pre": "visual.ln_pre",
            "blocks_{i}/norm{j}": f"{_OPEN}.ln_{{j}}",
            "blocks_{i}/attn/qkv": f"{_OPEN}.attn.in_proj_{{leaf}}",
            "blocks_{i}/attn/proj": f"{_OPEN}.attn.out_proj",
            "blocks_{i}/mlp/fc1": f"{_OPEN}.mlp.c_fc",
            "blocks_{i}/mlp/fc2": f"{_OPEN}.mlp.c_proj",
            "norm": "visual.ln_post",
        },
        tensors={
            "cls_token/token": Foreign("visual.class_embedding", ndim=1),
            "pos_embed/table": Foreign("visual.positional_embedding", ndim=2),
            "head/kernel": Foreign("visual.proj", as_is=True),
            "head/bias": ZEROS,
        },
        ignored=_OF_TEXT,
    ),
    "open_clip": replace(  # where its tower is timm's
        TIMM,
        tensors=TIMM.tensors | {"head/kernel": "visual.head.proj.weight", "head/bias": ZEROS},
        aliases=((r"^visual\.trunk\.", ""),),
        ignored=_OF_TEXT,
    ),
    "big_vision": VIT["big_vision"],
}

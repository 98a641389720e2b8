"""How other libraries name the weights of vision transformers: timm, transformers, Google's two generations of .npz
files.
"""

from kzoo.models.layouts import Foreign, Layout, transformers_config, transformers_numerics

TIMM = Layout(
    style="torch",
    layers={name: name for name in ("norm_pre", "norm", "fc_norm", "head")}
    | {
        "patch_embed/proj": "patch_embed.proj",
        "blocks_{i}/{rest}": "blocks.{i}.{rest}",
        "attn_pool/{rest}": "attn_pool.{rest}",
    },
    tensors={
        "cls_token/token": "cls_token",
        "reg_token/token": "reg_token",
        "pos_embed/table": "pos_embed",
        "blocks_{i}/ls{j}/gamma": "blocks.{i}.ls{j}.gamma",
        "attn_pool/latent": Foreign("attn_pool.latent", ndim=3),
    },
    training_only=r"mask_token|decoder_.*",  # a masked autoencoder's
)

# What every class of transformers takes for granted.
PLAIN = {
    "stem": "patch",
    "stride": None,
    "head_dim": None,
    "qk_norm": False,
    "fc_norm": None,
    "representation_size": None,
}
_BLOCK = "vit.encoder.layer.{i}"
TRANSFORMERS = Layout(
    style="torch",
    layers={
        "patch_embed/proj": "vit.embeddings.patch_embeddings.projection",
        "blocks_{i}/norm1": f"{_BLOCK}.layernorm_before",
        "blocks_{i}/attn/qkv": f"{_BLOCK}.attention.attention.{{query,key,value}}",
        "blocks_{i}/attn/proj": f"{_BLOCK}.attention.output.dense",
        "blocks_{i}/norm2": f"{_BLOCK}.layernorm_after",
        "blocks_{i}/mlp/fc1": f"{_BLOCK}.intermediate.dense",
        "blocks_{i}/mlp/fc2": f"{_BLOCK}.output.dense",
        "norm": "vit.layernorm",
        "head": "classifier",
    },
    tensors={"cls_token/token": "vit.embeddings.cls_token", "pos_embed/table": "vit.embeddings.position_embeddings"},
    aliases=((r"^(embeddings|encoder|layernorm|pooler)\.", r"vit.\1."),),  # saved without a head
    ignored=r"vit\.pooler\..*|vit\.embeddings\.mask_token",
    training_only=r"decoder\..*",  # a masked autoencoder's
    numerics=transformers_numerics("gelu", 1e-12),
    config=lambda config: transformers_config(
        config,
        PLAIN | {"pos_embed": "learned", "no_embed_class": False, "global_pool": "token", "features_only": False},
        model_type="vit",
        architectures=["ViTForImageClassification" if config.num_classes else "ViTModel"],
        qkv_bias=config.qkv_bias,
    ),
)


def _google(attention, norm, mlp, positions):
    """Google's .npz files: two generations that number the parts of a block differently, both made for the tanh GELU of
    JAX.
    """
    block = "Transformer/encoderblock_{i}"
    pool, pooled = "MAPHead_0", "MAPHead_0/MultiHeadDotProductAttention_0"
    return Layout(
        style="flax",
        layers={
            "patch_embed/proj": "embedding",
            "blocks_{i}/norm1": f"{block}/LayerNorm_0",
            "blocks_{i}/attn/qkv": Foreign(
                f"{block}/MultiHeadDotProductAttention_{attention}/{{query,key,value}}", heads="out"
            ),
            "blocks_{i}/attn/proj": Foreign(f"{block}/MultiHeadDotProductAttention_{attention}/out", heads="in"),
            "blocks_{i}/norm2": f"{block}/LayerNorm_{norm}",
            "blocks_{i}/mlp/fc1": f"{block}/MlpBlock_{mlp}/Dense_0",
            "blocks_{i}/mlp/fc2": f"{block}/MlpBlock_{mlp}/Dense_1",
            "norm": "Transformer/encoder_norm",
            "attn_pool/q": Foreign(f"{pooled}/query", heads="out"),
            "attn_pool/kv": Foreign(f"{pooled}/{{key,value}}", heads="out"),
            "attn_pool/proj": Foreign(f"{pooled}/out", heads="in"),
            "attn_pool/norm": f"{pool}/LayerNorm_0",
            "attn_pool/mlp/fc1": f"{pool}/MlpBlock_0/Dense_0",
            "attn_pool/mlp/fc2": f"{pool}/MlpBlock_0/Dense_1",
            "pre_logits": "pre_logits",
            "head": "head",
        },
        tensors={
            "cls_token/token": "cls",
            "pos_embed/table": positions,
            "attn_pool/latent": Foreign(f"{pool}/probe", ndim=3),
        },
        # the last: stacked blocks
        aliases=((r"^(opt/target|params/img|params)/", ""), (r"/encoderblock/", "/encoderblock_{i}/")),
        ignored=r"opt/state/.*|txt/.*|[tb]",  # an optimizer's, a text tower's
        numerics=_google_numerics,
        antialias=False,
    )


def _google_numerics(given, asked):
    # goes with the head that it was trained for
    width = None if "num_classes" in asked else given.shapes.get("pre_logits/bias")
    told = {"act": "gelu_tanh", "norm_eps": 1e-6} | ({"representation_size": width[0]} if width else {})
    # big_vision adds positions to the patches and puts the class token in front of them afterwards.
    return told | ({"no_embed_class": True} if {"cls", "pos_embedding"} <= given.shapes.keys() else {})


LAYOUTS = {
    "timm": TIMM,
    "hf": TRANSFORMERS,
    "google": _google(1, 2, 3, "Transformer/posembed_input/pos_embedding"),
    "big_vision": _google(0, 1, 0, "pos_embedding"),
}

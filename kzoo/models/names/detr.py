"""How other libraries name the weights of DETR: the official files, and transformers, whose backbone is timm's or its
own.
"""

from dataclasses import replace

from kzoo.errors import UserError
from kzoo.models.layouts import Foreign, Layout, joined

_PROJECTIONS = {"q": (0, 1, 3), "k": (1, 2, 3), "v": (2, 3, 3)}  # shares of the official files' one matrix


def _official(ours, theirs):
    """The rules of an attention."""
    fused = {f"{ours}/{name}": Foreign(f"{theirs}.in_proj_{{leaf}}", share=of) for name, of in _PROJECTIONS.items()}
    return fused | {f"{ours}/proj": f"{theirs}.out_proj"}


_ENCODER, _DECODER = "transformer.encoder.layers.{i}", "transformer.decoder.layers.{i}"
OFFICIAL = Layout(
    style="torch",
    layers=_official("encoder_blocks_{i}/self_attn", f"{_ENCODER}.self_attn")
    | _official("decoder_blocks_{i}/self_attn", f"{_DECODER}.self_attn")
    | _official("decoder_blocks_{i}/cross_attn", f"{_DECODER}.multihead_attn")
    | {
        f"{ours}_blocks_{{i}}/{part}": f"transformer.{ours}.layers.{{i}}.{name}"
        for ours in ("encoder", "decoder")
        for part, name in (("norm{k}", "norm{k}"), ("mlp/fc{k}", "linear{k}"))
    }
    | {"decoder_norm": "transformer.decoder.norm", "bbox_embed/layers_{i}": "bbox_embed.layers.{i}"}
    | {name: name for name in ("input_proj", "class_embed")},
    tensors={"query_embed/table": "query_embed.weight"},
)

_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}
_ATTENTIONS = {"self_attn": "self_attn", "cross_attn": "encoder_attn"}


def _transformers_block(which):
    ours, theirs = f"{which}_blocks_{{i}}", f"model.{which}.layers.{{i}}"
    rules = {f"{ours}/norm{k}": f"{theirs}.{name}" for k, name in enumerate(_NORMS[which], 1)}
    for attention, name in _ATTENTIONS.items():
        rules |= {f"{ours}/{attention}/{part}": f"{theirs}.{name}.{part}_proj" for part in "qkv"}
        rules |= {f"{ours}/{attention}/proj": f"{theirs}.{name}.out_proj"}
    return rules | {f"{ours}/mlp/fc{{k}}": f"{theirs}.fc{{k}}"}


def _dilation(given, asked):
    """What the config.json beside transformers' files tells of the backbone's last stage."""
    config = given.checkpoint.config
    backbone = config.get("backbone_config") or {}
    stride = backbone.get("output_stride") or (16 if config.get("dilation") else 32)
    return {"output_stride": stride} if config else {}


TRANSFORMERS = Layout(
    style="torch",
    layers=_transformers_block("encoder")
    | _transformers_block("decoder")
    | {
        "input_proj": "model.input_projection",
        "decoder_norm": "model.decoder.layernorm",
        "class_embed": "class_labels_classifier",
        "bbox_embed/layers_{i}": "bbox_predictor.layers.{i}",
    },
    tensors={"query_embed/table": "model.query_position_embeddings.weight"},
    aliases=(  # as transformers 5 has them in memory
        (r"\.o_proj\.", ".out_proj."),
        (r"\.mlp\.(fc[12])\.", r".\1."),
        (r"^model\.backbone\.model\.", "model.backbone.conv_encoder.model."),
    ),
)
PREFIX = "model.backbone.conv_encoder.model."
TIMMS = ("resnet18", "resnet34", "resnet50", "resnet101")  # backbones that transformers has from timm by name


def layouts(config):
    """{name: Layout} of a DetrConfig: those whose backbone's names are known."""
    known, found = config.network.layouts(), {}
    if "timm" in known:
        found["official"] = joined(OFFICIAL, config, "timm", "backbone.0.body.")
        found["hf"] = _of_transformers(config, "timm", _timm_backbone)
    if "hf" in known:
        found["hf_resnet"] = _of_transformers(config, "hf", _own_backbone)
    return found


def _of_transformers(config, key, backbone):
    layout = joined(TRANSFORMERS, config, key, PREFIX)

    def numerics(given, asked):
        told = _dilation(given, asked)
        own = getattr(config.network, "output_stride", None)
        if not told or own in (None, told["output_stride"]):
            return layout.numerics(given, asked)
        return {"backbone_options": config.backbone_options | told}

    return replace(layout, numerics=numerics, config=lambda config: _config(config, backbone(config)))


def _timm_backbone(config):
    """The backbone of config.json that transformers has from timm. Raises UserError where ours is none of them."""
    options = set(config.backbone_options) - {"norm", "output_stride"}
    if config.backbone not in TIMMS or options or config.backbone_index not in (-1, 3):
        raise UserError(f"timm's backbones are {', '.join(TIMMS)} as they are, with their last map")
    network = config.network
    told = {"model_type": "timm_backbone", "backbone": config.backbone, "num_channels": config.in_channels}
    told |= {"features_only": True, "use_pretrained_backbone": False, "out_indices": [1, 2, 3, 4]}
    return told | ({"output_stride": network.output_stride} if network.output_stride != 32 else {})


def _own_backbone(config):
    """The backbone of config.json as transformers' own ResNet. Raises UserError where ours is none."""
    network = config.network
    needs = {"stem_stride": 4, "output_stride": 32, "padding": "symmetric", "weight_std": "none", "norm_eps": 1e-5}
    for field, value in needs.items():
        if getattr(network, field, None) != value:
            raise UserError(f"its own backbone is a ResNet with {field}={value!r}, which this one is not")
    stages = len(network.depths)
    if config.backbone_index not in (-1, stages - 1) or not stages:
        raise UserError("its ResNet gives the last map")
    expansion = 4 if network.block == "bottleneck" else 1
    told = {"model_type": "resnet", "num_channels": config.in_channels, "embedding_size": network.width}
    told |= {"hidden_sizes": [network.width * 2**i * expansion for i in range(stages)], "hidden_act": "relu"}
    return told | {
        "depths": list(network.depths),
        "layer_type": network.block,
        "out_features": [f"stage{stages}"],
        "stage_names": ["stem", *(f"stage{i}" for i in range(1, stages + 1))],
    }


def _config(config, backbone):
    """What DetrForObjectDetection's config.json says. Raises UserError for what the class cannot be."""
    if config.features_only or config.aux_outputs:
        raise UserError("DetrForObjectDetection is written without features_only and aux_outputs")
    if config.norm_eps != 1e-5:
        raise UserError(f"DetrForObjectDetection needs norm_eps=1e-5, this model has {config.norm_eps}")
    sides = {
        f"{part}_{what}": value
        for part, depth in (("encoder", config.depth), ("decoder", config.decoder_depth))
        for what, value in (
            ("layers", depth),
            ("attention_heads", config.num_heads),
            ("ffn_dim", int(config.embed_dim * config.mlp_ratio)),
        )
    }
    return sides | {
        "model_type": "detr",
        "architectures": ["DetrForObjectDetection"],
        "backbone_config": backbone,
        "dilation": getattr(config.network, "output_stride", 32) == 16,
        "num_channels": config.in_channels,
        "num_queries": config.num_queries,
        "d_model": config.embed_dim,
        "dropout": config.drop_rate,
        "attention_dropout": config.drop_rate,
        "activation_function": "relu",
        "position_embedding_type": "sine",
    }

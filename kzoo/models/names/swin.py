"""How other libraries name the weights of Swins: timm, which merges at the start of a stage; the official files and
transformers, which merge at the end of the one before.
"""

from kzoo.errors import UserError
from kzoo.models.layouts import Foreign, Layout, transformers_activation, transformers_numerics

MOST = 8  # stages that are told apart


def _merging(theirs, offset):
    """Rules for the merging before stage i, which the file counts to the stage i - offset."""
    return {f"layers_{i}_downsample/{{rest}}": f"{theirs.format(i - offset)}.{{rest}}" for i in range(1, MOST)}


def _file(head, offset, **options):
    """A file of torch's: timm's or the official one."""
    return Layout(
        style="torch",
        layers={
            "patch_embed/conv": "patch_embed.proj",
            "patch_embed/norm": "patch_embed.norm",
            "layers_{i}_blocks_{j}/{rest}": "layers.{i}.blocks.{j}.{rest}",
            "norm": "norm",
            "head": head,
        }
        | _merging("layers.{}.downsample", offset),
        tensors={
            "layers_{i}_blocks_{j}/attn/rel_pos/table": Foreign(
                "layers.{i}.blocks.{j}.attn.relative_position_bias_table", ndim=2
            )
        },
        ignored=r".*\.(relative_position_index|attn_mask)",
        **options,
    )


def _pad_first(given, asked):
    """The official detectors fill a map before it is shifted."""
    return {"pad_first": True}


def _transformers_numerics(given, asked):
    return transformers_numerics("gelu", 1e-5)(given, asked) | {"pad_first": True}


def _transformers_config(config):
    """What config.json of transformers says. Raises UserError for what its class has not."""
    squares = isinstance(config.window_size, int) and not config.features_only and config.global_pool == "avg"
    if not squares or any(window != (config.window_size,) * 2 for window, _ in config.windows()):
        raise UserError(
            "its Swin has one window size for all stages, which no map is smaller than, and gives logits or a pooled "
            "vector"
        )
    return {
        "model_type": "swin",
        "architectures": ["SwinForImageClassification" if config.num_classes else "SwinModel"],
        "image_size": config.image_size if isinstance(config.image_size, int) else list(config.image_size),
        "patch_size": config.patch_size,
        "num_channels": config.in_channels,
        "embed_dim": config.embed_dim,
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "window_size": config.window_size,
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
        "hidden_act": transformers_activation(config.act),
        "layer_norm_eps": config.norm_eps,
        "drop_path_rate": config.drop_path_rate,
    }


_BLOCK = "swin.encoder.layers.{i}.blocks.{j}"
TRANSFORMERS = Layout(
    style="torch",
    layers={
        "patch_embed/conv": "swin.embeddings.patch_embeddings.projection",
        "patch_embed/norm": "swin.embeddings.norm",
        "layers_{i}_blocks_{j}/norm1": f"{_BLOCK}.layernorm_before",
        "layers_{i}_blocks_{j}/attn/qkv": f"{_BLOCK}.attention.self.{{query,key,value}}",
        "layers_{i}_blocks_{j}/attn/proj": f"{_BLOCK}.attention.output.dense",
        "layers_{i}_blocks_{j}/norm2": f"{_BLOCK}.layernorm_after",
        "layers_{i}_blocks_{j}/mlp/fc1": f"{_BLOCK}.intermediate.dense",
        "layers_{i}_blocks_{j}/mlp/fc2": f"{_BLOCK}.output.dense",
        "norm": "swin.layernorm",
        "head": "classifier",
    }
    | _merging("swin.encoder.layers.{}.downsample", 1),
    tensors={
        "layers_{i}_blocks_{j}/attn/rel_pos/table": Foreign(
            f"{_BLOCK}.attention.self.relative_position_bias_table", ndim=2
        )
    },
    aliases=((r"^(embeddings|encoder|layernorm)\.", r"swin.\1."),),  # saved without a head
    ignored=r".*\.relative_position_index|swin\.embeddings\.mask_token",
    training_only=r"decoder\..*",  # of masked pictures
    numerics=_transformers_numerics,
    config=_transformers_config,
)
LAYOUTS = {
    "timm": _file("head.fc", 0, offsets="geometric"),
    "hf": TRANSFORMERS,
    "official": _file("head", 1, numerics=_pad_first),
}

"""How other libraries name the weights of masked autoencoders: the official files and timm's encoders, and
transformers.
"""

from dataclasses import replace

from kzoo.errors import UserError
from kzoo.models.layouts import transformers_config
from kzoo.models.names.vit import TIMM, TRANSFORMERS

_PARTS = ("decoder_embed", "decoder_norm", "decoder_pred")
_BLOCK = "decoder.decoder_layers.{i}"


def _transformers_config(config):
    """What ViTMAEForPreTraining's config.json says. Raises UserError for pictures that are not square, which it
    cannot have.
    """
    if config.size[0] != config.size[1]:
        raise UserError(f"ViTMAEForPreTraining needs square pictures, this model has {config.size}")
    return transformers_config(
        config,
        {"num_classes": None, "features_only": False},
        model_type="vit_mae",
        architectures=["ViTMAEForPreTraining"],
        qkv_bias=config.qkv_bias,
        mask_ratio=config.mask_ratio,
        decoder_hidden_size=config.decoder_embed_dim,
        decoder_num_hidden_layers=config.decoder_depth,
        decoder_num_attention_heads=config.decoder_num_heads,
        decoder_intermediate_size=int(config.decoder_embed_dim * config.mlp_ratio),
    )


def _vit_config(config):
    """What ViTModel's config.json says of the encoder. Raises UserError for the whole autoencoder."""
    if config.num_classes != 0:
        raise UserError("ViTModel holds the encoder alone (num_classes=0)")
    return TRANSFORMERS.config(replace(config.encoder, pos_embed="learned"))


LAYOUTS = {
    "timm": replace(  # the official files with and without decoder; timm has the encoder alone
        TIMM,
        layers=TIMM.layers
        | {part: part for part in _PARTS}
        | {"decoder_blocks_{i}/{rest}": "decoder_blocks.{i}.{rest}"},
        tensors=TIMM.tensors | {"mask_token/token": "mask_token", "decoder_pos_embed/table": "decoder_pos_embed"},
    ),
    "hf": replace(
        TRANSFORMERS,
        layers=TRANSFORMERS.layers
        | {part: f"decoder.{part}" for part in _PARTS}
        | {
            f"decoder_{ours}": theirs.replace("vit.encoder.layer.{i}", _BLOCK)
            for ours, theirs in TRANSFORMERS.layers.items()
            if ours.startswith("blocks_{i}")
        },
        tensors=TRANSFORMERS.tensors
        | {"mask_token/token": "decoder.mask_token", "decoder_pos_embed/table": "decoder.decoder_pos_embed"},
        # as transformers 5 writes
        aliases=(*TRANSFORMERS.aliases, (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers.")),
        config=_transformers_config,
    ),
    "hf_vit": replace(TRANSFORMERS, config=_vit_config),
}

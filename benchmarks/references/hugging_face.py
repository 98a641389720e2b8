"""transformers' vision encoders, as folders with config.json and model.safetensors."""

import numpy as np

from benchmarks.references.base import Reference, anything, one_of, square
from benchmarks.references.vit import BigVisionNpz
from kzoo.models.mae import MaeConfig

# as transformers calls them
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}


class Transformers(Reference):
    """A model of transformers; its folder holds config.json and model.safetensors. `model`, `config_class`: names of
    its classes.
    """

    format, layout = "safetensors, config.json", "hf"
    model = config_class = ""
    reader = "from_pretrained, nothing missing or unexpected"
    answer = "pooler_output"  # the result among what the module returns

    def settings(self):
        """Arguments of the configuration class beyond those that all have."""
        raise NotImplementedError

    def build(self):
        import transformers

        config = self.config
        side = config.size[0] if config.size[0] == config.size[1] else list(config.size)
        settings = dict(
            image_size=side, patch_size=config.patch_size, num_channels=config.in_channels, hidden_size=config.embed_dim
        )
        settings |= dict(
            num_hidden_layers=config.depth, num_attention_heads=config.num_heads, hidden_act=ACTIVATIONS[config.act]
        )
        return getattr(transformers, self.model)(getattr(transformers, self.config_class)(**settings | self.settings()))

    def result(self, output):
        return output[self.answer]

    def write(self, folder):
        self.module.save_pretrained(folder)
        return folder

    def accepts(self, path):
        import transformers

        module, told = getattr(transformers, self.model).from_pretrained(path, output_loading_info=True)
        if wrong := {what: found for what, found in told.items() if found}:
            raise ValueError(f"{self.model}.from_pretrained did not take {path} as it is: {wrong}")
        return module.eval()


class HfVit(Transformers):
    """The plain ViT with a classifier, its norms with transformers' epsilon of 1e-12."""

    model, config_class, blocks, answer = "ViTForImageClassification", "ViTConfig", "vit.layers", "logits"

    rules = {"qkv_bias": anything, "num_classes": bool}

    def settings(self):
        config = self.config
        mlp = int(config.embed_dim * config.mlp_ratio)
        return {"intermediate_size": mlp, "qkv_bias": config.qkv_bias, "num_labels": config.num_classes}


class HfDinov2(Transformers):
    """DINOv2's encoder, with the mask token of its training, which nothing uses here."""

    model, config_class, blocks = "Dinov2Model", "Dinov2Config", "encoder.layer"
    exact = False
    rules = {"num_classes": one_of(0), "init_values": bool, "mlp_ratio": lambda ratio: ratio == int(ratio)}

    def settings(self):
        return {"mlp_ratio": int(self.config.mlp_ratio), "layer_norm_eps": self.config.norm_eps}

    def parameters(self):
        return super().parameters() - self.config.embed_dim


class HfDinov2Registers(HfDinov2):
    """DINOv2's encoder with registers. Its class token has a position, which kzoo and timm add to the token itself."""

    model, config_class = "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"
    rules = HfDinov2.rules | {"reg_tokens": bool, "no_embed_class": bool}

    def settings(self):
        return super().settings() | {"num_register_tokens": self.config.reg_tokens}

    def parameters(self):
        return super().parameters() - self.config.embed_dim  # that position


class HfClip(Transformers):
    """CLIP's image tower and its projection, which has no bias."""

    model, config_class, blocks = "CLIPVisionModelWithProjection", "CLIPVisionConfig", "vision_model.encoder.layers"
    answer = "image_embeds"

    rules = {"pre_norm": bool, "num_classes": bool, "size": square}

    def settings(self):
        config = self.config
        mlp = int(config.embed_dim * config.mlp_ratio)
        return {"intermediate_size": mlp, "projection_dim": config.num_classes, "layer_norm_eps": config.norm_eps}

    def parameters(self):
        return super().parameters() + self.config.num_classes


class HfSiglip(Transformers):
    """SigLIP's image tower with its attention pooling."""

    model, config_class, blocks = "SiglipVisionModel", "SiglipVisionConfig", "encoder.layers"

    rules = BigVisionNpz.rules | {"global_pool": one_of("map"), "num_classes": one_of(0), "size": square}

    def settings(self):
        return {
            "intermediate_size": int(self.config.embed_dim * self.config.mlp_ratio),
            "layer_norm_eps": self.config.norm_eps,
        }


class HfMae(Transformers):
    """The masked autoencoder. Its decoder's blocks are spelt here as transformers writes them; kzoo writes them as
    published files do.
    """

    of = MaeConfig
    model, config_class, blocks, answer = "ViTMAEForPreTraining", "ViTMAEConfig", "vit.layers", "logits"
    exact = False
    rules = {"num_classes": one_of(None), "features_only": one_of(False), "size": square}

    def settings(self):
        config, width = self.config, self.config.decoder_embed_dim
        sizes = {"intermediate_size": int(config.embed_dim * config.mlp_ratio), "decoder_hidden_size": width}
        sizes |= {
            "decoder_intermediate_size": int(width * config.mlp_ratio),
            "decoder_num_hidden_layers": config.decoder_depth,
        }
        sizes |= {"decoder_num_attention_heads": config.decoder_num_heads, "qkv_bias": config.qkv_bias}
        return sizes | {"layer_norm_eps": config.norm_eps, "mask_ratio": config.mask_ratio}

    def taps(self, module):
        decoder = {f"decoder_blocks_{i}": block for i, block in enumerate(module.decoder.decoder_layers)}
        return super().taps(module) | decoder

    def parameters(self):
        return sum(parameter.numel() for parameter in self.module.parameters() if parameter.requires_grad)

    def images(self, batch=1, seed=1):
        """{"image": normally distributed pictures (B, H, W, C), "noise": (B, N) in 0..1}, float32."""
        noise = np.random.default_rng(seed + 1).uniform(size=(batch, self.config.patches)).astype("float32")
        return {"image": super().images(batch, seed), "noise": noise}

    def called(self, module, images):
        import torch

        return module(
            torch.from_numpy(images["image"].transpose(0, 3, 1, 2).copy()), noise=torch.from_numpy(images["noise"])
        )

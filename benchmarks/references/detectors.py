"""transformers' detectors, called with padded pictures."""

import numpy as np

from benchmarks.references.base import one_of
from benchmarks.references.hugging_face import Transformers
from kzoo.models.detr import DetrConfig
from kzoo.models.resnet import ResNetConfig

OF_TIMM = ("resnet18", "resnet34", "resnet50", "resnet101")
FROZEN = {"stem": ("conv1.", "embedder."), "layer1": ("layer1.", "encoder.stages.0.")}  # their names below the backbone


class HfDetr(Transformers):
    """DETR on timm's ResNet of that name or, where the row changes it, on transformers' own. Compared are the projected
    map, every block, and logits and boxes side by side.
    """

    of = DetrConfig
    model, config_class = "DetrForObjectDetection", "DetrConfig"
    rules = {"features_only": one_of(False), "norm_eps": one_of(1e-5)}
    backbone = "model.backbone.model."

    @classmethod
    def covers(cls, config):
        if not super().covers(config) or not isinstance(config.network, ResNetConfig):
            return False
        network = config.network
        plain = (network.stem_stride, network.padding, network.weight_std) == (4, "symmetric", "none")
        return cls.of_timm(config) or (plain and network.output_stride == 32 and network.norm != "group")

    @staticmethod
    def of_timm(config):
        """Whether the backbone is a row of timm's, perhaps dilated."""
        return config.backbone in OF_TIMM and set(config.backbone_options) <= {"norm", "output_stride"}

    def build(self):
        import transformers

        config, network = self.config, self.config.network
        sizes = {"d_model": config.embed_dim, "num_queries": config.num_queries, "num_labels": config.num_classes}
        for part, depth in (("encoder", config.depth), ("decoder", config.decoder_depth)):
            sizes |= {f"{part}_layers": depth, f"{part}_attention_heads": config.num_heads}
            sizes |= {f"{part}_ffn_dim": int(config.embed_dim * config.mlp_ratio)}
        if self.of_timm(config):
            on = {"backbone": config.backbone, "use_timm_backbone": True, "use_pretrained_backbone": False}
            on |= {"dilation": network.output_stride == 16}
        else:
            expansion, stages = (4 if network.block == "bottleneck" else 1), len(network.depths)
            own = transformers.ResNetConfig(
                num_channels=config.in_channels,
                embedding_size=network.width,
                hidden_sizes=[network.width * expansion * 2**i for i in range(stages)],
                depths=list(network.depths),
                layer_type=network.block,
                out_features=[f"stage{stages}"],
            )
            on = {"use_timm_backbone": False, "backbone_config": own}
        settings = transformers.DetrConfig(num_channels=config.in_channels, dropout=0.0, **sizes, **on)
        return transformers.DetrForObjectDetection(settings)

    def taps(self, module):
        return {"input_proj": module.model.input_projection} | {
            f"{part}_blocks_{i}": block
            for part in ("encoder", "decoder")
            for i, block in enumerate(module.get_submodule(f"model.{part}").layers)
        }

    def parameters(self):
        """All but those of the parts that this configuration never trains."""
        still = tuple(self.backbone + name for part in self.config.backbone_frozen for name in FROZEN[part])
        return sum(p.numel() for name, p in self.module.named_parameters() if not name.startswith(still or "?"))

    def images(self, batch=1, seed=1):
        """{"image": normally distributed pictures (B, H, W, C), 0 where padded, "mask": (B, H, W) bool}: right and
        below of each picture something else is padding.
        """
        images, (height, width) = super().images(batch, seed), self.config.size
        mask = np.ones(images.shape[:3], bool)
        for i in range(batch):
            rows, columns = ((6, 5), (8, 6), (5, 8))[i % 3]  # eighths
            mask[i, : height * rows // 8, : width * columns // 8] = False
        return {"image": np.where(mask[..., None], np.float32(0), images), "mask": mask}

    def called(self, module, inputs):
        import torch

        pixels = torch.from_numpy(inputs["image"].transpose(0, 3, 1, 2).copy())
        return module(pixels, pixel_mask=torch.from_numpy(~inputs["mask"]).long())

    def result(self, output):
        import torch

        return torch.cat([output.logits, output.pred_boxes], -1)

"""How other libraries name the weights of ResNets, on their own and below hybrids."""

from kzoo.models.layouts import Foreign, Layout

TIMM = Layout(  # torchvision's too
    style="torch",
    layers={
        "stem/conv": "conv1",
        "stem/norm": "bn1",
        "layer{i}_blocks_{j}/conv{k}": "layer{i}.{j}.conv{k}",
        "layer{i}_blocks_{j}/norm{k}": "layer{i}.{j}.bn{k}",
        "layer{i}_blocks_{j}/downsample_conv": "layer{i}.{j}.downsample.0",
        "layer{i}_blocks_{j}/downsample_norm": "layer{i}.{j}.downsample.1",
        "head": "fc",
    },
    ignored=r".*\.num_batches_tracked",
)
_HF_PARTS = (("conv", "convolution"), ("norm", "normalization"))
TRANSFORMERS = Layout(  # its own ResNet, alone and below its detectors
    style="torch",
    layers={"stem/conv": "embedder.embedder.convolution", "stem/norm": "embedder.embedder.normalization"}
    | {
        f"layer{i + 1}_blocks_{{j}}/{a}": f"encoder.stages.{i}.layers.{{j}}.{b}"
        for i in range(4)
        for a, b in (
            *((f"{ours}{k + 1}", f"layer.{k}.{theirs}") for k in range(3) for ours, theirs in _HF_PARTS),
            *((f"downsample_{ours}", f"shortcut.{theirs}") for ours, theirs in _HF_PARTS),
        )
    }
    | {"head": "classifier.1"},
    aliases=((r"^resnet\.", ""),),
    ignored=r".*\.num_batches_tracked",
)
LAYOUTS = {"timm": TIMM, "hf": TRANSFORMERS}
_TIMM_PARTS = {
    "conv{k}": "conv{k}",
    "norm{k}": "norm{k}",
    "downsample_conv": "downsample.conv",
    "downsample_norm": "downsample.norm",
}
_GOOGLE_PARTS = {"conv{k}": "conv{k}", "norm{k}": "gn{k}", "downsample_conv": "conv_proj", "downsample_norm": "gn_proj"}
WS_LAYOUTS = {  # as parts of hybrids: timm counts stages from 0, Google units from 1
    "timm": Layout(
        style="torch",
        layers={"stem/{rest}": "stem.{rest}", "root/{rest}": "{rest}"}
        | {
            f"layer{i + 1}_blocks_{{j}}/{a}": f"stages.{i}.blocks.{{j}}.{b}"
            for i in range(4)
            for a, b in _TIMM_PARTS.items()
        },
    ),
    "google": Layout(
        style="flax",
        layers={f"{first}/conv": "conv_root" for first in ("stem", "root")}
        | {f"{first}/norm": Foreign("gn_root", ndim=4) for first in ("stem", "root")}
        | {
            f"layer{{i}}_blocks_{j}/{a}": Foreign(f"block{{i}}/unit{j + 1}/{b}", ndim=4)
            for j in range(23)
            for a, b in _GOOGLE_PARTS.items()
        },
        numerics=lambda given, asked: {"norm_eps": 1e-6, "weight_std": "jax"},
    ),
}

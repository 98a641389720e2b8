"""The reference implementations that kzoo's numbers are held to: random weights, in files of their own formats, and
what they compute.

A reference is built by the name of a row of kzoo's, with overrides in kzoo's words. timm and transformers write their
files themselves; Google's .npz is written here, from timm's weights, and counts only once timm's own loader has read
those weights back from it. Needs torch, timm, transformers and safetensors.
"""

from benchmarks.references.convolutional import GoogleHybridNpz, TimmCoatnet, TimmHybrid, TimmResNet
from benchmarks.references.detectors import HfDetr
from benchmarks.references.hugging_face import HfClip, HfDinov2, HfDinov2Registers, HfMae, HfSiglip, HfVit
from benchmarks.references.vit import BigVisionNpz, GoogleNpz, Timm
from benchmarks.references.windowed import HfSwin, OfficialSwin, TimmSwin

REFERENCES = {
    "timm": Timm,
    "timm_resnet": TimmResNet,
    "timm_hybrid": TimmHybrid,
    "timm_coatnet": TimmCoatnet,
    "timm_swin": TimmSwin,
    "official_swin": OfficialSwin,
    "google_npz": GoogleNpz,
    "google_hybrid_npz": GoogleHybridNpz,
    "big_vision_npz": BigVisionNpz,
    "hf_vit": HfVit,
    "hf_dinov2": HfDinov2,
    "hf_dinov2_registers": HfDinov2Registers,
    "hf_clip": HfClip,
    "hf_siglip": HfSiglip,
    "hf_swin": HfSwin,
    "hf_mae": HfMae,
    "hf_detr": HfDetr,
}

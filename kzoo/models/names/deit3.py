"""How other libraries name the weights of DeiT III."""

from dataclasses import replace

from kzoo.models.names.vit import TIMM

LAYOUTS = {  # the authors' own files are timm's but for the names of LayerScale
    "timm": TIMM,
    "facebook": replace(TIMM, tensors=TIMM.tensors | {"blocks_{i}/ls{j}/gamma": "blocks.{i}.gamma_{j}"}),
}

"""`python -m tests.write_published` writes kzoo/published/tags.csv and imagenet.tsv.gz: what the installed timm lists
for kzoo's names, and the files of ELSEWHERE, which it does not list.
"""

import csv
import gzip

from kzoo import registry
from kzoo.published import FIELDS, FOLDER
from kzoo.published.classes import SUBSETS, TABLE
from tests.torch_reference import import_timm

# Masked autoencoders with their decoder. Pictures by preprocessor_config.json of the repositories (resample 2, size
# 224); the licence is that of the authors, who published the weights (facebookresearch/mae), and what timm says of
# their encoders. The cards of the repositories, which others made of them, say apache-2.0.
_MAE = {
    **{"license": "cc-by-nc-4.0", "act": "", "image_size": 224, "num_classes": "", "classes": ""},
    **{"mean": "0.485 0.456 0.406", "std": "0.229 0.224 0.225"},
    **{"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"},
}
ELSEWHERE = {  # name.tag: its line
    f"{model}.fb_in1k": {"model": model, "tag": "fb_in1k", "address": f"hf://facebook/vit-mae-{size}"} | _MAE
    for model, size in (
        ("mae_vit_base_patch16_224", "base"),
        ("mae_vit_large_patch16_224", "large"),
        ("mae_vit_huge_patch14_224", "huge"),
    )
}


def timm_cfgs():
    """{name.tag: timm's PretrainedCfg} of every tag that timm lists for a name that kzoo has."""
    models = import_timm("timm.models")
    names = registry.rows()
    return {
        full: models.get_pretrained_cfg(full) for full in models.list_pretrained() if full.partition(".")[0] in names
    }


def timm_classes(subset):
    """timm's list of one of SUBSETS: an ImageNetInfo."""
    return import_timm("timm.data").ImageNetInfo(subset)


def row(full, cfg):
    """The line of a tag. Stops at what tags.csv has no column for."""
    model, _, tag = full.partition(".")
    channels, height, width = cfg.input_size
    assert channels == 3 and height == width and not cfg.hf_hub_filename and not cfg.label_offset, full
    subset = import_timm("timm.data").infer_imagenet_subset(cfg.to_dict())
    assert subset is None or subset in SUBSETS, full
    return {
        "model": model,
        "tag": tag,
        "address": f"hf://{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url,
        "license": cfg.license or "unknown",
        "act": "quick_gelu" if "natively QuickGELU" in "".join(cfg.notes or ()) else "",
        "image_size": height,
        "num_classes": cfg.num_classes,
        "classes": subset or "",
        "mean": " ".join(map(str, cfg.mean)),
        "std": " ".join(map(str, cfg.std)),
        "crop_pct": cfg.crop_pct,
        "crop_mode": cfg.crop_mode,
        "interpolation": cfg.interpolation,
    }


def rows():
    """The lines of tags.csv, in its order."""
    lines = {full: row(full, cfg) for full, cfg in timm_cfgs().items()} | ELSEWHERE
    return [lines[full] for full in sorted(lines)]


def write_tags():
    with open(FOLDER / "tags.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows())


def write_classes():
    words, letters = {}, {}
    for subset, letter in SUBSETS.items():
        info = timm_classes(subset)
        assert info.label_names() == sorted(info.label_names()), f"{subset} is not in the order of WordNet's numbers"
        for number in info.label_names():
            words[number] = info.label_name_to_description(number)
            letters[number] = letters.get(number, "") + letter
    lines = "".join(f"{number}\t{letters[number]}\t{words[number]}\n" for number in sorted(words))
    TABLE.write_bytes(gzip.compress(lines.encode(), mtime=0))


if __name__ == "__main__":
    write_tags()
    write_classes()

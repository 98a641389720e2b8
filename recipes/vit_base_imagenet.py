"""ViT-B and ViT-L on ImageNet-1k from scratch, in the paper's settings.

"An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929, Table 3 and section B.1: 300 epochs, batch 4096,
weight decay 0.3, and dropout after the positions and after every dense layer except those of query, key and value. The
hidden layer that the paper puts before the head is left out: the authors found later that it does not help
(https://arxiv.org/abs/2106.10270).
Data: tfds:imagenet2012, which TFDS builds from archives that you download by hand.
Expected: validation accuracy at 224 px, then fine-tuned at 384 px with `vit_finetune*` (the authors' figures, the
former from https://github.com/google-research/vision_transformer/issues/62, the latter from Table 5; not measured
here): B/16 74.8 and 77.9 %, B/32 69.2 and 73.4 %, L/16 72.6 and 76.5 %, L/32 66.9 and 71.2 %.
Cost: 300 epochs of 17.6 (B/16), 4.4 (B/32), 61.6 (L/16) or 15.4 (L/32) GMACs a picture; no time is published (not
measured here).
Command: kzoo train vit_base_imagenet --set data.data_dir=FOLDER
"""

from kzoo.schema import Augment, Data, Optim, Recipe, Schedule, run_as_script

SETTINGS = {
    "overrides": {"pos_drop_rate": 0.1, "proj_drop_rate": 0.1},
    "data": Data(
        source="tfds:imagenet2012",
        eval_split="validation",
        batch_size=4096,
        eval_batch_size=512,
        augment=Augment(crop_scale=(0.05, 1.0), flip=0.5),
    ),
    "optim": Optim(lr=3e-3, weight_decay=0.3, clip_norm=1.0),
    "schedule": Schedule(warmup_steps=10_000),
    "epochs": 300,
    "precision": "mixed_bfloat16",
    "xla": "required",
}

RECIPES = {
    "vit_base_imagenet": Recipe(model="vit_base_patch16_224", **SETTINGS),
    "vit_base32_imagenet": Recipe(model="vit_base_patch32_224", **SETTINGS),
    "vit_large_imagenet": Recipe(model="vit_large_patch16_224", **SETTINGS),
    "vit_large32_imagenet": Recipe(model="vit_large_patch32_224", **SETTINGS),
}

run_as_script(__name__, RECIPES)

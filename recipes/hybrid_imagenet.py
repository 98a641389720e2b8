"""Hybrid vision transformers on ImageNet-1k from scratch, augmented as "How to train your ViT?" has it.

"How to train your ViT?", https://arxiv.org/abs/2106.10270: 300 epochs, batch 4096; the hybrids are those of
"An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929. The strengths are those of the runs of S/16 and B/16 in
vit_augreg.py, whose transformers these are; the authors' choice for hybrids without ImageNet-21k is not among the published weights.
RandAugment has no Cutout here.
Data: tfds:imagenet2012, which TFDS builds from archives that you download by hand; a hundredth of the training split is left out.
Expected: unknown. With ImageNet-21k before, R26+S/32 has 83.85 % of the validation pictures at 384 px (the authors' figure, from the
table in https://github.com/google-research/vision_transformer; not measured here).
Cost: 300 epochs of 3.5 (R26+S/32) or 21.5 (R50+B/16) GMACs a picture; no time is published for these rows (not measured here).
Command: kzoo train hybrid_imagenet --set data.data_dir=FOLDER
"""

from kzoo.schema import Augment, Data, Optim, RandAugment, Recipe, Schedule, run_as_script

CROP = {"crop_scale": (0.05, 1.0), "flip": 0.5}
RAND = {"layers": 2, "increasing": False, "probability": 1.0}
MEDIUM = Augment(**CROP, rand_augment=RandAugment(magnitude=15.0, **RAND), mixup=0.5)  # the authors' medium2
STRONG = Augment(**CROP, rand_augment=RandAugment(magnitude=20.0, **RAND), mixup=0.8)  # strong2
SOURCE = {
    "source": "tfds:imagenet2012",
    "train_split": "train[:99%]",
    "eval_split": "validation",
    "batch_size": 4096,
    "eval_batch_size": 512,
}
REGULAR = {"pos_drop_rate": 0.1, "proj_drop_rate": 0.1, "drop_path_rate": 0.1}
SETTINGS = {
    "optim": Optim(lr=1e-3, weight_decay=0.1, clip_norm=1.0),
    "schedule": Schedule(warmup_steps=10_000),
    "epochs": 300,
    "precision": "mixed_bfloat16",
    "xla": "required",
}

RECIPES = {
    "hybrid_imagenet": Recipe(model="vit_small_r26_s32_224", data=Data(**SOURCE, augment=MEDIUM), **SETTINGS),
    "hybrid_base_imagenet": Recipe(model="vit_base_r50_s16_224", overrides=REGULAR, data=Data(**SOURCE, augment=STRONG), **SETTINGS),
}

run_as_script(__name__, RECIPES)

"""CoAtNet-0 to CoAtNet-4 on ImageNet-1k from scratch at 224 px, then fine-tuned at 384 and 512 px, in the paper's
settings.

"CoAtNet: Marrying Convolution and Attention for All Data Sizes", https://arxiv.org/abs/2106.04803, Tables 4 and 7. The
models are the paper's own: MBConvs stride in their first 1x1 convolution, and pooling takes maxima. The paper trains
CoAtNet-4 on ImageNet-21k first (coatnet_imagenet21k.py) and has no run of it from here: it takes CoAtNet-3's settings.
The paper does not name its random crop; ours is of 8 to 100 % of the picture.
Data: tfds:imagenet2012, which TFDS builds from archives that you download by hand.
Expected: validation accuracy at 224, 384 and 512 px: CoAtNet-0 81.6, 83.9, - %; CoAtNet-1 83.3, 85.1, - %; CoAtNet-2
84.1, 85.7, 85.9 %; CoAtNet-3 84.5, 85.8, 86.0 % (the authors' figures; not measured here).
Cost: 300 epochs of 4.2 (CoAtNet-0), 8.4 (1), 15.7 (2) or 34.7 (3) GMACs a picture, then 30 epochs of 13.4, 27.4, 49.8
or 107.4 at 384 px, 96.7 (2) or 203.1 (3) at 512 px (the authors'; no time is published for these rows; not measured
here).
Command: kzoo train coatnet_0_imagenet --set data.data_dir=FOLDER
Then: kzoo train coatnet_0_finetune_384 --set data.data_dir=FOLDER
"""

from kzoo.schema import Augment, Classify, Data, Optim, RandAugment, Recipe, Schedule, run_as_script

PAPER_FORM = {"stride_mode": "1x1", "pool_type": "max2"}
FORM_0 = {**PAPER_FORM, "drop_path_rate": 0.2}
FORM_1 = {**PAPER_FORM, "drop_path_rate": 0.3}
FORM_2 = {**PAPER_FORM, "drop_path_rate": 0.5}
FORM_3 = {**PAPER_FORM, "drop_path_rate": 0.7}

SOURCE = {"source": "tfds:imagenet2012", "eval_split": "validation"}
CHANGES = {"crop_scale": (0.08, 1.0), "flip": 0.5, "mixup": 0.8}
RAND = {"layers": 2, "increasing": False, "probability": 1.0}
RAND_15 = Augment(**CHANGES, rand_augment=RandAugment(magnitude=15.0, **RAND))
RAND_20 = Augment(**CHANGES, rand_augment=RandAugment(magnitude=20.0, **RAND))
BOTH = {"task": Classify(label_smoothing=0.1), "precision": "mixed_bfloat16", "xla": "required"}
SCRATCH = {
    "data": Data(**SOURCE, batch_size=4096, eval_batch_size=512, augment=RAND_15),
    "optim": Optim(lr=1e-3, weight_decay=0.05, clip_norm=1.0),
    "schedule": Schedule(warmup_steps=10_000, min_lr=1e-5),
    "epochs": 300,
    **BOTH,
}
FINETUNE = {
    "optim": Optim(lr=5e-5, weight_decay=1e-8, clip_norm=1.0, ema=0.9999),
    "schedule": Schedule(name="constant"),
    "epochs": 30,
    **BOTH,
}
TUNE_15 = {"data": Data(**SOURCE, batch_size=512, eval_batch_size=256, augment=RAND_15), **FINETUNE}
TUNE_20 = {"data": Data(**SOURCE, batch_size=512, eval_batch_size=256, augment=RAND_20), **FINETUNE}

RECIPES = {
    "coatnet_0_imagenet": Recipe(model="coatnet_0_224", overrides=FORM_0, **SCRATCH),
    "coatnet_1_imagenet": Recipe(model="coatnet_1_224", overrides=FORM_1, **SCRATCH),
    "coatnet_2_imagenet": Recipe(model="coatnet_2_224", overrides=FORM_2, **SCRATCH),
    "coatnet_3_imagenet": Recipe(model="coatnet_3_224", overrides=FORM_3, **SCRATCH),
    "coatnet_4_imagenet": Recipe(model="coatnet_4_224", overrides=FORM_3, **SCRATCH),
    "coatnet_0_finetune_384": Recipe(
        model="coatnet_0_384", overrides=FORM_0, init_from="runs/coatnet_0_imagenet", **TUNE_15
    ),
    "coatnet_1_finetune_384": Recipe(
        model="coatnet_1_384", overrides=FORM_1, init_from="runs/coatnet_1_imagenet", **TUNE_15
    ),
    "coatnet_2_finetune_384": Recipe(
        model="coatnet_2_384", overrides=FORM_2, init_from="runs/coatnet_2_imagenet", **TUNE_15
    ),
    "coatnet_2_finetune_512": Recipe(
        model="coatnet_2_512", overrides=FORM_2, init_from="runs/coatnet_2_imagenet", **TUNE_15
    ),
    "coatnet_3_finetune_384": Recipe(
        model="coatnet_3_384", overrides=FORM_3, init_from="runs/coatnet_3_imagenet", **TUNE_20
    ),
    "coatnet_3_finetune_512": Recipe(
        model="coatnet_3_512", overrides=FORM_3, init_from="runs/coatnet_3_imagenet", **TUNE_20
    ),
}

run_as_script(__name__, RECIPES)

"""CoAtNet-2, CoAtNet-3 and CoAtNet-4 pre-trained on ImageNet-21k at 224 px, then fine-tuned on ImageNet-1k at 384 and
512 px.

"CoAtNet: Marrying Convolution and Attention for All Data Sizes", https://arxiv.org/abs/2106.04803, Tables 4, 5 and 7:
each class of ImageNet-21k is a question of its own. Its form of the model is that of coatnet_imagenet.py, and so is our
crop. Ours too, from https://github.com/google-research/vision_transformer/issues/2: the loss is the sum over the
classes, whose biases start at -10.
Data: folder:imagenet21k, one folder a class; without folders train/ and test/ a fixed tenth is held out. Then
tfds:imagenet2012, which TFDS builds from archives that you download by hand.
Expected: validation accuracy on ImageNet-1k at 384 and 512 px: CoAtNet-2 87.1 and 87.3 %, CoAtNet-3 87.6 and 87.9 %,
CoAtNet-4 88.3 and 88.4 %, and after 150 epochs (--set epochs=150) 88.4 and 88.56 % (the authors' figures; not measured
here).
Cost: 90 epochs of 15.7 (CoAtNet-2) or 34.7 (3) GMACs a picture, then 30 epochs of ImageNet-1k of 49.8 (2), 107.4 (3) or
189.5 (4) at 384 px, 96.7, 203.1 or 360.9 at 512 px (the authors'; no time is published for these rows; not measured
here).
Command: kzoo train coatnet_2_imagenet21k --set data.source=folder:PATH
Then: kzoo train coatnet_2_finetune21k_384 --set data.data_dir=FOLDER
"""

from kzoo.schema import Augment, Classify, Data, Optim, RandAugment, Recipe, Schedule, run_as_script

PAPER_FORM = {"stride_mode": "1x1", "pool_type": "max2"}
FORM_2 = {**PAPER_FORM, "drop_path_rate": 0.3}
FORM_3 = {**PAPER_FORM, "drop_path_rate": 0.5}
FORM_4 = {**PAPER_FORM, "drop_path_rate": 0.7}
LOW_BIAS = {"head_bias": -10.0}

CROP = {"crop_scale": (0.08, 1.0), "flip": 0.5}
PLAIN = Augment(**CROP)
RAND_5 = Augment(**CROP, rand_augment=RandAugment(layers=2, magnitude=5.0, increasing=False, probability=1.0))
POOL = {"source": "folder:imagenet21k", "batch_size": 4096, "eval_batch_size": 512}
COMPUTED = {"precision": "mixed_bfloat16", "xla": "required"}
PRETRAIN = {
    "optim": Optim(lr=1e-3, weight_decay=0.01, clip_norm=1.0),
    "schedule": Schedule(name="linear", warmup_epochs=5, min_lr=1e-5),
    "epochs": 90,
    "eval_every": 10,
    "task": Classify(loss="binary_cross_entropy_sum", label_smoothing=1e-4),
    **COMPUTED,
}
FINETUNE = {
    "data": Data(
        source="tfds:imagenet2012", eval_split="validation", batch_size=1024, eval_batch_size=256, augment=RAND_5
    ),
    "optim": Optim(lr=5e-5, weight_decay=1e-8, clip_norm=1.0, ema=0.9999),
    "schedule": Schedule(name="constant"),
    "epochs": 30,
    "task": Classify(label_smoothing=0.1),
    **COMPUTED,
}

RECIPES = {
    "coatnet_2_imagenet21k": Recipe(
        model="coatnet_2_224", overrides=FORM_2 | LOW_BIAS, data=Data(**POOL, augment=PLAIN), **PRETRAIN
    ),
    "coatnet_3_imagenet21k": Recipe(
        model="coatnet_3_224", overrides=FORM_3 | LOW_BIAS, data=Data(**POOL, augment=PLAIN), **PRETRAIN
    ),
    "coatnet_4_imagenet21k": Recipe(
        model="coatnet_4_224", overrides=FORM_4 | LOW_BIAS, data=Data(**POOL, augment=RAND_5), **PRETRAIN
    ),
    "coatnet_2_finetune21k_384": Recipe(
        model="coatnet_2_384", overrides=FORM_2, init_from="runs/coatnet_2_imagenet21k", **FINETUNE
    ),
    "coatnet_2_finetune21k_512": Recipe(
        model="coatnet_2_512", overrides=FORM_2, init_from="runs/coatnet_2_imagenet21k", **FINETUNE
    ),
    "coatnet_3_finetune21k_384": Recipe(
        model="coatnet_3_384", overrides=FORM_3, init_from="runs/coatnet_3_imagenet21k", **FINETUNE
    ),
    "coatnet_3_finetune21k_512": Recipe(
        model="coatnet_3_512", overrides=FORM_3, init_from="runs/coatnet_3_imagenet21k", **FINETUNE
    ),
    "coatnet_4_finetune21k_384": Recipe(
        model="coatnet_4_384", overrides=FORM_4, init_from="runs/coatnet_4_imagenet21k", **FINETUNE
    ),
    "coatnet_4_finetune21k_512": Recipe(
        model="coatnet_4_512", overrides=FORM_4, init_from="runs/coatnet_4_imagenet21k", **FINETUNE
    ),
}

run_as_script(__name__, RECIPES)

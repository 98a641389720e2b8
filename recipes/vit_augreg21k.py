"""ViT with augmentation and weight decay chosen for its size, pre-trained on ImageNet-21k.

"How to train your ViT?", https://arxiv.org/abs/2106.10270: 300 epochs, batch 4096, each class a question of its own.
The rows are the runs that the authors recommend (https://github.com/google-research/vision_transformer, "Available ViT
models"); strengths and decay stand in their file names, the schedule in google-research/big_vision
(configs/vit_i21k.py). Its RandAugment also has Cutout, ours not.
Data: folder:imagenet21k, one folder a class; without folders train/ and test/ a fixed tenth is held out (the authors
held out less).
Expected: after fine-tuning at 384 px on ImageNet-1k, see vit_finetune.py (the authors' figures; not measured here):
Ti/16 78.2 %, S/32 79.6 %, S/16 83.7 %, B/32 83.6 %, B/16 85.5 %, L/16 85.6 %.
Cost: 300 epochs of 1.3 (Ti/16), 1.1 (S/32), 4.6 (S/16), 4.4 (B/32), 17.6 (B/16) or 61.6 (L/16) GMACs a picture (not
measured here).
Command: kzoo train vit_small_augreg21k --set data.source=folder:PATH
"""

from kzoo.schema import Augment, Classify, Data, Optim, RandAugment, Recipe, Schedule, run_as_script

CROP = {"crop_scale": (0.05, 1.0), "flip": 0.5}
RAND = {"layers": 2, "increasing": False, "probability": 1.0}
SOURCE = {"source": "folder:imagenet21k", "batch_size": 4096, "eval_batch_size": 512}
PLAIN = Data(**SOURCE, augment=Augment(**CROP))
LIGHT = Data(**SOURCE, augment=Augment(**CROP, rand_augment=RandAugment(magnitude=0.0, **RAND)))  # the authors' light1
MEDIUM = Data(**SOURCE, augment=Augment(**CROP, rand_augment=RandAugment(magnitude=15.0, **RAND), mixup=0.2))  # medium1
STRONG = Data(**SOURCE, augment=Augment(**CROP, rand_augment=RandAugment(magnitude=20.0, **RAND), mixup=0.5))  # strong1
WEAK_DECAY = Optim(lr=1e-3, weight_decay=0.03, clip_norm=1.0)
DECAY = Optim(lr=1e-3, weight_decay=0.1, clip_norm=1.0)
SETTINGS = {
    "overrides": {"head_bias": -10.0},
    "schedule": Schedule(warmup_steps=10_000),
    "epochs": 300,
    "eval_every": 10,
    "task": Classify(loss="binary_cross_entropy_sum"),
    "precision": "mixed_bfloat16",
    "xla": "required",
}

RECIPES = {
    "vit_tiny_augreg21k": Recipe(model="vit_tiny_patch16_224", data=PLAIN, optim=WEAK_DECAY, **SETTINGS),
    "vit_small32_augreg21k": Recipe(model="vit_small_patch32_224", data=PLAIN, optim=DECAY, **SETTINGS),
    "vit_small_augreg21k": Recipe(model="vit_small_patch16_224", data=LIGHT, optim=WEAK_DECAY, **SETTINGS),
    "vit_base32_augreg21k": Recipe(model="vit_base_patch32_224", data=LIGHT, optim=DECAY, **SETTINGS),
    "vit_base_augreg21k": Recipe(model="vit_base_patch16_224", data=MEDIUM, optim=DECAY, **SETTINGS),
    "vit_large_augreg21k": Recipe(model="vit_large_patch16_224", data=STRONG, optim=DECAY, **SETTINGS),
}

run_as_script(__name__, RECIPES)

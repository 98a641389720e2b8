"""Swin-B and L pre-trained on ImageNet-22k at 224 px, then fine-tuned on ImageNet-1k at 224 and 384 px, in the official
settings.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", https://arxiv.org/abs/2103.14030; rates are
those of the official configurations (microsoft/Swin-Transformer) times the batch over 512. Fine-tuning begins with a
new head; the official one keeps the 1000 rows of the old one that its list of classes names.
Data: folder:imagenet22k, one folder a class; without folders train/ and test/ a fixed tenth is held out. Then
tfds:imagenet2012, which TFDS builds from archives that you download by hand.
Expected: validation accuracy on ImageNet-1k: B 85.2 % at 224 px and 86.4 % at 384 px, L 86.3 and 87.3 % (the authors'
figures; not measured here).
Cost: 90 epochs of 15.4 (B) or 34.5 (L) GMACs a picture, then 30 epochs of ImageNet-1k, at 384 px of 47.1 or 103.9 (not
measured here).
Command: kzoo train swin_base_imagenet22k --set data.source=folder:PATH
Then: kzoo train swin_base_finetune22k --set data.data_dir=FOLDER
"""

from kzoo.schema import Augment, Classify, Data, Optim, RandAugment, Recipe, Schedule, run_as_script

DEIT = Augment(
    crop_scale=(0.08, 1.0), flip=0.5, rand_augment=RandAugment(magnitude_std=0.5), erase=0.25, mixup=0.8, cutmix=1.0
)
COMPUTED = {"task": Classify(label_smoothing=0.1), "precision": "mixed_bfloat16", "xla": "required"}
DROPS = {"drop_path_rate": 0.2}
PRETRAIN = {
    "data": Data(source="folder:imagenet22k", batch_size=4096, eval_batch_size=512, augment=DEIT),
    "optim": Optim(lr=1e-3, weight_decay=0.05, clip_norm=5.0),
    "schedule": Schedule(warmup_epochs=5, warmup_from=1e-6, min_lr=1e-5),
    "epochs": 90,
    "eval_every": 10,
    **COMPUTED,
}
FINETUNE = {
    "data": Data(
        source="tfds:imagenet2012", eval_split="validation", batch_size=1024, eval_batch_size=256, augment=DEIT
    ),
    "optim": Optim(lr=4e-5, weight_decay=1e-8, clip_norm=5.0),
    "schedule": Schedule(warmup_epochs=5, warmup_from=4e-8, min_lr=4e-7),
    "epochs": 30,
    **COMPUTED,
}
BASE, LARGE = "runs/swin_base_imagenet22k", "runs/swin_large_imagenet22k"

RECIPES = {
    "swin_base_imagenet22k": Recipe(model="swin_base_patch4_window7_224", overrides=DROPS, **PRETRAIN),
    "swin_large_imagenet22k": Recipe(model="swin_large_patch4_window7_224", overrides=DROPS, **PRETRAIN),
    "swin_base_finetune22k": Recipe(model="swin_base_patch4_window7_224", overrides=DROPS, init_from=BASE, **FINETUNE),
    "swin_base_finetune22k_384": Recipe(
        model="swin_base_patch4_window12_384", overrides=DROPS, init_from=BASE, **FINETUNE
    ),
    "swin_large_finetune22k": Recipe(
        model="swin_large_patch4_window7_224", overrides=DROPS, init_from=LARGE, **FINETUNE
    ),
    "swin_large_finetune22k_384": Recipe(
        model="swin_large_patch4_window12_384", overrides=DROPS, init_from=LARGE, **FINETUNE
    ),
}

run_as_script(__name__, RECIPES)

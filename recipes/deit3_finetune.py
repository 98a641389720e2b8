"""DeiT III: fine-tuning on ImageNet-1k at a higher resolution what was trained on ImageNet-1k alone.

"DeiT III: Revenge of the ViT", https://arxiv.org/abs/2204.07118; the settings are those of the official commands
(facebookresearch/deit, README_revenge.md): B, L and H from deit3_imagenet.py to 224 px, S to 384 px. No command is
published for B and L at 384 px.
Expected: validation accuracy of B 83.8 %, L 84.9 %, H 85.2 % at 224 px, S 83.4 % at 384 px (the authors' figures; not
measured here).
Cost: 20 epochs of 17.6 (B), 61.6 (L), 167.3 (H) or 15.5 (S, 384 px) GMACs a picture, on 8 GPUs, H on 16 (the authors';
not measured here).
Command: kzoo train deit3_base_finetune --set init_from=runs/deit3_base_imagenet --set data.data_dir=FOLDER
"""

from kzoo.schema import Augment, Classify, Data, Optim, Preprocessing, RandAugment, Recipe, Schedule, run_as_script

SETTINGS = {
    "preprocessing": Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=1.0),
    "data": Data(
        source="tfds:imagenet2012",
        eval_split="validation",
        batch_size=512,
        augment=Augment(
            crop_scale=(0.08, 1.0),
            flip=0.5,
            rand_augment=RandAugment(magnitude=9.0, magnitude_std=0.5),
            mixup=0.8,
            cutmix=1.0,
        ),
    ),
    "optim": Optim(lr=1e-5, weight_decay=0.1, clip_norm=None),
    "schedule": Schedule(
        warmup_epochs=5, warmup_from=1e-6, min_lr=1e-5
    ),  # it ends where it peaks, as the official default has it
    "epochs": 20,
    "task": Classify(label_smoothing=0.1),
    "precision": "mixed_bfloat16",
    "xla": "required",
}

RECIPES = {
    "deit3_base_finetune": Recipe(
        model="deit3_base_patch16_224",
        overrides={"drop_path_rate": 0.2},
        init_from="runs/deit3_base_imagenet",
        **SETTINGS,
    ),
    "deit3_large_finetune": Recipe(
        model="deit3_large_patch16_224",
        overrides={"drop_path_rate": 0.45},
        init_from="runs/deit3_large_imagenet",
        **SETTINGS,
    ),
    "deit3_huge_finetune": Recipe(
        model="deit3_huge_patch14_224",
        overrides={"drop_path_rate": 0.55},
        init_from="runs/deit3_huge_imagenet",
        **SETTINGS,
    ),
    "deit3_small_finetune_384": Recipe(
        model="deit3_small_patch16_384", init_from="runs/deit3_small_imagenet", **SETTINGS
    ),
}

run_as_script(__name__, RECIPES)

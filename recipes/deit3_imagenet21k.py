"""DeiT III: ViT-S, B, L and H pre-trained on ImageNet-21k, then fine-tuned on ImageNet-1k at 224 px.

"DeiT III: Revenge of the ViT", https://arxiv.org/abs/2204.07118; the settings are those of the official commands
(facebookresearch/deit, README_revenge.md), gradients clipped as in the paper's Table 1. H is pre-trained at 128 px.
Data: folder:imagenet21k, one folder a class; without folders train/ and test/ a fixed tenth is held out. Then
tfds:imagenet2012, which TFDS builds from archives that you download by hand.
Expected: validation accuracy on ImageNet-1k after both: S 83.1 %, B 85.7 %, L 87.0 %, H 87.2 % (the authors' figures;
not measured here).
Cost: 240 epochs of 4.6 (S), 17.6 (B) or 61.6 (L) GMACs a picture, or 90 of 52.2 (H), then 50 epochs of ImageNet-1k at
4.6 to 167.3 GMACs, on 16 (S) or 32 GPUs (the authors'; not measured here).
Command: kzoo train deit3_small_imagenet21k --set data.source=folder:PATH
Then: kzoo train deit3_small_finetune21k --set init_from=runs/deit3_small_imagenet21k --set data.data_dir=FOLDER
"""

from kzoo.schema import Augment, Classify, Data, Optim, Preprocessing, Recipe, Schedule, run_as_script

SETTINGS = {
    "preprocessing": Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=1.0),
    "schedule": Schedule(warmup_epochs=5, warmup_from=1e-6, min_lr=1e-5),
    "task": Classify(label_smoothing=0.1),
    "precision": "mixed_bfloat16",
    "xla": "required",
}
BATCHES = {
    "batch_size": 2048,
    "eval_batch_size": 512,
    "augment": Augment(crop_pad=4, flip=0.5, three_augment=True, color_jitter=0.3, cutmix=1.0),
}
LAMB = {"name": "lamb", "weight_decay": 0.02, "clip_norm": 1.0}
PRETRAIN = {
    "data": Data(source="folder:imagenet21k", **BATCHES),
    "optim": Optim(lr=1e-3, **LAMB),
    "eval_every": 10,
    **SETTINGS,
}
FINETUNE = {
    "data": Data(source="tfds:imagenet2012", eval_split="validation", **BATCHES),
    "optim": Optim(lr=3e-4, **LAMB),
    "epochs": 50,
    **SETTINGS,
}

RECIPES = {
    "deit3_small_imagenet21k": Recipe(
        model="deit3_small_patch16_224", overrides={"drop_path_rate": 0.05}, epochs=240, **PRETRAIN
    ),
    "deit3_base_imagenet21k": Recipe(
        model="deit3_base_patch16_224", overrides={"drop_path_rate": 0.1}, epochs=240, **PRETRAIN
    ),
    "deit3_large_imagenet21k": Recipe(
        model="deit3_large_patch16_224", overrides={"drop_path_rate": 0.3}, epochs=240, **PRETRAIN
    ),
    "deit3_huge_imagenet21k": Recipe(
        model="deit3_huge_patch14_224", overrides={"image_size": 128, "drop_path_rate": 0.5}, epochs=90, **PRETRAIN
    ),
    "deit3_small_finetune21k": Recipe(
        model="deit3_small_patch16_224",
        overrides={"drop_path_rate": 0.05},
        init_from="runs/deit3_small_imagenet21k",
        **FINETUNE,
    ),
    "deit3_base_finetune21k": Recipe(
        model="deit3_base_patch16_224",
        overrides={"drop_path_rate": 0.15},
        init_from="runs/deit3_base_imagenet21k",
        **FINETUNE,
    ),
    "deit3_large_finetune21k": Recipe(
        model="deit3_large_patch16_224",
        overrides={"drop_path_rate": 0.4},
        init_from="runs/deit3_large_imagenet21k",
        **FINETUNE,
    ),
    "deit3_huge_finetune21k": Recipe(
        model="deit3_huge_patch14_224",
        overrides={"drop_path_rate": 0.45},
        init_from="runs/deit3_huge_imagenet21k",
        **FINETUNE,
    ),
}

run_as_script(__name__, RECIPES)

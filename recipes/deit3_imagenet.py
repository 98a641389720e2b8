"""DeiT III: ViT-S, B, L and H on ImageNet-1k alone, at the resolution that each is trained at.

"DeiT III: Revenge of the ViT", https://arxiv.org/abs/2204.07118; the settings are those of the official commands for
800 epochs (facebookresearch/deit, README_revenge.md); clipping and the whole picture in evaluation are from the paper's
Table 1, whose weight decay is 0.02, not 0.05. Both classes of a mixed picture count whole, as in the official loss.
Data: tfds:imagenet2012, which TFDS builds from archives that you download by hand.
Expected: 81.4 % of the validation pictures for S; B, L and H are trained small, fine-tuned at 224 px with
`deit3_*_finetune`, and then reach 83.8, 84.9 and 85.2 % (the authors' figures; not measured here).
Cost: 800 epochs of 4.6 (S, 224 px), 12.8 (B, 192 px), 44.9 (L, 192 px) or 78.1 (H, 160 px) GMACs a picture, on 8 (S, B)
or 32 (L, H) GPUs (the authors'; not measured here).
Command: kzoo train deit3_small_imagenet --set data.data_dir=FOLDER
"""

from kzoo.schema import Augment, Classify, Data, Optim, Preprocessing, Recipe, Schedule, run_as_script

SETTINGS = {
    "preprocessing": Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=1.0),
    "data": Data(
        source="tfds:imagenet2012",
        eval_split="validation",
        batch_size=2048,
        eval_batch_size=512,
        augment=Augment(
            crop_scale=(0.08, 1.0), flip=0.5, three_augment=True, color_jitter=0.3, mixup=0.8, cutmix=1.0, repeats=3
        ),
    ),
    "schedule": Schedule(warmup_epochs=5, warmup_from=1e-6, min_lr=1e-5),
    "epochs": 800,
    "task": Classify(loss="binary_cross_entropy", target_threshold=0.0),
    "precision": "mixed_bfloat16",
    "xla": "required",
}
LAMB = {"name": "lamb", "weight_decay": 0.05, "clip_norm": 1.0}
RATE_3, RATE_4 = Optim(lr=3e-3, **LAMB), Optim(lr=4e-3, **LAMB)

RECIPES = {
    "deit3_small_imagenet": Recipe(
        model="deit3_small_patch16_224", overrides={"drop_path_rate": 0.05}, optim=RATE_4, **SETTINGS
    ),
    "deit3_base_imagenet": Recipe(
        model="deit3_base_patch16_224", overrides={"image_size": 192, "drop_path_rate": 0.2}, optim=RATE_3, **SETTINGS
    ),
    "deit3_large_imagenet": Recipe(
        model="deit3_large_patch16_224", overrides={"image_size": 192, "drop_path_rate": 0.45}, optim=RATE_3, **SETTINGS
    ),
    "deit3_huge_imagenet": Recipe(
        model="deit3_huge_patch14_224", overrides={"image_size": 160, "drop_path_rate": 0.6}, optim=RATE_3, **SETTINGS
    ),
}

run_as_script(__name__, RECIPES)

"""Masked autoencoders on ImageNet-1k: pre-training without labels, then fine-tuning or a linear probe of the encoder.

"Masked Autoencoders Are Scalable Vision Learners", https://arxiv.org/abs/2111.06377, in the settings of the official
commands (facebookresearch/mae, PRETRAIN.md and FINETUNE.md), rates for the batch of each: base rate times batch / 256.
Two things differ. The official random resized crop draws once and cuts what lies outside; ours is torchvision's, which
draws until a window fits. The official linear probe puts a batch norm without affine before the head, which this ViT
does not have: here the head alone learns, on the normed class token; `kzoo evaluate RUN --probe linear` has that norm,
over features that are computed once. Fine-tuning and probe take runs/mae_*_pretrain_imagenet, or the published encoder:
--set init_from=mae_pretrain_vit_base.pth.
Data: tfds:imagenet2012, which TFDS builds from archives that you download by hand.
Expected: validation accuracy fine-tuned B 83.6, L 85.9, H 86.9 %; linear probe B 68.0, L 75.8, H 76.6 % (the authors',
after 1600 epochs of pre-training; not measured here).
Cost: 1600 epochs of 9.8 (B) or 20.8 (L) GMACs a picture with three quarters hidden; L took 42 hours for 800 on 64 V100
(the authors'; not measured here). Smaller machines: --set data.batch_size=256 optim.accumulate=16.
Command: kzoo train mae_base_pretrain_imagenet --set data.data_dir=FOLDER
Command: kzoo train mae_base_finetune_imagenet --set data.data_dir=FOLDER
Command: kzoo train mae_base_linprobe_imagenet --set data.data_dir=FOLDER
"""

from kzoo.schema import (
    Augment,
    Classify,
    Data,
    Masked,
    Optim,
    Preprocessing,
    RandAugment,
    Recipe,
    Schedule,
    run_as_script,
)

IMAGENET = {"source": "tfds:imagenet2012", "eval_split": "validation", "eval_batch_size": 512}
COMPILED = {"precision": "mixed_bfloat16", "xla": "required"}
PRETRAIN = {
    "task": Masked(norm_pix=True),
    "data": Data(batch_size=4096, augment=Augment(crop_scale=(0.2, 1.0), flip=0.5), **IMAGENET),
    "optim": Optim(lr=2.4e-3, weight_decay=0.05, beta_2=0.95, clip_norm=None),  # 1.5e-4 for 256 pictures
    "schedule": Schedule(warmup_epochs=40),
    "epochs": 1600,
    "eval_every": 20,
    **COMPILED,
}
SEEN_WHOLE = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=0.875)
FINETUNE = {
    "preprocessing": SEEN_WHOLE,
    "task": Classify(label_smoothing=0.1),
    "data": Data(
        batch_size=1024,
        augment=Augment(
            crop_scale=(0.08, 1.0),
            flip=0.5,
            rand_augment=RandAugment(magnitude=9.0, magnitude_std=0.5),
            erase=0.25,
            mixup=0.8,
            cutmix=1.0,
        ),
        **IMAGENET,
    ),
    "schedule": Schedule(warmup_epochs=5, min_lr=1e-6),
    **COMPILED,
}
BASE_RATE = Optim(lr=2e-3, weight_decay=0.05, layer_decay=0.65, clip_norm=None)  # 5e-4 for 256 pictures
LARGE_RATE = Optim(lr=4e-3, weight_decay=0.05, layer_decay=0.75, clip_norm=None)  # 1e-3 for 256 pictures
LINPROBE = {
    "preprocessing": SEEN_WHOLE,
    "data": Data(batch_size=16_384, augment=Augment(crop_scale=(0.08, 1.0), flip=0.5), **IMAGENET),
    # 0.1 for 256 pictures
    "optim": Optim(name="lars", lr=6.4, weight_decay=0.0, clip_norm=None, freeze=("^(?!head/)",)),
    "schedule": Schedule(warmup_epochs=10),
    **COMPILED,
}

RECIPES = {
    "mae_base_pretrain_imagenet": Recipe(model="mae_vit_base_patch16_224", **PRETRAIN),
    "mae_large_pretrain_imagenet": Recipe(model="mae_vit_large_patch16_224", **PRETRAIN),
    "mae_huge_pretrain_imagenet": Recipe(model="mae_vit_huge_patch14_224", **PRETRAIN),
    "mae_base_finetune_imagenet": Recipe(
        model="vit_base_patch16_224",
        overrides={"global_pool": "avg", "drop_path_rate": 0.1},
        init_from="runs/mae_base_pretrain_imagenet",
        optim=BASE_RATE,
        epochs=100,
        **FINETUNE,
    ),
    "mae_large_finetune_imagenet": Recipe(
        model="vit_large_patch16_224",
        overrides={"global_pool": "avg", "drop_path_rate": 0.2},
        init_from="runs/mae_large_pretrain_imagenet",
        optim=LARGE_RATE,
        epochs=50,
        **FINETUNE,
    ),
    "mae_huge_finetune_imagenet": Recipe(
        model="vit_huge_patch14_224",
        overrides={"global_pool": "avg", "drop_path_rate": 0.3},
        init_from="runs/mae_huge_pretrain_imagenet",
        optim=LARGE_RATE,
        epochs=50,
        **FINETUNE,
    ),
    "mae_base_linprobe_imagenet": Recipe(
        model="vit_base_patch16_224", init_from="runs/mae_base_pretrain_imagenet", epochs=90, **LINPROBE
    ),
    "mae_large_linprobe_imagenet": Recipe(
        model="vit_large_patch16_224", init_from="runs/mae_large_pretrain_imagenet", epochs=50, **LINPROBE
    ),
    "mae_huge_linprobe_imagenet": Recipe(
        model="vit_huge_patch14_224", init_from="runs/mae_huge_pretrain_imagenet", epochs=50, **LINPROBE
    ),
}

run_as_script(__name__, RECIPES)

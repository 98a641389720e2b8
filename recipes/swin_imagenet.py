"""Swin-T, S and B on ImageNet-1k from scratch at 224 px, then B fine-tuned at 384 px, in the official settings.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", https://arxiv.org/abs/2103.14030; rates are
those of the official configurations (microsoft/Swin-Transformer) times the batch over 512. The colour jitter that they
name acts nowhere beside RandAugment in the code that they run, and is left out here.
Data: tfds:imagenet2012, which TFDS builds from archives that you download by hand.
Expected: 81.2 (T), 83.2 (S) and 83.5 % (B) of the validation pictures at 224 px, 84.5 % (B) at 384 px (the authors'
figures; not measured here).
Cost: 300 epochs of 4.5 (T), 8.7 (S) or 15.4 (B) GMACs a picture, then 30 epochs of 47.1 at 384 px (not measured here).
Command: kzoo train swin_tiny_imagenet --set data.data_dir=FOLDER
Then: kzoo train swin_base_finetune_384 --set data.data_dir=FOLDER
"""

from kzoo.schema import Augment, Classify, Data, Optim, RandAugment, Recipe, Schedule, run_as_script

DEIT = Augment(
    crop_scale=(0.08, 1.0), flip=0.5, rand_augment=RandAugment(magnitude_std=0.5), erase=0.25, mixup=0.8, cutmix=1.0
)
SOURCE = {"source": "tfds:imagenet2012", "eval_split": "validation", "batch_size": 1024, "augment": DEIT}
COMPUTED = {"task": Classify(label_smoothing=0.1), "precision": "mixed_bfloat16", "xla": "required"}
SCRATCH = {
    "data": Data(**SOURCE, eval_batch_size=512),
    "optim": Optim(lr=1e-3, weight_decay=0.05, clip_norm=5.0),
    "schedule": Schedule(warmup_epochs=20, warmup_from=1e-6, min_lr=1e-5),
    "epochs": 300,
    **COMPUTED,
}

RECIPES = {
    "swin_tiny_imagenet": Recipe(model="swin_tiny_patch4_window7_224", overrides={"drop_path_rate": 0.2}, **SCRATCH),
    "swin_small_imagenet": Recipe(model="swin_small_patch4_window7_224", overrides={"drop_path_rate": 0.3}, **SCRATCH),
    "swin_base_imagenet": Recipe(model="swin_base_patch4_window7_224", overrides={"drop_path_rate": 0.5}, **SCRATCH),
    "swin_base_finetune_384": Recipe(
        model="swin_base_patch4_window12_384",
        overrides={"drop_path_rate": 0.5},
        init_from="runs/swin_base_imagenet",
        data=Data(**SOURCE, eval_batch_size=256),
        optim=Optim(lr=4e-5, weight_decay=1e-8, clip_norm=5.0),
        schedule=Schedule(warmup_epochs=5, warmup_from=4e-8, min_lr=4e-7),
        epochs=30,
        **COMPUTED,
    ),
}

run_as_script(__name__, RECIPES)

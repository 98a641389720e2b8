"""CSWin-T, S and B on ImageNet-1k from scratch at 224 px, B fine-tuned at 384 px; L pre-trained on ImageNet-22k, then
fine-tuned on ImageNet-1k at 224 px.

"CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows", https://arxiv.org/abs/2107.00652;
the settings are those of the official commands and defaults (microsoft/CSWin-Transformer), but for ten last epochs at
the lowest rate. Of the pre-training there are none: its settings are Swin's.
Data: tfds:imagenet2012, which TFDS builds from archives that you download by hand; for the pre-training
folder:imagenet22k, one folder a class, of which a fixed tenth is held out where there are no folders train/ and test/.
Expected: 82.8 (T), 83.6 (S) and 84.2 % (B) of the validation pictures at 224 px, 85.5 % (B) at 384 px; L with the
authors' own pre-training 86.5 % at 224 px (the authors' figures; not measured here).
Cost: 300 epochs of 4.3 (T), 6.8 (S) or 15.0 (B) GMACs a picture, then 20 of 47.0 at 384 px; L 90 epochs of 33.1, then
30 (not measured here).
Command: kzoo train cswin_tiny_imagenet --set data.data_dir=FOLDER
Then: kzoo train cswin_base_finetune_384 --set data.data_dir=FOLDER
"""

from kzoo.schema import Augment, Classify, Data, Optim, RandAugment, Recipe, Schedule, run_as_script

CHANGES = {"crop_scale": (0.08, 1.0), "flip": 0.5, "rand_augment": RandAugment(magnitude_std=0.5), "erase": 0.25}
DEIT = Augment(**CHANGES, mixup=0.8, cutmix=1.0)
SOURCE = {"source": "tfds:imagenet2012", "eval_split": "validation"}
COMPUTED = {"task": Classify(label_smoothing=0.1), "precision": "mixed_bfloat16", "xla": "required"}
SCRATCH = {"schedule": Schedule(warmup_epochs=20, warmup_from=1e-6, min_lr=1e-5), "epochs": 300, **COMPUTED}
DATA_2048 = Data(**SOURCE, batch_size=2048, eval_batch_size=512, augment=DEIT)
SMALLER = Optim(lr=2e-3, weight_decay=0.05, clip_norm=None, ema=0.99984)
LARGE = {"drop_path_rate": 0.2}

RECIPES = {
    "cswin_tiny_imagenet": Recipe(
        model="cswin_tiny_224", overrides={"drop_path_rate": 0.2}, data=DATA_2048, optim=SMALLER, **SCRATCH
    ),
    "cswin_small_imagenet": Recipe(
        model="cswin_small_224", overrides={"drop_path_rate": 0.4}, data=DATA_2048, optim=SMALLER, **SCRATCH
    ),
    "cswin_base_imagenet": Recipe(
        model="cswin_base_224",
        overrides={"drop_path_rate": 0.5},
        data=Data(**SOURCE, batch_size=1024, eval_batch_size=512, augment=DEIT),
        optim=Optim(lr=1e-3, weight_decay=0.1, clip_norm=None, ema=0.99992),
        **SCRATCH,
    ),
    "cswin_base_finetune_384": Recipe(
        model="cswin_base_384",
        overrides={"drop_path_rate": 0.7},
        init_from="runs/cswin_base_imagenet",
        data=Data(**SOURCE, batch_size=256, eval_batch_size=256, augment=Augment(**CHANGES, mixup=0.1, cutmix=0.1)),
        optim=Optim(lr=5e-6, weight_decay=1e-8, clip_norm=None, ema=0.9998),
        schedule=Schedule(min_lr=5e-7),
        epochs=20,
        **COMPUTED,
    ),
    "cswin_large_imagenet22k": Recipe(
        model="cswin_large_224",
        overrides=LARGE,
        data=Data(source="folder:imagenet22k", batch_size=4096, eval_batch_size=512, augment=DEIT),
        optim=Optim(lr=1e-3, weight_decay=0.05, clip_norm=5.0),
        schedule=Schedule(warmup_epochs=5, warmup_from=1e-6, min_lr=1e-5),
        epochs=90,
        eval_every=10,
        **COMPUTED,
    ),
    "cswin_large_finetune22k": Recipe(
        model="cswin_large_224",
        overrides=LARGE,
        init_from="runs/cswin_large_imagenet22k",
        data=Data(**SOURCE, batch_size=512, eval_batch_size=256, augment=Augment(**CHANGES, mixup=0.01, cutmix=0.3)),
        # all but the new head learn at a twentieth of the rate
        optim=Optim(lr=2.5e-4, weight_decay=1e-8, clip_norm=None, ema=0.9996, lr_scales={"^(?!head/)": 0.05}),
        schedule=Schedule(min_lr=5e-7),
        epochs=30,
        **COMPUTED,
    ),
}

run_as_script(__name__, RECIPES)

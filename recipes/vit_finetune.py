"""Fine-tuning a trained ViT of any size on ImageNet-1k at 384 px, in the paper's settings.

"An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929, Table 4 and section B.1.1: SGD with momentum, no
weight decay, cosine, 20,000 steps of 512 pictures. The position table is resized; the run's init_from.json is the
receipt. The rates are those of the AugReg runs (https://arxiv.org/abs/2106.10270); L/32 and H/14 have none and take
0.03, which the official code begins with. For another start the paper chose among 0.003, 0.01, 0.03 and 0.06 on a
hundredth of the training pictures. A head of 1000 classes is kept, where the paper begins a new one at zero.
Expected: validation accuracy by start, ImageNet-1k alone (vit_base_imagenet.py), ImageNet-21k (vit_imagenet21k.py),
both Table 5 of the paper, and AugReg (vit_augreg21k.py), from the table in
https://github.com/google-research/vision_transformer (not measured here): Ti/16 -, -, 78.2 %; S/32 -, -, 79.6 %; S/16
-, -, 83.7 %; B/32 73.4, 81.3, 83.6 %; B/16 77.9, 84.0, 85.5 %; L/32 71.2, 81.0, - %; L/16 76.5, 85.2, 85.6 %; H/14 -,
85.1, - %.
Cost: 20,000 steps of 512 pictures of 4.7 (Ti/16), 3.4 (S/32), 15.5 (S/16), 13.0 (B/32), 55.5 (B/16), 45.3 (L/32), 191.1
(L/16) or 503.5 (H/14) GMACs; on eight V100 4.9 hours for B/32, 19.3 for B/16, 15.0 for L/32, 59.7 for L/16 (the
authors'; not measured here).
Command: kzoo train vit_finetune --set init_from=runs/vit_base_imagenet --set data.data_dir=FOLDER
"""

from kzoo.schema import Augment, Data, Optim, Recipe, Schedule, run_as_script

SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0, "clip_norm": 1.0}
RATE_1, RATE_3 = Optim(lr=0.01, **SGD), Optim(lr=0.03, **SGD)
SETTINGS = {
    "data": Data(
        source="tfds:imagenet2012",
        eval_split="validation",
        batch_size=512,
        eval_batch_size=256,
        augment=Augment(crop_scale=(0.05, 1.0), flip=0.5),
    ),
    "schedule": Schedule(warmup_steps=500),
    "epochs": 8,
    "steps": 20_000,
    "precision": "mixed_bfloat16",
    "xla": "required",
}

RECIPES = {
    "vit_finetune": Recipe(model="vit_base_patch16_384", init_from="runs/vit_base_augreg21k", optim=RATE_3, **SETTINGS),
    "vit_finetune_tiny": Recipe(
        model="vit_tiny_patch16_384", init_from="runs/vit_tiny_augreg21k", optim=RATE_3, **SETTINGS
    ),
    "vit_finetune_small32": Recipe(
        model="vit_small_patch32_384", init_from="runs/vit_small32_augreg21k", optim=RATE_1, **SETTINGS
    ),
    "vit_finetune_small": Recipe(
        model="vit_small_patch16_384", init_from="runs/vit_small_augreg21k", optim=RATE_3, **SETTINGS
    ),
    "vit_finetune_base32": Recipe(
        model="vit_base_patch32_384", init_from="runs/vit_base32_augreg21k", optim=RATE_1, **SETTINGS
    ),
    "vit_finetune_large32": Recipe(
        model="vit_large_patch32_384", init_from="runs/vit_large32_imagenet21k", optim=RATE_3, **SETTINGS
    ),
    "vit_finetune_large": Recipe(
        model="vit_large_patch16_384", init_from="runs/vit_large_augreg21k", optim=RATE_1, **SETTINGS
    ),
    "vit_finetune_huge": Recipe(
        model="vit_huge_patch14_224",
        overrides={"image_size": 384},
        init_from="runs/vit_huge_imagenet21k",
        optim=RATE_3,
        **SETTINGS,
    ),
}

run_as_script(__name__, RECIPES)

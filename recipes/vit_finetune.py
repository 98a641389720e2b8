"""Fine-tuning a trained ViT at a higher resolution, in the paper's settings.

"An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929, Table 4 and section B.1.1: SGD with momentum, no weight decay,
cosine, 20,000 steps of 512 pictures at 384 px. The position table is resized; the run's init_from.json is the receipt.
Expected: ViT-B/16, ImageNet-1k alone: 77.9 % (the paper's figure; not measured here).
Cost: 20,000 steps of 512 pictures, 55.5 GMACs a picture (not measured here).
Command: kzoo train vit_finetune --set init_from=runs/vit_base_imagenet
"""

from kzoo.schema import Augment, Data, Optim, Recipe, Schedule, run_as_script

RECIPES = {
    "vit_finetune": Recipe(
        model="vit_base_patch16_384",
        init_from="runs/vit_base_imagenet",
        data=Data(
            source="tfds:imagenet2012",
            eval_split="validation",
            batch_size=512,
            eval_batch_size=256,
            augment=Augment(crop_scale=(0.05, 1.0), flip=0.5),
        ),
        optim=Optim(name="sgd", lr=0.03, momentum=0.9, weight_decay=0.0, clip_norm=1.0),
        schedule=Schedule(warmup_steps=500),
        epochs=8,
        steps=20_000,
        precision="mixed_bfloat16",
        xla="required",
    )
}

run_as_script(__name__, RECIPES)

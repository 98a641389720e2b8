"""ViT-B/16 on ImageNet-1k from scratch, in the paper's settings.

"An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929, Tables 3 and 5 (300 epochs, batch 4096, weight decay 0.3).
Data: tfds:imagenet2012, which TFDS builds from archives that you download by hand.
Expected: 77.9 % of the validation pictures after fine-tuning at 384 px (the paper's figure; not measured here).
Cost: 300 epochs of 17.6 GMACs a picture; the paper gives no cost for this row (not measured here).
Command: kzoo train vit_base_imagenet --set data.data_dir=FOLDER
"""

from kzoo.schema import Augment, Data, Optim, Recipe, Schedule, run_as_script

RECIPES = {
    "vit_base_imagenet": Recipe(
        model="vit_base_patch16_224",
        overrides={"drop_rate": 0.1},
        data=Data(
            source="tfds:imagenet2012",
            eval_split="validation",
            batch_size=4096,
            eval_batch_size=512,
            augment=Augment(crop_scale=(0.05, 1.0), flip=0.5),
        ),
        optim=Optim(lr=3e-3, weight_decay=0.3, clip_norm=1.0),
        schedule=Schedule(warmup_steps=10_000),
        epochs=300,
        precision="mixed_bfloat16",
        xla="required",
    )
}

run_as_script(__name__, RECIPES)

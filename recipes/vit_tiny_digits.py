"""A small ViT on the embedded 8 x 8 digits: the quickstart's run.

Data: UCI optical digits (1,442 training, 355 held-out pictures), part of kzoo.
Expected: 98.0 % of the held-out digits (measured 2026-11-21, TensorFlow, two cores of an AMD EPYC).
Cost: 40 seconds there.
Command: kzoo train vit_tiny_digits
"""

from kzoo.schema import Augment, Classify, Data, Optim, Preprocessing, Recipe, Schedule, run_as_script

RECIPES = {
    "vit_tiny_digits": Recipe(
        model="vit_tiny_patch16_224",
        # 8 x 8 pixels: four patches of 4 pixels, a third of the blocks, half of the width; tokens averaged, without a
        # class token.
        overrides={
            "image_size": 8,
            "patch_size": 4,
            "embed_dim": 96,
            "depth": 4,
            "num_heads": 4,
            "class_token": False,
            "global_pool": "avg",
            "drop_path_rate": 0.05,
        },
        preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)),
        data=Data(source="digits", batch_size=32, eval_batch_size=355, augment=Augment(shift=1)),
        optim=Optim(lr=2e-3, weight_decay=0.05, ema=0.98),
        schedule=Schedule(warmup_epochs=2),
        task=Classify(label_smoothing=0.05),
        epochs=60,
        eval_every=5,
    )
}

run_as_script(__name__, RECIPES)

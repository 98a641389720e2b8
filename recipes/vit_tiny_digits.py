"""A small ViT on the embedded 8 x 8 digits: the quickstart's run.

Data: UCI optical digits (1,437 training, 360 held-out pictures), part of kzoo.
Expected: at least 97 % of the held-out digits.
Cost: about a minute on two CPU cores.
Command: kzoo train vit_tiny_digits
"""

from kzoo.schema import Augment, Data, Optim, Preprocessing, Recipe, Schedule, run_as_script

RECIPES = {
    "vit_tiny_digits": Recipe(
        model="vit_tiny_patch16_224",
        # 8 x 8 pixels: patches of 2, a quarter of the depth, a third of the width.
        overrides={"image_size": 8, "patch_size": 2, "embed_dim": 64, "depth": 4, "num_heads": 4, "drop_path_rate": 0.05},
        preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)),
        data=Data(source="digits", batch_size=64, eval_batch_size=360, augment=Augment(shift=1)),
        optim=Optim(lr=2e-3, weight_decay=0.05, ema=0.98),
        schedule=Schedule(warmup_epochs=2),
        label_smoothing=0.05,
        epochs=40,
    )
}

run_as_script(__name__, RECIPES)

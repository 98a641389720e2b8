"""A small Swin trained on CIFAR-10 from scratch.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", https://arxiv.org/abs/2103.14030, has no run
of this size: the recipe is ours. For 32 px: patches of 2x2 pixels, two blocks on 16x16 cells in windows of 4x4 that
shift, merged into 8x8 cells of twice the width, which the windows of the last two blocks hold whole.
Data: tfds:cifar10, or the same packed as npz: (kzoo data pack tfds:cifar10 cifar10.npz) where there is no TensorFlow.
Expected: not measured.
Cost: not measured; 123 MMACs a picture.
Command: kzoo train swin_tiny_cifar10
"""

from kzoo.schema import Augment, Data, Optim, Preprocessing, Recipe, Schedule, run_as_script

RECIPES = {
    "swin_tiny_cifar10": Recipe(
        model="swin_tiny_patch4_window7_224",
        overrides={"image_size": 32, "patch_size": 2, "depths": (2, 2), "num_heads": (3, 6), "window_size": (4, 8)},
        preprocessing=Preprocessing(),
        data=Data(source="tfds:cifar10", batch_size=64, eval_batch_size=500, augment=Augment(flip=0.5, shift=2)),
        optim=Optim(lr=8e-4, weight_decay=0.05),
        schedule=Schedule(warmup_epochs=1),
        epochs=14,
        eval_every=2,
    )
}

run_as_script(__name__, RECIPES)

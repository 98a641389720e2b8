"""A small CSWin trained on CIFAR-10 from scratch.

"CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows", https://arxiv.org/abs/2107.00652,
has no run of this size: the recipe is ours. For 32 px: a stem of one 3x3 convolution of stride 2, two blocks on 16x16
cells in stripes of 2, then two on all of 8x8 cells of twice the width.
Data: tfds:cifar10, or the same packed as npz: (kzoo data pack tfds:cifar10 cifar10.npz) where there is no TensorFlow.
Expected: not measured.
Cost: not measured; 131 MMACs a picture.
Command: kzoo train cswin_tiny_cifar10
"""

from kzoo.schema import Augment, Data, Optim, Preprocessing, Recipe, Schedule, run_as_script

RECIPES = {
    "cswin_tiny_cifar10": Recipe(
        model="cswin_tiny_224",
        overrides={
            "image_size": 32,
            "stem_kernel": 3,
            "stem_stride": 2,
            "embed_dim": 96,
            "depths": (2, 2),
            "num_heads": (4, 8),
            "split_size": (2, 8),
        },
        preprocessing=Preprocessing(),
        data=Data(source="tfds:cifar10", batch_size=64, eval_batch_size=500, augment=Augment(flip=0.5, shift=2)),
        optim=Optim(lr=8e-4, weight_decay=0.05),
        schedule=Schedule(warmup_epochs=1),
        epochs=14,
        eval_every=2,
    )
}

run_as_script(__name__, RECIPES)

"""A small ResNet trained on CIFAR-10 from scratch.

"Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385, section 4.2: a 3x3 convolution at full
resolution, then three stages of 16, 32 and 64 channels. This one has two blocks a stage, 14 layers, where the paper's
smallest has three, and shortcuts with a convolution where the width changes. The recipe is ours and short: the paper
trains for 164 epochs.
Data: tfds:cifar10, or the same packed as npz: (kzoo data pack tfds:cifar10 cifar10.npz) where there is no TensorFlow.
Expected: 84.1 % of the test pictures (measured 2026-11-21, TensorFlow, two cores of an AMD EPYC).
Cost: 12 minutes there, beside other work; 27 MMACs a picture.
Command: kzoo train resnet_cifar10
"""

from kzoo.schema import Augment, Classify, Data, Optim, Preprocessing, Recipe, Schedule, run_as_script

RECIPES = {
    "resnet_cifar10": Recipe(
        model="resnet18",
        overrides={"image_size": 32, "stem_stride": 1, "width": 16, "depths": (2, 2, 2)},
        preprocessing=Preprocessing(),
        data=Data(source="tfds:cifar10", batch_size=128, eval_batch_size=500, augment=Augment(flip=0.5, crop_pad=4)),
        optim=Optim(name="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-3, clip_norm=None),
        schedule=Schedule(warmup_epochs=1),
        task=Classify(label_smoothing=0.1),
        epochs=15,
        eval_every=3,
    )
}

run_as_script(__name__, RECIPES)

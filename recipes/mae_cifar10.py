"""A small masked autoencoder on the pictures of CIFAR-10, without their labels; then its encoder fine-tuned, or probed.

"Masked Autoencoders Are Scalable Vision Learners", https://arxiv.org/abs/2111.06377, has no run of this size: the
recipe is ours. For 32 px: patches of 4x4 pixels, 16 of 64 seen, 6 of the 12 blocks of a ViT-Ti, a decoder of 2 blocks.
Rates are higher than the paper's rule gives for such batches. The probe trains the head alone on the class token, under
LARS; the official one has a batch norm without affine before it, as `kzoo evaluate runs/mae_tiny_cifar10 --probe
linear` does, over features that are computed once.
Data: tfds:cifar10, or the same packed as npz: (kzoo data pack tfds:cifar10 cifar10.npz) where there is no TensorFlow.
Expected: mae_tiny_cifar10, then the encoder: k-NN 48.4 %, linear probe 55.6 % of the test pictures by all training
pictures; fine-tuned on 5,000 labels for 12 epochs 64.5 %, from scratch 42.3 % (means of three seeds, measured
2026-11-28, TensorFlow, two cores of an AMD EPYC; benchmarks/results/pretraining.md). The other two, on all labels, were
not measured.
Cost: pre-training 20 minutes there on an idle machine, by its 400 to 570 images a second.
Command: kzoo train mae_tiny_cifar10
Command: kzoo train mae_tiny_cifar10_finetune
Command: kzoo train mae_tiny_cifar10_linprobe
"""

from kzoo.schema import Augment, Classify, Data, Masked, Optim, Preprocessing, Recipe, Schedule, run_as_script

SMALL = {"image_size": 32, "patch_size": 4, "depth": 6}
CIFAR10 = {"source": "tfds:cifar10", "eval_batch_size": 500}

RECIPES = {
    "mae_tiny_cifar10": Recipe(
        model="mae_vit_tiny_patch16_224",
        overrides={**SMALL, "decoder_embed_dim": 96, "decoder_depth": 2, "decoder_num_heads": 3},
        preprocessing=Preprocessing(),
        task=Masked(norm_pix=True),
        data=Data(batch_size=64, augment=Augment(crop_scale=(0.2, 1.0), flip=0.5), **CIFAR10),
        optim=Optim(lr=1e-3, weight_decay=0.05, beta_2=0.95),
        schedule=Schedule(warmup_epochs=1),
        epochs=10,
        eval_every=2,
    ),
    "mae_tiny_cifar10_finetune": Recipe(
        model="vit_tiny_patch16_224",
        overrides={**SMALL, "global_pool": "avg", "drop_path_rate": 0.1},
        preprocessing=Preprocessing(),
        init_from="runs/mae_tiny_cifar10",
        task=Classify(label_smoothing=0.1),
        data=Data(batch_size=128, augment=Augment(flip=0.5, shift=2), **CIFAR10),
        optim=Optim(lr=1e-3, weight_decay=0.05, layer_decay=0.75),
        schedule=Schedule(warmup_epochs=1),
        epochs=10,
    ),
    "mae_tiny_cifar10_linprobe": Recipe(
        model="vit_tiny_patch16_224",
        overrides=SMALL,
        preprocessing=Preprocessing(),
        init_from="runs/mae_tiny_cifar10",
        data=Data(batch_size=1000, augment=Augment(flip=0.5), **CIFAR10),
        optim=Optim(name="lars", lr=6.4, weight_decay=0.0, clip_norm=None, freeze=("^(?!head/)",)),
        schedule=Schedule(warmup_epochs=1),
        epochs=10,
        eval_every=2,
    ),
}

run_as_script(__name__, RECIPES)

"""Fine-tuning a trained model on your own pictures, or on a data set of TFDS.

"An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929, Table 4 and section B.1.1: SGD with momentum, no
weight decay, cosine, batches of 512 pictures at 384 px, 10,000 steps for CIFAR and 500 for Pets and Flowers; the paper
chose the rate among 0.001, 0.003, 0.01 and 0.03. Rates, warm-up and crops are those published for AugReg's B/32
(google-research/big_vision, configs/transfer.py), with which the rows named after a data set begin. The architecture is
that of init_from, any run or .keras file of any family; the head is new where the number of classes is. The row
`vit_transfer` keeps its image size as well. For fewer pictures than a batch: --set data.batch_size=64 --set
optim.lr=0.001.
Data: folder:PATH, one folder a class, or tfds:NAME, prepared once with tfds.load(NAME).
Expected: test accuracy of B/32 started from vit_base32_augreg21k and, in brackets, the paper's B/32 started from
ImageNet-21k: CIFAR-10 98.6 (98.8) %, CIFAR-100 91.4 (92.0) %, Pets 93.8 (93.0) %, Flowers 99.4 (99.1) % (the authors'
figures; not measured here).
Cost: 13.0 GMACs a picture; CIFAR on eight V100 1.8 hours (the authors'; not measured here).
Command: kzoo train vit_transfer --set init_from=runs/vit_base_imagenet --set data.source=folder:PATH
"""

from kzoo.schema import Augment, Data, Optim, Recipe, Schedule, run_as_script

SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0, "clip_norm": 1.0}
BATCHES = {"batch_size": 512, "eval_batch_size": 256}
RANDOM_SIZE = Augment(crop_scale=(0.05, 1.0), flip=0.5)
RANDOM_PLACE = Augment(crop_scale=(0.735, 0.735), crop_ratio=(1.0, 1.0), flip=0.5)  # 384 of 448 pixels each way
BASE32 = {
    "overrides": {"image_size": 384},
    "init_from": "runs/vit_base32_augreg21k",
    "keep_architecture": True,
    "precision": "mixed_bfloat16",
    "xla": "required",
}
CIFAR = {"schedule": Schedule(warmup_steps=500), "epochs": 104, "steps": 10_000, "eval_every": 13, **BASE32}

RECIPES = {
    "vit_transfer": Recipe(
        model="vit_base_patch16_224",
        init_from="runs/vit_base_augreg21k",
        keep_architecture=True,
        data=Data(source="folder:pictures", augment=RANDOM_SIZE, **BATCHES),
        optim=Optim(lr=0.003, **SGD),
        schedule=Schedule(warmup_steps=100),
        epochs=500,
        steps=500,
        eval_every=10,
    ),
    "vit_transfer_cifar10": Recipe(
        model="vit_base_patch32_224",
        data=Data(source="tfds:cifar10", augment=RANDOM_PLACE, **BATCHES),
        optim=Optim(lr=0.003, **SGD),
        **CIFAR,
    ),
    "vit_transfer_cifar100": Recipe(
        model="vit_base_patch32_224",
        data=Data(source="tfds:cifar100", augment=RANDOM_PLACE, **BATCHES),
        optim=Optim(lr=0.01, **SGD),
        **CIFAR,
    ),
    "vit_transfer_pets": Recipe(
        model="vit_base_patch32_224",
        data=Data(source="tfds:oxford_iiit_pet", augment=RANDOM_SIZE, **BATCHES),
        optim=Optim(lr=0.003, **SGD),
        schedule=Schedule(warmup_steps=100),
        epochs=72,
        steps=500,
        eval_every=12,
        **BASE32,
    ),
    "vit_transfer_flowers": Recipe(
        model="vit_base_patch32_224",
        data=Data(source="tfds:oxford_flowers102", train_split="train+validation", augment=RANDOM_SIZE, **BATCHES),
        optim=Optim(lr=0.003, **SGD),
        schedule=Schedule(warmup_steps=100),
        epochs=167,
        steps=500,
        eval_every=40,
        **BASE32,
    ),
}

run_as_script(__name__, RECIPES)

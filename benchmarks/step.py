"""One training step in images a second: kzoo compiled and as a graph beside timm, KerasHub and ZeroModels, and the
matmul peak.

Forward, cross entropy, backward and AdamW on one fixed random batch; the loss comes back to Python after every step.
Each peer is a process of its own; they take turns, and the best mode of each library counts. bfloat16 is Keras'
mixed_bfloat16 policy and torch's autocast. A model's share of the peak counts three forward passes a step. On CPU
float32 alone: all peers are in memory at once, two to four gigabytes each. `--gpu` compares JAX with torch on the
accelerator.
"""

from functools import partial

import numpy as np

from benchmarks.networks import (
    jax_matmul,
    keras_network,
    tensorflow_matmul,
    torch_matmul,
    torch_network,
    torch_training,
)
from benchmarks.peers import run

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05


def keras_step(work, library="kzoo", backend="tensorflow", xla=True, policy="float32"):
    """`train_on_batch` of a Keras model; kzoo's is the task that its own engine trains."""
    model, images = keras_network(library, work, backend, policy)
    import keras

    labels = np.arange(work.batch, dtype="int32")
    optimizer = keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    if library == "kzoo":
        import kzoo

        model = kzoo.task(model)
        model.compile(optimizer=optimizer, jit_compile=xla)
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"], jit_compile=xla)
    return lambda: model.train_on_batch(images, labels)


def torch_step(work, compiled=False, autocast=False):
    """The step of timm's model; autocast computes products in bfloat16."""
    model, images, device = torch_network(work)
    import torch

    labels = torch.arange(work.batch, device=device)
    forward = torch.compile(model.train()) if compiled else model.train()
    return torch_training(
        work,
        model,
        lambda: torch.nn.functional.cross_entropy(forward(images), labels),
        lr=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        autocast=autocast,
    )


ON_CPU = {
    "kzoo_xla": keras_step,
    "kzoo_graph": partial(keras_step, xla=False),
    "timm_eager": torch_step,
    "timm_compiled": partial(torch_step, compiled=True),
    "keras_hub_xla": partial(keras_step, library="keras_hub"),
    "keras_hub_graph": partial(keras_step, library="keras_hub", xla=False),
    "zeromodels_xla": partial(keras_step, library="zeromodels"),
    "zeromodels_graph": partial(keras_step, library="zeromodels", xla=False),
    "tensorflow_matmul_float32": partial(tensorflow_matmul, dtype="float32"),
    "torch_matmul_float32": partial(torch_matmul, dtype="float32"),
}
ON_GPU = {
    "kzoo_jax_bfloat16": partial(keras_step, backend="jax", policy="mixed_bfloat16"),
    "timm_eager_bfloat16": partial(torch_step, autocast=True),
    "timm_compiled_bfloat16": partial(torch_step, compiled=True, autocast=True),
    "keras_hub_jax_bfloat16": partial(keras_step, library="keras_hub", backend="jax", policy="mixed_bfloat16"),
    "zeromodels_jax_bfloat16": partial(keras_step, library="zeromodels", backend="jax", policy="mixed_bfloat16"),
    "jax_matmul_bfloat16": partial(jax_matmul, dtype="bfloat16"),
    "torch_matmul_bfloat16": partial(torch_matmul, dtype="bfloat16"),
}


if __name__ == "__main__":
    run("step", __doc__, {"cpu": ON_CPU, "gpu": ON_GPU}, model="vit_small_patch16_224", batch=16, passes=3)

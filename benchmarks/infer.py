"""Inference in images a second: kzoo in float32 and bfloat16 beside timm, KerasHub and ZeroModels, and the matmul peak.

Batches are ready in memory and weights random. Each peer is a process of its own; they take turns, and the best mode of
each library counts. kzoo's bfloat16 is `kzoo.reduce_precision`, timm's is torch's autocast. A model's share of the peak
is images/s * 2 * GMACs over the fastest large square matrix product of the same precision in the same run. `--gpu`
compares JAX with torch on the accelerator.
"""

from functools import partial

import numpy as np

from benchmarks.networks import jax_matmul, keras_network, tensorflow_matmul, torch_matmul, torch_network
from benchmarks.peers import run


def keras_forward(work, library="kzoo", backend="tensorflow", xla=False, policy="float32"):
    """One compiled forward pass of a Keras model; kzoo's bfloat16 is the model that `kzoo.reduce_precision` gives."""
    reduced = library == "kzoo" and policy == "bfloat16"
    model, images = keras_network(library, work, backend, "float32" if reduced else policy)
    if reduced:
        import kzoo

        model = kzoo.reduce_precision(model)
    forward = _compiled(model, backend, xla)
    return lambda: np.asarray(forward(images))


def _compiled(model, backend, xla):
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda images: model(images, training=False), jit_compile=xla, autograph=False)
    import jax

    trained, other = (
        [weight.value for weight in weights] for weights in (model.trainable_variables, model.non_trainable_variables)
    )
    function = jax.jit(lambda trained, other, images: model.stateless_call(trained, other, images, training=False)[0])
    return partial(function, trained, other)


def torch_forward(work, compiled=False, autocast=False):
    """One forward pass of timm's model under inference_mode; autocast computes products in bfloat16."""
    model, images, device = torch_network(work)
    import torch

    model = torch.compile(model.eval()) if compiled else model.eval()

    def forward():
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=autocast):
            return model(images).float().cpu().numpy()

    return forward


ON_CPU = {
    "kzoo_graph": keras_forward,
    "kzoo_xla": partial(keras_forward, xla=True),
    "kzoo_bfloat16": partial(keras_forward, policy="bfloat16"),
    "timm_eager": torch_forward,
    "timm_compiled": partial(torch_forward, compiled=True),
    "timm_bfloat16": partial(torch_forward, autocast=True),
    "keras_hub_graph": partial(keras_forward, library="keras_hub"),
    "keras_hub_xla": partial(keras_forward, library="keras_hub", xla=True),
    "keras_hub_bfloat16": partial(keras_forward, library="keras_hub", policy="bfloat16"),
    "zeromodels_graph": partial(keras_forward, library="zeromodels"),
    "zeromodels_xla": partial(keras_forward, library="zeromodels", xla=True),
    "zeromodels_bfloat16": partial(keras_forward, library="zeromodels", policy="bfloat16"),
    "tensorflow_matmul_float32": partial(tensorflow_matmul, dtype="float32"),
    "tensorflow_matmul_bfloat16": partial(tensorflow_matmul, dtype="bfloat16"),
    "torch_matmul_float32": partial(torch_matmul, dtype="float32"),
    "torch_matmul_bfloat16": partial(torch_matmul, dtype="bfloat16"),
}
ON_GPU = {
    "kzoo_jax_bfloat16": partial(keras_forward, backend="jax", policy="bfloat16"),
    "timm_eager_bfloat16": partial(torch_forward, autocast=True),
    "timm_compiled_bfloat16": partial(torch_forward, compiled=True, autocast=True),
    "keras_hub_jax_bfloat16": partial(keras_forward, library="keras_hub", backend="jax", policy="bfloat16"),
    "zeromodels_jax_bfloat16": partial(keras_forward, library="zeromodels", backend="jax", policy="bfloat16"),
    "jax_matmul_bfloat16": partial(jax_matmul, dtype="bfloat16"),
    "torch_matmul_bfloat16": partial(torch_matmul, dtype="bfloat16"),
}


if __name__ == "__main__":
    run("infer", __doc__, {"cpu": ON_CPU, "gpu": ON_GPU}, model="vit_base_patch16_224", batch=8, passes=1)

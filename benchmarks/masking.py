"""What masking saves: one pre-training step of a masked autoencoder, in images a second, beside the same network over all patches.

Forward, error of the hidden patches, backward and AdamW on one fixed random batch; the loss comes back to Python after every step.
`kzoo_masked` hides 75 % of the patches; in `kzoo_all` the encoder sees all of them (but the one that leaves the error something to
count), with the same decoder. Beside them transformers' ViTMAE, eager and compiled, in the same size. Each peer is a process of its
own; they take turns, with `--alone` each turn in a process anew, for sizes of which memory holds one at a time. `--gpu`: JAX in
bfloat16 beside torch under autocast.
"""

import math
import os
from functools import partial

import numpy as np

from benchmarks.common import emit, interleave, medians, parser, quotient, spread
from benchmarks.networks import import_torch, jax_matmul, tensorflow_matmul, torch_matmul, torch_training
from benchmarks.peers import Work, gpu_name, shared_options, split_peaks, start

LEARNING_RATE, WEIGHT_DECAY = 1.5e-4, 0.05


def kzoo_step(work, all_patches=False, backend="tensorflow", policy="float32"):
    """`train_on_batch` of the task on pictures alone, under XLA."""
    os.environ["KERAS_BACKEND"] = backend
    import keras

    import kzoo
    from kzoo.registry import config_of

    keras.config.set_dtype_policy(policy)
    config = config_of(work.model, work.overrides)[1]
    overrides = work.overrides | ({"mask_ratio": 1 / math.prod(config.grid)} if all_patches else {})
    model = kzoo.get(work.model, **overrides)
    task = kzoo.task(model)
    task.compile(optimizer=keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY), jit_compile=True)
    images = np.random.default_rng(0).normal(size=(work.batch, *config.size, config.in_channels)).astype("float32")
    return lambda: task.train_on_batch(images)


def vitmae_step(work, compiled=False, autocast=False):
    """The step of transformers' ViTMAE in the same size."""
    torch = import_torch(work)
    from tests.torch_reference import import_timm

    transformers = import_timm("transformers")
    os.environ["KERAS_BACKEND"] = "torch"  # names and sizes alone are asked for
    from kzoo.registry import config_of

    config = config_of(work.model, work.overrides)[1]
    told = transformers.ViTMAEConfig(
        image_size=config.size[0],
        patch_size=config.patch_size,
        hidden_size=config.embed_dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        intermediate_size=int(config.embed_dim * config.mlp_ratio),
        decoder_hidden_size=config.decoder_embed_dim,
        decoder_num_hidden_layers=config.decoder_depth,
        decoder_num_attention_heads=config.decoder_num_heads,
        decoder_intermediate_size=int(config.decoder_embed_dim * config.mlp_ratio),
        mask_ratio=config.mask_ratio,
    )
    device = "cuda" if work.gpu else "cpu"
    model = transformers.ViTMAEForPreTraining(told).to(device).train()
    forward = torch.compile(model) if compiled else model
    images = torch.randn(work.batch, config.in_channels, *config.size, device=device)
    return torch_training(
        work,
        model,
        lambda: forward(pixel_values=images).loss,
        lr=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        autocast=autocast,
    )


ON_CPU = {
    "kzoo_masked": kzoo_step,
    "kzoo_all": partial(kzoo_step, all_patches=True),
    "transformers_eager": vitmae_step,
    "transformers_compiled": partial(vitmae_step, compiled=True),
    "tensorflow_matmul_float32": partial(tensorflow_matmul, dtype="float32"),
    "torch_matmul_float32": partial(torch_matmul, dtype="float32"),
}
_JAX = {"backend": "jax", "policy": "mixed_bfloat16"}
ON_GPU = {
    "kzoo_masked": partial(kzoo_step, **_JAX),
    "kzoo_all": partial(kzoo_step, all_patches=True, **_JAX),
    "transformers_eager": partial(vitmae_step, autocast=True),
    "transformers_compiled": partial(vitmae_step, compiled=True, autocast=True),
    "jax_matmul_bfloat16": partial(jax_matmul, dtype="bfloat16"),
    "torch_matmul_bfloat16": partial(torch_matmul, dtype="bfloat16"),
}


def measure(setups, work, rounds, only=None, alone=False):
    """The figures of one comparison, as emit() prints them."""
    peers, absent = start(setups, work, only, alone)
    values = interleave(peers, rounds, warm_up=not alone)
    seconds, peaks = split_peaks(values, work)
    result = {"model": work.model, "batch": work.batch, "image_size": work.image_size, "rounds": rounds, "alone": alone}
    result["images_per_second"] = {name: round(work.batch / median, 2) for name, median in medians(seconds).items()}
    result |= {"peak_gflops": peaks, "spread": spread(values), "absent": absent}
    if {"kzoo_masked", "kzoo_all"} <= set(seconds):
        result["masking_saves"] = quotient(seconds["kzoo_all"], seconds["kzoo_masked"])
    theirs = [name for name in seconds if name.startswith("transformers")]
    if theirs and "kzoo_masked" in seconds:
        best = min(theirs, key=lambda name: medians(seconds)[name])
        result["kzoo_faster"] = {best: quotient(seconds[best], seconds["kzoo_masked"])}
    return result


def main():
    options = parser(__doc__, rounds=9)
    options.add_argument("--model", default="mae_vit_large_patch16_224")
    options.add_argument("--batch", type=int, default=16)
    options.add_argument(
        "--alone", action="store_true", help="a process for each turn: one network in memory at a time"
    )
    shared_options(options)
    options = options.parse_args()
    work = Work(options.model, "none", options.batch, None, options.matmul, options.omp_wait, options.gpu)
    result = measure(ON_GPU if work.gpu else ON_CPU, work, options.rounds, options.only, options.alone)
    name = "masking" if work.model == "mae_vit_large_patch16_224" else f"masking_{work.model}"
    emit(f"{name}_gpu" if work.gpu else name, result, options.save, gpu_name() if work.gpu else None)


if __name__ == "__main__":
    main()

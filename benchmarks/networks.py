"""One architecture from several libraries, and the machine's matrix products: what the processes of `infer` and `step`
prepare.
"""

import math
import os

from benchmarks.common import cores


def keras_network(library, work, backend, policy):
    """The library's Keras model of the work, freshly initialised, its weights counted against kzoo's; images float32
    (B, H, W, 3).
    """
    os.environ["KERAS_BACKEND"] = backend
    import keras

    from kzoo.models.count import count
    from kzoo.registry import config_of

    builder, config = config_of(work.model, work.overrides)
    expected = count(lambda: builder(config))[0]
    keras.config.set_dtype_policy(policy)
    model = {"kzoo": _kzoo, "keras_hub": _keras_hub, "zeromodels": _zeromodels}[library](work, config)
    trained = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    if trained != expected:
        raise ValueError(f"{library} built {trained} weights where kzoo has {expected}: not the same architecture")
    return model, keras.random.normal((work.batch, *config.size, config.in_channels), dtype="float32", seed=0)


def _kzoo(work, config):
    import kzoo

    return kzoo.get(work.model, **work.overrides)


def _keras_hub(work, config):
    import keras
    import keras_hub

    backbone = keras_hub.models.ViTBackbone(
        image_shape=(*config.size, config.in_channels),
        patch_size=config.patch_size,
        num_layers=config.depth,
        num_heads=config.num_heads,
        hidden_dim=config.embed_dim,
        mlp_dim=int(config.embed_dim * config.mlp_ratio),
    )
    classifier = keras_hub.models.ViTImageClassifier(backbone, num_classes=config.num_classes, preprocessor=None)
    # plain, so that nothing stands between a batch and the model
    return keras.Model(classifier.inputs, classifier.outputs[0])


def _zeromodels(work, config):
    from zeromodels.models.vit import ViTImageClassify

    return ViTImageClassify(
        patch_size=config.patch_size,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        image_size=(*config.size, config.in_channels),
        num_classes=config.num_classes,
    )


def torch_network(work):
    """timm's model, images (B, 3, H, W) and the device's name."""
    torch = import_torch(work)

    from tests.torch_reference import import_timm

    device = "cuda" if work.gpu else "cpu"
    size = {} if work.image_size is None else {"img_size": work.image_size}
    model = import_timm().create_model(work.timm, **size).to(device)
    shape = (3, work.image_size, work.image_size) if work.image_size else model.default_cfg["input_size"]
    return model, torch.randn(work.batch, *shape, device=device), device


def import_torch(work):
    """torch, with the waiting of its threads as asked for and as many of them as there are cores."""
    os.environ["OMP_WAIT_POLICY"] = work.omp_wait
    import torch

    torch.set_num_threads(cores())  # its default counts physical cores, TensorFlow's all of them
    return torch


def torch_training(work, model, loss_of, *, lr, weight_decay, autocast, clip=None):
    """One step of AdamW on loss_of(), as a callable that returns the loss; autocast computes products in bfloat16;
    clip: the largest norm of all gradients.
    """
    torch = import_torch(work)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr, weight_decay=weight_decay, fused=True)

    def step():
        with torch.autocast("cuda" if work.gpu else "cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
        return loss.item()

    return step


def tensorflow_matmul(work, dtype):
    """One product of two square matrices."""
    import tensorflow as tf

    left, right = (tf.cast(tf.random.stateless_normal((work.matmul,) * 2, seed=(0, seed)), dtype) for seed in range(2))
    return lambda: tf.linalg.matmul(left, right)[0, 0].numpy()


def jax_matmul(work, dtype):
    """One product of two square matrices."""
    import jax

    left, right = (jax.random.normal(jax.random.key(seed), (work.matmul,) * 2, dtype) for seed in range(2))
    product = jax.jit(lambda a, b: a @ b)
    return lambda: product(left, right).block_until_ready()


def torch_matmul(work, dtype):
    """One product of two square matrices."""
    torch = import_torch(work)
    device = "cuda" if work.gpu else "cpu"
    left, right = (torch.randn(work.matmul, work.matmul, device=device).to(getattr(torch, dtype)) for _ in range(2))
    return lambda: (left @ right)[0, 0].item()

"""A detector's training step and inference in images a second, beside transformers' DETR in torch, eager and compiled,
and in inference ZeroModels'.

The step: forward, every decoder layer's matching and losses, backward, clipping to 0.1 and AdamW on one fixed random
batch of pictures with seven boxes each, the stem and the first stage frozen as in the official code; the loss comes
back to Python after every step. `matching` is kzoo's assignment alone, of as many problems in a graph of its own; its
share of the step is reported. `--infer`: one forward pass of the same batch, no picture padded. Weights are random.
Each peer is a process of its own; they take turns, with `--alone` each turn in a process anew, for sizes of which
memory holds one at a time. `--gpu`: JAX in bfloat16 beside torch under autocast.
"""

import os
from functools import partial

import numpy as np

from benchmarks.common import emit, interleave, medians, parser, quotient, spread
from benchmarks.networks import import_torch, jax_matmul, tensorflow_matmul, torch_matmul, torch_training
from benchmarks.peers import Work, fastest, gpu_name, shared_options, split_peaks, start

RATE, DECAY, CLIP, BOXES = 1e-4, 1e-4, 0.1, 7
FROZEN = ("conv1.", "bn1.", "layer1.")  # under timm's names


def pictures(work):
    """float32 (B, H, W, 3), and of each picture the boxes (B, 7, 4), cx, cy, w, h, and labels (B, 7) of its objects."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(work.batch, *work.image_size, 3)).astype("float32")
    sides = rng.uniform(0.1, 0.4, (work.batch, BOXES, 2))
    boxes = np.concatenate([rng.uniform(0.2, 0.8, sides.shape), sides], axis=-1).astype("float32")
    return images, boxes, rng.integers(0, 91, (work.batch, BOXES)).astype("int32")


def network(work, backend, policy, **overrides):
    """kzoo's model, its pictures as inputs."""
    os.environ["KERAS_BACKEND"] = backend
    import keras

    import kzoo

    keras.config.set_dtype_policy(policy)
    model = kzoo.get(work.model, image_size=work.image_size, **overrides)
    model.load_report = None  # which tells that what is frozen should be loaded; a clock does not mind
    images = pictures(work)[0]
    return model, {"image": images, "mask": np.zeros(images.shape[:3], bool)}


def kzoo_step(work, backend="tensorflow", xla=True, policy="float32", **overrides):
    """`train_on_batch` of the task."""
    model, x = network(work, backend, policy, aux_outputs=True, **overrides)
    import keras

    import kzoo

    _, boxes, labels = pictures(work)
    task = kzoo.task(model)
    optimizer = keras.optimizers.AdamW(RATE, weight_decay=DECAY, global_clipnorm=CLIP)
    task.compile(optimizer=optimizer, jit_compile=xla)
    room = ((0, 0), (0, model.config.num_queries - BOXES))  # as the task's own batches are padded
    y = {"boxes": np.pad(boxes, (*room, (0, 0))), "labels": np.pad(labels, room)}
    y["valid"] = np.pad(np.ones(labels.shape, bool), room)
    return lambda: task.train_on_batch(x, y)


def kzoo_forward(work, backend="tensorflow", xla=False, policy="float32"):
    """One compiled forward pass."""
    model, x = network(work, backend, policy)
    if backend == "jax":
        import jax

        values = [[w.value for w in weights] for weights in (model.trainable_variables, model.non_trainable_variables)]
        function = jax.jit(lambda trained, other, x: model.stateless_call(trained, other, x, training=False)[0])
        return lambda: np.asarray(function(*values, x)["boxes"])
    import tensorflow as tf

    x = {name: tf.constant(value) for name, value in x.items()}
    forward = tf.function(lambda x: model(x, training=False), jit_compile=xla, autograph=False)
    return lambda: forward(x)["boxes"].numpy()


def kzoo_matching(work, xla=True):
    """The assignment of all layers and pictures of a batch, of a detector's costs."""
    import tensorflow as tf

    from benchmarks.match import problems
    from kzoo.ops.matching import linear_sum_assignment
    from kzoo.registry import config_of

    config = config_of(work.model)[1]
    shape = (work.batch * config.decoder_depth, config.num_queries, config.num_queries)
    cost = tf.constant(problems("detector", shape)[0])
    valid = tf.constant(np.broadcast_to(np.arange(shape[1]) < BOXES, shape[:2]))
    assign = tf.function(linear_sum_assignment, jit_compile=xla, autograph=False)
    return lambda: assign(cost, valid).numpy()


def reference(work):
    """(torch, its device, transformers' model of the same size, pictures (B, 3, H, W))."""
    torch = import_torch(work)
    from tests.torch_reference import import_timm

    transformers = import_timm("transformers")
    backbone = work.model.split("_")[1]
    told = transformers.DetrConfig(
        backbone=backbone,
        use_pretrained_backbone=False,
        dilation=work.model.endswith("_dc5"),
        num_labels=91,
        auxiliary_loss=True,
    )
    device = "cuda" if work.gpu else "cpu"
    model = transformers.DetrForObjectDetection(told).to(device)
    stem = 0
    for name, parameter in model.named_parameters():
        if "backbone" in name and name.rpartition("model.")[2].startswith(FROZEN):
            parameter.requires_grad_(False)
            stem += parameter.numel()
    if stem != 222_400:
        raise ValueError(f"{stem} frozen weights where the official code has 222,400: not the same work")
    return torch, device, model, torch.from_numpy(pictures(work)[0]).permute(0, 3, 1, 2).contiguous().to(device)


def transformers_step(work, compiled=False, autocast=False):
    """The step of transformers' model, whose losses are part of its call; its matching is SciPy's."""
    torch, device, model, images = reference(work)
    _, boxes, labels = pictures(work)
    told = [
        {"boxes": torch.from_numpy(b).to(device), "class_labels": torch.from_numpy(c).long().to(device)}
        for b, c in zip(boxes, labels, strict=True)
    ]
    forward = torch.compile(model.train()) if compiled else model.train()
    return torch_training(
        work,
        model,
        lambda: forward(pixel_values=images, labels=told).loss,
        lr=RATE,
        weight_decay=DECAY,
        autocast=autocast,
        clip=CLIP,
    )


def transformers_forward(work, compiled=False, autocast=False):
    """One forward pass under inference_mode."""
    torch, device, model, images = reference(work)
    model = torch.compile(model.eval()) if compiled else model.eval()

    def forward():
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=autocast):
            return model(pixel_values=images).pred_boxes.float().cpu().numpy()

    return forward


def zeromodels_forward(work, xla=False):
    """One compiled forward pass of ZeroModels' model, which takes no mask."""
    import tensorflow as tf
    from zeromodels.models.detr import DETRDetect

    backbone = work.model.split("_")[1].replace("resnet", "ResNet")
    model = DETRDetect(backbone_variant=backbone, image_size=(*work.image_size, 3))
    images = tf.constant(pictures(work)[0])
    forward = tf.function(lambda x: model(x, training=False), jit_compile=xla, autograph=False)
    return lambda: forward(images)["pred_boxes"].numpy()


_PEAKS = {
    "tensorflow_matmul_float32": partial(tensorflow_matmul, dtype="float32"),
    "torch_matmul_float32": partial(torch_matmul, dtype="float32"),
}
_GPU_PEAKS = {
    "jax_matmul_bfloat16": partial(jax_matmul, dtype="bfloat16"),
    "torch_matmul_bfloat16": partial(torch_matmul, dtype="bfloat16"),
}
_JAX = {"backend": "jax", "policy": "mixed_bfloat16"}
STEP = {
    "kzoo_xla": kzoo_step,
    "kzoo_graph": partial(kzoo_step, xla=False),
    "transformers_eager": transformers_step,
    "transformers_compiled": partial(transformers_step, compiled=True),
    "kzoo_matching_xla": kzoo_matching,
    "kzoo_matching_graph": partial(kzoo_matching, xla=False),
    **_PEAKS,
}
INFER = {
    "kzoo_graph": kzoo_forward,
    "kzoo_xla": partial(kzoo_forward, xla=True),
    "transformers_eager": transformers_forward,
    "transformers_compiled": partial(transformers_forward, compiled=True),
    "zeromodels_graph": zeromodels_forward,
    "zeromodels_xla": partial(zeromodels_forward, xla=True),
    **_PEAKS,
}
STEP_ON_GPU = {
    "kzoo_jax_bfloat16": partial(kzoo_step, **_JAX),
    "transformers_eager_bfloat16": partial(transformers_step, autocast=True),
    "transformers_compiled_bfloat16": partial(transformers_step, compiled=True, autocast=True),
    **_GPU_PEAKS,
}
INFER_ON_GPU = {
    "kzoo_jax_bfloat16": partial(kzoo_forward, **_JAX),
    "transformers_eager_bfloat16": partial(transformers_forward, autocast=True),
    "transformers_compiled_bfloat16": partial(transformers_forward, compiled=True, autocast=True),
    **_GPU_PEAKS,
}


def measure(setups, work, rounds, only=None, alone=False):
    """The figures of one comparison, as emit() prints them."""
    peers, absent = start(setups, work, only, alone)
    values = interleave(peers, rounds, warm_up=not alone)
    seconds, peaks = split_peaks(values, work)
    matching = {name: seconds.pop(name) for name in list(seconds) if "matching" in name}
    result = {"model": work.model, "batch": work.batch, "image_size": work.image_size, "rounds": rounds}
    result["images_per_second"] = {name: round(work.batch / median, 3) for name, median in medians(seconds).items()}
    result |= {"peak_gflops": peaks, "spread": spread(values), "absent": absent}
    ours = fastest(seconds, "kzoo", "bfloat16" if work.gpu else "float32")
    result["kzoo_faster"] = {
        theirs: quotient(seconds[theirs], seconds[ours]) for theirs in seconds if ours and not theirs.startswith("kzoo")
    }
    for name, series in matching.items():
        if step := seconds.get(name.replace("matching_", "")):
            result.setdefault("matching_share", {})[name] = quotient(series, step)
    return result


def main():
    options = parser(__doc__, rounds=5)
    options.add_argument("--model", default="detr_resnet50")
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--image-size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    options.add_argument("--infer", action="store_true", help="one forward pass instead of the step")
    options.add_argument(
        "--alone", action="store_true", help="a process for each turn: one network in memory at a time"
    )
    shared_options(options)
    options = options.parse_args()
    size = tuple(options.image_size)
    work = Work(options.model, "none", options.batch, size, options.matmul, options.omp_wait, options.gpu)
    tables = {False: (STEP, INFER), True: (STEP_ON_GPU, INFER_ON_GPU)}
    result = measure(tables[work.gpu][options.infer], work, options.rounds, options.only, options.alone)
    name = "detection_infer" if options.infer else "detection_step"
    name = name if work.model == "detr_resnet50" else f"{name}_{work.model}"
    emit(f"{name}_gpu" if work.gpu else name, result, options.save, gpu_name() if work.gpu else None)


if __name__ == "__main__":
    main()

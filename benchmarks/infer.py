"""Inference in images a second: kzoo on TensorFlow (graph and XLA) beside timm on torch (eager) and the machine's own matmul peak.

The best mode of each side is compared: eager torch is run with OpenMP threads that spin while they wait and with ones that sleep,
because spinning costs it a multiple as soon as anything else runs on the machine. Each peer is a process of its own; they take turns.
float32, batches ready in memory, every weight random. The peak is the faster of TensorFlow's and torch's large square matrix product
in the same run; a model's share of it is images/s * 2 * GMACs / peak.
"""

import os

from benchmarks.common import Peer, cores, emit, interleave, medians, parser, progress, spread


def kzoo_model(name, batch, xla):
    """One forward pass of a kzoo model as a compiled tf.function."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf

    import kzoo

    model = kzoo.get(name)
    images = tf.random.stateless_normal((batch, *model.input_shape[1:]), seed=(0, 0))
    forward = tf.function(lambda x: model(x, training=False), jit_compile=xla)
    return lambda: forward(images).numpy()


def timm_model(name, batch, wait_policy):
    """One eager forward pass of timm's model under inference_mode; wait_policy is OpenMP's, ACTIVE or PASSIVE."""
    os.environ["OMP_WAIT_POLICY"] = wait_policy
    import torch

    from tests.torch_reference import import_timm

    torch.set_num_threads(cores())  # its default counts physical cores, TensorFlow's all of them
    model = import_timm().create_model(name).eval()
    images = torch.randn(batch, *model.default_cfg["input_size"])

    def forward():
        with torch.inference_mode():
            return model(images).numpy()

    return forward


def tensorflow_matmul(size):
    """One float32 product of two (size, size) matrices."""
    import tensorflow as tf

    left, right = (tf.random.stateless_normal((size, size), seed=(0, seed)) for seed in range(2))
    return lambda: tf.linalg.matmul(left, right).numpy()


def torch_matmul(size):
    """One float32 product of two (size, size) matrices."""
    import torch

    torch.set_num_threads(cores())
    left, right = torch.randn(size, size), torch.randn(size, size)
    return lambda: (left @ right).numpy()


def start_peers(options):
    """The processes of one comparison, ready to take turns."""
    setups = {
        "kzoo_graph": (kzoo_model, options.model, options.batch, False),
        "kzoo_xla": (kzoo_model, options.model, options.batch, True),
        "timm_spinning": (timm_model, options.peer or options.model, options.batch, "ACTIVE"),
        "timm_sleeping": (timm_model, options.peer or options.model, options.batch, "PASSIVE"),
        "tensorflow_matmul": (tensorflow_matmul, options.matmul),
        "torch_matmul": (torch_matmul, options.matmul),
    }
    peers = {}
    for name, setup in setups.items():
        if options.peer == "none" and name.startswith("timm"):
            continue
        progress(f"preparing {name}")
        peers[name] = Peer(*setup)
    return peers


def measure(options):
    """The figures of one comparison, as emit() prints them."""
    values = interleave(start_peers(options), options.rounds)
    seconds = medians(values)
    peaks = {name: 2e-9 * options.matmul**3 / seconds.pop(name) for name in ("tensorflow_matmul", "torch_matmul")}
    rates = {name: options.batch / value for name, value in seconds.items()}
    best = {side: max((rate for name, rate in rates.items() if name.startswith(side)), default=None) for side in ("kzoo", "timm")}

    import kzoo  # only now: the parent has no framework while its peers are timed

    gmacs = kzoo.info(options.model).gmacs
    return {
        "model": options.model,
        "batch": options.batch,
        "rounds": options.rounds,
        "gmacs": round(gmacs, 4),
        "images_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "peak_gflops": {name: round(peak, 1) for name, peak in peaks.items()},
        "share_of_peak": {name: round(rate * 2 * gmacs / max(peaks.values()), 3) for name, rate in rates.items()},
        "kzoo_to_timm": round(best["kzoo"] / best["timm"], 2) if best["timm"] else None,
        "spread": spread(values),
    }


def main():
    options = parser(__doc__, rounds=15)
    options.add_argument("--model", default="vit_base_patch16_224")
    options.add_argument("--peer", help="timm's name of the model (default: the same); 'none' leaves timm out")
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--matmul", type=int, default=4096, help="side of the matrices that measure the peak")
    options = options.parse_args()
    emit("infer", measure(options), options.save)


if __name__ == "__main__":
    main()

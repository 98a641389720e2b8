"""Exported artifacts: milliseconds of one picture, size, operations and verified difference, beside timm's and
KerasHub's.

Each artifact is written by its library in one process and timed in another that holds nothing but the format's runtime;
they take turns. kzoo's take uint8 pictures and hold their preprocessing; the others take normalised float32. timm goes
through torch.onnx, KerasHub through Keras' own `model.export`. What a library cannot write, or its runtime cannot read,
is left out with the reason.
"""

import multiprocessing
import os
import pathlib
import tempfile
from functools import partial

import numpy as np

from benchmarks.common import ON_CPU, Peer, cores, emit, interleave, medians, parser, progress, quotient, spread
from benchmarks.networks import keras_network, torch_network
from benchmarks.peers import Work, lacks, library_of

SUFFIX = {"onnx": "model.onnx", "litert": "model.tflite", "saved_model": "1"}


def write_kzoo(folder, work, format, quantize=None):
    """kzoo.export; the difference is the one on its card."""
    import keras

    import kzoo

    model = kzoo.get(work.model, **work.overrides)
    head = model.layers[-1].kernel  # starts as zeros, which would agree with anything
    head.assign(keras.random.normal(head.shape, stddev=0.02, seed=0))
    card = kzoo.export(model, folder, format=format, quantize=quantize)
    return max(record["max_abs_difference"] for record in card["verified"])


def write_timm(folder, work, format):
    """torch.onnx's tracing exporter, with as many fused operators as its newest usual opset has."""
    import torch

    model, images, _ = torch_network(work)
    model.eval()
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_axes": {"images": {0: "batch"}}}
    torch.onnx.export(model, (images,), folder / SUFFIX[format], dynamo=False, opset_version=17, **names)
    with torch.inference_mode():
        expected = model(images).numpy()
    return float(np.abs(runner(folder, format, images.numpy())() - expected).max())


def write_keras_hub(folder, work, format):
    """`model.export` of KerasHub's classifier."""
    model, images = keras_network("keras_hub", work, "tensorflow", "float32")
    expected = model.predict_on_batch(images)
    model.export(folder / SUFFIX[format], format={"saved_model": "tf_saved_model"}.get(format, format), verbose=False)
    return float(np.abs(runner(folder, format, images.numpy())() - expected).max())


def runner(folder, format, images=None, side=None):
    """A callable that runs the artifact on `images` and returns its logits.

    By default a black picture of the type and shape that it takes, of `side` pixels where that is open.
    """
    path = str(folder / SUFFIX[format])
    if format == "saved_model":
        return _run_saved_model(path, images, side)
    return {"onnx": _run_onnx, "litert": _run_litert}[format](path, images)


def _run_onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    kind = np.uint8 if given.type == "tensor(uint8)" else np.float32
    images = np.zeros((1, *given.shape[1:]), kind) if images is None else images
    names = [output.name for output in session.get_outputs()]
    wanted = "logits" if "logits" in names else names[0]
    return lambda: session.run([wanted], {given.name: images})[0]


def _run_litert(path, images):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(path, num_threads=cores()).get_signature_runner("serving_default")
    ((name, given),) = run.get_input_details().items()
    images = np.zeros((1, *given["shape"][1:]), given["dtype"]) if images is None else images
    wanted = "logits" if "logits" in run.get_output_details() else next(iter(run.get_output_details()))
    return lambda: run(**{name: images})[wanted]


def _run_saved_model(path, images, side):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    ((name, given),) = serve.structured_input_signature[1].items()
    shape = [1, *(length or side for length in given.shape[1:])]
    images = tf.zeros(shape, given.dtype) if images is None else tf.constant(images)
    wanted = "logits" if "logits" in serve.structured_outputs else next(iter(serve.structured_outputs))
    # the signature does not keep its variables alive
    return lambda loaded=loaded: serve(**{name: images})[wanted].numpy()


ARTIFACTS = {  # name: (format, its writer)
    "kzoo_saved_model": ("saved_model", write_kzoo),
    "kzoo_saved_model_bfloat16": ("saved_model", partial(write_kzoo, quantize="bfloat16")),
    "kzoo_onnx": ("onnx", write_kzoo),
    "kzoo_litert": ("litert", write_kzoo),
    "kzoo_litert_dynamic": ("litert", partial(write_kzoo, quantize="dynamic")),
    "timm_onnx": ("onnx", write_timm),
    "keras_hub_saved_model": ("saved_model", write_keras_hub),
    "keras_hub_onnx": ("onnx", write_keras_hub),
    "keras_hub_litert": ("litert", write_keras_hub),
}
COMPARED = (
    ("kzoo_onnx", "timm_onnx"),
    *((f"kzoo_{format}", f"keras_hub_{format}") for format in ("saved_model", "onnx", "litert")),
)


def write(name, folder, work):
    """Writes an artifact in a process of its own: {"bytes", "operations", "max_abs_difference"}. Raises what its writer
    raised.
    """
    format, writer = ARTIFACTS[name]
    folder.mkdir()
    with multiprocessing.get_context("spawn").Pool(1, _on_cpu) as pool:
        difference = pool.apply(writer, (folder, work, format))
        operations = pool.apply(_operations, (folder, format))
    files = [folder / SUFFIX[format], *(folder / SUFFIX[format]).rglob("*")]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return {"bytes": size, "operations": operations, "max_abs_difference": difference}


def _on_cpu():
    os.environ.update(ON_CPU)
    os.dup2(2, 1)  # what a library prints is not the result


def _operations(folder, format):
    """How many operators a one-file artifact runs; None for a SavedModel, whose graph is optimised only when it is
    run.
    """
    if format == "onnx":
        import onnx

        return len(onnx.load(folder / SUFFIX[format]).graph.node)
    if format == "litert":
        from ai_edge_litert.interpreter import Interpreter

        return len(Interpreter(str(folder / SUFFIX[format]))._get_ops_details())
    return None


def measure(work, side, rounds, only, home):
    """The figures of one comparison, as emit() prints them; `home` is a folder for the artifacts."""
    facts, absent, peers = {}, {}, {}
    for name, (format, _) in ARTIFACTS.items():
        reason = "not asked for" if only and name not in only else lacks(library_of(name), work)
        if not reason:
            progress(f"writing {name}")
            try:
                facts[name] = write(name, home / name, work)
            except Exception as error:  # that another library cannot is a result
                if name.startswith("kzoo"):
                    raise
                reason = f"{type(error).__name__}: {str(error).splitlines()[0].replace(str(home), '')[:200]}"
        if reason:
            absent[name] = reason
        else:
            peers[name] = Peer(runner, home / name, format, None, side)
    seconds = interleave(peers, rounds)
    return {
        "model": work.model,
        "rounds": rounds,
        "milliseconds": {name: round(1000 * value, 2) for name, value in medians(seconds).items()},
        "artifacts": facts,
        "kzoo_faster": {
            f"{a} to {b}": quotient(seconds[b], seconds[a]) for a, b in COMPARED if a in seconds and b in seconds
        },
        "spread": spread(seconds),
        "absent": absent,
    }


def main():
    options = parser(__doc__, rounds=15)
    options.add_argument("--model", default="vit_small_patch16_224")
    options.add_argument("--timm", help="timm's name of the model (default: the same); 'none' leaves timm out")
    options.add_argument("--only", nargs="+", metavar="ARTIFACT", help="these alone")
    options = options.parse_args()
    import kzoo

    side = kzoo.info(options.model).image_size[0]
    work = Work(options.model, options.timm or options.model, 1, None, 0, "PASSIVE", False)
    with tempfile.TemporaryDirectory() as home:
        result = measure(work, side, options.rounds, options.only, pathlib.Path(home))
    emit("export", result, options.save)


if __name__ == "__main__":
    main()

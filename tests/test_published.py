"""The benchmark of a trained file: an ONNX graph's tensors under transformers' names, and what is told of the result."""

import keras
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

import kzoo
from benchmarks import parity, published
from benchmarks.readme import ROWS
from kzoo import probing
from kzoo.data.sources import open_source

WIDTH, HIDDEN, CELLS = 4, 6, 4
SHAPES = {
    "embeddings.cls_token": (1, 1, WIDTH),
    "embeddings.position_embeddings": (1, 1 + CELLS, WIDTH),
    "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, 2, 2),
    "embeddings.patch_embeddings.projection.bias": (WIDTH,),
    "encoder.layer.0.mlp.fc1.weight": (HIDDEN, WIDTH),
    "encoder.layer.0.mlp.fc1.bias": (HIDDEN,),
    "encoder.layer.0.mlp.fc2.weight": (WIDTH, HIDDEN),
    "encoder.layer.0.mlp.fc2.bias": (WIDTH,),
    "layernorm.weight": (WIDTH,),
    "layernorm.bias": (WIDTH,),
}
FOLDED = {"embeddings.position_embeddings", "encoder.layer.0.mlp.fc1.weight", "encoder.layer.0.mlp.fc2.weight"}


@pytest.fixture
def tensors():
    """What the graph is made of, as torch arranges it."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype("float32") for name, shape in SHAPES.items()}


def onnx_model(tensors):
    """The model as torch's exporter leaves one: folded constants without a name of their own, a decoder behind it."""
    fc1, fc2, norm = "encoder.layer.0.mlp.fc1", "encoder.layer.0.mlp.fc2", "layernorm"
    projection, positions = "embeddings.patch_embeddings.projection", tensors["embeddings.position_embeddings"]
    given = {f"backbone.{name}": tensor for name, tensor in tensors.items() if name not in FOLDED}
    given |= {"onnx::MatMul_7": tensors[f"{fc1}.weight"].T, "onnx::MatMul_8": tensors[f"{fc2}.weight"].T}
    given |= {"onnx::Concat_1": positions[:, :1], "onnx::Reshape_2": positions[:, 1:]}
    given |= {"onnx::MatMul_9": np.ones((WIDTH, 2), "float32"), "decoder.bias": np.ones(2, "float32")}
    given |= {"row": np.array([1, WIDTH, -1]), "grid": np.array([1, CELLS, WIDTH])}
    nodes = [
        (
            "Conv",
            ["images", f"backbone.{projection}.weight", f"backbone.{projection}.bias"],
            "map",
            {"strides": [2, 2]},
        ),
        ("Reshape", ["map", "row"], "rows", {}),
        ("Transpose", ["rows"], "patches", {"perm": [0, 2, 1]}),
        ("Concat", ["backbone.embeddings.cls_token", "patches"], "tokens", {"axis": 1}),
        ("Reshape", ["onnx::Reshape_2", "grid"], "cells", {}),
        ("Concat", ["onnx::Concat_1", "cells"], "table", {"axis": 1}),
        ("Add", ["tokens", "table"], "placed", {}),
        ("MatMul", ["placed", "onnx::MatMul_7"], "h", {}),
        ("Add", [f"backbone.{fc1}.bias", "h"], "hidden", {}),
        ("MatMul", ["hidden", "onnx::MatMul_8"], "y", {}),
        ("Add", ["y", f"backbone.{fc2}.bias"], "mixed", {}),
        ("LayerNormalization", ["mixed", f"backbone.{norm}.weight", f"backbone.{norm}.bias"], "normed", {}),
        ("MatMul", ["normed", "onnx::MatMul_9"], "d", {}),
        ("Add", ["decoder.bias", "d"], "focus", {}),
    ]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [output], **options) for op, inputs, output, options in nodes],
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("focus", TensorProto.FLOAT, [1, 1 + CELLS, 2])],
        [numpy_helper.from_array(np.ascontiguousarray(tensor), name) for name, tensor in given.items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def test_a_graphs_tensors_get_their_names_and_arrangement_back(tensors):
    found = published.tensors_of(onnx_model(tensors).graph)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


def test_a_graph_of_another_structure_is_refused(tensors):
    model = onnx_model(tensors)
    model.graph.node[7].op_type = "Gemm"
    with pytest.raises(ValueError, match="no MatMul stands before the Add of encoder.layer.0.mlp.fc1.bias"):
        published.tensors_of(model.graph)
    model = onnx_model(tensors)
    model.graph.node[4].op_type = "Identity"
    with pytest.raises(ValueError, match=r"0 tensors \(1, N, 4\) enter a Reshape"):
        published.tensors_of(model.graph)


def test_the_tokens_inside_the_graph_are_those_of_the_formula(tensors):
    images = np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype("float32")
    t = {name: np.float64(tensor) for name, tensor in tensors.items()}
    cells = images.reshape(2, 2, 2, 2, 2, 3).transpose(0, 1, 3, 5, 2, 4).reshape(2, CELLS, 12)
    patches = cells @ t["embeddings.patch_embeddings.projection.weight"].reshape(WIDTH, 12).T
    patches += t["embeddings.patch_embeddings.projection.bias"]
    x = np.concatenate([np.repeat(t["embeddings.cls_token"], 2, axis=0), patches], axis=1)
    x += t["embeddings.position_embeddings"]
    for layer in ("fc1", "fc2"):
        x = x @ t[f"encoder.layer.0.mlp.{layer}.weight"].T + t[f"encoder.layer.0.mlp.{layer}.bias"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    wanted = x * t["layernorm.weight"] + t["layernorm.bias"]
    np.testing.assert_allclose(published.tokens_of(onnx_model(tensors), images), wanted, atol=1e-5)


PROBE = {"weights": "trained", "positions": "so", "knn_accuracy": 0.875, "linear_accuracy": 0.9125, "seconds": 1.0}
RESULT = {
    "package": "a==1",
    "file": "b.onnx",
    "sha256": "0123456789abcdef",
    "model": "vit_dino_toy",
    "tensors": 12,
    "agreement": {
        "image_size": 32,
        "pictures": 2,
        "transformers": {"result": 1.5e-6, "blocks": 2.5e-6},
        "onnxruntime": {"tokens": 3.5e-6},
    },
    "probes": {
        "image_size": 16,
        "data": "digits",
        "training": 100,
        "test": 2500,
        "seed": 0,
        "k": 20,
        "temperature": 0.07,
        "to_transformers": {"trained": 0.25, "trained_transformers_positions": 4.5e-6},
        "cases": {"trained": PROBE, "random": PROBE | {"weights": "random", "knn_accuracy": 0.25}},
    },
    "date": "2026-01-01 00:00",
    "cpu": "this",
    "cores": 2,
}


def test_a_result_is_told_with_its_figures_and_none_is_said_to_be_none():
    text = parity.trained(RESULT)
    for figure in (
        "1.5e-06 of the class token",
        "2.5e-06 of any",
        "3.5e-06 of all",
        "transformers' by 2.5e-01",
        "1.0 points",
    ):
        assert figure in text.replace("\n", " ")
    assert "| trained | so | 87.5 | 91.2 |" in text and "| random | so | 25.0 | 91.2 |" in text
    assert parity.trained(None) == "**No published file was tried.**"
    row = ROWS["published"](RESULT)
    assert "within 2.5e-06" in row and "k-NN 87.5 %" in row and "(random weights: k-NN 25.0 %" in row


def test_parity_tells_the_saved_result():
    text = (parity.RESULTS / "parity.md").read_text()
    assert parity.retold(text) == text, "run python -m benchmarks.published"


@pytest.mark.slow
def test_positions_as_transformers_resizes_them_give_its_features_at_another_size(tmp_path):
    """Through the whole of the benchmark but its file and its sizes."""
    from benchmarks.references import REFERENCES

    toy = {"num_classes": 0, "reg_tokens": 0, "no_embed_class": False, "patch_size": 4}
    theirs = REFERENCES["hf_dinov2"]("vit_dino_toy", toy, seed=1).write(tmp_path / "theirs")
    given = load_file(theirs / "model.safetensors")
    del given["embeddings.mask_token"]
    file, reference = published.published(given, tmp_path / "large", "vit_dino_toy", toy)
    resized = published.without_antialiasing(reference, 16)
    small = published.write(given | {published.POSITIONS: resized}, tmp_path / "small" / "model.safetensors")
    ours, same = (kzoo.get("vit_dino_toy", weights=path, **toy | {"image_size": 16}) for path in (file, small))
    pictures = published.photographs(ours)
    assert pictures.shape == (2, 16, 16, 3)
    wanted = reference.outputs(pictures)[-1]
    far, near = (parity.difference(keras.ops.convert_to_numpy(model(pictures)), wanted) for model in (ours, same))
    assert near < 1e-5 and far > 1e-3


@pytest.mark.slow
def test_the_features_computed_once_give_both_probes(monkeypatch):
    monkeypatch.setattr(probing, "EPOCHS", 2)
    monkeypatch.setattr(probing, "STEPS", 20)
    keras.utils.set_random_seed(0)
    model = kzoo.get("vit_dino_toy", image_size=8, patch_size=4, init_values=1.0)
    sources = [open_source("digits", split) for split in ("train", "test")]
    told = published.probed(model, sources)
    for kind in ("knn", "linear"):
        assert (
            told[f"{kind}_accuracy"] == probing.probe_model(model, kind, *sources)[f"{kind}_accuracy"] > 0.15
        )  # chance 0.1

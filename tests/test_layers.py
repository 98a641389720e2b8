"""The layers that families share, against torch and formulas of their own."""

import importlib
import pkgutil

import keras
import numpy as np
import pytest
from keras.src.testing import TestCase

import kzoo
import kzoo.layers
import kzoo.models
from kzoo.checking import randomise
from kzoo.layers.base import parts_config, set_parts
from kzoo.layers.embed import ConvStem, LearnedTokens, PatchEmbed
from kzoo.layers.transformer import Attention, AttentionPool, DropPath, TransformerBlock
from kzoo.models.count import macs
from kzoo.training.optimizer import freeze
from tests.equality import XLA, assert_trained_alike, with_and_without
from tests.torch_reference import import_timm


def test_the_convolutional_stem_is_what_torch_computes():
    import torch
    from torch.nn import functional as F

    layer = ConvStem(4, 16)
    images = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype("float32")
    ours = np.asarray(layer(images))
    x = torch.from_numpy(images.transpose(0, 3, 1, 2))
    for conv, norm in zip(layer.convs, layer.norms, strict=True):
        kernel, bias = (torch.from_numpy(np.asarray(w)) for w in conv.weights)
        x = F.conv2d(F.pad(x, (0, 1, 0, 1)), kernel.permute(3, 2, 0, 1), bias, stride=2)
        x = F.relu(F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), eps=norm.epsilon)).permute(0, 3, 1, 2)
    kernel, bias = (torch.from_numpy(np.asarray(w)) for w in layer.proj.weights)
    theirs = F.conv2d(x, kernel.permute(3, 2, 0, 1), bias).flatten(2).transpose(1, 2).numpy()
    assert ours.shape == (2, 6, 16)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_convolutional_stem_saves_and_counts(tmp_path):
    model = kzoo.get("vit_toy", stem="conv", num_classes=3)
    model.save(tmp_path / "m.keras")
    again = kzoo.load(tmp_path / "m.keras")
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(again(images), model(images))
    stem = 16 * 16 * 27 * 8 + 8 * 8 * 9 * 8 * 16 + 4 * 4 * 9 * 16 * 32 + 4 * 4 * 32 * 32
    patches = 4 * 4 * 192 * 32
    assert macs(model) - macs(kzoo.get("vit_toy", num_classes=3)) == stem - patches


def test_stochastic_depth_drops_whole_branches_and_keeps_the_mean():
    layer = DropPath(0.25, seed=3)
    out = np.asarray(layer(np.ones((4000, 3, 2), "float32"), training=True))
    per_sample = out.reshape(4000, -1)
    assert (per_sample == per_sample[:, :1]).all()
    assert set(np.unique(per_sample.round(5))) == {0.0, np.float32(4 / 3).round(5)}
    assert abs((per_sample[:, 0] == 0).mean() - 0.25) < 0.03
    np.testing.assert_array_equal(layer(np.ones((2, 3), "float32"), training=False), 1)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomised(layer, shape):
    layer.build((None, *shape))
    for seed, weight in enumerate(layer.weights):
        weight.assign(0.2 * normal(weight.shape, seed) + (weight.name == "gamma"))
    return layer


@pytest.mark.parametrize(("patch", "stride", "size"), [(8, 4, (20, 32)), (6, 5, (23, 18)), (64, None, (130, 64))])
def test_overlapping_and_large_patches_are_torchs_convolution(patch, stride, size):
    import torch

    layer = randomised(PatchEmbed(patch, 16, stride), (*size, 3))
    images = normal((2, *size, 3))
    kernel, bias = (torch.from_numpy(np.asarray(w)) for w in layer.proj.weights)
    theirs = torch.nn.functional.conv2d(
        torch.from_numpy(images.transpose(0, 3, 1, 2)), kernel.permute(3, 2, 0, 1), bias, stride=stride or patch
    )
    np.testing.assert_allclose(np.asarray(layer(images)), theirs.flatten(2).transpose(1, 2).numpy(), atol=1e-4)
    model = kzoo.get("vit_toy", image_size=size, patch_size=patch, stride=stride, features_only=True)
    assert model.output[-1].shape == (None, *theirs.shape[2:], 32)


def test_attention_of_any_head_width_is_timms():
    import_timm()
    import torch
    from timm.layers import Attention as Theirs

    ours = randomised(Attention(12, 3, head_dim=8, qk_norm=True), (5, 12))
    theirs = Theirs(12, 3, attn_head_dim=8, qkv_bias=True, qk_norm=True, norm_layer=torch.nn.LayerNorm).eval()
    for part, norm in zip(ours.norms, (theirs.q_norm, theirs.k_norm), strict=True):
        norm.eps = part.epsilon
    values = [np.asarray(w) for w in ours.weights]
    names = [
        "qkv.weight",
        "qkv.bias",
        "q_norm.weight",
        "q_norm.bias",
        "k_norm.weight",
        "k_norm.bias",
        "proj.weight",
        "proj.bias",
    ]
    values = {w.path: np.asarray(w) for w in ours.weights}
    order = [
        "qkv/kernel",
        "qkv/bias",
        "q_norm/gamma",
        "q_norm/beta",
        "k_norm/gamma",
        "k_norm/beta",
        "proj/kernel",
        "proj/bias",
    ]
    state = {
        name: next(v for p, v in values.items() if p.endswith(path)).T for name, path in zip(names, order, strict=True)
    }
    theirs.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in state.items()})
    x = normal((2, 5, 12))
    np.testing.assert_allclose(np.asarray(ours(x)), theirs(torch.from_numpy(x)).detach().numpy(), atol=1e-5)
    assert ours.macs((None, 5, 12)) == 2 * 5 * 5 * 24


@pytest.mark.backends
def test_the_weights_of_attention_are_those_it_uses():
    """`attend` gives the output of the call, and weights that give that output from the values."""
    x = normal((2, 5, 12))
    layer = randomised(Attention(12, 3), (5, 12))
    output, weights = (keras.ops.convert_to_numpy(y) for y in layer.attend(x))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x)), output, atol=1e-5)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    kernel, bias = (keras.ops.convert_to_numpy(w).astype("float64") for w in layer.qkv.weights)
    q, k, v = (x @ kernel + bias).reshape(2, 5, 3, 3, 4).transpose(2, 0, 3, 1, 4)
    scores = np.exp(q @ k.transpose(0, 1, 3, 2) / 2)
    np.testing.assert_allclose(weights, scores / scores.sum(-1, keepdims=True), atol=1e-5)
    kernel, bias = (keras.ops.convert_to_numpy(w) for w in layer.proj.weights)
    np.testing.assert_allclose((weights @ v).transpose(0, 2, 1, 3).reshape(2, 5, 12) @ kernel + bias, output, atol=1e-5)


@pytest.mark.backends
def test_attention_in_sixteen_bits_is_near_that_in_thirty_two(monkeypatch):
    """And asks JAX and torch for their fused attention, unless dropout acts on the weights."""
    calls, fused = [], keras.ops.dot_product_attention
    monkeypatch.setattr(keras.ops, "dot_product_attention", lambda *qkv: calls.append(qkv) or fused(*qkv))
    x = normal((2, 5, 12))
    layers = [
        randomised(Attention(12, 3, attn_drop_rate=0.1, dtype=dtype), (5, 12))
        for dtype in ("float32", "mixed_bfloat16")
    ]
    exact, near = (keras.ops.convert_to_numpy(keras.ops.cast(layer(x), "float32")) for layer in layers)
    np.testing.assert_allclose(near, exact, atol=0.03)
    layers[1](x, training=True)
    assert len(calls) == (keras.backend.backend() != "tensorflow")


def test_attention_pooling_weighs_the_tokens():
    layer = randomised(AttentionPool(12, 3), (5, 12))
    output, weights = layer.attend(normal((2, 5, 12)))
    assert output.shape == (2, 12) and weights.shape == (2, 3, 1, 5)
    np.testing.assert_allclose(np.asarray(weights).sum(-1), 1, atol=1e-5)
    products = sum(
        w.shape[0] * w.shape[1] for w in (layer.q.kernel, layer.proj.kernel, layer.mlp.fc1.kernel, layer.mlp.fc2.kernel)
    )
    model = keras.Sequential([keras.Input((5, 12)), layer])
    assert macs(model) == products + 5 * 12 * 24 + 2 * 5 * 12


def test_several_learned_tokens_come_first_and_differ():
    layer = LearnedTokens(3, stddev=1e-6)
    out = np.asarray(layer(np.ones((2, 4, 8), "float32")))
    np.testing.assert_array_equal(out[:, 3:], 1)
    np.testing.assert_array_equal(out[0], out[1])
    assert len({tuple(token) for token in out[0, :3]}) == 3 and np.abs(out[:, :3]).max() < 1e-5


@pytest.mark.slow
@pytest.mark.backends
@pytest.mark.parametrize("xla", XLA)
def test_recomputing_blocks_changes_no_gradient(xla, monkeypatch):
    """Two steps of plain gradient descent, all dropout active, end in the same weights with and without."""
    calls, remat = [], keras.remat
    monkeypatch.setattr(keras, "remat", lambda function: calls.append(function) or remat(function))
    x, y, tokens = normal((4, 5, 8)), normal((4, 5, 8), 1), keras.Input((5, 8))
    rates = {"proj_drop_rate": 0.2, "attn_drop_rate": 0.2, "drop_path_rate": 0.5}
    models = with_and_without(
        lambda on: keras.Model(tokens, TransformerBlock(8, 2, init_values=0.5, remat=on, **rates)(tokens))
    )
    assert_trained_alike(models, x, y, xla)
    traced = len(calls)
    models[1](x)
    assert traced >= 1 and len(calls) == traced  # in training alone


# A case for every layer class of kzoo: its arguments and the shape of an input, or of several by name, those of whole
# numbers called ids, of truth values padded; `part` is one that can be frozen for itself.
CASES = {
    "AsMap": ({}, {"cells_shape": (2, 6, 8), "features_shape": (2, 2, 3, 4)}, None),
    "Attention": ({"dim": 12, "num_heads": 3, "qk_norm": True, "attn_drop_rate": 0.1}, (2, 5, 12), "proj"),
    "AttentionPool": ({"dim": 12, "num_heads": 3}, (2, 5, 12), "mlp"),
    "Backbone": ({"network": "resnet_toy", "options": {"depths": (1,)}, "indices": (0,)}, (2, 32, 32, 3), "backbone/stem"),
    "BatchNorm": ({"epsilon": 1e-5}, (2, 4, 4, 8), "gamma"),
    "BoxHead": ({"dim": 8}, (2, 3, 8), "layers_1"),
    "Conv": ({"filters": 4, "kernel_size": 3, "stride": 2, "weight_std": "timm"}, (2, 5, 5, 3), "kernel"),
    "ConvStem": ({"patch_size": 4, "dim": 16}, (2, 8, 8, 3), "norm_1/beta"),
    "DetrDecoderBlock": (
        {"dim": 8, "num_heads": 2, "mlp_dim": 12, "drop_rate": 0.1},
        {"x_shape": (2, 3, 8), "places_shape": (2, 3, 8), "cells_shape": (2, 5, 8), "positions_shape": (2, 5, 8), "padded_shape": (2, 5)},
        "cross_attn/k/bias",
    ),
    "Downsample": ({"in_dim": 4, "dim": 8, "stride": 2, "init": "fan_out"}, (2, 5, 5, 4), "expand/bias"),
    "DropPath": ({"rate": 0.2}, (2, 5, 4), None),
    "FeedForward": ({"dim": 8, "hidden_dim": 16, "drop_rate": 0.1}, (2, 5, 8), "fc2"),
    "FitPadding": ({}, {"padded_shape": (2, 9, 7), "features_shape": (2, 3, 2, 4)}, None),
    "FrozenBatchNorm": ({}, (2, 4, 4, 8), None),
    "GroupNorm": ({"groups": 4}, (2, 4, 4, 8), "beta"),
    "HidePatches": ({"seen": 2}, {"x_shape": (2, 5, 8), "noise_shape": (2, 4)}, None),
    "HybridEmbed": (
        {"network": "resnet_toy", "options": {"depths": (1,)}, "index": 0, "patch_size": 2, "dim": 8}, (2, 32, 32, 3), "backbone/stem",
    ),
    "LayerScale": ({"init_value": 0.1}, (2, 5, 4), "gamma"),
    "LearnedQueries": ({"count": 3}, (2, 5, 4), "table"),
    "LearnedTokens": ({"count": 2}, (2, 5, 4), "token"),
    "ClassToken": ({}, (2, 5, 4), "token"),
    "MBConv": ({"in_dim": 8, "dim": 16, "stride": 2, "drop_path_rate": 0.1}, (2, 5, 5, 8), "norm2"),
    "MaxPool": ({}, (2, 5, 5, 4), None),
    "Mlp": ({"dim": 8, "hidden_dim": 16, "drop_rate": 0.1}, (2, 5, 8), "fc2"),
    "NormedConv": ({"dim": 8, "kernel_size": 4, "stride": 4}, (2, 7, 8, 3), "conv/bias"),
    "OffsetMlp": ({"map_size": (2, 3), "num_heads": 2, "hidden_dim": 8}, None, "fc1/kernel"),
    "OffsetTable": ({"map_size": (2, 3), "num_heads": 2}, None, "table"),
    "PatchEmbed": ({"patch_size": 4, "dim": 8}, (2, 8, 8, 3), "proj/kernel"),
    "PatchMerging": ({"dim": 4}, (2, 3, 4, 4), "reduction"),
    "PositionEmbedding": ({"grid_size": (2, 2), "prefix": 1}, (2, 5, 8), "table"),
    "PostNormBlock": (
        {"dim": 8, "num_heads": 2, "mlp_dim": 12, "drop_rate": 0.1},
        {"x_shape": (2, 5, 8), "positions_shape": (2, 5, 8), "padded_shape": (2, 5)}, "norm1/gamma",
    ),
    "QueryAttention": (
        {"dim": 8, "num_heads": 2, "drop_rate": 0.1},
        {"queries_shape": (2, 3, 8), "keys_shape": (2, 5, 8), "values_shape": (2, 5, 8)}, "proj",
    ),
    "RelativeAttention": ({"dim": 8, "num_heads": 2, "head_dim": 4, "map_size": (2, 3)}, (2, 6, 8), "rel_pos"),
    "RelativeBlock": ({"in_dim": 8, "dim": 16, "map_size": (2, 2), "head_dim": 8, "stride": 2, "mlp_dim": 8}, (2, 4, 4, 8), "attn/rel_pos"),
    "ResNetStem": ({"width": 8}, (2, 8, 8, 3), "norm"),
    "ResidualBlock": ({"width": 4, "stride": 2, "project": True}, (2, 8, 8, 8), "downsample_norm"),
    "RestorePatches": ({}, {"x_shape": (2, 3, 8), "ids_restore_shape": (2, 4)}, None),
    "SinePositions": ({"dim": 8}, {"padded_shape": (2, 3, 4)}, None),
    "SqueezeExcite": ({"dim": 8, "hidden_dim": 4}, (2, 4, 4, 8), "fc1"),
    "StripeAttention": ({"dim": 8, "num_heads": 2, "split_size": 2, "attn_drop_rate": 0.1}, (2, 3, 5, 8), "get_v_1"),
    "StripeBlock": ({"dim": 8, "num_heads": 2, "split_size": None, "mlp_ratio": 2.0}, (2, 3, 2, 8), "attn/get_v_0/bias"),
    "TransformerBlock": ({"dim": 8, "num_heads": 2, "init_values": 0.1, "drop_path_rate": 0.1}, (2, 5, 8), "attn/qkv/bias"),
    "TwoConvStem": ({"dims": (4, 8)}, (2, 8, 8, 3), "norm1"),
    "WindowAttention": ({"dim": 8, "num_heads": 2, "window_size": (2, 3), "attn_drop_rate": 0.1}, (4, 6, 8), "rel_pos"),
    "WindowBlock": (
        {"dim": 8, "num_heads": 2, "window_size": (2, 3), "shift_size": (1, 0), "pad_first": True}, (2, 5, 4, 8), "attn/rel_pos",
    ),
}  # fmt: skip
LAYERS = {
    name: kind
    for package in (kzoo.layers, kzoo.models)
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    for name, kind in vars(importlib.import_module(module.name)).items()
    if isinstance(kind, type) and issubclass(kind, keras.layers.Layer) and kind.__module__ == module.name
    if not issubclass(kind, keras.Model) and keras.saving.get_registered_name(kind) != name
}


def test_every_layer_class_has_a_case():
    assert set(LAYERS) == set(CASES)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_layer_passes_keras_own_test(name):
    """Building, symbolic and eager calls, two precisions; it rebuilds from its config, and so do its parts."""
    kind, (arguments, shape, _) = LAYERS[name], CASES[name]
    several = shape if isinstance(shape, dict) else {}
    types = {name: "int32" if name.startswith(("ids", "padded")) else "float32" for name in several} or None
    TestCase().run_layer_test(kind, arguments, input_shape=shape, input_dtype=types, run_training_check=False)
    layer = kind(**arguments, dtype=keras.DTypePolicy("mixed_bfloat16"))
    for part in layer._flatten_layers():
        twin = type(part).from_config(part.get_config())
        assert TestCase().run_class_serialization_test(twin).get_config() == part.get_config()
    layer.build(**several) if several else layer.build(shape)
    assert all(part.built for part in layer._flatten_layers())


def outputs(model, images):
    return keras.ops.convert_to_numpy(model(images))


def trained(model):
    return [weight.path for weight in model.trainable_weights]


def nested(model):
    again = keras.tree.map_structure(lambda x: keras.Input(x.shape[1:], dtype=x.dtype), model.input)
    return keras.Model(again, model(again))


def saved(model, folder, load=keras.models.load_model):
    model.save(folder / "m.keras")
    return load(folder / "m.keras")


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", [name for name, (_, shape, part) in CASES.items() if shape and part])
def test_what_is_frozen_of_a_layer_stays_frozen(name, whole, tmp_path):
    """A layer as a whole, or one part of it: saved, cloned, inside another model, or told so from the start."""
    kind, (arguments, shape, part) = LAYERS[name], CASES[name]
    several, layer = shape if isinstance(shape, dict) else {"images": shape}, kind(**arguments, name="layer")
    inputs = [keras.Input(s[1:], dtype="bool" if name.startswith("padded") else None) for name, s in several.items()]
    given = keras.tree.flatten(layer(*inputs))[0]
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(given))
    of_layer, before = f"layer/{'' if whole else part}", trained(model)
    set_parts(model, {"frozen": [of_layer.rstrip("/")]})
    expected = [path for path in before if not path.startswith(of_layer)]
    assert trained(model) == expected and len(expected) < len(before)
    outer = nested(model)
    for copy in (saved(model, tmp_path), saved(outer, tmp_path), keras.models.clone_model(model)):
        assert trained(copy) == expected
    if whole:
        still = kind(**arguments, trainable=False)
        still.build(**shape) if isinstance(shape, dict) else still.build(shape)
        assert not any(weight.trainable for weight in still.weights)


@pytest.mark.parametrize(
    "name", [pytest.param("vit_toy", marks=pytest.mark.backends), "coatnet_toy", "resnet_toy", "hybrid_toy"]
)
def test_what_is_frozen_of_a_model_stays_frozen(name, tmp_path):
    """Single weights of Keras' own layers too, and running statistics of norms without a weight left to train."""
    model = kzoo.get(name)
    freeze(model, ("^stem|^patch_embed", "^[^/]*block.*(norm|bias)", "^head/bias"))
    expected, outer = trained(model), nested(model)
    assert 0 < len(expected) < len(model.weights) / 2
    for copy in (saved(model, tmp_path, kzoo.load), saved(outer, tmp_path)):
        assert trained(copy) == expected
        norms = [
            {layer.path: layer.trainable for layer in m._flatten_layers() if "norm" in layer.name}
            for m in (copy, model)
        ]
        assert norms[0] == norms[1] and norms[0][next(path for path in norms[0] if "block" in path)] is False
    with pytest.raises(kzoo.UserError, match="no part 'blocks_9/attn'"):
        set_parts(model, {"frozen": ["blocks_9/attn"]})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of each layer that holds nothing to quantise
@pytest.mark.parametrize("name", ["vit_toy", "coatnet_toy", "resnet_toy", "swin_toy"])
def test_a_quantised_model_is_near_the_exact_one_and_survives_saving(name, tmp_path):
    model = randomise(kzoo.get(name))
    images = normal((2, *model.input_shape[1:]))
    exact = outputs(model, images)
    denses = sum(type(layer) is keras.layers.Dense for layer in model._flatten_layers())
    model.quantize("int8")
    near = outputs(model, images)
    assert len(parts_config(model)["quantized"]) == denses
    assert 0 < np.abs(near - exact).max() < 0.05 * np.abs(exact).max()
    first = saved(model, tmp_path, kzoo.load)
    copies = [saved(nested(first), tmp_path), keras.models.clone_model(first)]
    copies[-1].set_weights(model.get_weights())
    for copy in copies:
        np.testing.assert_array_equal(outputs(copy, images), near)

"""The CSWin family: numbers that the official code gave for a tiny model, and its formulas in float64, block by block."""

import functools
import pathlib
import zlib

import keras
import numpy as np
import pytest
from scipy.special import erf

import kzoo
from benchmarks.parity import difference
from kzoo import explain
from kzoo.checking import outputs_of, randomise
from kzoo.errors import UsageError
from kzoo.layers.stripes import StripeBlock
from kzoo.registry import config_of
from kzoo.training.optimizer import undecayed
from tests.equality import CLOSE, XLA, assert_trained_alike, with_and_without

# Outputs of https://github.com/microsoft/CSWin-Transformer at f111ae2, models/cswin.py, for the weights and the picture
# that `drawn` makes of names; "whole": with stripes of 4 cells in the third stage, whose map they cover.
OFFICIAL = np.load(pathlib.Path(__file__).parent / "goldens" / "cswin_official.npz")
TINY = {
    **{"image_size": 64, "embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (2, 2, 4, 4)},
    **{"split_size": (1, 2, 2, 2), "num_classes": 5},
}


def drawn(name, shape):
    """The weight of that name in the official code, away from constants: float64, the same in any version of NumPy."""
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return x * np.prod(shape[1:]) ** -0.5
    return x * 0.1 + (("norm" in name or name.startswith("stage1_conv_embed.2")) and name.endswith("weight"))


def official_file(path, whole=False, **told):
    """Writes a file as the official code's checkpoints are, with its names."""
    import torch

    shapes = {name: tuple(map(int, dims)) for name, *dims in (line.split() for line in OFFICIAL["names"])}
    state = {name: drawn(name, shape) for name, shape in shapes.items()}
    for block in ("stage3.0", "stage3.1") if whole else ():  # there, one convolution of all channels
        for leaf in ("weight", "bias"):
            first, second = (f"{block}.attns.{i}.get_v.{leaf}" for i in range(2))
            shape = (2 * shapes[first][0], *shapes[first][1:])
            state[first], state[second] = np.split(drawn(first, shape), 2)
    tensors = {name: torch.from_numpy(value.astype("float32")) for name, value in state.items()}
    worse = {name: tensor + 1 for name, tensor in tensors.items()}
    torch.save({"state_dict": worse, "state_dict_ema": {f"module.{n}": t for n, t in tensors.items()}} | told, path)
    return path


@pytest.mark.backends
@pytest.mark.parametrize("case", ["stripes", "whole"])
def test_the_official_code_gives_the_same_numbers(case, tmp_path):
    """From a file of its names, whose averaged weights are preferred. A map that is one stripe has one branch there."""
    overrides = TINY | ({"split_size": (1, 2, 4, 2)} if case == "whole" else {})
    file = official_file(tmp_path / "cswin.pth", case == "whole")
    model = kzoo.get("cswin_tiny_224", weights=file, **overrides)
    assert set(model.load_report.loaded) == {w.path for w in model.weights}
    assert model.load_report.part == "state_dict_ema" and model.count_params() == 418_005
    names = model.config.block_names()
    taps = keras.Model(model.input, [*(model.get_layer(name).output for name in names), model.output])
    images = np.random.RandomState(0).standard_normal((1, 64, 64, 3)).astype("float32")
    for name, ours in zip((*names, "result"), outputs_of(taps, images), strict=True):
        theirs = OFFICIAL[f"{case}/{name}"]
        assert difference(ours.reshape(theirs.shape), theirs) <= CLOSE, name


def test_what_is_saved_has_the_official_names(tmp_path):
    from safetensors.numpy import load_file

    model = kzoo.get("cswin_tiny_224", weights=official_file(tmp_path / "cswin.pth"), **TINY)
    kzoo.save_weights(model, tmp_path / "ours.safetensors", layout="official")
    written = load_file(tmp_path / "ours.safetensors")
    assert {f"{n} {' '.join(map(str, a.shape))}" for n, a in written.items()} == set(OFFICIAL["names"].tolist())
    for name, array in written.items():
        np.testing.assert_array_equal(array, drawn(name, array.shape).astype("float32"), err_msg=name)
    larger = kzoo.get("cswin_tiny_224", weights=tmp_path / "ours.safetensors", **TINY | {"image_size": (96, 72)})
    assert set(larger.load_report.loaded) == {w.path for w in larger.weights}


def norm(x, weights, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def dense(x, weights, name):
    return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def convolution(x, kernel, bias, stride, reach):
    """(H, W, C) by (k, k, C, D), tap by tap, with so many zeros around."""
    x, size = np.pad(x, ((reach, reach), (reach, reach), (0, 0))), kernel.shape[0]
    rows, columns = ((n - size) // stride + 1 for n in x.shape[:2])
    taps = [
        x[i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride] @ kernel[i, j]
        for i in range(size)
        for j in range(size)
    ]
    return sum(taps) + bias


def stripes(length, width):
    """The places of a side that each stripe holds, where those that lack are shared out at both ends."""
    lacking = -length % width
    first = -(lacking // 2)
    return [range(max(start, 0), min(start + width, length)) for start in range(first, length + lacking + first, width)]


def attended(x, weights, name, heads, width):
    """The attention of a map (H, W, C): within each stripe, head by head, among the cells that are there."""
    height, across, dim = x.shape
    q, k, v = np.split(dense(x, weights, f"{name}/qkv"), 3, axis=-1)
    everything = [(range(height), range(across))]
    upright = [(range(height), columns) for columns in stripes(across, width or 1)]
    level = [(rows, range(across)) for rows in stripes(height, width or 1)]
    branches = [everything] if width is None else [upright, level]
    y, size, share = np.empty_like(x), dim // heads, dim // len(branches)
    for branch, places in enumerate(branches):
        kernel, bias = (weights[f"{name}/get_v_{branch}/{leaf}"] for leaf in ("kernel", "bias"))
        mine = slice(branch * share, (branch + 1) * share)
        spread = np.zeros((3, 3, share, share))
        for c in range(share):
            spread[:, :, c, c] = kernel[:, :, c, 0]
        for rows, columns in places:
            cut = np.ix_(rows, columns)
            y[cut[0], cut[1], mine] = convolution(v[cut][..., mine], spread, bias, 1, 1)
            for first in range(branch * share, (branch + 1) * share, size):
                one = slice(first, first + size)
                a, b, c = (part[cut][..., one].reshape(-1, size) for part in (q, k, v))
                scores = np.exp(a @ b.T / np.sqrt(size))
                taken = scores / scores.sum(1, keepdims=True) @ c
                y[cut[0], cut[1], one] += taken.reshape(len(rows), len(columns), size)
    return dense(y, weights, f"{name}/proj")


def by_hand(weights, config, image):
    """{name of a block or "result": what it gives of one picture} in float64; weights {path: array}."""
    x, found = (
        norm(
            convolution(image, *(weights[f"patch_embed/conv/{leaf}"] for leaf in ("kernel", "bias")), 4, 2),
            weights,
            "patch_embed/norm",
        ),
        {},
    )
    stages = len(config.depths)
    for i, depth in enumerate(config.depths, 1):
        if i > 1:
            merge = f"merge{i - 1}"
            kernel, bias = weights[f"{merge}/conv/kernel"], weights[f"{merge}/conv/bias"]
            x = norm(convolution(x, kernel, bias, 2, 1), weights, f"{merge}/norm")
        for j in range(depth):
            name = f"stage{i}_blocks_{j}"
            width = None if i == stages else config.split_size[i - 1]
            x = x + attended(norm(x, weights, f"{name}/norm1"), weights, f"{name}/attn", config.num_heads[i - 1], width)
            hidden = dense(norm(x, weights, f"{name}/norm2"), weights, f"{name}/mlp/fc1")
            x = x + dense(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, weights, f"{name}/mlp/fc2")
            found[name] = x
    return found | {"result": dense(norm(x, weights, "norm").mean((0, 1)), weights, "head")}


@pytest.mark.backends
@pytest.mark.parametrize(
    ("size", "split"), [((64, 64), (1, 2, 4, 2)), ((52, 90), (3, 4, 3, 2))], ids=["square", "filled stripes"]
)
def test_every_block_is_the_papers_formula(size, split):
    model = randomise(kzoo.get("cswin_tiny_224", **TINY | {"image_size": size, "split_size": split}))
    config, names = model.config, model.config.block_names()
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    taps = keras.Model(model.input, [*(model.get_layer(name).output for name in names), model.output])
    ours = dict(zip((*names, "result"), outputs_of(taps, images), strict=True))
    weights = {w.path: keras.ops.convert_to_numpy(w).astype("float64") for w in model.weights}
    for index, image in enumerate(images.astype("float64")):
        for name, expected in by_hand(weights, config, image).items():
            assert difference(ours[name][index], expected) <= CLOSE, name


@pytest.mark.slow
@pytest.mark.backends
def test_open_sides_give_what_a_model_of_that_size_gives():
    row = TINY | {"features_only": True, "depths": (1, 1), "num_heads": (2, 2), "split_size": (3, 2)}
    opened = randomise(kzoo.get("cswin_tiny_224", **row, open_size=True))
    size = (41, 62)
    fixed = kzoo.get("cswin_tiny_224", **row | {"image_size": size})
    fixed.set_weights(opened.get_weights())
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    expected, call = outputs_of(fixed, images), functools.partial(outputs_of, opened)
    assert [m.shape[1:3] for m in expected] == [(10, 15), (5, 8)]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        call = tf.function(opened, input_signature=[tf.TensorSpec((None, None, None, 3))], jit_compile=True)
    for a, b in zip(call(images), expected, strict=True):
        assert difference(keras.ops.convert_to_numpy(a), b) <= CLOSE


def test_the_attention_shown_is_within_the_cross():
    """A point takes from its column's stripe by one half of the heads, from its row's by the other; all of it adds
    up.
    """
    model = randomise(kzoo.get("cswin_toy"))  # maps of 8 and 4 cells; stripes of 3
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    maps = kzoo.attention(model, images, stage=0, points=[(0.55, 0.2)])[:, 0, :, 0]  # row 4, column 1
    assert maps.shape == (2, 2, 8, 8)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, atol=1e-5)
    upright, level = maps[0] > 0
    assert upright[:, :3].all() and not upright[:, 3:].any()  # 8 of 9 columns: the zeros lie behind
    assert level[3:6].all() and not level[:3].any() and not level[6:].any()
    assert kzoo.attention(model, images).shape == (2, 1, 4, 4, 4)
    np.testing.assert_allclose(explain.rollout(model, images).sum(axis=(1, 2)), 1, atol=1e-5)


def test_decay_leaves_out_vectors_alone():
    model = kzoo.get("cswin_toy")
    assert {w.path for w in undecayed(model)} == {w.path for w in model.trainable_weights if len(w.shape) == 1}


@pytest.mark.slow
@pytest.mark.backends
def test_recomputing_blocks_changes_no_gradient():
    maps, rates = keras.Input((5, 4, 8)), {"proj_drop_rate": 0.2, "attn_drop_rate": 0.2, "drop_path_rate": 0.5}
    models = with_and_without(
        lambda remat: keras.Model(maps, StripeBlock(8, 2, 3, **rates, remat=remat, name="block")(maps))
    )
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(4, 5, 4, 8)).astype("float32") for _ in range(2))
    assert_trained_alike(models, x, y, XLA[0])


def test_rows_prepare_pictures_as_the_official_code_does():
    for name in kzoo.list_models("cswin_*_[0-9]*"):
        config = config_of(name)[1]
        pictures = config.preprocessing
        assert pictures.mean == (0.485, 0.456, 0.406) and pictures.interpolation == "bicubic"
        assert pictures.crop_pct == (1.0 if config.size == (384, 384) else 0.9)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"num_heads": (2, 4, 4)}, "an entry for each stage"),
        ({"num_heads": (1, 4)}, "must be even but for the last"),
        ({"num_heads": (2, 6)}, "must be divisible by its num_heads 6"),
        ({"split_size": (0, 2)}, "split_size must be at least 1"),
        ({"stem_kernel": 3}, "leaves pixels out"),
        ({"image_size": 2}, "too small for a stem_kernel of 7"),
        ({"drop_path_rate": 1.0}, r"\[0, 1\)"),
    ],
)
def test_wrong_options_are_told(overrides, says):
    with pytest.raises(UsageError, match=says):
        kzoo.get("cswin_toy", **overrides)

"""The ViT family: counts of the reference implementations, and numbers equal to timm's under the same random weights."""

import csv
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import kzoo
from kzoo.errors import UsageError
from tests.torch_reference import import_timm

ROWS = list(csv.DictReader((pathlib.Path(__file__).parent / "goldens" / "params.csv").open()))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['name']}-{row['num_classes']}")
def test_counts(row):
    if row["num_classes"] == "1000":
        info = kzoo.info(row["name"])
        params, gmacs = info.params, info.gmacs
    else:
        from kzoo.models.count import count
        from kzoo.registry import config_of

        builder, config = config_of(row["name"], {"num_classes": int(row["num_classes"])})
        params, macs = count(lambda: builder(config))
        gmacs = macs / 1e9
    assert params == int(row["params"])
    if row["gmacs"]:
        assert gmacs == pytest.approx(float(row["gmacs"]), rel=0.01)


def test_counting_a_huge_model_leaves_no_memory_behind():
    code = (
        "import resource, kzoo\n"
        "def megabytes(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "kzoo.get('vit_toy'); before = megabytes()\n"
        "kzoo.info('vit_huge_patch14_224'); kzoo.get('vit_toy')\n"  # 632 M weights would take 2,500 MB
        "print(megabytes() - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(grown.split()[-1]) < 500


def copy_timm(reference, model):
    """Fills `model` from a timm VisionTransformer: torch stores (out, in) and (out, in, h, w) kernels."""
    state = {k: v.detach().numpy() for k, v in reference.state_dict().items()}

    def dense(name):
        return [state[f"{name}.weight"].T, *([state[f"{name}.bias"]] if f"{name}.bias" in state else [])]

    def norm(name):
        return [state[f"{name}.weight"], state[f"{name}.bias"]]

    values = {"patch_embed": [state["patch_embed.proj.weight"].transpose(2, 3, 1, 0), state["patch_embed.proj.bias"]]}
    values |= {"cls_token": [state["cls_token"]]} if "cls_token" in state else {}
    values |= {"pos_embed": [state["pos_embed"]]}
    for i in range(len(reference.blocks)):
        b = f"blocks.{i}"
        parts = [norm(f"{b}.norm1"), dense(f"{b}.attn.qkv"), dense(f"{b}.attn.proj"), norm(f"{b}.norm2"), dense(f"{b}.mlp.fc1")]
        values[f"blocks_{i}"] = [v for part in [*parts, dense(f"{b}.mlp.fc2")] for v in part]
    values["fc_norm" if "fc_norm.weight" in state else "norm"] = norm("fc_norm" if "fc_norm.weight" in state else "norm")
    values["head"] = dense("head")
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(values.pop(layer.name))
    assert not values, f"not used: {list(values)}"


TOY = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 7}
CASES = {
    "vit_tiny_patch16_224": ("vit_tiny_patch16_224", {}, {}),
    "non-square toy": ("vit_toy", {**TOY, "image_size": (32, 48)}, {"img_size": (32, 48)}),
    "average pooling": ("vit_toy", {**TOY, "global_pool": "avg"}, {"img_size": 32, "global_pool": "avg"}),
    "no class token": (
        "vit_toy",
        {**TOY, "global_pool": "avg", "class_token": False, "qkv_bias": False, "mlp_ratio": 3.0, "in_channels": 2},
        {"img_size": 32, "global_pool": "avg", "class_token": False, "qkv_bias": False, "mlp_ratio": 3.0, "in_chans": 2},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equal_to_timm(case):
    name, overrides, timm_arguments = CASES[case]
    import_timm()
    import torch
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    if name == "vit_toy":
        toy = {key: TOY[key] for key in ("patch_size", "embed_dim", "depth", "num_heads", "num_classes")}
        reference = VisionTransformer(**toy, **timm_arguments).eval()
    else:
        reference = import_timm().create_model(name).eval()
    with torch.no_grad():
        for parameter in reference.parameters():  # biases, norms and the class token start at constants
            parameter.add_(0.02 * torch.randn_like(parameter))
    model = kzoo.get(name, **overrides)
    copy_timm(reference, model)

    images = np.random.default_rng(1).normal(size=(2, *model.input_shape[1:])).astype("float32")
    recorded = []
    for block in reference.blocks:
        block.register_forward_hook(lambda module, args, output: recorded.append(output))
    with torch.no_grad():
        logits = reference(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    taps = keras.Model(model.input, [model.get_layer(f"blocks_{i}").output for i in range(len(recorded))])
    for ours, theirs in zip(taps(images), recorded, strict=True):
        assert_close(ours, theirs.numpy())
    assert_close(model(images), logits)


def assert_close(ours, theirs):
    """Largest difference <= 1e-4, relative to the largest output where that exceeds 1."""
    scale = max(1.0, np.abs(theirs).max())
    assert np.abs(np.asarray(ours) - theirs).max() / scale <= 1e-4


def test_sincos_positions_are_the_formula_of_mae():
    rows, columns, dim = 3, 5, 16
    model = kzoo.get("vit_toy", image_size=(24, 40), embed_dim=dim, num_heads=2, pos_embed="sincos")
    assert not any("pos_embed" in w.path for w in model.weights)
    layer = model.get_layer("pos_embed")
    table = np.asarray(layer(np.zeros((1, 1 + rows * columns, dim), "float32")))[0]
    np.testing.assert_array_equal(table[0], 0)
    for token in range(rows * columns):
        row, column = divmod(token, columns)
        expected = []
        for position in (column, row):
            angles = [position / 10000 ** (i / (dim / 4)) for i in range(dim // 4)]
            expected += [*np.sin(angles), *np.cos(angles)]
        np.testing.assert_allclose(table[1 + token], expected, atol=1e-6)


def test_the_convolutional_stem_is_what_torch_computes():
    import torch
    from torch.nn import functional as F

    from kzoo.layers.embed import ConvStem

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
    from kzoo.models.count import macs

    stem = 16 * 16 * 27 * 8 + 8 * 8 * 9 * 8 * 16 + 4 * 4 * 9 * 16 * 32 + 4 * 4 * 32 * 32
    patches = 4 * 4 * 192 * 32
    assert macs(model) - macs(kzoo.get("vit_toy", num_classes=3)) == stem - patches


def test_stochastic_depth_drops_whole_branches_and_keeps_the_mean():
    from kzoo.layers.transformer import DropPath

    layer = DropPath(0.25, seed=3)
    out = np.asarray(layer(np.ones((4000, 3, 2), "float32"), training=True))
    per_sample = out.reshape(4000, -1)
    assert (per_sample == per_sample[:, :1]).all()
    assert set(np.unique(per_sample.round(5))) == {0.0, np.float32(4 / 3).round(5)}
    assert abs((per_sample[:, 0] == 0).mean() - 0.25) < 0.03
    np.testing.assert_array_equal(layer(np.ones((2, 3), "float32"), training=False), 1)


def test_dropout_acts_in_training_only():
    model = kzoo.get("vit_toy", drop_rate=0.3, attn_drop_rate=0.3, drop_path_rate=0.3)
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    taps = keras.Model(model.input, model.get_layer("norm").output)
    still = [np.asarray(taps(images, training=False)) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    assert not np.allclose(taps(images, training=True), still[0])


def test_what_num_classes_and_pooling_return():
    assert kzoo.get("vit_toy", num_classes=0).output_shape == (None, 32)
    assert kzoo.get("vit_toy", global_pool="none").output_shape == (None, 17, 32)
    maps = kzoo.get("vit_toy", image_size=(32, 48), features_only=True, out_indices=(0, -1))
    assert [m.shape for m in maps.output] == [(None, 4, 6, 32)] * 2


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"embed_dim": 30, "num_heads": 4}, "divisible by num_heads"),
        ({"class_token": False}, "global_pool='avg'"),
        ({"image_size": 4}, "smaller than one patch"),
        ({"image_size": (32,)}, "height, width"),
        ({"num_classes": -1}, "at least 0"),
        ({"in_channels": 0}, "at least 1"),
        ({"drop_rate": 1.0}, r"\[0, 1\)"),
        ({"global_pool": "map"}, "token"),
        ({"features_only": True, "out_indices": (5,)}, "0 to 1"),
        ({"out_indices": (0,)}, "features_only"),
        ({"stem": "conv", "patch_size": 6}, "power of two"),
        ({"dept": 3}, "depth"),
        ({"depth": "three"}, "takes int"),
        ({"embed_dim": True}, "takes int"),
    ],
)
def test_wrong_options_are_told(overrides, says):
    with pytest.raises(UsageError, match=says):
        kzoo.get("vit_toy", **overrides)

"""The Swin family: numbers equal to timm's and transformers' under the same random weights, at sizes that windows divide
and at others.
"""

import functools

import keras
import numpy as np
import pytest

import kzoo
from benchmarks.parity import difference, parameters_of
from benchmarks.references import OfficialSwin, TimmSwin
from kzoo import explain
from kzoo.checking import outputs_of, randomise
from kzoo.errors import UsageError, UserError
from kzoo.layers.windows import PatchMerging, WindowBlock, assembled, partition, rolled, shift_mask
from kzoo.registry import config_of
from kzoo.training.optimizer import undecayed
from kzoo.weights.surgery import OFFSET_RULES
from tests.equality import CLOSE, XLA, assert_equal, assert_trained_alike, pair, saved, with_and_without
from tests.torch_reference import import_timm

TINY = "swin_tiny_patch4_window7_224"
SMALL = {"embed_dim": 16, "depths": (1, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 4, "num_classes": 7}
# maps 14, 7, 4, 2: filling with and without a shift, an odd merging, maps of a window's size and smaller
ODD = SMALL | {"image_size": 56}
EVEN = SMALL | {"image_size": 64, "window_size": 2}
FULL = ODD | {"always_partition": True}
CASES = {
    "odd maps": ("timm_swin", ODD),
    "not square": ("timm_swin", SMALL | {"image_size": (56, 76), "in_channels": 2}),
    "full windows in any case": ("timm_swin", FULL | {"qkv_bias": False, "mlp_ratio": 3.0}),
    "windows of each stage": ("timm_swin", SMALL | {"image_size": 64, "window_size": (4, 3, 2, 2)}),
    "official file": ("official_swin", EVEN),
    "transformers": ("hf_swin", EVEN),
    "transformers, filled first": ("hf_swin", SMALL | {"image_size": 88, "window_size": 3, "pad_first": True}),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.backends] if case in ("odd maps", "not square") else []) for case in CASES],
)
def test_through_files_both_ways(case, tmp_path):
    key, overrides = CASES[case]
    model, reference = pair(key, TINY, tmp_path / "theirs", **overrides)
    assert_equal(model, reference)
    assert parameters_of(model) == reference.parameters()
    assert set(model.load_report.loaded) == {w.path for w in model.weights}
    module = reference.accepts(saved(model, reference, tmp_path))
    images = reference.images(2)
    assert difference(reference.outputs(images, module)[-1], reference.outputs(images)[-1]) <= CLOSE


def test_every_row_prepares_pictures_as_timm_does():
    timm = import_timm()
    names = [name for name in kzoo.list_models(family="swin") if name != "swin_toy"]
    assert len(names) == 9
    for name in names:
        config, theirs = config_of(name)[1], timm.get_pretrained_cfg(name)
        assert config.size == theirs.input_size[1:], name
        for field in ("mean", "std", "crop_pct", "crop_mode", "interpolation"):
            assert getattr(config.preprocessing, field) == getattr(theirs, field), (name, field)


def test_feature_maps_are_timms(tmp_path):
    import torch

    reference = TimmSwin(TINY, SMALL | {"image_size": (56, 76)})
    file = reference.write(tmp_path / "theirs")
    maps = kzoo.get(TINY, weights=file, **reference.overrides, features_only=True)
    assert [m.shape[1:] for m in maps.output] == [(14, 19, 16), (7, 10, 32), (4, 5, 64), (2, 3, 128)]
    images = reference.images(2)
    with torch.no_grad():
        expected = reference.module.forward_intermediates(
            torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), intermediates_only=True
        )
    for a, b in zip(outputs_of(maps, images), expected, strict=True):
        assert difference(a, b.permute(0, 2, 3, 1).numpy()) <= CLOSE


LARGER = SMALL | {"image_size": 96, "window_size": 6}  # windows 6, 6, 6, 3


def test_tables_of_timms_files_are_resized_as_timm_does(tmp_path):
    resized = TimmSwin(TINY, LARGER, seed=5)
    models = import_timm("timm.models")
    file = TimmSwin(TINY, ODD).write(tmp_path / "theirs")
    models.load_checkpoint(resized.module, str(file), filter_fn=models.swin_transformer.checkpoint_filter_fn)
    model = kzoo.get(TINY, weights=file, **LARGER)
    assert len(model.load_report.resized) == 7 and model.load_report.resized_by == ("geometric",)
    assert "7 resized (geometric)" in str(model.load_report)
    assert_equal(model, resized)


def test_tables_of_official_files_and_of_our_own_are_resized_as_the_official_code_does(tmp_path):
    import torch

    reference, resized = OfficialSwin(TINY, ODD), OfficialSwin(TINY, LARGER, seed=5)
    state, shapes = reference.module.state_dict(), {n: t.shape for n, t in resized.module.state_dict().items()}
    for name in [name for name in state if name.endswith("bias_table")]:
        old, new = (round(len(one) ** 0.5) for one in (state[name], torch.empty(shapes[name])))
        grid = torch.nn.functional.interpolate(state[name].T.reshape(1, -1, old, old), (new, new), mode="bicubic")
        state[name] = grid.reshape(shapes[name][::-1]).T
    resized.module.load_state_dict(state)
    official = kzoo.get(TINY, weights=reference.write(tmp_path / "theirs"), **LARGER, pad_first=False)
    assert len(official.load_report.resized) == 7 and official.load_report.resized_by == ("plain_bicubic",)
    assert_equal(official, resized)
    kzoo.get(TINY, weights=tmp_path / "theirs" / "model.pth", **ODD).save(tmp_path / "own.keras")
    assert_equal(kzoo.get(TINY, weights=tmp_path / "own.keras", **LARGER, pad_first=False), resized)
    with pytest.raises(UserError, match="image_size= or window_size="):
        kzoo.load_weights(kzoo.get(TINY, **LARGER, pad_first=True), tmp_path / "own.keras")


@pytest.mark.parametrize("rule", OFFSET_RULES)
@pytest.mark.parametrize(("old", "new"), [(13, 23), (23, 13), (1, 5), (7, 7)])
def test_resizing_keeps_constants_and_symmetry(rule, old, new):
    matrix = OFFSET_RULES[rule](old, new)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-6)
    if old == new and rule == "plain_bicubic":
        np.testing.assert_allclose(matrix, np.eye(old), atol=1e-6)


def test_files_with_other_heads(tmp_path):
    """The 22k files: their own head, none, and a new one."""
    file = OfficialSwin(TINY, EVEN | {"num_classes": 11}).write(tmp_path / "theirs")
    assert kzoo.get(TINY, weights=file, **EVEN | {"num_classes": 11}).output_shape == (None, 11)
    bare = kzoo.get(TINY, weights=file, **EVEN | {"num_classes": 0})
    assert set(bare.load_report.unused) >= {"head.weight", "head.bias"}
    assert kzoo.get(TINY, weights=file, **EVEN).load_report.reinitialised == ("head/kernel", "head/bias")


@pytest.mark.backends
@pytest.mark.parametrize(("window", "shift"), [((2, 3), (0, 0)), ((2, 3), (1, 2)), ((4, 1), (2, 0))])
def test_windows_are_cut_moved_and_put_back(window, shift):
    """Against the definition, cell by cell."""
    maps = np.random.default_rng(0).normal(size=(2, 4, 6, 5)).astype("float32")
    (h, w), (down, right) = window, shift
    expected = [
        maps[b, [(y + i + down) % 4 for i in range(h) for _ in range(w)], [(x + j + right) % 6 for _ in range(h) for j in range(w)]]
        for b in range(2) for y in range(0, 4, h) for x in range(0, 6, w)
    ]  # fmt: skip
    moved = rolled(keras.ops.convert_to_tensor(maps), shift)
    cut = partition(moved, window)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(cut), expected)
    back = rolled(assembled(cut, window, 4, 6), (-down, -right))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(back), maps)


@pytest.mark.parametrize(("window", "shift"), [((2, 3), (1, 2)), ((4, 3), (0, 1)), ((2, 2), (1, 1))])
def test_the_mask_parts_what_met_by_the_shift(window, shift):
    """Two cells of a window see each other where no edge of the map lies between them."""
    height, width = 4, 6
    mask = shift_mask(height, width, window, shift)
    cells = partition(np.arange(24).reshape(1, 4, 6, 1), window, np)[..., 0]
    for one, held in zip(mask, cells, strict=True):
        rows, columns = (held // width + shift[0]) // height, (held % width + shift[1]) // width  # went round the edge
        together = (rows[:, None] == rows) & (columns[:, None] == columns)
        np.testing.assert_array_equal(one, np.where(together, 0, -100))


@pytest.mark.backends
@pytest.mark.parametrize("size", [(4, 6), (3, 5)])
def test_merging_puts_columns_before_rows(size):
    layer = PatchMerging(2)
    layer.build((None, *size, 2))
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    maps = rng.normal(size=(2, *size, 2)).astype("float32")
    padded = np.pad(maps, ((0, 0), (0, size[0] % 2), (0, size[1] % 2), (0, 0))).astype("float64")
    x = np.concatenate([padded[:, i::2, j::2] for j in range(2) for i in range(2)], axis=-1)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    gamma, beta, kernel = (keras.ops.convert_to_numpy(w).astype("float64") for w in layer.weights)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(maps)), (x * gamma + beta) @ kernel, atol=1e-4)


@pytest.mark.slow
@pytest.mark.backends
@pytest.mark.parametrize("pad_first", [False, True])
def test_open_sides_give_what_a_model_of_that_size_gives(pad_first):
    """With full windows, as the official detectors have them; also where the graph does not know the sides."""
    row = SMALL | {"features_only": True, "pad_first": pad_first, "depths": (1, 2), "num_heads": (1, 2)}
    opened = randomise(kzoo.get(TINY, **row, open_size=True))
    fixed = kzoo.get(TINY, **row, image_size=(41, 70), always_partition=True)
    fixed.set_weights(opened.get_weights())
    images = np.random.default_rng(0).normal(size=(2, 41, 70, 3)).astype("float32")
    expected = outputs_of(fixed, images)
    assert [m.shape[1:3] for m in expected] == [(11, 18), (6, 9)]
    call = functools.partial(outputs_of, opened)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        spec = [tf.TensorSpec((None, None, None, 3))]
        call = tf.function(opened, input_signature=spec, jit_compile=not pad_first)
    for a, b in zip(call(images), expected, strict=True):
        assert difference(keras.ops.convert_to_numpy(a), b) <= CLOSE


def test_maps_smaller_than_a_window_have_windows_of_their_own_size():
    config = config_of(TINY, {"image_size": (160, 448)})[1]
    assert config.windows() == [((7, 7), (3, 3))] * 2 + [((7, 7), (3, 3)), ((5, 7), (0, 3))]
    assert config_of(TINY)[1].windows()[-1] == ((7, 7), (0, 0))
    assert config_of(TINY, {"always_partition": True})[1].windows() == [((7, 7), (3, 3))] * 4


def test_decay_leaves_out_vectors_and_the_relative_bias():
    model = kzoo.get("swin_toy")
    left = {w.path for w in undecayed(model)}
    assert left == {w.path for w in model.trainable_weights if len(w.shape) == 1 or "/rel_pos/" in w.path}


@pytest.mark.slow
@pytest.mark.backends
def test_recomputing_blocks_changes_no_gradient():
    maps, rates = keras.Input((5, 4, 8)), {"proj_drop_rate": 0.2, "attn_drop_rate": 0.2, "drop_path_rate": 0.5}

    def build(remat):
        block = WindowBlock(8, 2, window_size=(3, 2), shift_size=(1, 1), **rates, remat=remat, name="block")
        return keras.Model(maps, block(maps))

    models, rng = with_and_without(build), np.random.default_rng(0)
    x, y = (rng.normal(size=(4, 5, 4, 8)).astype("float32") for _ in range(2))
    assert_trained_alike(models, x, y, XLA[0])


def test_the_attention_shown_is_timms(tmp_path):
    """Of a point in each block of a stage, put into the places of its window; what fills windows is left out."""
    import torch

    model, reference = pair("timm_swin", TINY, tmp_path / "theirs", **ODD)
    images, seen = reference.images(2), {}
    for name, block in reference.taps(reference.module).items():
        if name != "patch_embed":
            block.attn.fused_attn = False  # the weights then pass through a dropout of rate 0
            block.attn.attn_drop.register_forward_hook(
                lambda module, args, output, name=name: seen.update({name: output.numpy()})
            )
    with torch.no_grad():
        reference.module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    maps = kzoo.attention(model, images, stage=1, points=[(0.99, 0.3), (0.0, 0.0)])
    assert maps.shape == (2, 2, 2, 2, 7, 7)
    # Windows of 4 on 7 cells. The point in row 6, column 2: unmoved in window (1, 0), place (2, 2); moved by 2 in row 4,
    # column 0, window (1, 0), place (0, 0), whose last row is filling and whose rows 3 and 2 come from the top.
    plain = seen["layers_1_blocks_0"].reshape(2, 4, 2, 4, 4, 4, 4)[:, 2, :, 2, 2]
    expected = np.zeros((2, 2, 7, 7))
    expected[:, :, 4:, :4] = plain[:, :, :3]
    np.testing.assert_allclose(maps[:, 0, :, 0], expected, atol=1e-6)
    moved = seen["layers_1_blocks_1"].reshape(2, 4, 2, 4, 4, 4, 4)[:, 2, :, 0, 0]
    expected = np.zeros((2, 2, 7, 7))
    for i in range(3):
        expected[:, :, (4 + i + 2) % 7, 2:6] = moved[:, :, i]
    np.testing.assert_allclose(maps[:, 1, :, 0], expected, atol=1e-6)
    last = kzoo.attention(model, images)
    theirs = np.stack([seen[f"layers_3_blocks_{j}"].mean(axis=2) for j in (0, 1)], axis=1)
    np.testing.assert_allclose(last.reshape(2, 2, 4, 4), theirs, atol=1e-6)
    rolled_out = explain.rollout(model, images)
    assert rolled_out.shape == (2, 2, 2)
    np.testing.assert_allclose(rolled_out.sum(axis=(1, 2)), 1, atol=1e-5)


@pytest.mark.slow
def test_under_a_detector_pictures_of_any_size():
    """DETR on the last map, its sides open; trained for a step, the tables of the backbone learn too."""
    model = randomise(kzoo.get("detr_toy", backbone="swin_toy", backbone_options={}, open_size=True))
    images, size = np.random.default_rng(0).normal(size=(2, 40, 72, 3)).astype("float32"), (40, 72)
    inputs = {"image": images, "mask": np.zeros((2, *size), bool)}
    options = {"backbone": "swin_toy", "backbone_options": {"always_partition": True}, "image_size": size}
    fixed = kzoo.get("detr_toy", **options)
    fixed.set_weights(model.get_weights())
    ours, theirs = (keras.ops.convert_to_numpy(m(inputs)["logits"]) for m in (model, fixed))
    assert difference(ours, theirs) <= CLOSE
    boxes = {
        "boxes": np.full((2, 1, 4), 0.5, "float32"),
        "labels": np.ones((2, 1), "int32"),
        "valid": np.ones((2, 1), bool),
    }
    tables = [w for w in model.trainable_weights if w.path.endswith("rel_pos/table")]
    before = [keras.ops.convert_to_numpy(w) for w in tables]
    task = kzoo.task(model)
    task.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=False)
    task.train_on_batch(inputs, boxes)
    assert len(tables) == 3
    for weight, old in zip(tables, before, strict=True):
        assert not np.array_equal(keras.ops.convert_to_numpy(weight), old)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norms", "products"), [("swin_toy", 9, 20), ("cswin_toy", 7, 15)])
def test_an_onnx_graph_has_no_node_for_what_is_constant(name, norms, products, tmp_path):
    """No shapes, masks, tables or indices; norms are single nodes. Products: in a block qkv, proj, two of the MLP and
    two of the attention (of each half of the heads), mergings and the head.
    """
    import collections

    import onnx

    kzoo.export(randomise(kzoo.get(name)), tmp_path / "onnx", format="onnx")
    graph = onnx.load(tmp_path / "onnx" / "model.onnx").graph
    constants = {tensor.name for tensor in graph.initializer}
    assert [node.name for node in graph.node if set(filter(None, node.input)) <= constants] == []
    counts = collections.Counter(node.op_type for node in graph.node)
    assert not {"Gather", "GatherND", "Shape", "Where", "Expand", "ScatterND"} & set(counts)
    assert counts["LayerNormalization"] == norms and counts["MatMul"] == products


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"num_heads": (2,)}, "an entry for each stage"),
        ({"window_size": (3, 3, 3)}, "an entry for each stage"),
        ({"num_heads": (3, 4)}, "must be divisible by its num_heads 3"),
        ({"window_size": 0}, "window_size must be at least 1"),
        ({"act": "selu"}, "gelu"),
        ({"drop_path_rate": 1.0}, r"\[0, 1\)"),
        ({"global_pool": "token"}, "avg"),
    ],
)
def test_wrong_options_are_told(overrides, says):
    with pytest.raises(UsageError, match=says):
        kzoo.get("swin_toy", **overrides)


def test_what_transformers_cannot_hold_is_told(tmp_path):
    with pytest.raises(UserError, match="one window size"):
        kzoo.save_weights(kzoo.get("swin_toy", window_size=(3, 2)), tmp_path / "hf", layout="hf")
    with pytest.raises(UserError, match="no official names"):
        kzoo.save_weights(kzoo.get("vit_toy"), tmp_path / "m.safetensors", layout="official")
    assert kzoo.get("swin_toy", global_pool="none").output_shape == (None, 4, 4, 32)

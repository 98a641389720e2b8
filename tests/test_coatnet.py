"""The CoAtNet family: counts of the references, numbers equal to timm's under the same random weights, the paper's own
form.
"""

import keras
import numpy as np
import pytest

import kzoo
from benchmarks.references import TimmCoatnet
from kzoo import explain
from kzoo.checking import randomise
from kzoo.errors import UsageError, UserError
from kzoo.layers.base import Remat
from kzoo.layers.mbconv import MBConv
from kzoo.layers.relative import OffsetTable, RelativeAttention, RelativeBlock, bias_of_offsets
from kzoo.models.coatnet import EARLY
from kzoo.models.count import count
from kzoo.registry import config_of
from kzoo.training.optimizer import undecayed
from tests.equality import assert_equal, assert_trained_alike, pair, saved, with_and_without
from tests.test_resnet import assert_close, channels_first
from tests.torch_reference import import_timm

TOY = {"embed_dim": (16, 16, 24, 32), "depths": (1, 2, 2, 1), "head_dim": 8, "num_classes": 7}


def test_every_row_that_timm_has_prepares_pictures_as_timm_does():
    timm = import_timm()
    names = sorted(set(kzoo.list_models(family="coatnet")) & set(timm.list_models()))
    assert len(names) == 21
    for name in names:
        config, theirs = config_of(name)[1], timm.get_pretrained_cfg(name)
        assert config.size == theirs.input_size[1:], name
        for field in ("mean", "std", "crop_pct", "crop_mode", "interpolation"):
            assert getattr(config.preprocessing, field) == getattr(theirs, field), (name, field)


# CoAtNet-1 to -5 are CoAtNet-0 in other sizes.
STYLES = [
    name
    for name in kzoo.list_models(family="coatnet")
    if "_rw" in name or name in ("coatnet_0_224", "coatnet_nano_cc_224")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", STYLES)
def test_a_small_row_of_every_name_is_equal_to_timms(name, tmp_path):
    """Each of timm's names in its own style, at few channels, on a picture that is not square."""
    before_head = {"representation_size": 20} if config_of(name)[1].representation_size else {}
    assert_equal(
        *pair("timm_coatnet", name, tmp_path / "theirs", **TOY, **before_head, stem_width=(8, 12), image_size=(64, 96))
    )


@pytest.mark.slow
def test_a_whole_row_is_equal_to_timms(tmp_path):
    assert_equal(*pair("timm_coatnet", "coatnet_0_224", tmp_path / "theirs", image_size=64))


def test_feature_maps_are_timms(tmp_path):
    import torch

    row = {"image_size": (64, 96), **TOY}
    reference = TimmCoatnet("coatnet_pico_rw_224", row)
    maps = kzoo.get("coatnet_pico_rw_224", weights=reference.write(tmp_path / "theirs"), features_only=True, **row)
    images = reference.images(2)
    with torch.no_grad():
        expected = reference.module.forward_intermediates(channels_first(images), intermediates_only=True)
    assert [64 // m.shape[1] for m in maps.output] == [2, 4, 8, 16, 32]
    for a, b in zip(maps(images), expected, strict=True):
        assert_close(a, b.permute(0, 2, 3, 1))


def test_training_normalises_by_the_batch_and_averages_as_timm_does(tmp_path):
    """The output in training, and the running statistics after it."""
    model, reference = pair("timm_coatnet", "coatnet_bn_0_rw_224", tmp_path / "theirs", **TOY, image_size=64)
    images = reference.images(4)
    before = {name: value.numpy().copy() for name, value in reference.module.state_dict().items()}
    assert_close(model(images, training=True), reference.module.train()(channels_first(images)).detach())
    theirs = reference.module.state_dict()
    ours = reference.accepts(saved(model, reference, tmp_path)).state_dict()
    averages = [name for name in theirs if name.endswith(("running_mean", "running_var"))]
    assert len(averages) > 20
    for name in averages:
        assert_close(ours[name], theirs[name])
        assert not np.array_equal(ours[name], before[name]), name
    name = "stem.norm1.running_var"
    np.testing.assert_allclose(ours[name] - 0.9 * before[name], theirs[name] - 0.9 * before[name], rtol=1e-4)


def brute_force(table, rows, columns):
    """The bias of every pair of cells, one at a time: (heads, N, N)."""
    cells = [(r, c) for r in range(rows) for c in range(columns)]
    return np.stack([[table[a - c + rows - 1, b - d + columns - 1] for c, d in cells] for a, b in cells]).transpose(
        2, 0, 1
    )


@pytest.mark.backends
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (3, 1), (3, 5)])
def test_the_bias_of_two_cells_is_the_tables_value_at_their_offset(rows, columns):
    table = np.random.default_rng(0).normal(size=(2 * rows - 1, 2 * columns - 1, 2)).astype("float32")
    bias = keras.ops.convert_to_numpy(bias_of_offsets(keras.ops.convert_to_tensor(table), rows, columns))
    np.testing.assert_array_equal(bias, brute_force(table, rows, columns))


@pytest.mark.backends
@pytest.mark.parametrize("place", ["pre", "post"])
def test_relative_attention_is_the_papers_formula(place):
    """Equation 2 in float64, head by head: the bias inside the softmax, or added after it."""
    rows, columns, heads, size = 2, 3, 2, 4
    layer = RelativeAttention(6, heads, size, (rows, columns), out_dim=5, bias_place=place)
    layer.build((None, 6, 6))
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    x = rng.normal(size=(2, 6, 6)).astype("float32")
    output, weights = (keras.ops.convert_to_numpy(y) for y in layer.attend(x))
    values = {w.path.split("/", 1)[-1]: keras.ops.convert_to_numpy(w).astype("float64") for w in layer.weights}
    table = brute_force(values["rel_pos/table"].reshape(2 * rows - 1, 2 * columns - 1, heads), rows, columns)
    joined = np.empty((2, 6, heads * size))
    for h in range(heads):
        q, k, v = np.split(
            (x @ values["qkv/kernel"] + values["qkv/bias"])[..., h * 3 * size : (h + 1) * 3 * size], 3, axis=-1
        )
        scores = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(size) + (table[h] if place == "pre" else 0))
        expected = scores / scores.sum(axis=-1, keepdims=True) + (table[h] if place == "post" else 0)
        np.testing.assert_allclose(weights[:, h], expected, atol=1e-5)
        joined[..., h * size : (h + 1) * size] = expected @ v
    np.testing.assert_allclose(output, joined @ values["proj/kernel"] + values["proj/bias"], atol=1e-4)


PAPER = {"stride_mode": "1x1", "pool_type": "max2"}
# Model, side, weights in millions, MACs in billions, as the paper gives them; for CoAtNet-3 in its first version.
TABLE_4 = [
    (0, 224, 25, 4.2),
    (1, 224, 42, 8.4),
    (2, 224, 75, 15.7),
    (3, 224, 167, 34.7),
    (3, 384, 167, 107.4),
    (4, 384, 275, 189.5),
    (5, 512, 688, 812),
]


@pytest.mark.parametrize(("number", "side", "millions", "billions"), TABLE_4)
def test_the_papers_own_form_has_the_sizes_and_the_computation_of_its_tables(number, side, millions, billions):
    builder, config = config_of(f"coatnet_{number}_{side}", PAPER | ({"head_dim": 64} if number == 5 else {}))
    params, macs = count(lambda: builder(config))
    assert params == pytest.approx(millions * 1e6, rel=0.006)
    assert macs == pytest.approx(billions * 1e9, rel=0.02)


@pytest.mark.parametrize(("name", "overrides", "billion_weights", "billion_macs"), [
    ("coatnet_6_512", {"embed_dim": (192, 384, 768, 1536, 3072), "representation_size": 3072}, 1.47, 1521),
    ("coatnet_7_512", {}, 2.44, 2586),
])  # fmt: skip
def test_the_largest_have_the_papers_sizes(name, overrides, billion_weights, billion_macs):
    builder, config = config_of(name, overrides)
    params, macs = count(lambda: builder(config))
    assert params == pytest.approx(billion_weights * 1e9, rel=0.002)
    assert macs == pytest.approx(billion_macs * 1e9, rel=0.02)


def test_the_papers_form_strides_and_pools_as_torch_does():
    """The first block of a stage, MBConv and attention, from torch's functions."""
    import torch
    from torch.nn import functional as F

    x = np.random.default_rng(0).normal(size=(2, 6, 8, 16)).astype("float32")
    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2))
    conv, attention = (
        MBConv(16, 24, 2, stride_mode="1x1", pool_type="max2"),
        RelativeBlock(16, 24, (3, 4), 8, 2, "max2"),
    )
    for layer in (conv, attention):
        layer.build(x.shape)
    kernel = torch.from_numpy(np.asarray(conv.conv1.kernel)).permute(3, 2, 0, 1)
    np.testing.assert_allclose(
        np.asarray(conv.conv1(x)), F.conv2d(theirs, kernel, stride=2).permute(0, 2, 3, 1).numpy(), atol=1e-5
    )
    for layer in (conv, attention):
        kernel, bias = (torch.from_numpy(np.asarray(w)) for w in layer.shortcut.expand.weights)
        shortcut = F.conv2d(F.max_pool2d(theirs, 2), kernel.permute(3, 2, 0, 1), bias).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(np.asarray(layer.shortcut(x)), shortcut, atol=1e-5)
    normed = F.layer_norm(torch.from_numpy(x), (16,), eps=1e-6).permute(0, 3, 1, 2)
    expected = F.max_pool2d(normed, 2).permute(0, 2, 3, 1).reshape(2, 12, 16).numpy()
    np.testing.assert_allclose(np.asarray(attention._attended(x, False)), expected, atol=1e-5)


@pytest.mark.parametrize("pool_type", ["avg2", "max2", "max"])
@pytest.mark.parametrize("stride_mode", ["dw", "1x1", "pool"])
def test_any_size_is_halved_up(stride_mode, pool_type):
    model = kzoo.get(
        "coatnet_toy", image_size=(18, 23), stride_mode=stride_mode, pool_type=pool_type, features_only=True
    )
    assert [m.shape[1:3] for m in model.output] == [(9, 12), (5, 6), (3, 3)]
    assert [m.shape[1:3] for m in model(np.ones((1, 18, 23, 3), "float32"))] == [(9, 12), (5, 6), (3, 3)]


FOUR = {"depths": (1, 1, 2, 2), "embed_dim": (8, 8, 16, 16), "strides": (2, 2, 2, 2)}  # stages, where the toy has two


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [("C", "C", "C", "C"), ("C", "C", "C", "T"), ("C", "T", "T", "T"), ("T", "T", "T", "T"), ("C", "C", "CT", "TC")],
)
def test_any_layout_and_any_strides(layout):
    options = FOUR | {"layout": layout, "stem_stride": 1, "strides": (1, 2, 1, 2), "image_size": 16}
    model = kzoo.get("coatnet_toy", **options)
    kinds = "".join(
        ("T" if isinstance(layer, RelativeBlock) else "C") for layer in model.layers if "blocks" in layer.name
    )
    assert kinds == "".join(
        kind if len(kind) == 2 else kind * depth for kind, depth in zip(layout, (1, 1, 2, 2), strict=True)
    )
    assert model(np.ones((1, 16, 16, 3), "float32")).shape == (1, 10)
    assert [m.shape[1:3] for m in kzoo.get("coatnet_toy", **options, features_only=True).output] == [
        (16, 16),
        (8, 8),
        (4, 4),
    ]


def test_a_vit_with_relative_attention():
    model = kzoo.get(
        "vit_rel_d384_l12_patch16_224", image_size=(32, 48), depths=(2,), embed_dim=(16,), stem_width=16, head_dim=8
    )
    assert [layer.output.shape[1:] for layer in model.layers if layer.name.startswith(("stem", "stages"))] == [
        (2, 3, 16)
    ] * 3
    assert randomise(model)(np.ones((1, 32, 48, 3), "float32")).shape == (1, 1000)


def test_what_num_classes_and_pooling_return():
    assert kzoo.get("coatnet_toy", num_classes=0).output_shape == (None, 20)
    assert kzoo.get("coatnet_toy", num_classes=0, representation_size=None).output_shape == (None, 24)
    assert kzoo.get("coatnet_toy", global_pool="none", representation_size=None).output_shape == (None, 4, 4, 24)


@pytest.mark.parametrize("rate", ["drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"])
def test_dropout_acts_in_its_place_and_in_training_only(rate):
    """Each rate alone moves what lies after its place; batch norms, which training would move too, are frozen here."""
    model = randomise(kzoo.get("coatnet_toy", head_bias=1.0, **{rate: 0.5}))
    for layer in model._flatten_layers():
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    places = ["stages_0_blocks_0", "stages_1_blocks_0", "fc_norm", "head"]
    taps = keras.Model(model.input, [model.get_layer(name).output for name in places])
    images = np.random.default_rng(0).normal(size=(16, 32, 32, 3)).astype("float32")
    still, moved = ([np.asarray(y) for y in taps(images, training=training)] for training in (False, True))
    first = 3 if rate == "drop_rate" else 1
    assert [np.allclose(a, b, atol=1e-5) for a, b in zip(still, moved, strict=True)] == [i < first for i in range(4)]


class Small(Remat):
    """A block that has all that recomputing must mind: weights, running statistics, randomness."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization(momentum=0.5, name="norm")
        self.dense = keras.layers.Dense(8, name="dense")
        self.drop = keras.layers.Dropout(0.5, name="drop")

    def build(self, input_shape):
        self.norm.build(input_shape)
        self.dense.build(input_shape)

    def compute(self, x, training):
        return self.drop(keras.ops.tanh(self.dense(self.norm(x, training=training))), training=training)


def both_blocks(x, remat):
    x = MBConv(8, 8, 2, drop_path_rate=0.5, remat=remat, name="mbconv")(x)
    rates = {"proj_drop_rate": 0.2, "attn_drop_rate": 0.2, "drop_path_rate": 0.5}
    return RelativeBlock(8, 8, (2, 2), 4, norm="batch", mlp_dim=8, **rates, remat=remat, name="attention")(x)


@pytest.mark.slow
@pytest.mark.backends
@pytest.mark.parametrize(
    "blocks", [both_blocks, lambda x, remat: Small(remat=remat, name="small")(x)], ids=["family", "small"]
)
def test_recomputing_blocks_changes_neither_gradients_nor_running_statistics(blocks):
    """Two steps of plain gradient descent, all dropout active, end in the same weights with and without; the small one
    under XLA.
    """
    xla = keras.backend.backend() == "jax" or (keras.backend.backend() == "tensorflow" and blocks is not both_blocks)
    maps, rng = keras.Input((4, 4, 8)), np.random.default_rng(0)
    models = with_and_without(lambda remat: keras.Model(maps, blocks(maps, remat)))
    x, y = (rng.normal(size=(4, *shape[1:])).astype("float32") for shape in (maps.shape, models[0].output_shape))
    assert_trained_alike(models, x, y, xla)


def test_decay_leaves_out_vectors_and_the_relative_bias():
    for overrides in ({}, {"rel_pos_dim": 8}):
        model = kzoo.get("coatnet_toy", **overrides)
        left = {w.path for w in undecayed(model)}
        assert left == {w.path for w in model.trainable_weights if len(w.shape) == 1 or "/rel_pos/" in w.path}
        assert any("rel_pos" in path for path in left)


def test_a_relative_bias_resizes_with_the_resolution(tmp_path):
    """A table gets as many offsets as the new map has, a constant one stays constant; an MLP's weights fit as they
    are.
    """
    for overrides in ({}, {"rel_pos_dim": 8}):
        model = randomise(kzoo.get("coatnet_toy", **overrides))
        for layer in model._flatten_layers():
            if isinstance(layer, OffsetTable):
                layer.table.assign(np.full(layer.table.shape, 0.25))
        model.save(tmp_path / "m.keras")
        larger = kzoo.get("coatnet_toy", image_size=(64, 96), weights=tmp_path / "m.keras", **overrides)
        tables = [layer.table for layer in larger._flatten_layers() if isinstance(layer, OffsetTable)]
        assert [tuple(table.shape) for table in tables] == ([] if overrides else [(1, 15 * 23, 3)])
        for table in tables:
            np.testing.assert_allclose(np.asarray(table), 0.25, atol=1e-6)
        assert len(larger.load_report.resized) == len(tables)


def test_attention_can_be_shown_stage_by_stage():
    """As many layers, heads and cells as the stage has; the shares of a query add up."""
    model = randomise(kzoo.get("coatnet_toy", **FOUR, layout=("C", "C", "T", "T"), image_size=(64, 96)))
    images = np.random.default_rng(0).normal(size=(2, 64, 96, 3)).astype("float32")
    first, last = (kzoo.attention(model, images, stage=stage) for stage in (0, 1))
    assert first.shape == (2, 2, 2, 4, 6) and last.shape == (2, 2, 2, 2, 3)
    np.testing.assert_allclose(first.sum(axis=(3, 4)), 1, atol=1e-5)
    np.testing.assert_array_equal(last, kzoo.attention(model, images))
    assert explain.rollout(model, images).shape == (2, 2, 3)
    with pytest.raises(UserError, match="2 stages"):
        kzoo.attention(model, images, stage=2)
    with pytest.raises(UserError, match="no attention"):
        kzoo.attention(kzoo.get("coatnet_toy", layout=("C", "C")), images[:, :32, :32])


def test_the_attention_shown_is_timms(tmp_path):
    import torch

    model, reference = pair("timm_coatnet", "coatnet_0_rw_224", tmp_path / "theirs", **TOY, image_size=(64, 96))
    images, seen = reference.images(2), []
    for block in [block for stage in reference.module.stages[2:] for block in stage.blocks]:
        block.attn.fused_attn = False  # the weights then pass through a dropout of rate 0
        block.attn.attn_drop.register_forward_hook(lambda module, args, output: seen.append(output.mean(dim=2).numpy()))
    with torch.no_grad():
        reference.module(channels_first(images))
    assert len(seen) == 3
    for stage, theirs in enumerate(seen):  # each block has other heads than the one before: those that widen have fewer
        ours = kzoo.attention(model, images, stage=stage)
        np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_what_no_toy_row_has_exports_too(format, tmp_path):
    """The exporter compares with Keras in the format's own runtime, and raises where they differ."""
    options = {
        **EARLY,
        "stride_mode": "1x1",
        "pool_type": "max",
        "rel_pos_dim": 8,
        "bias_place": "post",
        "norm": "batch",
    }
    model = randomise(kzoo.get("coatnet_toy", image_size=(32, 24), layout=("CT", "T"), depths=(2, 1), **options))
    kzoo.export(model, tmp_path / format, format=format)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"layout": ("C", "M")}, "C and T"),
        ({"layout": ()}, "C and T"),
        ({"layout": ("C", "C", "T")}, "depths takes 3"),
        ({"embed_dim": (16, 16, 24)}, "embed_dim takes 2"),
        ({"strides": (2, 3)}, "1 or 2"),
        ({"stem_stride": 4}, "1 or 2"),
        ({"stem": "patch", "stem_stride": 128}, "smaller than one patch"),
        ({"head_dim": 5}, "head_dim 5 must divide"),
        ({"stride_mode": "3x3"}, "1x1"),
        ({"pool_type": "avg"}, "avg2"),
        ({"conv_act": "selu"}, "silu"),
        ({"bias_place": "after"}, "post"),
        ({"global_pool": "none"}, "pooled vector"),
        ({"drop_path_rate": 1.0}, r"\[0, 1\)"),
        ({"rel_pos_dim": 0}, "at least 1"),
    ],
)
def test_wrong_options_are_told(overrides, says):
    with pytest.raises(UsageError, match=says):
        kzoo.get("coatnet_toy", **overrides)

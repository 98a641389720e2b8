"""The ViT family: counts and settings of the reference implementations, formulas, options. Their numbers are in
test_parity.py, more counts in test_counts.py.
"""

import dataclasses
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import kzoo
from kzoo.checking import randomise
from kzoo.errors import UsageError
from kzoo.models.count import count
from kzoo.registry import config_of
from kzoo.specs import Preprocessing
from tests.torch_reference import import_timm


def architectures():
    """{name: (builder, config)} of the rows that timm knows, one for each architecture: sizes and preparation apart,
    rows repeat.
    """
    known, found = set(import_timm().list_models()), {}
    for name in [n for family in ("vit", "vit_clip", "vit_dino", "deit3") for n in kzoo.list_models(family=family)]:
        if name in known:
            builder, config = config_of(name)
            found.setdefault(
                dataclasses.replace(config, image_size=896, preprocessing=Preprocessing()), (name, builder, config)
            )
    return {name: (builder, config) for name, builder, config in found.values()}


@pytest.mark.slow
def test_every_architecture_is_timms():
    """Counts, of all but the third to last blocks, and what counts do not show, on timm's models without memory."""
    timm = import_timm()
    import torch

    rows = architectures()
    assert len(rows) > 60
    for name, (builder, config) in rows.items():
        with torch.device("meta"):
            reference = timm.create_model(name, num_classes=config.num_classes, weight_init="skip")
        params, _ = count(lambda builder=builder, config=config: builder(dataclasses.replace(config, depth=2)))
        later = sum(p.numel() for p in reference.blocks[2:].parameters())
        assert params == sum(p.numel() for p in reference.parameters()) - later, name
        block, act = reference.blocks[0], reference.blocks[0].mlp.act
        theirs = {
            "depth": len(reference.blocks),
            "num_heads": block.attn.num_heads,
            "norm_eps": block.norm1.eps,
            "act": {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}[type(act).__name__],
            "global_pool": reference.global_pool,
            "norm_after_pooling": not isinstance(reference.fc_norm, torch.nn.Identity),
            "prefix": reference.num_prefix_tokens,
            "no_embed_class": reference.no_embed_class,
        }
        assert {field: getattr(config, field) for field in theirs} == theirs, name


# timm lists weights without a head first
OLDER_HEADS = {"vit_huge_patch14_224", "vit_large_patch32_224", "vit_small_patch8_224"}


def test_every_row_prepares_pictures_as_timm_does():
    timm = import_timm()
    known = set(timm.list_models())
    for name in [n for family in ("vit", "vit_clip", "vit_dino", "deit3") for n in kzoo.list_models(family=family)]:
        if name in known - OLDER_HEADS:
            config, theirs = config_of(name)[1], timm.get_pretrained_cfg(name)
            ours = config.preprocessing
            assert (config.size, config.num_classes) == (theirs.input_size[1:], theirs.num_classes), name
            for field in ("mean", "std", "crop_pct", "crop_mode", "interpolation"):
                assert getattr(ours, field) == getattr(theirs, field), (name, field)


def vit_formula(
    image_size, patch_size, num_classes, dim, depth, heads, dim_head, mlp_dim, *, class_token=True, bias=False
):
    """The parameters of a plain ViT, part by part."""
    patches, inner = (image_size // patch_size) ** 2, heads * dim_head
    embedding = 3 * patch_size**2 * dim + dim + class_token * (dim + (patches + 1) * dim)
    attention = dim * 3 * inner + bias * 3 * inner + inner * dim + dim
    mlp = dim * mlp_dim + mlp_dim + mlp_dim * dim + dim
    return embedding + depth * (4 * dim + attention + mlp) + 2 * dim + dim * num_classes + num_classes


@pytest.mark.parametrize("dim_head", [64, 80])
def test_the_classic_arguments(dim_head):
    """ViT(image_size=256, patch_size=32, num_classes=1000, dim=1024, depth=6, heads=16, mlp_dim=2048, dropout=0.1,
    emb_dropout=0.1).
    """
    overrides = dict(
        image_size=256, patch_size=32, num_classes=1000, embed_dim=1024, depth=6, num_heads=16, mlp_ratio=2048 / 1024
    )
    overrides |= dict(
        head_dim=dim_head, qkv_bias=False, norm_eps=1e-5, pos_drop_rate=0.1, proj_drop_rate=0.1, attn_drop_rate=0.1
    )
    builder, config = config_of("vit_base_patch32_224", overrides)
    assert count(lambda: builder(config))[0] == vit_formula(256, 32, 1000, 1024, 6, 16, dim_head, 2048)


@pytest.mark.parametrize(
    ("size", "dim", "depth", "heads"), [("tiny", 192, 12, 3), ("small", 384, 12, 6), ("large", 1024, 24, 16)]
)
def test_simple_vit_is_a_plain_one_with_fixed_positions_and_a_tanh_layer(size, dim, depth, heads):
    plain = vit_formula(224, 16, 1000, dim, depth, heads, 64, 4 * dim, class_token=False, bias=True)
    assert kzoo.info(f"simple_vit_{size}_patch16_224").params == plain + dim * dim + dim


@pytest.mark.slow
def test_counting_a_huge_model_leaves_no_memory_behind():
    """In a process of its own, under JAX, which starts soonest: the list of weights to fill is Keras' own."""
    code = (
        "import resource, kzoo\n"
        "def megabytes(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "kzoo.get('vit_toy'); before = megabytes()\n"
        "kzoo.info('vit_huge_patch14_224'); kzoo.get('vit_toy')\n"  # 632 M weights would take 2,500 MB
        "print(megabytes() - before)"
    )
    command, environment = [sys.executable, "-c", code], os.environ | {"KERAS_BACKEND": "jax"}
    grown = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert int(grown.split()[-1]) < 500


@pytest.mark.parametrize(("kind", "last"), [("sincos", 4), ("sincos2d", 3)])
def test_fixed_positions_are_the_formulas_of_mae_and_big_vision(kind, last):
    """The exponents i / 4 of MAE and i / (4 - 1) of big_vision, four frequencies an axis, in float64, a token at a
    time.
    """
    rows, columns, dim = 3, 5, 16
    model = kzoo.get("vit_toy", image_size=(24, 40), embed_dim=dim, num_heads=2, pos_embed=kind)
    assert not any("pos_embed" in w.path for w in model.weights)
    table = np.asarray(model.get_layer("pos_embed")(np.zeros((1, 1 + rows * columns, dim), "float32")))[0]
    np.testing.assert_array_equal(table[0], 0)
    for token in range(rows * columns):
        row, column = divmod(token, columns)
        expected = []
        for position in (column, row):
            angles = [position / 10000 ** (i / last) for i in range(4)]
            expected += [*np.sin(angles), *np.cos(angles)]
        np.testing.assert_allclose(table[1 + token], expected, atol=1e-6)


@pytest.mark.parametrize("rate", ["drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"])
def test_dropout_acts_in_its_place_and_in_training_only(rate):
    """Each rate alone changes what lies after its place, and nothing before it."""
    model = kzoo.get("vit_toy", class_token=False, global_pool="avg", head_bias=1.0, **{rate: 0.5})
    model.get_layer("head").kernel.assign(np.random.default_rng(1).normal(size=(32, 10)))
    places = ["patch_embed", "pos_drop", "blocks_0", "blocks_1", "fc_norm", "head"]
    taps = keras.Model(model.input, [model.get_layer(name).output for name in places])
    images = np.random.default_rng(0).normal(size=(16, 32, 32, 3)).astype("float32")
    still, again, moved = (
        [np.asarray(y) for y in taps(images, training=training)] for training in (False, False, True)
    )
    for a, b in zip(still, again, strict=True):
        np.testing.assert_array_equal(a, b)
    first = {"pos_drop_rate": 1, "proj_drop_rate": 2, "attn_drop_rate": 2, "drop_path_rate": 3, "drop_rate": 5}[rate]
    assert [np.allclose(a, b, atol=1e-6) for a, b in zip(still, moved, strict=True)] == [i < first for i in range(6)]


@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_what_no_toy_row_has_exports_too(format, tmp_path):
    """The exporter compares with Keras in the format's own runtime, and raises where they differ."""
    options = dict(
        stride=4, reg_tokens=2, qk_norm=True, act="gelu_tanh", pos_embed="sincos2d", representation_size=16, head_dim=12
    )
    model = randomise(kzoo.get("vit_toy", fc_norm=True, **options))
    kzoo.export(model, tmp_path / format, format=format)


def test_the_head_starts_at_its_bias():
    model = kzoo.get("vit_toy", head_bias=-10.0, representation_size=24)
    np.testing.assert_array_equal(model(np.ones((1, 32, 32, 3), "float32")), np.full((1, 10), -10.0))
    assert model.get_layer("pre_logits").output.shape == (None, 24)


def test_layer_depths_are_timms():
    """Rates of layer-wise decay, weight by weight, as timm's optimizer gets them."""
    timm = import_timm()
    from timm.optim import param_groups_layer_decay

    reference = timm.create_model("deit3_small_patch16_224", depth=3, global_pool="map", reg_tokens=1, pre_norm=True)
    scale = {id(p): g["lr_scale"] for g in param_groups_layer_decay(reference, layer_decay=0.5) for p in g["params"]}
    theirs = {}
    for name, parameter in reference.named_parameters():
        theirs.setdefault(name.replace("blocks.", "blocks").split(".")[0], set()).add(scale[id(parameter)])
    model = kzoo.get("deit3_toy", depth=3, global_pool="map", reg_tokens=1, pre_norm=True)
    ours = {}
    for path, depth in model.layer_depths().items():
        ours.setdefault(path.split("/")[0].replace("blocks_", "blocks"), set()).add(0.5 ** (4 - depth))
    assert ours == theirs
    assert set(model.layer_depths()) == {w.path for w in model.weights}


def test_what_num_classes_and_pooling_return():
    assert kzoo.get("vit_toy", num_classes=0).output_shape == (None, 32)
    assert kzoo.get("vit_toy", global_pool="none").output_shape == (None, 17, 32)
    assert kzoo.get("vit_toy", num_classes=0, representation_size=24).output_shape == (None, 24)
    maps = kzoo.get("vit_toy", image_size=(32, 48), reg_tokens=2, features_only=True, out_indices=(0, -1))
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
        ({"global_pool": "max"}, "map"),
        ({"global_pool": "map", "num_heads": 3, "head_dim": 16, "class_token": False}, "divisible by num_heads 3\\."),
        ({"global_pool": "none", "representation_size": 8}, "pooled vector"),
        ({"global_pool": "none", "fc_norm": True}, "pooled vector"),
        ({"stride": 9}, "at most patch_size"),
        ({"stride": 0}, "at least 1"),
        ({"stem": "conv", "stride": 4}, "no other stride"),
        ({"act": "relu"}, "gelu"),
        ({"pos_embed": "sincos2d", "embed_dim": 4}, "at least 8"),
        ({"init_values": "small"}, "takes float or None"),
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

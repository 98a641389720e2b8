"""What pictures explain, against timm's own attention weights and the papers' formulas in float64."""

import functools

import keras
import numpy as np
import pytest
from PIL import Image

import kzoo
from benchmarks.references import Timm
from kzoo import explain
from kzoo.checking import randomise
from tests.test_parity import TOY

CASES = {
    "class token": {},
    "not square, with registers": {"image_size": (16, 40), "reg_tokens": 2, "qk_norm": True},
    "average": {"global_pool": "avg"},
    "attention pooling": {"global_pool": "map", "reg_tokens": 1},
}


MAPS = functools.partial(kzoo.get, "detr_toy", features_only=True)  # a detector's encoder


def weights_of_timm(overrides, folder):
    """(our model, images, the weights (B, heads, N, N) of each block, those of attention pooling (B, heads, patches) or
    None), by timm.

    Weights are float64.
    """
    import torch

    overrides = TOY | overrides
    timm = Timm("vit_toy", overrides)
    reference = timm.module
    model = kzoo.get("vit_toy", weights=timm.write(folder / "timm"), **overrides)
    seen, pooled = [], []
    for block in reference.blocks:
        block.attn.fused_attn = False  # the weights then pass through a dropout of rate 0
        block.attn.attn_drop.register_forward_hook(
            lambda module, args, output: seen.append(output.numpy().astype("float64"))
        )
    if reference.attn_pool is not None:
        reference.attn_pool.register_forward_hook(lambda module, args, output: pooled.append(args[0]))
    images = np.random.default_rng(1).normal(size=(2, *model.input_shape[1:])).astype("float32")
    with torch.no_grad():
        reference(torch.from_numpy(images.transpose(0, 3, 1, 2)))
        return model, images, seen, pooling_by_hand(reference.attn_pool, *pooled) if pooled else None


def pooling_by_hand(pool, tokens):
    """The softmax of a timm AttentionPoolLatent, from its projections alone, head by head."""
    query = pool.q(pool.latent)[0, 0].numpy().astype("float64")
    keys = pool.kv(tokens)[..., : len(query)].numpy().astype("float64")
    size = len(query) // pool.num_heads
    heads = [slice(i * size, (i + 1) * size) for i in range(pool.num_heads)]
    scores = np.stack([keys[..., head] @ query[head] for head in heads], axis=1) / np.sqrt(size)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


@pytest.mark.backends
@pytest.mark.parametrize("case", CASES)
def test_attention_and_rollout_are_those_of_timms_weights(case, tmp_path):
    model, images, weights, pooling = weights_of_timm(CASES[case], tmp_path)
    height, width = model.input_shape[1:3]
    rows, columns = height // 8, width // 8
    first = weights[0].shape[-1] - rows * columns  # of the patches
    token = case in ("class token", "not square, with registers")

    expected = [w[:, :, 0, first:] if token else w[:, :, first:, first:].mean(axis=2) for w in weights]
    expected += [] if pooling is None else [pooling]
    maps = kzoo.attention(model, images)
    assert maps.shape == (2, len(expected), 4, rows, columns) and maps.dtype == np.float32
    np.testing.assert_allclose(maps.reshape(2, len(expected), 4, -1), np.stack(expected, axis=1), atol=1e-5)

    points = [(0, 0.5), (0.99, 0.26), (1, 1)]
    pixels = [(min(y * height, height - 1), min(x * width, width - 1)) for y, x in points]
    cells = [first + int(y // 8) * columns + int(x // 8) for y, x in pixels]
    maps = kzoo.attention(model, images, points=points)
    assert maps.shape == (2, len(weights), 4, 3, rows, columns)
    expected = [w[:, :, cells, first:] for w in weights]
    np.testing.assert_allclose(maps.reshape(2, len(weights), 4, 3, -1), np.stack(expected, axis=1), atol=1e-5)

    flow = np.eye(weights[0].shape[-1])  # whole matrices, from the input upwards, as the paper writes it
    for w in weights:
        mixed = w.mean(axis=1) + np.eye(w.shape[-1])
        flow = mixed / mixed.sum(axis=-1, keepdims=True) @ flow
    if pooling is not None:
        arrived = (pooling.mean(axis=1)[:, None] @ flow[:, first:])[:, 0]
    else:
        arrived = flow[:, 0] if token else flow[:, first:].mean(axis=1)
    rolled = explain.rollout(model, images)
    assert rolled.shape == (2, rows, columns)
    np.testing.assert_allclose(rolled.reshape(2, -1), arrived[:, first:], atol=1e-5)


def test_maps_of_a_loaded_model_and_of_one_that_gives_features(tmp_path):
    model = randomise(kzoo.get("vit_toy", reg_tokens=2))
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        kzoo.attention(kzoo.load(tmp_path / "m.keras"), images), kzoo.attention(model, images)
    )
    features = kzoo.get("vit_toy", reg_tokens=2, features_only=True, out_indices=(1,))
    kept = {w.path: w for w in model.weights}
    features.set_weights([kept[w.path] for w in features.weights])
    np.testing.assert_allclose(kzoo.attention(features, images), kzoo.attention(model, images), atol=1e-6)


@pytest.mark.parametrize("overrides", [{"reg_tokens": 2}, {"pos_embed": "sincos"}, {"no_embed_class": True}], ids=str)
def test_position_similarity_is_the_cosine(overrides):
    from sklearn.metrics.pairwise import cosine_similarity

    model = randomise(kzoo.get("vit_toy", image_size=(24, 40), **overrides))
    layer = model.get_layer("pos_embed")
    zeros = np.zeros((1, *layer.input.shape[1:]), "float32")
    # three rows of five patches, after the other tokens
    table = keras.ops.convert_to_numpy(layer(zeros))[0, -15:].astype("float64")
    found = explain.position_similarity(model)
    assert found.shape == (3, 5, 3, 5)
    np.testing.assert_allclose(found.reshape(15, 15), cosine_similarity(table), atol=1e-5)


def test_patch_filters_are_the_principal_components():
    from sklearn.decomposition import PCA

    model = randomise(kzoo.get("vit_toy", patch_size=4, embed_dim=96))
    kernel = keras.ops.convert_to_numpy(model.get_layer("patch_embed").proj.kernel)
    expected = PCA(28).fit(kernel.reshape(48, 96).T.astype("float64")).components_
    found = explain.patch_filters(model)
    assert found.shape == (28, 4, 4, 3)
    found = found.reshape(28, 48)
    np.testing.assert_allclose(np.abs((found * expected).sum(axis=1)), 1, atol=1e-3)
    assert (found.max(axis=1) > -found.min(axis=1)).all()
    assert explain.patch_filters(kzoo.get("vit_toy", in_channels=1, patch_size=4), count=99).shape == (16, 4, 4, 1)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: kzoo.attention(keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]), np.zeros((1, 8))),
            "no attention",
        ),
        (
            lambda: explain.position_similarity(kzoo.get("vit_toy", pos_embed="none")),
            "vit_toy has no table of positions",
        ),
        (lambda: explain.patch_filters(kzoo.get("vit_toy", stem="conv")), "vit_toy has no linear map"),
        (lambda: kzoo.attention(None, None, points=[(0.5, 1.1)]), r"pairs \(y, x\) in 0..1"),
        (lambda: kzoo.attention(None, None, points=(0.5, 0.5)), r"pairs \(y, x\) in 0..1"),
        (lambda: kzoo.attention(None, None, points=[]), "one or more"),
        (lambda: kzoo.attention(MAPS(), None), "as built here, has no queries"),
        (lambda: kzoo.attention(kzoo.get("detr_toy", depth=0), None, points=[(0, 0)]), "as built here, has no encoder"),
        (lambda: kzoo.attention(MAPS(), None, stage=1, points=[(0, 0)]), "has 1 stages"),
        (lambda: explain.rollout(MAPS(), None), "detr_toy pools no vector"),
    ],
)
def test_what_a_model_lacks_is_told(call, told):
    with pytest.raises(kzoo.UserError, match=told):
        call()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_drawings_are_pictures(tmp_path, channels):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (16, 24, channels), dtype=np.uint8)
    explain.draw_attention(tmp_path / "a.png", picture, rng.random((6, 2, 3)), rng.random((2, 3)), "a title")
    explain.draw_positions(tmp_path / "p.png", rng.uniform(-1, 1, (18, 3, 18, 3)), "thinned out")
    explain.draw_filters(tmp_path / "f.png", rng.normal(size=(9, 4, 4, channels)), "nine")
    for name in ("a.png", "p.png", "f.png"):
        with Image.open(tmp_path / name) as drawn:
            assert min(drawn.size) > 100 and len(drawn.convert("RGB").getcolors(2**24)) > 100


def test_maps_are_laid_over_a_grey_picture(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (16, 24, 1), dtype=np.uint8)
    shares, maps = (0.75, 1.0), rng.random((2, 4, 3))
    objects = [
        {"label": "a", "index": 1, "score": 0.5, "box": [2, 3, 9, 9]},
        {"label": "b", "index": 0, "box": [0] * 4},
    ]
    explain.draw_objects(tmp_path / "o.png", picture, shares, maps, objects, "two")
    explain.draw_points(tmp_path / "x.png", picture, shares, maps, [(0, 0), (0.5, 1)], "two")
    for name in ("o.png", "x.png"):
        with Image.open(tmp_path / name) as drawn:
            assert min(drawn.size) > 100 and len(drawn.convert("RGB").getcolors(2**24)) > 100

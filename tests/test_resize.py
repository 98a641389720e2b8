"""Resampling against Pillow and torch in float32, on the host and in a graph; the two paths of preprocessing against
each other.
"""

import keras
import numpy as np
import pytest
import torch
from keras import ops
from PIL import Image

from kzoo import data
from kzoo.errors import UsageError
from kzoo.ops.resize import resample, resize_weights, resized_size
from kzoo.preprocess import preprocess
from kzoo.specs import Preprocessing
from tests.pictures import by_timm

pytestmark = pytest.mark.backends
RNG = np.random.default_rng(21)
SIZES = [((40, 53), (16, 16)), ((9, 7), (24, 32)), ((50, 12), (13, 24)), ((16, 16), (16, 16))]


def by_pillow(image, size, method, box=None):
    """(h, w, C) float32 through Pillow's float mode, plane by plane."""
    filter = Image.Resampling[method.upper()]
    planes = [
        Image.fromarray(np.ascontiguousarray(p)).resize(size[::-1], filter, box=box) for p in np.moveaxis(image, -1, 0)
    ]
    return np.stack([np.asarray(p) for p in planes], axis=-1)


def resized(image, size, method, xp=np):
    rows, columns = (
        resize_weights(have, want, method, xp=xp) for have, want in zip(image.shape[:2], size, strict=True)
    )
    return ops.convert_to_numpy(resample(xp.array(image), rows, columns, xp=xp))


@pytest.mark.parametrize("xp", [np, ops], ids=["numpy", "keras"])
@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("have", "want"), SIZES, ids=str)
def test_resize_equals_pillow(have, want, method, xp):
    image = RNG.uniform(0, 255, (*have, 3)).astype("float32")
    np.testing.assert_allclose(resized(image, want, method, xp), by_pillow(image, want, method), atol=0.02)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("have", "want"), SIZES, ids=str)
def test_resize_equals_torch(have, want, method):
    image = RNG.normal(size=(*have, 2)).astype("float32")
    batch = torch.tensor(image).permute(2, 0, 1)[None]
    reference = torch.nn.functional.interpolate(batch, want, mode=method, antialias=True)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(resized(image, want, method), reference, atol=2e-5)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_a_crop_of_the_input_equals_pillows_box(method):
    image = RNG.uniform(0, 255, (30, 40, 3)).astype("float32")
    top, left, height, width = 4, 11, 20, 15
    rows = resize_weights(30, 12, method, scale=height / 12, offset=top * 12 / height, low=top, high=top + height)
    columns = resize_weights(40, 10, method, scale=width / 10, offset=left * 10 / width, low=left, high=left + width)
    ours = resample(image, rows, columns)
    reference = by_pillow(image[top : top + height, left : left + width], (12, 10), method)
    np.testing.assert_allclose(ours, reference, atol=0.02)


def test_every_row_of_weights_sums_to_one():
    for method in ("nearest", "bilinear", "bicubic"):
        np.testing.assert_allclose(resize_weights(37, 11, method).sum(axis=1), 1.0, atol=1e-6)


def test_an_unknown_method_is_named():
    with pytest.raises(UsageError, match="bicubic"):
        resize_weights(4, 2, "bicubik")


@pytest.mark.parametrize(
    ("have", "size", "crop_pct", "crop_mode", "wanted"),
    [
        # the shorter side becomes floor(224 / 0.9) = 248; torchvision cuts 330.67 off
        ((500, 375), (224, 224), 0.9, "center", (330, 248)),
        ((375, 500), (224, 224), 0.875, "center", (256, 341)),
        ((100, 100), (224, 224), 1.0, "center", (224, 224)),
        ((100, 401), (32, 64), 1.0, "center", (32, 128)),
        ((500, 375), (224, 224), 0.9, "squash", (248, 248)),
        ((500, 375), (224, 224), 0.9, "border", (248, 186)),
        ((104, 34), (24, 24), 0.9, "border", (26, 8)),  # 8.5, to the even side as Python rounds
        ((300, 1), (24, 24), 1.0, "border", (24, 1)),
    ],
)
def test_the_size_before_the_crop(have, size, crop_pct, crop_mode, wanted):
    assert resized_size(*have, size, crop_pct, crop_mode) == wanted
    dynamic = resized_size(ops.convert_to_tensor(have[0]), ops.convert_to_tensor(have[1]), size, crop_pct, crop_mode)
    assert tuple(int(side) for side in dynamic) == wanted


@pytest.mark.parametrize("have", [(40, 53), (64, 31), (24, 24), (90, 20)], ids=str)
@pytest.mark.parametrize(
    ("crop_pct", "crop_mode"), [(0.875, "center"), (1.0, "center"), (0.9, "squash"), (0.9, "border"), (1.0, "border")]
)
def test_both_preprocessings_equal_timm(have, crop_pct, crop_mode):
    """The host's path (training, evaluation) and the graph's (serving), against timm's own."""
    spec = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), crop_pct=crop_pct, crop_mode=crop_mode)
    image = RNG.integers(0, 256, (*have, 3), dtype=np.uint8)
    on_host = data.prepare(image, (24, 24), spec)
    in_graph = ops.convert_to_numpy(preprocess(ops.convert_to_tensor(image[None]), (24, 24), spec))[0]
    np.testing.assert_allclose(on_host, by_timm(image, (24, 24), spec), atol=1e-3)
    np.testing.assert_allclose(in_graph, on_host, atol=1e-4)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_a_graph_takes_pictures_of_any_size(crop_mode):
    """Sizes unknown until the call, as in a SavedModel."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow's graphs have sizes that are unknown when they are traced")
    import tensorflow as tf

    spec = Preprocessing(crop_pct=0.9, crop_mode=crop_mode)
    function = tf.function(
        lambda x: preprocess(x, (24, 32), spec),
        input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)],
        autograph=False,
    )
    for have in ((40, 53), (64, 31), (24, 32)):
        images = RNG.integers(0, 256, (2, *have, 3), dtype=np.uint8)
        np.testing.assert_allclose(function(images), data.prepare(images, (24, 32), spec), atol=1e-4)

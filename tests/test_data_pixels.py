"""Evaluation preprocessing and the placing of windows against Pillow, torch and plain loops."""

import numpy as np
import pytest
import torch

from kzoo import data
from kzoo.data import resample
from kzoo.data.pixels import moved, resized_window
from kzoo.specs import Preprocessing
from tests.pictures import by_timm

RNG = np.random.default_rng(1)
FILTERS = ("bilinear", "bicubic")


@pytest.mark.parametrize("method", FILTERS)
@pytest.mark.parametrize(
    ("crop_pct", "crop_mode"), [(1.0, "center"), (0.875, "center"), (0.9, "squash"), (1.0, "border"), (0.8, "border")]
)
@pytest.mark.parametrize("shape", [(50, 80, 3), (61, 40, 3), (20, 31, 3), (32, 32, 3), (9, 90, 3)], ids=str)
@pytest.mark.parametrize("size", [(32, 32), (24, 33)], ids=str)
def test_prepare_equals_timm(size, shape, crop_pct, crop_mode, method):
    image = RNG.integers(0, 256, shape, dtype=np.uint8)
    spec = Preprocessing(
        mean=(0.3, 0.5, 0.6), std=(1 / 255,) * 3, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=method
    )
    got = data.prepare(image, size, spec)
    assert got.dtype == np.float32 and got.shape == (*size, 3)
    np.testing.assert_allclose(got, by_timm(image, size, spec), atol=5e-3)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_a_large_picture_is_resized_strip_by_strip_to_the_same(monkeypatch, crop_mode):
    """To the bit what Pillow makes of it whole, which is compared with timm's above."""
    image, spec = RNG.integers(0, 256, (300, 170, 3), dtype=np.uint8), Preprocessing(crop_pct=0.9, crop_mode=crop_mode)
    whole = data.prepare(image, (48, 40), spec)
    monkeypatch.setattr(resample, "_LARGE", 0)
    np.testing.assert_array_equal(data.prepare(image, (48, 40), spec), whole)


def test_prepare_equals_torch_to_float_precision():
    image = RNG.integers(0, 256, (50, 80, 1), dtype=np.uint8)
    got = data.prepare(image, (20, 32), Preprocessing(mean=(0.5,), std=(0.25,), interpolation="bilinear"))
    tensor = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(tensor, (20, 32), mode="bilinear", antialias=True)[0, 0].numpy()
    np.testing.assert_allclose(got[..., 0], (resized / 255 - 0.5) / 0.25, atol=1e-4)


def test_a_batch_is_its_pictures():
    images = RNG.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    one_by_one = [data.prepare(image, (24, 16), Preprocessing()) for image in images]
    np.testing.assert_allclose(data.prepare(images, (24, 16), Preprocessing()), one_by_one, atol=1e-6)


def test_a_picture_of_the_right_size_is_only_normalised():
    image = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    got = data.prepare(image, (8, 8), Preprocessing(mean=mean, std=std))
    np.testing.assert_allclose(got, (image / 255.0 - mean) / std, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("method", FILTERS)
def test_a_window_is_resized_as_torch_does(method, channels):
    y, x, c = np.mgrid[:40, :60, :channels]
    image = (120 + 60 * np.sin(y / 3 + c) + 60 * np.cos(x / 4 - c)).astype(np.uint8)
    got = resized_window(image[5:35, 11:32], (16, 24), method)
    assert got.dtype == np.uint8 and got.shape == (16, 24, channels)
    np.testing.assert_array_equal(resized_window(image[5:35, 11:32], (16, 24), method, mirror=True), got[:, ::-1])
    tensor = torch.from_numpy(image[5:35, 11:32].astype(np.float32)).permute(2, 0, 1)[None]
    want = torch.nn.functional.interpolate(tensor, (16, 24), mode=method, antialias=True)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(got, np.clip(want, 0, 255), atol=1.01)  # rounded to whole numbers twice


def test_flips_then_shifts_as_a_plain_loop_does():
    images = RNG.normal(size=(6, 5, 7, 2)).astype(np.float32)
    flips = np.array([0, 1, 0, 1, 1, 0], bool)
    shifts = np.array([(0, 0), (0, 0), (2, -3), (-4, 6), (1, 0), (0, -1)])
    want = np.empty_like(images)
    for b, y, x in np.ndindex(6, 5, 7):
        from_y, from_x = min(max(y - shifts[b, 0], 0), 4), min(max(x - shifts[b, 1], 0), 6)
        want[b, y, x] = images[b, from_y, 6 - from_x if flips[b] else from_x]
    got = [moved(*one) for one in zip(images, flips, shifts.tolist(), strict=True)]
    np.testing.assert_array_equal(got, want)

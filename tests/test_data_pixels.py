"""Evaluation preprocessing and the placing of windows against Pillow, torch and plain loops."""

import numpy as np
import pytest
import torch
from PIL import Image

from kzoo import data
from kzoo.data.pixels import fit_window, move
from kzoo.schema import Preprocessing

RNG = np.random.default_rng(1)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
PLAIN = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # the result is then in 0..255


def pillow(image, height, width, method):
    """Pillow's resize of each channel in its float mode, which neither rounds nor clips between its two passes."""
    planes = [Image.fromarray(plane.astype(np.float32)).resize((width, height), FILTERS[method]) for plane in np.moveaxis(image, -1, 0)]
    return np.clip(np.stack(planes, axis=-1), 0, 255)


def reference(image, image_size, crop_pct, method):
    """timm's evaluation: Pillow resizes the tight side to floor(size / crop_pct), then the centre is cut out."""
    height, width = image.shape[:2]
    scale = max(int(side / crop_pct) / have for side, have in zip(image_size, (height, width), strict=True))
    resized = pillow(image, round(height * scale), round(width * scale), method)
    top, left = ((have - side) // 2 for have, side in zip(resized.shape, image_size, strict=False))
    return resized[top : top + image_size[0], left : left + image_size[1]]


@pytest.mark.parametrize("method", FILTERS)
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
@pytest.mark.parametrize("shape", [(50, 80, 3), (61, 40, 3), (20, 31, 3), (32, 32, 3)])
def test_prepare_equals_pillow(shape, crop_pct, method):
    image = RNG.integers(0, 256, shape, dtype=np.uint8)
    got = data.prepare(image, (32, 32), Preprocessing(**PLAIN, crop_pct=crop_pct, interpolation=method))
    assert got.dtype == np.float32 and got.shape == (32, 32, 3)
    np.testing.assert_allclose(got, reference(image, (32, 32), crop_pct, method), atol=1e-3)


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
    got = fit_window(image, (5, 11, 30, 21), (16, 24), method)
    assert got.dtype == np.uint8 and got.shape == (16, 24, channels)
    tensor = torch.from_numpy(image[5:35, 11:32].astype(np.float32)).permute(2, 0, 1)[None]
    want = torch.nn.functional.interpolate(tensor, (16, 24), mode=method, antialias=True)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(got, want, atol=1.1)  # rounded in each of two passes


def test_flips_then_shifts_as_a_plain_loop_does():
    images = RNG.normal(size=(6, 5, 7, 2)).astype(np.float32)
    flips = np.array([0, 1, 0, 1, 1, 0], bool)
    shifts = np.array([(0, 0), (0, 0), (2, -3), (-4, 6), (1, 0), (0, -1)])
    want = np.empty_like(images)
    for b, y, x in np.ndindex(6, 5, 7):
        from_y, from_x = min(max(y - shifts[b, 0], 0), 4), min(max(x - shifts[b, 1], 0), 6)
        want[b, y, x] = images[b, from_y, 6 - from_x if flips[b] else from_x]
    np.testing.assert_array_equal(move(images, flips, shifts), want)

"""The randomness is uniform and replayable, and the windows follow torchvision's rule."""

import numpy as np
import pytest
from scipy import stats

from kzoo.data.augment import Change
from kzoo.data.augment import plan as planned
from kzoo.data.randomness import permutation, uniforms
from kzoo.schema import Augment

MASK = 2**64 - 1


def plan(augment, seed, epoch, keys, sizes, image_size=(20, 30)):
    """The plan as one Change of columns, arrays where they are numbers."""
    columns = zip(*planned(augment, seed, epoch, keys, sizes, image_size), strict=True)
    return Change(
        *(list(c) if name == "operations" else np.array(c) for name, c in zip(Change._fields, columns, strict=True))
    )


def splitmix(word):
    """The finaliser of splitmix64 on Python integers."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & MASK
    return word ^ (word >> 31)


def test_uniforms_equal_exact_integer_arithmetic():
    got = uniforms(7, 3, [5, 10**12], 4)
    assert got.dtype == np.float32
    step = 0x9E3779B97F4A7C15
    for row, index in zip(got, (5, 10**12), strict=True):
        start = splitmix(splitmix(splitmix(7 + step) ^ 3) ^ index)
        assert row.tolist() == [(splitmix(start + step * k & MASK) >> 40) / 2**24 for k in range(1, 5)]


@pytest.mark.parametrize("vary", ["seed", "epoch", "index", "column"])
def test_uniforms_are_uniform_and_independent_along_each_argument(vary):
    count = 20_000
    draws = {
        "seed": lambda: np.concatenate([uniforms(seed, 0, 0, 1)[0] for seed in range(2_000)]),
        "epoch": lambda: np.concatenate([uniforms(0, epoch, 0, 1)[0] for epoch in range(2_000)]),
        "index": lambda: uniforms(0, 0, np.arange(count), 1)[:, 0],
        "column": lambda: uniforms(0, 0, 0, count)[0],
    }[vary]()
    assert draws.min() >= 0 and draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    assert stats.chisquare(np.bincount((draws * 32).astype(int), minlength=32)).pvalue > 1e-3
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 4 / np.sqrt(len(draws))


def test_a_sample_draws_the_same_in_any_company():
    everyone = uniforms(1, 2, np.arange(100), 5)
    np.testing.assert_array_equal(uniforms(1, 2, [42, 7], 5), everyone[[42, 7]])
    assert len(np.unique(everyone)) > 490


def test_the_order_is_a_permutation_of_its_seed_and_epoch():
    orders = [permutation(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert len({order.tobytes() for order in orders}) == 4
    np.testing.assert_array_equal(permutation(1, 1, 1000), orders[3])


@pytest.mark.slow
def test_flips_and_shifts_have_the_asked_frequencies():
    made = plan(Augment(flip=0.3, shift=2), 0, 0, np.arange(20_000), np.full((20_000, 2), 32))
    assert set(made.window) == {None}
    assert abs(made.flip.mean() - 0.3) < 0.015
    for axis in (0, 1):
        assert stats.chisquare(np.bincount(made.shift[:, axis] + 2, minlength=5)).pvalue > 1e-3
    assert set(made.shift.ravel()) == {-2, -1, 0, 1, 2}
    assert not plan(Augment(), 0, 0, np.arange(100), np.full((100, 2), 32)).flip.any()
    assert plan(Augment(flip=1.0), 0, 0, np.arange(100), np.full((100, 2), 32)).flip.all()


def test_windows_follow_the_rule():
    count = 20_000
    augment = Augment(crop_scale=(0.25, 0.5), crop_ratio=(0.5, 2.0))
    top, left, height, width = plan(augment, 0, 0, np.arange(count), np.full((count, 2), 1000)).window.T
    assert min(top.min(), left.min(), height.min(), width.min()) >= 0
    assert (top + height).max() == (left + width).max() == 1000  # inside, and the far border is reached
    # At scale <= 0.5 and ratio <= 2 every first try fits, so that area and log ratio are uniform.
    assert stats.kstest(height * width / 1e6, "uniform", (0.25, 0.25)).pvalue > 1e-3
    assert stats.kstest(np.log(width / height), "uniform", (-np.log(2), 2 * np.log(2))).pvalue > 1e-3
    assert stats.kstest((top + 0.5) / (1000 - height + 1), "uniform").pvalue > 1e-3
    assert stats.kstest((left + 0.5) / (1000 - width + 1), "uniform").pvalue > 1e-3


def test_windows_fit_pictures_of_every_size():
    sizes = np.random.default_rng(0).integers(1, 60, (2_000, 2))
    windows = plan(Augment(crop_scale=(0.08, 1.0)), 0, 0, np.arange(2_000), sizes).window
    assert (windows[:, 2:] >= 1).all() and (windows[:, :2] >= 0).all()
    assert (windows[:, :2] + windows[:, 2:] <= sizes).all()


@pytest.mark.parametrize(("size", "window"), [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10))])
def test_where_no_window_fits_the_centre_is_taken(size, window):
    # The whole area of a strip at a ratio near 1 never fits; torchvision then cuts the centre at the nearest allowed
    # ratio.
    made = plan(Augment(crop_scale=(1.0, 1.0)), 0, 0, np.arange(8), [size] * 8)
    np.testing.assert_array_equal(made.window, [window] * 8)

"""Augmentations on fixed parameters against timm's own operators, Pillow, SciPy and NumPy; their draws against the
asked distributions.
"""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from PIL import Image

from kzoo.data import mixing, randaugment
from kzoo.data.augment import plan
from kzoo.data.operations import operate
from kzoo.data.pixels import crop_padded, erase
from kzoo.data.sources import ArraySource
from kzoo.errors import UserError
from kzoo.schema import Augment, RandAugment
from kzoo.specs import Preprocessing
from tests.loaders import labels_loader
from tests.torch_reference import import_timm

RNG = np.random.default_rng(8)
Y, X, C = np.mgrid[:24, :30, :3]
PICTURE = (120 + 70 * np.sin(Y / 4 + C) + 60 * np.cos(X / 5 - 2 * C)).astype(np.uint8)
FILL = (130, 20, 240)
TIMM_NAMES = {
    **{
        "AutoContrast": "auto_contrast",
        "Equalize": "equalize",
        "Invert": "invert",
        "Rotate": "rotate",
        "SolarizeAdd": "solarize_add",
    },
    **{
        "Posterize": "posterize",
        "Solarize": "solarize",
        "Color": "color",
        "Contrast": "contrast",
        "Brightness": "brightness",
    },
    **{
        "Sharpness": "sharpness",
        "ShearX": "shear_x",
        "ShearY": "shear_y",
        "TranslateXRel": "translate_x",
        "TranslateYRel": "translate_y",
    },
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [0, 3, 9.5])
@pytest.mark.parametrize("increasing", [True, False])
def test_every_operation_of_randaugment_is_timms(monkeypatch, increasing, magnitude, sign):
    auto = import_timm("timm.data.auto_augment")
    monkeypatch.setattr(auto.random, "random", lambda: 0.0 if sign > 0 else 1.0)  # the sign that timm draws
    names = auto._RAND_INCREASING_TRANSFORMS if increasing else auto._RAND_TRANSFORMS
    scales = randaugment.INCREASING if increasing else randaugment.PLAIN
    assert {TIMM_NAMES[name.removesuffix("Increasing")] for name in names} == set(scales)
    for name in names:
        level = auto.LEVEL_TO_ARG[name]
        arguments = level(magnitude, {}) if level else ()
        ours = TIMM_NAMES[name.removesuffix("Increasing")]
        got = operate(PICTURE, [(ours, scales[ours](magnitude / 10, sign))], FILL, "bicubic")
        if ours == "posterize" and arguments == (0,):  # timm's fails: no bit is left
            assert not got.any()
            continue
        theirs = auto.NAME_TO_OP[name](
            Image.fromarray(PICTURE), *arguments, fillcolor=FILL, resample=Image.Resampling.BICUBIC
        )
        np.testing.assert_array_equal(got, np.asarray(theirs), err_msg=name)


def test_operations_follow_one_another_and_take_grey_pictures():
    grey = PICTURE[..., :1]
    one = operate(operate(grey, [("rotate", 20.0)], (9,), "bilinear"), [("contrast", 1.5)], (9,), "bilinear")
    np.testing.assert_array_equal(operate(grey, [("rotate", 20.0), ("contrast", 1.5)], (9,), "bilinear"), one)
    np.testing.assert_array_equal(operate(grey, [("color", 0.2), ("grey", None)], (9,), "bilinear"), grey)


def test_randaugment_draws_what_was_asked():
    settings = RandAugment(layers=3, magnitude=7.0, magnitude_std=0.5, probability=0.4)
    drawn = [randaugment.draw(settings, u) for u in RNG.uniform(size=(4000, 3 * randaugment.UNIFORMS))]
    assert np.mean([len(operations) for operations in drawn]) == pytest.approx(3 * 0.4, abs=0.05)
    names = [name for operations in drawn for name, _ in operations]
    counts = np.array([names.count(name) for name in randaugment.INCREASING])
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    degrees = np.array([argument for operations in drawn for name, argument in operations if name == "rotate"])
    assert scipy.stats.kstest(np.abs(degrees) / 3, scipy.stats.norm(7.0, 0.5).cdf).pvalue > 1e-3
    assert np.mean(degrees > 0) == pytest.approx(0.5, abs=0.1)


def test_the_jitter_of_colours_is_the_formula():
    x = PICTURE.astype("float64")
    grey = np.rint(x @ [0.299, 0.587, 0.114])[..., None]
    for name, other in (("brightness", 0.0), ("contrast", np.rint(grey.mean())), ("color", grey)):
        for factor in (0.7, 1.3):
            expected = np.clip(other + factor * (x - other), 0, 255)
            np.testing.assert_allclose(
                operate(PICTURE, [(name, factor)], FILL, "bilinear"), expected, atol=1.5, err_msg=name
            )


def planned(augment, count=3000, size=(20, 28)):
    return plan(augment, 5, 2, np.arange(count), np.full((count, 2), 40), size)


def test_the_jitter_draws_orders_and_factors_evenly():
    operations = [change.operations for change in planned(Augment(color_jitter=0.3))]
    orders = [tuple(name for name, _ in three) for three in operations]
    assert scipy.stats.chisquare([orders.count(order) for order in set(orders)]).pvalue > 1e-3 and len(set(orders)) == 6
    for name in ("brightness", "contrast", "color"):
        assert (
            scipy.stats.kstest([dict(three)[name] for three in operations], scipy.stats.uniform(0.7, 0.6).cdf).pvalue
            > 1e-3
        )


def test_three_augment_is_one_of_three():
    drawn = [change.operations[0] for change in planned(Augment(three_augment=True))]
    assert (
        scipy.stats.chisquare([sum(name == each for name, _ in drawn) for each in ("grey", "solarize", "blur")]).pvalue
        > 1e-3
    )
    assert (
        scipy.stats.kstest([a for name, a in drawn if name == "blur"], scipy.stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
    )
    x = PICTURE.astype("float64")
    grey, solarized, blurred = (
        operate(PICTURE, [o], FILL, "bicubic") for o in (("grey", None), ("solarize", 128), ("blur", 1.5))
    )
    np.testing.assert_allclose(grey, np.repeat((x @ [0.299, 0.587, 0.114])[..., None], 3, axis=-1), atol=1)
    np.testing.assert_array_equal(solarized, np.where(x < 128, x, 255 - x))
    inside = np.s_[6:-6, 6:-6]  # Pillow's blur is three boxes, which treat the border in another way
    np.testing.assert_allclose(blurred[inside], scipy.ndimage.gaussian_filter(x, (1.5, 1.5, 0))[inside], atol=4)


def test_erasing_follows_timms_rule(monkeypatch):
    """timm is given the very numbers that ours draws; the windows are then the same."""
    erasing = import_timm("timm.data.random_erasing")
    augment, size, count = Augment(erase=0.7), (20, 28), 200
    from kzoo.data import augment as module

    u = module.uniforms(5, 2, np.arange(count), module._RAND).astype("float64")
    changes = planned(augment, count, size)
    assert 0 < sum(change.erased[2] > 0 for change in changes) < count
    for row, change in zip(u, changes, strict=True):
        areas, ratios = np.split(row[module._ERASE_CROP], 2)
        # timm's ratio is height / width
        tries = iter(value for pair in zip(areas, 1 - ratios, strict=True) for value in pair)
        places = iter(row[module._ERASE_PLACE])
        monkeypatch.setattr(erasing.random, "random", lambda row=row: row[module._ERASE])
        monkeypatch.setattr(erasing.random, "uniform", lambda low, high, tries=tries: low + (high - low) * next(tries))
        monkeypatch.setattr(
            erasing.random, "randint", lambda low, high, places=places: low + int(next(places) * (high - low + 1))
        )
        image = torch.zeros(3, *size)
        erasing.RandomErasing(probability=augment.erase, mode="pixel", device="cpu")(image)
        rows, columns = np.nonzero(image[0].numpy())
        top, left, height, width = change.erased
        found = (rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1) if len(rows) else (0, 0, 0, 0)
        assert found == ((top, left, height, width) if height else (0, 0, 0, 0))


def test_erased_pixels_are_normal_noise():
    image = np.full((60, 60, 3), 9.0, np.float32)
    erase(image, (10, 20, 40, 30), np.random.default_rng(0))
    inside = image[10:50, 20:50].copy()
    image[10:50, 20:50] = 9.0
    assert (image == 9.0).all() and scipy.stats.kstest(inside.ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("share", [0.3, 0.85])
@pytest.mark.parametrize("cut", [False, True], ids=["mixup", "cutmix"])
def test_mixing_is_timms(monkeypatch, cut, share):
    timm_mixup = import_timm("timm.data.mixup")
    images, labels, size = RNG.normal(size=(4, 20, 28, 3)).astype("float32"), np.array([0, 3, 3, 5]), (20, 28)
    x, lam = torch.tensor(images).permute(0, 3, 1, 2).clone(), share
    if cut:
        centre = [3, 17]
        draws = iter(centre)
        monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: next(draws))
        (yl, yh, xl, xh), lam = timm_mixup.cutmix_bbox_and_lam(x.shape, share)
        x[:, :, yl:yh, xl:xh] = x.flip(0)[:, :, yl:yh, xl:xh]
        made = mixing._cut(share, centre, size)
    else:
        x, made = x * share + x.flip(0) * (1 - share), mixing.Mix(share)
    target = timm_mixup.mixup_target(torch.tensor(labels), 7, lam, smoothing=0.0)
    got, targets = mixing.mix(images.copy(), labels, 7, made)
    np.testing.assert_allclose(got, x.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    np.testing.assert_allclose(targets, target.numpy(), atol=1e-6)


def test_mixing_draws_what_was_asked():
    augment = Augment(mixup=0.4, cutmix=1.0, mix_probability=0.8, mix_switch=0.3)
    made = [mixing.draw(augment, 1, 0, step, (224, 224)) for step in range(4000)]
    mixed = [mix for mix in made if mix.box is None and mix.share < 1]
    assert np.mean([mix.box is not None for mix in made]) == pytest.approx(0.8 * 0.3, abs=0.03)
    assert len(mixed) / len(made) == pytest.approx(0.8 * 0.7, abs=0.03)
    assert scipy.stats.kstest([mix.share for mix in mixed], scipy.stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    assert mixing.draw(augment, 1, 0, 7, (224, 224)) == made[7] != mixing.draw(augment, 1, 1, 7, (224, 224))


@pytest.mark.parametrize("place", [(0.0, 0.0), (0.5, 0.99), (0.99, 0.3)])
def test_a_padded_crop_is_a_window_of_numpys_reflection(place):
    got = crop_padded(PICTURE, place, 4, (24, 24), "bicubic")  # the height fits as it is
    padded = np.pad(PICTURE, [(4, 4), (4, 4), (0, 0)], mode="reflect")
    top, left = int(place[0] * 9), int(place[1] * 15)
    np.testing.assert_array_equal(got, padded[top : top + 24, left : left + 24])


def loader(engine="numpy", **augment):
    images = RNG.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    options = {"image_size": (16, 16), "channels": 3, "preprocessing": Preprocessing(), "batch_size": 6}
    return labels_loader(
        ArraySource("pictures", images, np.arange(12), 12), augment=Augment(**augment), engine=engine, **options
    )


def test_repeats_show_each_picture_several_times_changed_anew():
    batches = [tuple(map(np.asarray, batch)) for batch in loader(repeats=3, shift=7).epoch(0)]
    assert len(batches) == 2  # the epoch's length stays
    for images, labels in batches:
        assert sorted(np.unique(labels, return_counts=True)[1]) == [3, 3]
        assert len({image.tobytes() for image in images}) > 3


@pytest.mark.slow
def test_keras_cvs_randaugment_by_choice():
    chosen = {"library": "keras_cv", "rand_augment": RandAugment()}
    plain, changed = (next(iter(loader("tf", **options).epoch(0))) for options in ({}, chosen))
    assert changed[0].shape == plain[0].shape and np.abs(np.asarray(changed[0]) - np.asarray(plain[0])).max() > 0.1
    assert np.abs(np.asarray(changed[0])).max() <= 1
    with pytest.raises(UserError, match="engine 'tf' alone"):
        loader("numpy", **chosen)

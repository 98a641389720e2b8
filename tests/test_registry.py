"""Names, facts and models by name; what is wrong is answered with what is right."""

import dataclasses
import math
import os
import subprocess
import sys
import typing
import warnings

import keras
import numpy as np
import pytest

import kzoo
from kzoo import registry
from kzoo.errors import UsageError, UserError
from kzoo.specs import Preprocessing


def test_listing_filters():
    names = kzoo.list_models()
    assert names == sorted(names) and {"vit_base_patch16_224", "vit_huge_patch14_518"} <= set(names)
    assert set(kzoo.list_models("vit_*_384")) == {n for n in names if n.startswith("vit_") and n.endswith("_384")}
    families = {family: kzoo.list_models(family=family) for family in ("vit", "deit3")}
    assert all(f"{family}_toy" in found for family, found in families.items()) and not set(families["vit"]) & set(
        families["deit3"]
    )
    tasks = {task: kzoo.list_models(task=task) for task in ("classify", "masked", "detect")}
    assert "mae_toy" in tasks["masked"] and "detr_toy" in tasks["detect"] and sorted(sum(tasks.values(), [])) == names
    assert kzoo.list_models(task="segment") == []


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large", "huge"])
@pytest.mark.parametrize("patch", [8, 14, 16, 32])
def test_every_size_has_its_rows(size, patch):
    larger = 518 if (size, patch) == ("huge", 14) else 384
    assert {f"vit_{size}_patch{patch}_{side}" for side in (224, larger)} <= set(kzoo.list_models())


def test_info_tells_the_facts():
    info = kzoo.info("vit_base_patch16_224")
    assert (info.family, info.task, info.image_size) == ("vit", "classify", (224, 224))
    assert "2010.11929" in info.paper and "vit_base_imagenet" in info.recipes
    assert [stage["stride"] for stage in info.feature_info] == [16] * 12


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda: kzoo.get("vit_bse_patch16_224"), "vit_base_patch16_224"),
        (lambda: kzoo.info("vit_toi"), "vit_toy"),
        (lambda: kzoo.recipe("vit_tiny_digit"), "vit_tiny_digits"),
        (lambda: kzoo.get("vit_toy", embed_dimm=3), "embed_dim"),
        (lambda: kzoo.get("vit_toy.augreg_in1k"), "no published weights"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(call, nearest):
    with pytest.raises(UsageError, match=nearest):
        call()


@pytest.mark.slow
def test_a_saved_model_loads_in_a_fresh_process_with_its_spec(tmp_path):
    """kzoo is imported before Keras there; the other way round is tried below."""
    model = kzoo.get("vit_toy", image_size=(32, 48), num_classes=3, in_channels=1)
    model.save(tmp_path / "m.keras")
    images = np.random.default_rng(0).normal(size=(2, 32, 48, 1)).astype("float32")
    np.save(tmp_path / "x.npy", images)
    code = (
        "import sys, kzoo, keras, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1] + '/m.keras')\n"
        "assert model.spec == kzoo.load(sys.argv[1] + '/m.keras').spec\n"
        "assert model.spec.name == 'vit_toy' and model.spec.overrides['image_size'] == (32, 48)\n"
        "np.save(sys.argv[1] + '/y.npy', model(np.load(sys.argv[1] + '/x.npy')))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model(images))


@pytest.mark.slow
def test_load_model_works_whichever_is_imported_first(tmp_path):
    """In processes of their own, of the backend that starts soonest: what kzoo does at the import is the same under
    all.
    """
    kzoo.get("vit_toy").save(tmp_path / "m.keras")
    looked_for = "import importlib.util, kzoo; importlib.util.find_spec('keras'); import keras"  # as many libraries do
    for first in ("import keras, kzoo", looked_for):
        code = f"{first}; keras.models.load_model({str(tmp_path / 'm.keras')!r})"
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"KERAS_BACKEND": "jax"}, check=True)


def test_the_file_of_a_model_names_no_module_to_import(tmp_path):
    config = kzoo.get("vit_toy").get_config()
    config["spec"]["name"] = "os.system"
    with pytest.raises(UsageError, match="unknown model"):
        type(kzoo.get("vit_toy")).from_config(config)


def test_every_public_name_resolves():
    for name in kzoo.__all__:
        assert getattr(kzoo, name) is not None
    with pytest.raises(AttributeError):
        kzoo.gett  # noqa: B018
    assert keras.Model in type(kzoo.get("vit_toy")).__mro__


@pytest.mark.parametrize("name", registry.toys("kzoo"))
def test_every_number_of_a_config_has_bounds(name):
    """None is built, or fails otherwise than by one sentence, that is below 0 or not finite, beyond any machine or of
    another type.
    """
    config = registry.config_of(name)[1]
    hints = {key: str(hint) for key, hint in typing.get_type_hints(type(config)).items()}
    numbers = [f.name for f in dataclasses.fields(config) if "int" in hints[f.name] or "float" in hints[f.name]]
    assert {"image_size", "num_classes"} < set(numbers)
    for field in numbers:
        for value in (-(10.0**9), math.nan, math.inf, 10**9, 10**12, -(10**9), "many", True):
            shaped = (value,) * len(getattr(config, field)) if isinstance(getattr(config, field), tuple) else value
            overrides = {field: shaped} | ({"features_only": True} if field == "out_indices" else {})
            with pytest.raises(UsageError, match=field) as told:
                kzoo.get(name, **overrides)
            assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("vit_toy", {"mlp_ratio": 0.0}, "mlp_ratio must leave at least 1 of 32 channels"),
        ("coatnet_toy", {"mlp_ratio": 1e-9}, "mlp_ratio must leave at least 1 of 16 channels"),
        ("coatnet_toy", {"depths": (300, 300)}, "at most 500 blocks in all, not 600"),
        ("coatnet_toy", {"stem_width": (8,)}, "stem_width"),
        ("resnet_toy", {"depths": (1, "2")}, "takes tuple"),
        (
            "vit_toy",
            {"embed_dim": 1 << 20},
            r"vit_toy with embed_dim=1048576 has 26,38.* weights, 105,554 GB in float32",
        ),
    ],
)
def test_sizes_that_no_model_can_have_are_told_before_it_is_built(name, overrides, says):
    with pytest.raises(UserError, match=says):
        kzoo.get(name, **overrides)


def test_a_clone_has_no_spec_and_one_sentence_says_so(tmp_path):
    model = kzoo.get("vit_toy")
    clone = keras.models.clone_model(model)
    for call in (
        lambda: kzoo.preprocessor(clone),
        lambda: kzoo.attention(clone, np.zeros((1, 32, 32, 3), "float32")),
        lambda: kzoo.reduce_precision(clone),
        lambda: kzoo.export(clone, tmp_path / "out"),
        lambda: kzoo.save_weights(clone, tmp_path / "w.weights.h5"),
        lambda: kzoo.preprocessor(keras.Sequential([keras.Input((4,))])),
    ):
        with pytest.raises(UserError, match=r"no spec.*clone\.spec = model\.spec"):
            call()
    clone.spec = model.spec
    assert kzoo.preprocessor(clone).preprocessing == model.spec.preprocessing


def test_pictures_of_whole_numbers_are_told_once_not_normalised_ones_never():
    model = kzoo.get("vit_toy")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with pytest.warns(UserWarning, match=r"whole numbers \(uint8\).*kzoo\.preprocessor") as told:
        model.predict(pictures, batch_size=1, verbose=0)
    assert len([w for w in told if "kzoo.preprocessor" in str(w.message)]) == 1
    with warnings.catch_warnings(record=True) as silent:
        warnings.simplefilter("always")
        model.predict(kzoo.preprocessor(model)(pictures), verbose=0)
    assert not [w for w in silent if "kzoo.preprocessor" in str(w.message)]


def test_pictures_of_several_sizes_are_prepared_each_by_itself():
    import tensorflow as tf

    rng, prepare = np.random.default_rng(0), kzoo.preprocessor("vit_toy")
    pictures = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((40, 30, 3), (32, 32, 3), (20, 64, 3))]
    expected = np.stack([prepare(picture) for picture in pictures])
    several = np.empty(3, object)
    several[:] = pictures
    for given in (pictures, tuple(pictures), several, tf.ragged.stack(pictures)):
        np.testing.assert_array_equal(prepare(given), expected)
    np.testing.assert_array_equal(prepare(pictures[:1] * 2), np.stack([expected[0]] * 2))
    with pytest.raises(UserError, match=r"expected pictures of shape \(h, w, 3\)"):
        prepare([pictures[0], pictures[1][..., :1]])


def test_a_model_tells_what_it_is(tmp_path):
    """Its config, what it takes and how many logits it gives: from its spec, after a reload too, and a clone's only
    with that spec.
    """
    preprocessing = Preprocessing(mean=(0.1,), std=(0.2,), crop_pct=0.9)
    model = kzoo.get("vit_toy", image_size=(32, 48), in_channels=1, num_classes=3)
    model.spec = dataclasses.replace(model.spec, preprocessing=preprocessing)
    model.save(tmp_path / "m.keras")
    for each in (model, keras.models.load_model(tmp_path / "m.keras")):
        assert each.take[:4] == ((32, 48), 1, preprocessing, 3) and each.classes == 3
        assert (
            each.config
            == registry.config_of("vit_toy", {"image_size": (32, 48), "in_channels": 1, "num_classes": 3})[1]
        )
    for options in ({"num_classes": 0}, {"global_pool": "none"}, {"features_only": True}):
        assert kzoo.get("vit_toy", **options).classes == 0
    clone = keras.models.clone_model(model)
    for name in ("config", "take", "classes"):
        with pytest.raises(UserError, match=r"no spec.*clone\.spec = model\.spec"):
            getattr(clone, name)
    clone.save(tmp_path / "clone.keras")
    clone.spec = model.spec
    assert clone.take == model.take

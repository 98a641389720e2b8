"""Names, facts and models by name; what is wrong is answered with what is right."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import kzoo
from kzoo.errors import UsageError


def test_listing_filters():
    names = kzoo.list_models()
    assert names == sorted(names) and {"vit_base_patch16_224", "vit_huge_patch14_518"} <= set(names)
    assert set(kzoo.list_models("vit_*_384")) == {n for n in names if n.startswith("vit_") and n.endswith("_384")}
    families = {family: kzoo.list_models(family=family) for family in ("vit", "deit3")}
    assert all(f"{family}_toy" in found for family, found in families.items()) and not set(families["vit"]) & set(families["deit3"])
    assert kzoo.list_models(task="classify") == names
    assert kzoo.list_models(task="detect") == []


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


def test_a_saved_model_loads_in_a_fresh_process_with_its_spec(tmp_path):
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


def test_load_model_works_whichever_is_imported_first(tmp_path):
    kzoo.get("vit_toy").save(tmp_path / "m.keras")
    looked_for = "import importlib.util, kzoo; importlib.util.find_spec('keras'); import keras"  # as many libraries do
    for first in ("import keras, kzoo", "import kzoo, keras", looked_for):
        subprocess.run([sys.executable, "-c", f"{first}; keras.models.load_model({str(tmp_path / 'm.keras')!r})"], check=True)


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

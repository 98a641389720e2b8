"""Hybrids: numbers equal to timm's, and any model of kzoo with feature maps under any ViT."""

import json
import zipfile

import keras
import numpy as np
import pytest

import kzoo
from benchmarks.references import GoogleHybridNpz
from kzoo.archives.zips import SEAL
from kzoo.checking import randomise
from kzoo.errors import UsageError
from kzoo.models.backbone import build_below
from kzoo.models.base import computing_in
from kzoo.models.count import count
from kzoo.recipe_files import dump, parse
from kzoo.registry import config_of
from kzoo.schema import Recipe
from kzoo.settings import override
from tests.equality import assert_equal, pair
from tests.test_resnet import assert_close, picture
from tests.torch_reference import import_timm

SIZES = {"embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 7}


@pytest.mark.parametrize("size", [(64, 96), 32], ids=str)
def test_the_stem_alone_is_equal_to_timms(size, tmp_path):
    overrides = {"image_size": size, "depth": 2, "in_channels": 1}
    assert_equal(*pair("timm_hybrid", "vit_tiny_r_s16_p8_224", tmp_path / "theirs", **overrides))


@pytest.mark.parametrize("key", ["timm_hybrid", "google_hybrid_npz"])
def test_all_stages_are_equal_to_timms_and_googles(key, tmp_path):
    """As many convolutions as R50's, but for their repetitions."""
    options = {"depths": (1, 2, 1, 1)} | ({"norm_eps": 1e-6, "weight_std": "jax"} if key == "google_hybrid_npz" else {})
    on = {"backbone": "resnet50_ws", "backbone_options": options, "patch_size": 1}
    assert_equal(*pair(key, "hybrid_toy", tmp_path / "theirs", image_size=(96, 64), **on, **SIZES))


@pytest.mark.parametrize(("index", "patch_size"), [(-1, 1), (1, 2)])
def test_a_vit_on_a_resnet_is_equal_to_timms(index, patch_size, tmp_path):
    """timm's own way to put one on a model of its own."""
    on = {"backbone": "resnet18", "backbone_index": index, "backbone_options": {}, "patch_size": patch_size}
    assert_equal(
        *pair("timm_hybrid", "hybrid_toy", tmp_path / "theirs", image_size=(64, 96), global_pool="avg", **on, **SIZES)
    )


@pytest.mark.slow
def test_every_row_is_timms_in_size_and_preparation():
    timm = import_timm()
    import torch

    names = [name for name in kzoo.list_models(family="hybrid") if name != "hybrid_toy"]
    listed = [name for name in names if name in timm.list_models()]
    assert len(listed) == 9 and set(names) - set(listed) == {"vit_base_r26_s32_384"}
    more_positions = 768 * (12**2 - 7**2)
    assert kzoo.info("vit_base_r26_s32_384").params == kzoo.info("vit_base_r26_s32_224").params + more_positions
    for name in listed:
        builder, config = config_of(name)
        with torch.device("meta"):
            reference = timm.create_model(name, num_classes=1000)  # timm lists one row by weights without a head
        assert count(lambda builder=builder, config=config: builder(config))[0] == sum(
            p.numel() for p in reference.parameters()
        ), name
        assert config.grid == reference.patch_embed.grid_size and config.num_heads == reference.blocks[0].attn.num_heads
        theirs = timm.get_pretrained_cfg(name)
        for field in ("mean", "std", "crop_pct", "crop_mode", "interpolation"):
            assert getattr(config.preprocessing, field) == getattr(theirs, field), (name, field)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "index", "patch_size", "stride", "channels"),
    [
        *(("resnet_toy", 0, 4, 16, 32), ("coatnet_toy", -1, 2, 16, 24), ("coatnet_toy", 1, 1, 4, 16)),
        *(("vit_toy", -1, 2, 16, 32), ("hybrid_toy", 0, 1, 8, 32), ("swin_toy", 0, 2, 8, 16)),
    ],
)
def test_any_model_with_feature_maps_can_stand_below(backbone, index, patch_size, stride, channels):
    """The patches are those of the map that the backbone alone gives."""
    on = {"backbone": backbone, "backbone_index": index, "backbone_options": {}, "patch_size": patch_size}
    model = randomise(kzoo.get("hybrid_toy", image_size=(32, 64), **on))
    embed = model.get_layer("patch_embed")
    assert embed.proj.kernel.shape == (patch_size, patch_size, channels, 32)
    alone = kzoo.get(backbone, image_size=(32, 64), features_only=True, out_indices=(index,))
    alone.set_weights(embed.backbone.get_weights())
    images = picture(2, 32, 64, 3)
    (features,) = keras.tree.flatten(alone(images))
    rows, columns = 32 // stride, 64 // stride
    cut = np.asarray(features).reshape(2, rows, patch_size, columns, patch_size, channels).transpose(0, 1, 3, 2, 4, 5)
    kernel, bias = (np.asarray(w) for w in embed.proj.weights)
    wanted = cut.reshape(2, rows * columns, -1) @ kernel.reshape(-1, 32) + bias
    assert_close(np.asarray(embed(images)), wanted)
    assert kzoo.attention(model, images).shape == (2, 2, 2, rows, columns)
    maps = kzoo.get("hybrid_toy", image_size=(32, 64), features_only=True, out_indices=(0,), **on)
    assert maps.outputs[0].shape == (None, rows, columns, 32)


# as earlier versions spelt them
TEXTS = ("norm=group", "norm_eps=1e-6", "weight_std=jax", "depths=(1, 1)", "width=32", "output_stride=8")
OPTIONS = {"norm": "group", "norm_eps": 1e-6, "weight_std": "jax", "depths": (1, 1), "width": 32, "output_stride": 8}


@pytest.mark.parametrize("options", [OPTIONS, TEXTS, list(TEXTS)], ids=["table", "texts", "JSON"])
def test_options_reach_the_backbone_from_python_and_from_a_recipe(options):
    overrides = {"backbone_options": options}
    config = config_of("hybrid_toy", overrides)[1]
    assert (config.network.norm_eps, config.network.weight_std, config.network.depths) == (1e-6, "jax", (1, 1))
    assert config.grid == (2, 2) and config.backbone_options == OPTIONS
    recipe, _ = parse(dump(Recipe(model="hybrid_toy", overrides=overrides)))
    assert recipe.overrides == {"backbone_options": OPTIONS}
    assert config_of(recipe.model, recipe.overrides)[1] == config and hash(config) == hash(
        config_of("hybrid_toy", overrides)[1]
    )
    layers = kzoo.get("hybrid_toy", **overrides).get_layer("patch_embed").backbone.layers
    assert {layer.norms[0].epsilon for layer in layers if hasattr(layer, "norms")} == {1e-6}


def test_one_option_is_set_from_the_command_line():
    """On top of the recipe's own, at any depth; an empty table stays one in the record."""
    below = Recipe(model="hybrid_toy", overrides={"backbone_options": TEXTS})
    key = "overrides.backbone_options"
    assert override(below, {f"{key}.width": "64"}).overrides["backbone_options"] == OPTIONS | {"width": 64}
    deep = override(Recipe(model="hybrid_toy"), {f"{key}.backbone_options.depths": "(1, 1)", f"{key}.depth": "1"})
    assert deep.overrides == {"backbone_options": {"backbone_options": {"depths": (1, 1)}, "depth": 1}}
    none = override(below, {key: "()"})
    for recipe in (below, deep, none):
        assert parse(dump(recipe))[0] == recipe
    assert none.overrides == {"backbone_options": {}}
    written = dump(below).replace(f"{key}.", "other.")
    old = "".join(line for line in written.splitlines(True) if "other." not in line) + f"{key} = {json.dumps(TEXTS)}\n"
    assert parse(old)[0] == below  # a record of an earlier version


def test_what_earlier_versions_saved_loads(tmp_path):
    """Their specs and layers spell the options as texts."""
    model = randomise(kzoo.get("hybrid_toy", backbone_options=OPTIONS))
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as new, zipfile.ZipFile(tmp_path / "old.keras", "w") as old:
        config = json.loads(new.read("config.json"))
        del config["config"]["sealed"]
        config["config"]["spec"]["overrides"]["backbone_options"] = TEXTS
        (embed,) = (layer["config"] for layer in config["config"]["layers"] if layer["class_name"] == "HybridEmbed")
        embed["options"] = TEXTS
        for name in set(new.namelist()) - {SEAL}:
            old.writestr(name, json.dumps(config) if name == "config.json" else new.read(name))
    kzoo.save_weights(model, tmp_path / "m.safetensors", layout="timm")
    images = picture(2, 32, 32, 3)
    for again in (
        kzoo.load(tmp_path / "m.keras"),
        kzoo.load(tmp_path / "old.keras"),
        keras.models.load_model(tmp_path / "old.keras"),
    ):
        assert again.spec == model.spec and again.spec.overrides == {"backbone_options": OPTIONS}
        np.testing.assert_array_equal(again(images), model(images))
    for file in ("m.keras", "old.keras", "m.safetensors"):
        taker = kzoo.get("hybrid_toy", weights=tmp_path / file, backbone_options=TEXTS)
        np.testing.assert_array_equal(taker(images), model(images))
    assert kzoo.get("hybrid_toy", weights=tmp_path / "old.keras").spec.overrides == {"backbone_options": OPTIONS}


def test_maps_are_found_by_index_and_by_stride():
    config = config_of("hybrid_toy", {"backbone": "coatnet_toy", "backbone_options": {}, "patch_size": 1})[1]
    facts = config.network.feature_info()
    assert (
        [config.feature_map(stride=fact["stride"]) for fact in facts]
        == facts
        == [config.feature_map(i) for i in range(len(facts))]
    )
    dilated = config_of(
        "hybrid_toy", {"backbone": "resnet50", "backbone_options": {"output_stride": 16}, "backbone_index": 0}
    )[1]
    assert dilated.feature_map(stride=16)["name"] == "layer4"
    with pytest.raises(UsageError, match="no feature map of stride 32; its maps have strides 4, 8, 16, 16"):
        dilated.feature_map(stride=32)


def test_several_maps_of_a_network_below_come_finest_first():
    network = build_below("coatnet_toy", {}, (-1, 0), (None, 32, 64, 3), "float32")
    facts = config_of("coatnet_toy")[1].feature_info()
    wanted = [(None, 32 // fact["stride"], 64 // fact["stride"], fact["channels"]) for fact in (facts[0], facts[-1])]
    assert [tuple(output.shape) for output in network.outputs] == wanted
    assert {w.path.split("/")[0] for w in network.weights} == {"backbone"}


def test_a_saved_hybrid_keeps_its_precision_and_its_names(tmp_path):
    with computing_in("mixed_bfloat16"):
        model = randomise(kzoo.get("hybrid_toy"))
    model.save(tmp_path / "m.keras")
    again = kzoo.load(tmp_path / "m.keras")
    assert [w.path for w in again.weights] == [w.path for w in model.weights]
    assert len({w.path for w in model.weights}) == len(model.weights)
    assert {layer.compute_dtype for layer in again.get_layer("patch_embed").backbone.layers[1:]} == {"bfloat16"}
    images = picture(2, 32, 32, 3)
    np.testing.assert_array_equal(again(images), model(images))


def test_weights_of_another_size_fit(tmp_path):
    donor = randomise(kzoo.get("hybrid_toy"))
    donor.save(tmp_path / "donor.keras")
    taker = kzoo.get("hybrid_toy", weights=tmp_path / "donor.keras", image_size=(32, 64))
    assert taker.load_report.resized == ("pos_embed/table",)
    assert len(taker.load_report.loaded) == len(donor.weights) - 1


def test_a_file_of_google_brings_its_numerics(tmp_path):
    """The row's own options of the backbone stay; what the call names stands above the file's."""
    file = GoogleHybridNpz("hybrid_toy").write(tmp_path / "theirs")
    given = kzoo.get("hybrid_toy", weights=file).spec.overrides
    own = config_of("hybrid_toy")[1].backbone_options
    assert given == {"act": "gelu_tanh", "backbone_options": own | {"norm_eps": 1e-6, "weight_std": "jax"}}
    asked = kzoo.get("hybrid_toy", weights=file, act="gelu", backbone_options=own, in_channels=1, num_classes=3)
    assert asked.spec.overrides["backbone_options"] == own and asked.spec.overrides["act"] == "gelu"
    assert asked.load_report.adapted == ("patch_embed/backbone/stem/conv/kernel",)
    assert set(asked.load_report.reinitialised) == {"head/kernel", "head/bias"}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"backbone": "resnet5"}, "resnet50"),
        ({"backbone_index": 1}, "1 feature maps"),
        ({"backbone_options": {"norm": "layer"}}, "group"),
        ({"backbone_options": {"nrm": "group"}}, "norm"),
        ({"backbone_options": {"depths": 3}}, "option depths of resnet_toy takes tuple"),
        ({"backbone_options": ("nrm=group",)}, "norm"),
        ({"backbone_options": "norm=group"}, "takes dict or tuple"),
        ({"backbone_options": {"norm": "frozen"}}, "norm='frozen'.*weights=PATH"),
        ({"image_size": 36}, "divisible by 8"),
        ({"stem": "conv"}, "side by side"),
        ({"stride": 1}, "side by side"),
        ({"patch_size": 0}, "at least 1"),
    ],
)
def test_wrong_options_are_told(overrides, says):
    with pytest.raises(UsageError, match=says):
        kzoo.get("hybrid_toy", **overrides)

"""Published tags and class names, each compared with what timm itself says of it."""

import csv
import json

import pytest

import kzoo
from kzoo import registry
from kzoo.errors import UsageError, UserError
from kzoo.exporting.card import markdown
from kzoo.published import FOLDER, find_tag, published
from kzoo.published.classes import SUBSETS, class_names, synsets
from kzoo.schema import Recipe
from tests.torch_reference import import_timm
from tests.write_published import ELSEWHERE, rows, timm_cfgs, timm_classes

NAME, TAG = "vit_tiny_patch16_224", "augreg_in21k_ft_in1k"


def test_the_tags_are_those_that_timm_lists_and_those_of_stated_files():
    names = kzoo.list_models("*.*")
    assert len(names) == len(timm_cfgs()) + len(ELSEWHERE) and set(names) == set(timm_cfgs()) | set(ELSEWHERE)


def test_the_table_is_what_is_written():
    with open(FOLDER / "tags.csv", newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{k: str(v) for k, v in line.items()} for line in rows()]


@pytest.mark.parametrize("full", sorted(ELSEWHERE))
def test_a_file_that_timm_does_not_list_is_of_the_weights_whose_encoder_it_does(full):
    """Whole autoencoders: the licence, the pictures' size, mean and deviation are those of timm's encoder."""
    tag, config = find_tag(*full.split(".")), registry.config_of(full)[1]
    encoder = find_tag(tag.model.removeprefix("mae_"), "mae")
    for field in ("license", "image_size"):
        assert getattr(tag, field) == getattr(encoder, field)
    assert (tag.preprocessing.mean, tag.preprocessing.std) == (encoder.preprocessing.mean, encoder.preprocessing.std)
    assert config.num_classes is None and not config.encoder_alone and config.preprocessing == tag.preprocessing
    told = kzoo.info(full)
    assert (told.license, told.weights, told.num_classes) == ("cc-by-nc-4.0", tag.address, None)
    assert kzoo.info(tag.model).tags == ("fb_in1k",) and full in kzoo.list_models(f"{tag.model}.*")


def test_every_tag_says_what_timm_says():
    data = import_timm("timm.data")
    for full, cfg in timm_cfgs().items():
        tag = find_tag(*full.split("."))
        _, config = registry.config_of(full)
        preprocessing = config.preprocessing
        assert ((3, *config.size), config.num_classes) == (cfg.input_size, cfg.num_classes), full
        assert (preprocessing.mean, preprocessing.std) == (cfg.mean, cfg.std), full
        fitted = (preprocessing.crop_pct, preprocessing.crop_mode, preprocessing.interpolation)
        assert fitted == (cfg.crop_pct, cfg.crop_mode, cfg.interpolation), full
        assert (tag.license, tag.address) == (
            cfg.license or "unknown",
            f"hf://{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url,
        ), full
        assert tag.classes == (data.infer_imagenet_subset(cfg.to_dict()) or ""), full
        assert bool(tag.act) == ("QuickGELU" in "".join(cfg.notes or ())), full


@pytest.mark.parametrize("subset", SUBSETS)
def test_class_names_are_timms(subset):
    theirs = timm_classes(subset)
    assert list(synsets(subset)) == theirs.label_names()
    assert list(class_names(subset)) == theirs.label_descriptions()


def test_every_tag_with_class_names_has_one_for_each_logit():
    named = [tag for tags in published().values() for tag in tags.values() if tag.classes]
    assert {len(tag.class_names) for tag in named} == {1000, 11821, 21841, 21843, 11221}
    assert all(len(tag.class_names) == tag.num_classes for tag in named)


def test_listing_finds_names_and_tags():
    names = kzoo.list_models(weights=True)
    assert names == sorted({full.partition(".")[0] for full in (*timm_cfgs(), *ELSEWHERE)})
    assert set(names) | set(kzoo.list_models(weights=False)) == set(
        kzoo.list_models()
    ) and "vit_toy" in kzoo.list_models(weights=False)
    mine = kzoo.list_models(f"{NAME}.*")
    assert mine == [full for full in sorted(timm_cfgs()) if full.startswith(f"{NAME}.")] and len(mine) == 2
    assert kzoo.list_models("*.openai", family="vit") == [] != kzoo.list_models("*.openai", family="vit_clip")


def test_info_tells_the_tags_and_what_one_is():
    bare, tagged = kzoo.info(NAME), kzoo.info(f"{NAME}.{TAG}")
    assert bare.tags == tagged.tags == ("augreg_in21k", TAG) and bare.license == bare.weights == bare.note == ""
    assert (tagged.license, tagged.weights, tagged.classes) == ("apache-2.0", f"hf://timm/{NAME}.{TAG}", "imagenet-1k")
    assert kzoo.info(f"{NAME}.augreg_in21k").num_classes == 21843
    assert kzoo.info(f"{NAME}.augreg_in21k").params > bare.params == tagged.params


def test_info_says_where_the_activation_is_not_the_one_of_the_training():
    assert "vit_base_patch32_clip_quickgelu_224.openai" in kzoo.info("vit_base_patch32_clip_224.openai").note
    assert kzoo.info("vit_base_patch32_clip_quickgelu_224.openai").note == ""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (f"{NAME}.augreg_in21k_ft_in1", f"did you mean {TAG}"),
        (f"{NAME}.", "did you mean augreg_in21k, "),
        (f"vit_tiny_patch16_22.{TAG}", f"unknown model 'vit_tiny_patch16_22'; did you mean {NAME}"),
        ("vit_toy.augreg_in1k", "no published weights"),
    ],
)
def test_an_unknown_tag_is_answered_with_the_nearest(name, told):
    for call in (kzoo.get, kzoo.info, registry.find):
        with pytest.raises(UsageError, match=told):
            call(name)


def test_a_preprocessor_of_an_unknown_tag_is_refused():
    with pytest.raises(UsageError, match=f"did you mean {TAG}"):
        kzoo.preprocessor(f"{NAME}.augreg_in21k_ft_in1")


def test_weights_that_only_have_an_address_say_it():
    with pytest.raises(
        UserError,
        match=r"download https://dl\.fbaipublicfiles\.com/ijepa/IN1K-vit\.h\.14-300e\.pth\.tar and name the file",
    ):
        kzoo.get("vit_huge_patch14_gap_224.in1k_ijepa")


def test_a_tag_prepares_pictures_as_it_was_evaluated():
    full = "vit_base_patch16_clip_224.openai_ft_in1k"
    preprocessing, cfg = kzoo.preprocessor(full).preprocessing, timm_cfgs()[full]
    assert (preprocessing.mean, preprocessing.crop_pct) == (cfg.mean, cfg.crop_pct)
    assert preprocessing != kzoo.preprocessor("vit_base_patch16_224").preprocessing


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Random weights of the tag's model, as a file."""
    path = tmp_path_factory.mktemp("weights") / "w.weights.h5"
    kzoo.get(NAME, depth=1).save_weights(path)
    return path


def test_a_file_takes_the_place_of_the_hub(file, tmp_path):
    model = kzoo.get(f"{NAME}.{TAG}", weights=file, depth=1)
    assert (model.spec.name, model.spec.tag, model.spec.license, model.spec.source) == (NAME, TAG, "apache-2.0", "")
    assert model.spec.class_names == tuple(timm_classes("imagenet-1k").label_descriptions())
    assert model.spec.preprocessing == find_tag(NAME, TAG).preprocessing
    model.save(tmp_path / "m.keras")
    assert kzoo.load(tmp_path / "m.keras").spec == model.spec


@pytest.mark.parametrize("asked", [{"num_classes": 10}, {"num_classes": 0}, {"features_only": True}])
def test_another_head_drops_the_class_names(file, asked):
    assert kzoo.get(f"{NAME}.{TAG}", weights=file, depth=1, **asked).spec.class_names == ()


def test_what_is_asked_for_stands_above_the_tag(file):
    model = kzoo.get(f"{NAME}.{TAG}", weights=file, depth=1, image_size=(64, 96))
    assert model.input_shape == (None, 64, 96, 3) and model.spec.overrides["image_size"] == (64, 96)
    assert len(model.spec.class_names) == 1000


def test_a_recipe_names_its_weights_apart():
    with pytest.raises(UsageError, match="init_from"):
        Recipe(model=f"{NAME}.{TAG}")


def test_the_command_line_lists_and_tells(capsys):
    from kzoo.cli import main

    assert main(["list", "--weights", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == kzoo.list_models(weights=True)
    assert main(["list", f"{NAME}.*"]) == 0
    assert capsys.readouterr().out.split() == kzoo.list_models(f"{NAME}.*")
    assert main(["info", f"{NAME}.{TAG}"]) == 0
    shown = capsys.readouterr().out
    assert "apache-2.0" in shown and f"hf://timm/{NAME}.{TAG}" in shown and "crop_pct 0.9" in shown
    assert main(["predict", f"{NAME}.augreg", "x.png"]) == 2
    assert "did you mean augreg_in21k" in capsys.readouterr().err
    assert main(["predict", f"{NAME}.{TAG}", "--random-weights", "x.png"]) == 2
    assert f"goes with the name alone, {NAME}" in capsys.readouterr().err
    assert main(["predict", NAME, "x.png"]) == 2
    assert f"kzoo info {NAME}" in capsys.readouterr().err


def test_a_card_names_weights_and_licence(file, tmp_path):
    model = kzoo.get(f"{NAME}.{TAG}", weights=file, depth=1, image_size=32)
    card = kzoo.export(model, tmp_path / "out", format="saved_model")
    assert (card["tag"], card["license"]) == (TAG, "apache-2.0")
    assert f"Published weights: `{TAG}`" in markdown(card) and "Licence of these weights: `apache-2.0`" in markdown(
        card
    )
    assert (tmp_path / "out" / "labels.txt").read_text().splitlines() == timm_classes(
        "imagenet-1k"
    ).label_descriptions()

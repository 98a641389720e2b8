"""Every recipe: it says what it is, its settings equal the reviewed text in goldens/recipes and fit its model; a few
run as a smoke.

After a deliberate change, write the texts anew and read the diff:  KZOO_WRITE_GOLDENS=1 python -m pytest
tests/test_recipes.py -k golden
"""

import ast
import dataclasses
import os
import pathlib
import runpy
import sys

import numpy as np
import pytest

import kzoo
from kzoo import recipe_files, registry, schema, settings
from kzoo.published import tags

GOLDENS = pathlib.Path(__file__).parent / "goldens" / "recipes"
NAMES = kzoo.list_recipes()
FILES = sorted({path for path, _ in recipe_files.recipe_rows().values()})
STARTED = [name for name in NAMES if kzoo.recipe(name).init_from]
SCRIPT = "vit_tiny_digits"  # run as a script below, as a smoke too


def small(name):
    """(recipe, the same as a smoke)."""
    recipe = kzoo.recipe(name)
    return recipe, recipe_files.smoke(recipe, registry.toy_of(recipe.model))


def traits(name):
    """What a smoke of a recipe tries: its words, and the keys whose numbers are not the default; augmentation has a
    test of its own.
    """
    default = settings.flatten(schema.Recipe(model=""))
    chosen = {
        k: v
        for k, v in settings.flatten(small(name)[1]).items()
        if v != default.get(k) and not k.startswith("data.augment.")
    }
    return {(key, value if isinstance(value, str) else "") for key, value in chosen.items()}


def representatives():
    """Few recipes that together have every trait that any has; a new recipe is smoked here where it brings a new
    one.
    """
    missing, chosen = set().union(*map(traits, NAMES)) - traits(SCRIPT), []
    while missing:
        chosen.append(max(NAMES, key=lambda name: len(traits(name) & missing)))
        missing -= traits(chosen[-1])
    return chosen


@pytest.mark.parametrize("name", NAMES)
def test_settings_equal_the_golden(name):
    path, text = GOLDENS / f"{name}.txt", recipe_files.dump(kzoo.recipe(name))
    if os.environ.get("KZOO_WRITE_GOLDENS"):
        path.write_text(text)
    assert path.is_file(), f"no golden for {name}: see the first lines of this file"
    assert text == path.read_text()


def test_every_golden_has_its_recipe():
    assert sorted(path.stem for path in GOLDENS.glob("*.txt")) == NAMES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_docstring_is_an_experiment_report(path):
    lines = ast.get_docstring(ast.parse(path.read_text())).splitlines()
    for word in ("Expected: ", "Cost: ", "Command: kzoo train "):
        assert any(line.startswith(word) for line in lines), f"no line {word!r}"
    assert any("https://" in line or line.startswith("Data: ") for line in lines)
    named = [line.split("kzoo train ")[1].split()[0] for line in lines if "kzoo train " in line]
    assert all(recipe_files.recipe_rows()[name][0] == path for name in named)


@pytest.mark.parametrize("name", NAMES)
def test_settings_fit_the_model_and_its_pictures(name):
    from kzoo.data.box_augment import plan
    from kzoo.data.training_pictures import TrainingPictures

    recipe = kzoo.recipe(name)
    assert recipe_files.recipe_rows()[name][1] == recipe.model  # what kzoo.info lists without running the file
    _, config = registry.config_of(recipe.model, recipe.overrides)
    preprocessing = recipe.preprocessing or config.preprocessing
    channels = len(preprocessing.mean)
    images = [np.random.default_rng(i).integers(0, 256, (30 + i, 40, channels), dtype=np.uint8) for i in range(8)]
    if isinstance(recipe.data.augment, schema.BoxAugment):
        changes = plan(
            recipe.data.augment, recipe.seed, 0, np.arange(8), [i.shape[:2] for i in images], (32, 32), (32, 32)
        )
        assert all(0 < side <= 32 for change in changes for side in change.size)
        return
    augmented = TrainingPictures(recipe.data.augment, (32, 32), channels, preprocessing, name, recipe.seed, "numpy")
    for epoch in range(5):  # 40 draws of every random change
        batch = augmented(images, np.arange(8), epoch)
        assert batch.shape == (8, 32, 32, channels) and np.isfinite(batch).all()


@pytest.mark.parametrize("name", STARTED)
def test_what_a_recipe_starts_from_has_its_architecture(name):
    recipe = kzoo.recipe(name)
    if recipe.init_from.startswith("hf://"):  # weights of the model or of the network below it
        below = registry.config_of(recipe.model, recipe.overrides)[1].backbone
        addresses = {tag.address for one in (recipe.model, below) for tag in tags(one).values()}
        assert recipe.init_from in addresses | {"hf://facebook/detr-resnet-50"}  # of DETR's there are no tags
        return
    folder, start = recipe.init_from.split("/")
    assert folder == "runs" and start in NAMES
    if not recipe.keep_architecture:
        given, taken = (registry.config_of(r.model, r.overrides)[1] for r in (kzoo.recipe(start), recipe))
        same = {"image_size": 224, "preprocessing": schema.Preprocessing(), "head_bias": 0.0}
        # a masked autoencoder, whose vectors and positions fine-tuning takes in its own way
        if hasattr(given, "encoder"):
            given = given.encoder
            same |= {"global_pool": "token", "fc_norm": None, "pos_embed": "learned", "num_classes": 0}
        same |= {field.name: 0.0 for field in dataclasses.fields(taken) if field.name.endswith("_rate")}
        same = {name: value for name, value in same.items() if hasattr(taken, name)}
        # windows may grow with the pictures: their tables are resized, and stripes have none
        same |= {name: getattr(taken, name) for name in ("window_size", "split_size") if hasattr(taken, name)}
        assert dataclasses.replace(given, **same) == dataclasses.replace(taken, **same)


@pytest.mark.slow
@pytest.mark.parametrize("name", representatives())
def test_smoke(name, tmp_path):
    recipe, expected = small(name)
    run = kzoo.train(name, tmp_path / "run", smoke=True)
    assert run.metrics["images"] == 64 and run.history[-1]["step"] == 2
    recorded, record = recipe_files.parse((tmp_path / "run" / "recipe.txt").read_text())
    assert recorded == expected
    assert record["compiled"] == "xla" or recipe.xla != "required"


@pytest.mark.parametrize("name", NAMES)
def test_one_epoch_of_any_recipe_has_a_schedule(name):
    from kzoo.training.optimizer import Rate

    recipe = settings.override(kzoo.recipe(name), {"epochs": "1"})
    for steps in (1, 2, 311):
        rates = np.asarray(Rate(recipe, steps, steps)(np.arange(steps)))
        assert rates.shape == (steps,) and 0 < rates.max() <= recipe.optim.lr * (1 + 1e-6)


@pytest.mark.slow
def test_a_recipe_file_runs_as_a_script(tmp_path, monkeypatch):
    path = recipe_files.recipe_rows()[SCRIPT][0]
    words = [SCRIPT, "--smoke", "--workdir", str(tmp_path / "run"), "--set", "steps=1"]
    monkeypatch.setattr(sys, "argv", [str(path), *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 0 and (tmp_path / "run" / "metrics.json").is_file()

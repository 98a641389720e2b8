"""Every recipe: it runs as a smoke, says what it is, and its settings equal the reviewed text in goldens/recipes.

After a deliberate change, write the texts anew and read the diff:  KZOO_WRITE_GOLDENS=1 python -m pytest tests/test_recipes.py -k golden
"""

import ast
import os
import pathlib
import runpy
import sys

import pytest

import kzoo
from kzoo import registry, schema

GOLDENS = pathlib.Path(__file__).parent / "goldens" / "recipes"
NAMES = kzoo.list_recipes()


@pytest.mark.parametrize("name", NAMES)
def test_settings_equal_the_golden(name):
    path, text = GOLDENS / f"{name}.txt", schema.dump(kzoo.recipe(name))
    if os.environ.get("KZOO_WRITE_GOLDENS"):
        path.write_text(text)
    assert path.is_file(), f"no golden for {name}: see the first lines of this file"
    assert text == path.read_text()


def test_every_golden_has_its_recipe():
    assert sorted(path.stem for path in GOLDENS.glob("*.txt")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_docstring_is_an_experiment_report(name):
    lines = ast.get_docstring(ast.parse(registry.recipe_rows()[name][0].read_text())).splitlines()
    for word in ("Expected: ", "Cost: ", "Command: kzoo train "):
        assert any(line.startswith(word) for line in lines), f"no line {word!r}"
    assert any("https://" in line or line.startswith("Data: ") for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_smoke(name, tmp_path):
    run = kzoo.train(name, tmp_path / "run", smoke=True)
    assert run.metrics["images"] == 64 and run.history[-1]["step"] == 2
    recipe, record = schema.parse((tmp_path / "run" / "recipe.txt").read_text())
    assert recipe == schema.smoke(kzoo.recipe(name), "vit_toy")
    assert record["compiled"] == "xla" or recipe.xla != "required"


@pytest.mark.parametrize("name", NAMES)
def test_one_epoch_of_any_recipe_has_a_schedule(name):
    from kzoo.training.optimizer import learning_rate

    recipe = schema.override(kzoo.recipe(name), {"epochs": "1"})
    for steps in (1, 2, 311):
        rates = [float(learning_rate(recipe, steps, steps)(step)) for step in range(steps)]
        assert 0 < max(rates) <= recipe.optim.lr * (1 + 1e-6)


def test_a_recipe_file_runs_as_a_script(tmp_path, monkeypatch):
    path = registry.recipe_rows()["vit_tiny_digits"][0]
    words = ["vit_tiny_digits", "--smoke", "--workdir", str(tmp_path / "run"), "--set", "steps=1"]
    monkeypatch.setattr(sys, "argv", [str(path), *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 0 and (tmp_path / "run" / "metrics.json").is_file()

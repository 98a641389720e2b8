"""Runs side by side, and what a card says its model was trained on."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import kzoo
from kzoo import recipe_files, schema
from kzoo.cli import main
from kzoo.errors import UsageError, UserError
from kzoo.exporting.card import _came_about
from kzoo.exporting.provenance import best_row, history, of_run, provenance, run_of, weights_digest
from kzoo.reporting.compare import compare, text
from kzoo.tasks import make

HEAD = "epoch,step,lr,loss,accuracy,eval_loss,eval_accuracy,images_per_second,minutes\n"
RECIPE = schema.Recipe(model="vit_toy", data=schema.Data(source="fake:n=64", batch_size=8), epochs=3)


def made(folder, rows, metrics, recipe=RECIPE, **record):
    """A folder with the papers of a run."""
    folder.mkdir()
    record = {"parameters": 1234, "training_images": 64, "version.kzoo": "0.1.0", "backend": "jax"} | record
    (folder / "recipe.txt").write_text(recipe_files.dump(recipe, record))
    (folder / "log.csv").write_text(HEAD + "".join(f"{row}\n" for row in rows))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def runs(tmp_path):
    first = [
        "1,8,0.1,2.0,0.3,2.1,0.25,100.0,0.5",
        "2,16,0.1,1.5,0.4,1.4,0.75,300.0,1.0",
        "3,24,0,1,0.5,1.2,0.5,200.0,1.5",
    ]
    second = ["1,8,0.1,2.0,0.3,,,100.0,0.7", "2,16,0.1,1.5,0.4,1.4,0.625,90.0,1.4"]
    faster = dataclasses.replace(RECIPE, optim=schema.Optim(lr=0.5), overrides={"depth": 3})
    return (
        made(tmp_path / "a", first, {"accuracy": 0.5, "loss": 1.2, "images": 64}),
        made(tmp_path / "b", second, {"accuracy": 0.625, "loss": 1.4, "images": 64}, faster, parameters=99),
    )


def test_runs_side_by_side(runs, tmp_path, capsys):
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "curves.png"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "task": "classify",
        "headline": "accuracy",
        "runs": [
            {
                "run": "a",
                "settings": {"optim.lr": 0.001, "overrides.depth": None},
                "headline": 0.5,
                "best": 0.75,
                "best_epoch": 2,
                "parameters": 1234,
                "minutes": 1.5,
                "images_per_second": 200.0,
            },
            {
                "run": "b",
                "settings": {"optim.lr": 0.5, "overrides.depth": 3},
                "headline": 0.625,
                "best": 0.625,
                "best_epoch": 2,
                "parameters": 99,
                "minutes": 1.4,
                "images_per_second": 95.0,
            },
        ],
    }
    assert Image.open(tmp_path / "curves.png").width > 500
    rows = [line.split() for line in text(told).splitlines()]
    assert (
        ["run", "a", "b"] in rows
        and ["best", "accuracy", "0.7500", "0.6250"] in rows
        and ["parameters", "1,234", "99"] in rows
    )
    many = text(told | {"runs": told["runs"] * 3}).splitlines()
    assert len(many) == 7 and many[1].split()[:3] == ["a", "0.001", "–"]


def test_what_cannot_be_compared_is_refused_in_a_sentence(runs, tmp_path, capsys):
    detects = made(tmp_path / "d", [], {"ap": 0.1}, schema.Recipe(model="detr_toy", task=schema.Detect()))
    with pytest.raises(UserError, match="d has no log.csv that can be read; let kzoo train finish it"):
        compare([runs[0], detects])
    (detects / "log.csv").write_text("epoch,step\n1,2\n")
    with pytest.raises(UserError, match="a is a run of the task classify, .*d of detect; compare runs of one task"):
        compare([runs[0], detects])
    (runs[1] / "metrics.json").write_text("[")
    with pytest.raises(UserError, match=r"b has no metrics.json"):
        compare(runs)
    with pytest.raises(UsageError, match="two runs or more"):
        compare(runs[:1])
    with pytest.raises(UsageError, match="ends in .png"):
        compare([runs[0], runs[0]], tmp_path / "curves.txt")
    assert main(["compare", str(runs[0]), str(tmp_path / "none")]) == 1
    assert "not a run" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart_by_their_folders(runs, tmp_path):
    for group in "xy":
        (tmp_path / group).mkdir()
        shutil.copytree(runs[0], tmp_path / group / "a")
    assert [row["run"] for row in compare([tmp_path / "x" / "a", tmp_path / "y" / "a"])["runs"]] == ["x/a", "y/a"]


def test_a_runs_papers_are_its_provenance(runs):
    told = of_run(runs[0])
    assert told["result"] == {"accuracy": 0.5, "loss": 1.2, "images": 64} and told["versions"] == {"kzoo": "0.1.0"}
    assert (told["epochs"], told["steps"], told["minutes"], told["weights"]) == (3, 24, 1.5, "last")
    assert make(recipe_files.parse(told["recipe"])[0].task).settings == RECIPE.task
    (runs[0] / "metrics.json").unlink()
    (runs[0] / "log.csv").unlink()
    assert of_run(runs[0])["result"] is None and of_run(runs[0], best=True)["result"] is None
    for path, expected in ((runs[0], False), (runs[0] / "best.npz", True), (runs[0] / "model.keras", False)):
        assert run_of(path) == (runs[0], expected)
    assert run_of(runs[0] / "other.keras") == run_of("vit_toy") == run_of(object()) == (None, False)


@pytest.mark.slow
def test_a_card_says_what_its_model_was_trained_on(tmp_path, capsys):
    recipe = dataclasses.replace(RECIPE, data=schema.Data(source="digits", batch_size=8), epochs=30, steps=6, xla="off")
    run = kzoo.train(recipe, tmp_path / "run", {"optim.lr": 0.01})
    assert main(["export", str(run.workdir), "--format", "litert", "--out", str(tmp_path / "out"), "--best"]) == 0
    card, page = json.loads((tmp_path / "out" / "card.json").read_text()), (tmp_path / "out" / "card.md").read_text()
    told = card["provenance"]["trained"]
    best = best_row(run.workdir, history(run.workdir))
    assert (told["run"], told["weights"], told["steps"], told["data"]) == ("run", "best", 6, "digits")
    assert told["result"]["accuracy"] == best["eval_accuracy"] == pytest.approx(run.metrics["accuracy"])
    assert card["provenance"]["weights_sha256"] == weights_digest(kzoo.load(run.workdir)) == card["weights_sha256"]
    for line in (
        "- Trained on: `digits`, split train, 1,442 pictures\n",
        "- Recipe: task classify; 1 epoch, 6 steps of 8 pictures; adamw at 0.01, cosine; ",
        f"- Result on the split test, best weights: loss {best['eval_loss']:.4g}, accuracy {best['eval_accuracy']:.4g}",
        f"- SHA-256 of the weights: `{card['weights_sha256']}`",
        f"- Trained with: jax {told['versions']['jax']}, keras {told['versions']['keras']}, ",
    ):
        assert line in page
    model = kzoo.get("vit_toy")
    assert provenance(model)["trained"] == "unknown"
    assert "\n- Trained: unknown\n" in _came_about({"provenance": provenance(model)})
    model.spec = dataclasses.replace(model.spec, tag="made_up")
    assert "see the tag `made_up`" in _came_about({"provenance": provenance(model)}) and _came_about({}) == ""
    assert np.isfinite(run.metrics["loss"])

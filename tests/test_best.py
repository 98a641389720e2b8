"""The weights of a run's best evaluation: which are kept, that a kill loses none, who takes them and who refuses to."""

import dataclasses
import math
import shutil

import numpy as np
import pytest
from PIL import Image

import kzoo
from kzoo import cli, schema
from kzoo.errors import UsageError, UserError
from kzoo.predicting import open_target
from kzoo.tasks.classify import Classify
from kzoo.training import state
from kzoo.weights.checkpoint import open_checkpoint
from kzoo.weights.read import BEST, read_checkpoint

# Two steps an epoch; the pictures grow after the second. The rate is so high that weights, and figures, differ from
# epoch to epoch.
RECIPE = schema.Recipe(
    model="vit_toy",
    overrides={"image_size": 16, "patch_size": 4},
    data=schema.Data(source="fake:size=16,n=16,classes=4", batch_size=8),
    optim=schema.Optim(lr=0.01, ema=0.8, freeze=("patch_embed",)),
    progressive=(8, 16),
    epochs=4,
    xla="off",
)
# the headline of each epoch: the second is the first to count, the third a tie
ERRORS = {1: math.nan, 2: 0.4, 3: 0.4, 4: 0.7}


@pytest.fixture(scope="module", autouse=True)
def told_errors():
    """While it trains, a task judged by `error`, of which less is better and which no log shows."""
    measured = Classify.evaluate

    def evaluate(self, view, *arguments):
        figures = measured(self, view, *arguments)
        return figures | ({"error": ERRORS[int(view.optimizer.iterations) // 2]} if view is not None else {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classify, "evaluate", evaluate)
        patch.setattr(Classify, "headline", lambda self, source: ("error", -1))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, told_errors):
    return kzoo.train(RECIPE, tmp_path_factory.mktemp("untouched") / "run")


def best_of(folder):
    with open_checkpoint(folder / BEST) as file:
        return {name: file.read(name) for name in file.tensors}, file.meta


def stopped(monkeypatch, folder, step, recipe=RECIPE):
    """A run that ends where its checkpoint of that step would begin."""
    save = state.save

    def stop(view, run, meta):
        if meta["step"] == step:
            raise KeyboardInterrupt
        save(view, run, meta)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(state, "save", stop)
        kzoo.train(recipe, folder)
    return folder


@pytest.mark.slow
def test_the_best_is_the_first_of_equals_at_the_models_own_size(run):
    best, last = kzoo.evaluate(run.workdir, best=True), kzoo.evaluate(run.workdir)
    assert [best["loss"], last["loss"]] == pytest.approx(
        [run.history[1]["eval_loss"], run.history[3]["eval_loss"]], rel=1e-6
    )
    assert abs(best["loss"] - last["loss"]) > 1e-3
    weights, meta = best_of(run.workdir)
    assert (meta["step"], meta["epoch"], meta["metrics"]["error"], meta["sealed"]) == (4, 2, 0.4, True)
    model = kzoo.load(run.workdir, best=True)
    assert model.input_shape == (None, 16, 16, 3) and set(weights) == {w.path for w in model.weights}
    assert model.spec == run.model.spec
    assert any(path.startswith("patch_embed") for path in meta["frozen"])


@pytest.mark.slow
def test_a_kill_between_the_best_and_the_checkpoint_loses_nothing(run, tmp_path, monkeypatch, capsys):
    killed = stopped(monkeypatch, tmp_path / "run", 4)
    assert (read_checkpoint(killed)[1]["step"], best_of(killed)[1]["step"]) == (2, 4)
    (killed / BEST).write_bytes(b"to be written again")
    kzoo.train(RECIPE, killed)
    assert (
        "error 0.7000 on 16 pictures; the best, 0.4000, was after epoch 2" in capsys.readouterr().err.splitlines()[-1]
    )
    for ours, theirs in zip(
        (best_of(killed), read_checkpoint(killed)), (best_of(run.workdir), read_checkpoint(run.workdir)), strict=True
    ):
        assert set(ours[0]) == set(theirs[0])
        for key, value in ours[0].items():
            np.testing.assert_array_equal(value, theirs[0][key], err_msg=key)
    assert best_of(killed)[1] == best_of(run.workdir)[1]


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on_from_what_its_history_tells(tmp_path, monkeypatch):
    recipe = dataclasses.replace(RECIPE, progressive=())
    killed = stopped(monkeypatch, tmp_path / "run", 6, recipe)
    (killed / BEST).unlink()
    kzoo.train(recipe, killed)
    with pytest.raises(
        UserError, match="run holds no best.npz: .* leave best out for its last weights, or train it further"
    ):
        kzoo.load(killed, best=True)


@pytest.mark.slow
def test_what_a_run_killed_before_its_first_checkpoint_left_is_not_taken_for_its_best(tmp_path, monkeypatch):
    recipe = dataclasses.replace(RECIPE, progressive=())
    killed = stopped(monkeypatch, tmp_path / "run", 2, recipe)
    (killed / BEST).write_bytes(b"of other settings")
    kzoo.train(dataclasses.replace(recipe, epochs=1), killed)
    assert not (killed / BEST).exists()  # the error of its one evaluation is NaN


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_best_is_told_with_the_remedy(run, tmp_path, damage):
    folder = shutil.copytree(run.workdir, tmp_path / "run")
    good = (folder / BEST).read_bytes()
    place = good.index(b"weights/head") + 200
    bad = {"cut": good[: len(good) // 2], "changed": good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]}[
        damage
    ]
    (folder / BEST).write_bytes(bad)
    with pytest.raises(UserError, match="best.npz .*, or leave best out: the last weights are in checkpoint.npz."):
        kzoo.export(folder, tmp_path / "artifact", "litert", best=True)
    assert kzoo.load(folder).count_params()


@pytest.mark.slow
def test_the_commands_take_the_best(run, tmp_path, capsys):
    folder, picture, artifact = (str(path) for path in (run.workdir, tmp_path / "picture.png", tmp_path / "artifact"))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype="uint8")
    Image.fromarray(pixels).save(picture)
    shown = {}
    for key, words in (("last", []), ("best", ["--best"])):
        for command in (["evaluate", folder], ["predict", folder, picture]):
            assert cli.main([*command, *words, "--json"]) == 0
            shown[command[0], key] = capsys.readouterr().out
    assert all(shown[command, "last"] != shown[command, "best"] for command in ("evaluate", "predict"))
    assert cli.main(["export", folder, "--best", "--format", "litert", "--out", artifact]) == 0
    best, last, exported = (
        open_target(path, best=own)(pixels)["probabilities"]
        for path, own in ((folder, True), (folder, False), (artifact, False))
    )
    np.testing.assert_allclose(exported, best, atol=1e-4)
    assert abs(best - last).max() > 1e-3
    capsys.readouterr()
    for words in (["predict", artifact, picture], ["predict", "vit_toy", picture, "--random-weights"]):
        assert cli.main([*words, "--best"]) == 2
        assert "--best goes with the folder of a run, which" in capsys.readouterr().err
    for refused in (
        lambda: kzoo.load(run.workdir / "model.keras", best=True),
        lambda: kzoo.export(run.model, tmp_path / "other", "litert", best=True),
    ):
        with pytest.raises(UsageError, match="best goes with the folder of a run, which .* is not; leave it out."):
            refused()


def test_running_means_of_another_version_are_left_out(run):
    """A task may tell other terms by now; a weight of another shape is still another model."""
    arrays, _ = read_checkpoint(run.workdir)
    shapes = {key: value.shape for key, value in arrays.items()}
    kept = {key for key in arrays if not key.startswith("metrics/")}
    assert read_checkpoint(run.workdir, shapes=shapes)[0].keys() == arrays.keys() > kept
    assert read_checkpoint(run.workdir, shapes=shapes | {"metrics/00099": (3,)})[0].keys() == kept
    with pytest.raises(UserError, match="belongs to another model or optimizer"):
        read_checkpoint(run.workdir, shapes=shapes | {min(kept): (7, 7, 7)})

"""The range test of learning rates: what it finds on curves that are known, and on a run."""

import json

import keras
import numpy as np
import pytest

import kzoo
from kzoo import cli, schema
from kzoo.errors import UsageError
from kzoo.training import range_test

RECIPE = schema.Recipe(
    model="vit_toy",
    overrides={"image_size": 12, "patch_size": 4, "depth": 1},
    data=schema.Data(source="fake:size=12,n=40,classes=3", batch_size=8, augment=schema.Augment(flip=0.5)),
    optim=schema.Optim(clip_norm=None),
    xla="off",
)


def test_the_steepest_descent_of_a_known_curve():
    rates = np.logspace(-6, 0, 200)
    losses = 1 - np.tanh(2 * (np.log10(rates) + 3.5)) + np.where(rates > 0.02, (rates / 0.02) ** 2, 0)
    assert np.log10(range_test.steepest(rates, losses)) == pytest.approx(-3.5, abs=0.03)
    noisy = losses + np.random.default_rng(0).normal(0, 0.05, 200)
    found = range_test.steepest(rates, range_test.smoothed(noisy, 8))
    assert np.log10(found) == pytest.approx(-3.5, abs=0.35)
    for flat in (np.linspace(1, 2, 200), np.full(200, np.nan), np.ones(2)):
        assert range_test.steepest(rates[: len(flat)], flat) is None


def test_smoothing_is_a_gaussian_mean():
    from scipy.ndimage import gaussian_filter1d

    losses = np.random.default_rng(0).normal(size=80)
    smooth = range_test.smoothed(losses, 3.0)
    expected = gaussian_filter1d(losses, 3.0, mode="constant", truncate=8)
    expected /= gaussian_filter1d(np.ones(80), 3.0, mode="constant", truncate=8)
    np.testing.assert_allclose(smooth, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_a_range_test_goes_by_the_runs_own_steps(tmp_path, monkeypatch):
    """The rates are those that the optimizer had, the losses those of the batches: by the same steps without any
    epochs, 5 of which are one here. Nothing but the curve is written.
    """
    told = []
    updated = keras.optimizers.Optimizer.apply
    monkeypatch.setattr(keras.optimizers.Optimizer, "apply", lambda self, *a: (told.append(self), updated(self, *a))[1])
    monkeypatch.chdir(tmp_path)
    found = kzoo.find_lr(
        RECIPE, {"optim.name": "sgd", "data.source": "fake:size=12,n=40,classes=3"}, steps=12, high=0.1
    )
    assert len(found.rates) == 12 and not list(tmp_path.iterdir())
    np.testing.assert_allclose(found.rates, np.logspace(-6, -1, 12), rtol=1e-12)
    (optimizer,) = set(told)
    rates = [float(optimizer._learning_rate(step)) for step in range(12)]
    np.testing.assert_allclose(rates, found.rates, rtol=1e-5)

    plan = range_test.Plan(
        range_test.settle(RECIPE, {"optim.name": "sgd"})[1], kzoo.data.open_source(RECIPE.data.source, "train")
    )
    keras.utils.set_random_seed(RECIPE.seed)
    plan.schedule = range_test._Rising(1e-6, 0.1, 12)
    stage = range_test.Stage(plan)
    stage.compile()
    losses = []
    for step in range(7):
        stage.view.reset_metrics()
        batch = next(iter(stage.training.epoch(step // 5, start_step=step % 5)))
        losses.append(stage.view.train_on_batch(*map(np.asarray, batch), return_dict=True)["loss"])
    np.testing.assert_allclose(found.losses[:7], losses, rtol=2e-5)


@pytest.mark.slow
def test_the_command_stops_where_the_loss_explodes_and_draws_the_curve(tmp_path, capsys):
    (tmp_path / "toy.py").write_text(
        "from kzoo.schema import Data, Optim, Recipe\n"
        "RECIPES = {'toy': Recipe(model='vit_toy', overrides={'image_size': 12, 'patch_size': 4, 'depth': 1},\n"
        "  data=Data(source='fake:size=12,n=40,classes=3', batch_size=8), optim=Optim(clip_norm=None), xla='off')}\n"
    )
    picture = tmp_path / "curves" / "lr.png"
    words = ["--steps", "40", "--low", "1e-5", "--high", "1e4", "--out", str(picture), "--json"]
    assert cli.main(["find-lr", str(tmp_path / "toy.py"), *words]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert picture.read_bytes().startswith(b"\x89PNG") and f"the curve is in {picture}" in err
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"]) < 40
    assert 1e-4 < found["lr"] < 1 and found["lr"] in [float(f"{rate:.2g}") for rate in found["rates"]]
    assert found["losses"][-1] > 2 * min(found["losses"])


def test_limits_that_are_none_are_refused():
    for limits in ({"low": 0.0}, {"low": 0.1, "high": 0.01}, {"steps": 9}, {"high": np.inf}):
        with pytest.raises(UsageError, match="takes rates 0 < low < high and at least 10 steps"):
            kzoo.find_lr(RECIPE, **limits)

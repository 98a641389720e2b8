"""What this version must go on giving to the bit: batches of three settings on both engines, and what a small run
leaves behind.

tests/goldens/*.json were written by `python -m tests.test_goldens` (`write` below), which writes them anew. Only a
decision to change batches, checkpoint keys or records is a reason for that: it shifts what users have recorded, and
belongs into the commit's message.

The settings keep away from what libraries may round differently: pictures are made of whole numbers and have the
model's size (or the size that its crops are cut from), so that nothing is resampled; operations of RandAugment
interpolate by the nearest pixel. What is left to libraries is NumPy's stream of random numbers and Pillow's arithmetic
on whole numbers. Where a new version of either moves a digest, show first that the parent commit moves in the same way
with it, then write the goldens anew and name the version. The figures of the run are equal between processes of one
machine; another processor adds in another order, hence their tolerance.
"""

import csv
import hashlib
import json
import pathlib
import tempfile

import numpy as np
import pytest

import kzoo
from kzoo import data
from kzoo.data.sources import ArraySource
from kzoo.schema import Augment, Data, Optim, RandAugment, Recipe
from kzoo.specs import Preprocessing
from kzoo.weights.read import read_checkpoint
from tests.loaders import labels_loader

FOLDER = pathlib.Path(__file__).parent / "goldens"
MIXED = Augment(
    flip=0.5,
    shift=2,
    rand_augment=RandAugment(magnitude_std=0.5),
    erase=0.5,
    mixup=0.8,
    cutmix=1.0,
    mix_probability=0.7,
    repeats=2,
)
GREY, COLOUR = Preprocessing(mean=(0.5,), std=(0.5,)), {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
# name: (source, options of its loaders); the last batch of each evaluation is padded
SETTINGS = {
    "labels": (
        lambda: data.open_source("digits", "train"),
        {"side": 8, "channels": 1, "preprocessing": GREY, "batch_size": 320, "augment": Augment(flip=0.5, shift=1)},
    ),
    "mixed": (
        lambda: pictures(50, 16),
        {
            "side": 16,
            "preprocessing": Preprocessing(**COLOUR, interpolation="nearest"),
            "batch_size": 8,
            "augment": MIXED,
            "seed": 3,
        },
    ),
    "crops": (
        lambda: pictures(26, 10),
        {
            "side": 8,
            "preprocessing": Preprocessing(**COLOUR, crop_pct=0.8),
            "batch_size": 8,
            "crops": 5,
            "seed": 2**32 - 1,
        },
    ),
}
RUN = Recipe(
    model="vit_toy",
    overrides={"image_size": 8, "patch_size": 4, "drop_rate": 0.1},
    preprocessing=GREY,
    data=Data(source="digits", batch_size=120, eval_batch_size=355, augment=Augment(shift=1)),
    optim=Optim(lr=2e-3, ema=0.9, accumulate=2),
    epochs=2,
    xla="off",
)
CLOCK = ("time", "minutes", "images_per_second")


def pictures(count, side):
    """A Source of whole numbers, each picture different, in five classes."""
    i, y, x, c = np.ogrid[:count, :side, :side, :3]
    return ArraySource(
        "whole numbers",
        ((i * 53 + y * y * 7 + x * (11 + i % 5) + c * 29) % 256).astype(np.uint8),
        np.arange(count) % 5,
        5,
    )


def loaders(name, engine):
    """(training, evaluation) loaders of a setting, as a run makes them; the one place that knows how loaders are
    made.
    """
    source, options = SETTINGS[name]
    given = {key: options[key] for key in ("preprocessing", "batch_size")}
    given |= {"image_size": (options["side"],) * 2, "channels": options.get("channels", 3), "engine": engine}
    training = labels_loader(source(), **given, augment=options.get("augment"), seed=options.get("seed", 0))
    return training, labels_loader(source(), **given, crops=options.get("crops", 1))


def digests(batches):
    """Of each batch, each array as "dtype shape SHA-256"."""
    arrays = ([np.asarray(array) for array in batch] for batch in batches)
    return [[f"{a.dtype} {list(a.shape)} {hashlib.sha256(a.tobytes()).hexdigest()}" for a in batch] for batch in arrays]


def batches_of(name, engine):
    """What tests/goldens/batches_NAME.json says."""
    training, evaluation = loaders(name, engine)
    return {
        "epochs": [digests(training.epoch(epoch)) for epoch in range(2)],
        "evaluation": digests(evaluation.evaluation()),
    }


def keys_of(value):
    """The keys of nested dictionaries, in order; of a list, those of its first member; None for what holds none."""
    if isinstance(value, list):
        return [keys_of(value[0])] if value and isinstance(value[0], dict) else None
    return {key: keys_of(item) for key, item in value.items()} if isinstance(value, dict) else None


def rounded(figures):
    return {key: round(value, 6) for key, value in figures.items() if key not in CLOCK}


def run_and_export(folder):
    """What tests/goldens/run.json says, of a run, its evaluation and its export in that folder."""
    run = kzoo.train(RUN, folder / "run")
    evaluation = kzoo.evaluate(folder / "run")
    kzoo.export(folder / "run", folder / "artifact", "litert")
    arrays, meta = read_checkpoint(folder / "run")
    header, *rows = csv.reader((folder / "run" / "log.csv").read_text().splitlines())
    files = {
        path.name: json.loads(path.read_text())
        for path in (folder / "run/metrics.json", folder / "run/evaluation.json")
    }
    return {
        "checkpoint": {key: str(list(arrays[key].shape)) for key in sorted(arrays)},
        "log": {"header": header, "rows": len(rows)},
        "history": [list(row) for row in meta["history"]],
        "keys": {name: keys_of(content) for name, content in files.items()},
        "card": keys_of(json.loads((folder / "artifact" / "card.json").read_text())),
        "figures": [rounded(row) for row in run.history] + [rounded(run.metrics), rounded(evaluation)],
    }


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize("engine", ["tf", "numpy"])
@pytest.mark.parametrize("name", SETTINGS)
def test_batches_are_those_of_before(name, engine):
    assert batches_of(name, engine) == read(f"batches_{name}")


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    return run_and_export(tmp_path_factory.mktemp("golden"))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["checkpoint", "log", "history", "keys", "card"])
def test_a_run_leaves_what_it_left_before(left, part):
    assert json.dumps(left[part], indent=1) == json.dumps(read("run")[part], indent=1)  # in that order, too


def test_a_run_reaches_what_it_reached_before(left):
    for figures, expected in zip(left["figures"], read("run")["figures"], strict=True):
        assert figures == pytest.approx(expected, abs=1e-5)


def write():
    """Writes every golden from the code of now."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        made = {f"batches_{name}": batches_of(name, "numpy") for name in SETTINGS} | {
            "run": run_and_export(pathlib.Path(folder))
        }
    for name, golden in made.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    write()

"""Real data, CIFAR-10 as TFDS prepared it: read, packed, trained on for a few steps."""

import json
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds

import kzoo
from kzoo import data
from kzoo.cli import main
from kzoo.zoo import preprocessor
from tests.loaders import labels_loader

pytestmark = pytest.mark.cifar10


@pytest.fixture(scope="module")
def held_out():
    return data.open_source("tfds:cifar10", "test")


def test_the_source_is_what_tfds_reads(held_out):
    assert (len(held_out), held_out.num_classes, held_out.channels) == (10_000, 10, 3)
    assert held_out.class_names[:3] == ("airplane", "automobile", "bird")
    theirs = tfds.load("cifar10", split="test[:50]", data_dir=os.environ["KZOO_DATA_DIR"], download=False)
    for i, record in enumerate(tfds.as_numpy(theirs)):
        image, label = held_out.read(i)
        np.testing.assert_array_equal(image, record["image"])
        assert label == record["label"]


@pytest.mark.slow
def test_packed_it_gives_the_same_batches(held_out, tmp_path):
    """One split of them; the README's command packs both."""
    data.pack("tfds:cifar10", tmp_path / "cifar10.npz", splits=("test",))
    packed = data.open_source(f"npz:{tmp_path / 'cifar10.npz'}", "test")
    options = {
        "image_size": (32, 32),
        "channels": 3,
        "preprocessing": kzoo.get("vit_toy").spec.preprocessing,
        "batch_size": 64,
    }
    batches = [next(iter(labels_loader(source, **options).evaluation())) for source in (held_out, packed)]
    for ours, theirs in zip(*batches, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert packed.class_names == held_out.class_names


def test_the_loader_prepares_pictures_as_the_preprocessor_does(held_out):
    model = kzoo.get("vit_toy", image_size=(40, 48), num_classes=10)
    loader = labels_loader(
        held_out, image_size=(40, 48), channels=3, preprocessing=model.spec.preprocessing, batch_size=16, engine="numpy"
    )
    images, _, _ = next(iter(loader.evaluation()))
    pictures = np.stack([held_out.read(i)[0] for i in range(16)])
    np.testing.assert_allclose(images, preprocessor(model)(pictures), atol=1e-4)


@pytest.mark.slow
def test_the_recipe_trains_exports_and_predicts(tmp_path, capsys):
    run = tmp_path / "run"
    small = [
        "steps=6",
        "xla=off",
        "data.train_split=train[:500]",
        "data.eval_split=test[:500]",
        "data.batch_size=16",
        "overrides.depth=1",
        "overrides.embed_dim=48",
        "overrides.num_heads=3",
        "data.eval_batch_size=500",
    ]
    assert main(["train", "vit_tiny_cifar10", "--workdir", str(run), "--set", *small]) == 0
    assert main(["export", str(run), "--format", "onnx", "--out", str(tmp_path / "onnx"), "--json"]) == 0
    card = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert card["class_names"][0] == "airplane" and "tfds:cifar10" in card["pictures"]
    from PIL import Image

    image, _ = data.open_source("tfds:cifar10", "test").read(3)
    Image.fromarray(image).resize((90, 70)).save(tmp_path / "picture.jpg")
    probabilities = []
    for target in (run, tmp_path / "onnx"):
        assert main(["predict", str(target), str(tmp_path / "picture.jpg"), "--top", "10", "--json"]) == 0
        (result,) = json.loads(capsys.readouterr().out.splitlines()[-1])
        probabilities.append({c["label"]: c["probability"] for c in result["classes"]})
    by_run, by_artifact = probabilities
    assert by_run.keys() == by_artifact.keys() and sum(by_run.values()) == pytest.approx(1, abs=1e-5)
    # the artifact is given rounded pixels
    assert max(abs(by_run[label] - by_artifact[label]) for label in by_run) < 0.01

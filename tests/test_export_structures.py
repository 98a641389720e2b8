"""A network that takes a dictionary, and outputs that need the pictures' own sizes: every artifact answers as Keras
does.
"""

import keras
import numpy as np
import pytest
from PIL import Image

import kzoo
from kzoo.data import prepare
from kzoo.exporting.artifact import open_artifact
from kzoo.predicting import open_target, predict
from kzoo.schema import TaskSettings
from kzoo.tasks.base import Task
from tests.test_export import FORMATS, photos
from tests.test_plugins import plug

FAMILY = """
import kzoo
from keras import Input, layers
from kzoo.models.base import ModelConfig, ZooModel
from kzoo.specs import Preprocessing

TASK = "centre"
VARIANTS = {"plugged_pair_toy": ModelConfig(image_size=(16, 24), num_classes=0, preprocessing=Preprocessing(crop_mode="squash"))}

@kzoo.register
def build(config):
    x = {"image": Input((*config.size, config.in_channels), name="image"), "mask": Input(config.size, name="mask")}
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(x["image"])
    y = layers.Multiply()([y, layers.Reshape((*config.size, 1))(x["mask"])])
    y = layers.GlobalAveragePooling2D(name="pool")(y)
    outputs = {"where": layers.Dense(2, activation="sigmoid", name="where")(y), "what": layers.Dense(3, name="what")(y)}
    return ZooModel(x, outputs, name="plugged_pair")
"""


class Centre(Task):
    """{"centre": (B, 2) in pixels of the picture, "what": (B, 3)}; the mask says which share of the input a square of
    it would fill.
    """

    def inputs(self, images, take):
        ops = keras.ops
        images_in, _ = super().inputs(images, take)
        sizes = ops.cast(ops.stack(ops.shape(images)[1:3]), "float32")
        lit = [
            ops.arange(side, dtype="float32") < side * sizes[i] / ops.max(sizes)
            for i, side in enumerate(take.image_size)
        ]
        mask = ops.cast(ops.logical_and(lit[0][:, None], lit[1][None]), "float32")
        rows = ops.shape(images)[0]
        return {"image": images_in, "mask": ops.broadcast_to(mask, (rows, *take.image_size))}, ops.broadcast_to(
            sizes, (rows, 2)
        )

    def prepared(self, pictures, take):
        sizes = np.float32([picture.shape[:2] for picture in pictures])
        longest = sizes.max(axis=1, keepdims=True)
        rows, columns = (
            np.arange(side) < side * sizes[:, i : i + 1] / longest for i, side in enumerate(take.image_size)
        )
        images = np.stack([prepare(picture, take.image_size, take.preprocessing) for picture in pictures])
        return {"image": images, "mask": np.float32(rows[:, :, None] & columns[:, None])}, sizes

    def outputs(self, network, raw, sizes):
        return {
            "centre": keras.ops.cast(raw["where"], "float32") * sizes,
            "what": keras.ops.cast(raw["what"], "float32"),
        }

    def answer(self, outputs, labels, top):
        return {"centre": outputs["centre"].tolist()}


@pytest.fixture
def model(tmp_path, seen, apart):  # noqa: F811
    plug(tmp_path / "site", "plugged-pair", "plugged_pair", FAMILY)
    seen(tmp_path / "site")
    Centre.settings_class = type("CentreSettings", (TaskSettings,), {"kind": "centre"})
    kzoo.register_task(Centre)
    built = kzoo.get("plugged_pair_toy")
    random = np.random.default_rng(0)
    built.set_weights([random.normal(0, 0.5, weight.shape).astype("float32") for weight in built.get_weights()])
    return built


def by_hand(model, pixels):
    """(centre, what) of one picture of the model's own size, in float64 but for the convolution."""
    height, width = pixels.shape[:2]
    x = (pixels.astype("float32") / 255 - 0.5) / 0.5
    y = keras.ops.convert_to_numpy(model.get_layer("stem")(x[None]))[0].astype("float64")
    y[int(np.ceil(height * height / max(height, width))) :] = 0
    y[:, int(np.ceil(width * width / max(height, width))) :] = 0
    kernels = {layer: [np.float64(w) for w in model.get_layer(layer).get_weights()] for layer in ("where", "what")}
    where, what = (y.mean(axis=(0, 1)) @ kernel + bias for kernel, bias in kernels.values())
    return (height, width) / (1 + np.exp(-where)), what


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_an_artifact_of_a_dictionary_knows_its_pictures_sizes(model, tmp_path, format):
    card = kzoo.export(model, tmp_path / "a", format, pictures=photos())
    assert {name: output["shape"] for name, output in card["outputs"].items()} == {
        "centre": [None, 2],
        "what": [None, 3],
    }
    artifact, own = open_artifact(tmp_path / "a"), np.stack(photos(3, 16, 24))
    found = artifact.predict(own)
    for i, pixels in enumerate(own):
        for one, other in zip(by_hand(model, pixels), (found["centre"][i], found["what"][i]), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)
    assert found["centre"].std(axis=0).min() > 1e-3
    signatures = {record["signature"] for record in card["verified"]}
    assert signatures == ({"serving_default", "serving_jpeg"} if format == "saved_model" else {"serving_default"})
    if format == "saved_model":
        paths = [tmp_path / f"{i}.png" for i in range(2)]
        for path, pixels in zip(paths, (photos(1, 70, 60)[0], photos(1, 20, 90)[0]), strict=True):
            Image.fromarray(pixels).save(path)
        model.save(tmp_path / "model.keras")
        answers = [
            [result["centre"] for result in predict(open_target(t), paths)]
            for t in (tmp_path / "a", tmp_path / "model.keras")
        ]
        np.testing.assert_allclose(*answers, rtol=1e-4)
        assert answers[0][0][0] > 20 > answers[0][1][0]  # rows, of a high picture and a low one
        np.testing.assert_allclose(
            artifact.predict_encoded([path.read_bytes() for path in paths])["centre"], answers[1], rtol=1e-4
        )


def test_reduced_precision_compares_what_a_dictionary_gives(model):
    report = kzoo.reduce_precision(model, pictures=photos()).precision_report
    assert report.images == 8 and 10 < report.largest_output < 90 and 0 < report.max_abs_difference < 2

"""A recipe's preview shows what training would get: the pictures themselves, their labels, the rate of every step."""

import numpy as np
import pytest
from PIL import Image

import kzoo
from kzoo import schema
from kzoo.data import open_source
from kzoo.figures import save as real_save
from kzoo.training import preview
from kzoo.training.plan import settle

RECIPE = schema.Recipe(
    model="vit_toy",
    overrides={"image_size": 8, "patch_size": 4},
    preprocessing=schema.Preprocessing(mean=(0.3,), std=(0.2,)),
    data=schema.Data(source="digits", batch_size=100),
    optim=schema.Optim(lr=0.02),
    schedule=schema.Schedule(warmup_epochs=2, min_lr=0.004),
    epochs=6,
)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a preview saves, by the end of their names."""
    figures = {}

    def keep(figure, path):
        figures[path.name.split(".")[-2]] = figure
        real_save(figure, path)

    monkeypatch.setattr(preview, "save", keep)
    return figures


def test_the_pictures_are_those_of_the_source(tmp_path, drawn):
    paths = preview.preview(RECIPE, tmp_path)
    assert [path.name for path in paths] == ["vit_toy.batch.png", "vit_toy.schedule.png"] and all(
        path.is_file() for path in paths
    )
    pictures, labels = open_source("digits", "train").batch(np.arange(1442))
    known = {
        (picture / 255).astype("float32").round(3).tobytes(): label
        for picture, label in zip(pictures, labels, strict=True)
    }
    shown = [axis for axis in drawn["batch"].axes if axis.get_images()]
    assert len(shown) == 32
    for axis in shown:
        values = np.asarray(axis.get_images()[0].get_array(), "float32")[..., None]
        assert str(known[values.round(3).tobytes()]) == axis.get_title()


def test_the_schedule_is_the_recipes(tmp_path, drawn):
    preview.preview(RECIPE, tmp_path, {"data.batch_size": "144"})  # ten steps an epoch
    (line,) = drawn["schedule"].axes[0].get_lines()
    steps = np.arange(60)
    cosine = 0.004 + 0.016 * (1 + np.cos(np.pi * (steps - 20) / 40)) / 2
    np.testing.assert_allclose(line.get_xdata(), steps / 10, atol=1e-6)
    np.testing.assert_allclose(line.get_ydata(), np.where(steps < 20, 0.02 * steps / 20, cosine), rtol=1e-5)


def test_mixed_labels_show_the_two_largest(tmp_path, drawn):
    preview.preview(RECIPE, tmp_path, {"data.augment.cutmix": 1.0})
    titles = [axis.get_title() for axis in drawn["batch"].axes if axis.get_images()]
    shares = [[float(line.split()[1]) for line in title.splitlines()] for title in titles]
    assert all(sum(pair) == pytest.approx(1, abs=0.011) and pair == sorted(pair, reverse=True) for pair in shares)
    assert any(len(pair) == 2 for pair in shares)


def test_objects_are_shown_where_the_source_has_them(tmp_path, drawn):
    """On pictures without their padding, each that of the source resized by Pillow."""
    augment = schema.BoxAugment(flip=0, crop=0, scales=())
    data = schema.Data(source="shapes:n=8,size=32,max=3", batch_size=8, augment=augment)
    recipe = schema.Recipe(
        model="detr_toy", overrides={"image_size": (32, 48)}, task=schema.Detect(), data=data, epochs=1
    )
    preview.preview(recipe, tmp_path)
    source = open_source(data.source, "train")
    samples, seen = [source.read(i) for i in range(8)], []
    for axis in (axis for axis in drawn["batch"].axes if axis.get_images()):
        image = np.asarray(axis.get_images()[0].get_array())
        height, width = image.shape[:2]
        resized = [
            Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR) for picture, _ in samples
        ]
        errors = [np.abs(image - np.asarray(one) / 255).max() for one in resized]
        seen.append(int(np.argmin(errors)))
        picture, objects = samples[seen[-1]]
        assert min(errors) < 0.01 and abs(height / picture.shape[0] - width / picture.shape[1]) < 0.04
        boxes = objects["boxes"] * np.tile((width / picture.shape[1], height / picture.shape[0]), 2)
        corners = [[*patch.get_xy(), *patch.get_corners()[2]] for patch in axis.patches]
        np.testing.assert_allclose(np.reshape(corners, (-1, 4)), boxes, atol=1e-3)
        assert [text.get_text() for text in axis.texts] == [source.class_names[label] for label in objects["labels"]]
    assert sorted(seen) == list(range(8))


def test_a_smoke_needs_no_data(tmp_path):
    name, recipe = settle("vit_base_imagenet", smoke=True)
    paths = preview.preview("vit_base_imagenet", tmp_path, smoke=True)
    assert recipe.data.source == "fake" and all(path.is_file() and path.name.startswith(name) for path in paths)
    with pytest.raises(kzoo.UserError, match="data.batch_size"):
        preview.preview(RECIPE, tmp_path, {"data.batch_size": 5000})

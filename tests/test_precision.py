"""Inference in bfloat16: the twin computes what the model does, and its report says what an independent comparison
finds.
"""

import numpy as np
import pytest
import torch

import kzoo
from kzoo.errors import UsageError
from kzoo.exporting.artifact import open_artifact
from tests.test_export import in_keras, photos, toy


@pytest.fixture(scope="module")
def model():
    return toy(image_size=16, crop_pct=1.0)


def pictures_of(model, count=8):
    """uint8 pictures (B, H, W, C) that have the model's own size."""
    return np.stack(photos(count, *model.input_shape[1:3]))


def through_bfloat16(array):
    """float32 rounded to bfloat16 by torch."""
    return torch.tensor(array).bfloat16().float().numpy()


@pytest.mark.backends
def test_the_report_is_what_an_independent_comparison_finds(model):
    pictures = pictures_of(model)
    reduced = kzoo.reduce_precision(model, pictures=list(pictures))
    report = reduced.precision_report
    expected, found = (np.float64(in_keras(m, pictures)) for m in (model, reduced))
    assert (report.dtype, report.images, report.pictures) == ("bfloat16", 8, "the caller's pictures")
    assert report.max_abs_difference == pytest.approx(np.abs(expected - found).max(), rel=1e-3)
    assert report.largest_output == pytest.approx(np.abs(expected).max(), rel=1e-4)
    assert report.correlation == pytest.approx(np.corrcoef(expected.ravel(), found.ravel())[0, 1], abs=1e-6)
    assert report.top1_agreement == np.mean(expected.argmax(1) == found.argmax(1))
    assert 0 < report.max_abs_difference < 0.1 * report.largest_output and report.correlation > 0.995


@pytest.mark.backends
def test_the_twin_holds_the_weights_in_half_the_room_and_gives_float32(model):
    reduced = kzoo.reduce_precision(model)
    head = [weight for weight in reduced.weights if weight.path.startswith("head/")]
    rest = [weight for weight in reduced.weights if not weight.path.startswith("head/")]
    assert {weight.dtype for weight in rest} == {"bfloat16"} and {weight.dtype for weight in head} == {"float32"}
    values = {weight.path: np.asarray(weight.numpy(), np.float32) for weight in model.weights}
    for weight in rest:
        np.testing.assert_array_equal(np.asarray(weight.numpy(), np.float32), through_bfloat16(values[weight.path]))
    assert in_keras(reduced, pictures_of(model)).dtype == np.float32
    assert model.precision_report is None and reduced.spec == model.spec


def test_features_and_pooled_vectors_are_compared_without_classes():
    for overrides, maps in (({"num_classes": 0}, 1), ({"features_only": True, "out_indices": (0, 1)}, 2)):
        model = kzoo.get("vit_toy", **overrides)
        report = kzoo.reduce_precision(model).precision_report
        outputs = model.predict_on_batch(np.zeros((1, *model.input_shape[1:]), np.float32))
        assert report.top1_agreement is None and 0 < report.max_abs_difference
        assert "same best class" not in str(report) and len(outputs) == maps


def test_another_precision_is_refused(model):
    with pytest.raises(UsageError, match="unknown reduced precision 'float16'; did you mean bfloat16"):
        kzoo.reduce_precision(model, "float16")


@pytest.mark.slow
def test_the_artifact_is_smaller_and_says_what_it_costs(model, tmp_path):
    exact = kzoo.export(model, tmp_path / "exact", pictures=photos())
    card = kzoo.export(model, tmp_path / "reduced", quantize="bfloat16", pictures=photos())
    sizes = [
        (tmp_path / name / "1/variables/variables.data-00000-of-00001").stat().st_size for name in ("exact", "reduced")
    ]
    assert sizes[1] < 0.55 * sizes[0]  # two bytes a weight, but for the head
    assert card["precision"] == "bfloat16 weights and products" and card["weights_sha256"] == exact["weights_sha256"]
    pictures = pictures_of(model)
    expected, found = in_keras(model, pictures), open_artifact(tmp_path / "reduced").predict(pictures)["logits"]
    record = next(r for r in card["verified"] if r["batch"] == 8 and r["size"] == [16, 16])
    assert 0 < np.abs(expected - found).max() < 0.1 * np.abs(expected).max()
    assert 0 < record["max_abs_difference"] < 0.1 * record["largest_output"] and record["correlation"] > 0.995


def test_predict_says_what_the_precision_costs(model, tmp_path, capsys):
    from PIL import Image

    from kzoo.cli import main

    model.save(tmp_path / "model.keras")
    Image.fromarray(photos(1)[0]).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "model.keras"), str(tmp_path / "a.png"), "--dtype", "bfloat16"]) == 0
    output = capsys.readouterr()
    assert "bfloat16 on 8 pictures" in output.err and "same best class for" in output.err
    assert any(name in output.out for name in model.spec.class_names)

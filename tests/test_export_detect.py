"""Detectors as artifacts: compared detection by detection, told what the picture fills, called by their runtimes alone."""

import dataclasses
import json
import pathlib

import keras
import numpy as np
import pytest
from PIL import Image
from scipy.optimize import linear_sum_assignment

import kzoo
from kzoo.cli import main
from kzoo.errors import UsageError, UserError
from kzoo.exporting.artifact import Artifact, open_artifact
from kzoo.exporting.verify import TOLERANCE
from kzoo.ops.detections import detections
from kzoo.predicting import ArtifactPredictor, ModelPredictor
from kzoo.schema import Detect
from kzoo.specs import Preprocessing
from kzoo.tasks import make, pairing
from tests.test_export import FORMATS, photos, softmax


def answers(rng, pictures=3, queries=8, classes=4):
    """What an artifact is compared with, of random logits and boxes, with two queries that all but agree, so that
    neither is surely the first, and one to which two classes are all but equally likely.
    """
    logits = rng.normal(size=(pictures, queries, classes + 1)).astype("float32")
    boxes = rng.uniform(0.1, 0.9, (pictures, queries, 4)).astype("float32")
    logits[:, 1] = logits[:, 0] + 1e-6
    logits[:, 2, :classes] = np.sort(logits[:, 2, :classes], axis=1)
    logits[:, 2, classes - 2] = logits[:, 2, classes - 1]
    found = detections(logits, boxes, np.full((pictures, 2), (60.0, 90.0), np.float32), shares=True)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, found)


def as_another_runtime(expected, rng):
    """The same but for what float32 leaves open: last bits, the order of equal scores, which of two equal classes."""
    found = {name: np.array(expected[name]) for name in ("boxes", "scores", "labels")}
    found["boxes"] += rng.normal(0, 1e-5, found["boxes"].shape).astype("float32")
    for i, (scores, shares) in enumerate(zip(expected["scores"], expected["shares"], strict=True)):
        first = int(np.argmin(-np.diff(scores)))  # the two that all but agree stand side by side
        for values in found.values():
            values[i, [first, first + 1]] = values[i, [first + 1, first]]
        best, second = np.sort(shares, axis=1)[:, ::-1].T[:2]
        tied = int(np.argmin(np.log(best / second)))
        places = np.argsort(-shares[tied])[:2].tolist()
        places.remove(int(expected["labels"][i, tied]))
        row = {first: first + 1, first + 1: first}.get(tied, tied)
        found["labels"][i, row] = places[0]
    return found


BROKEN = {
    "labels counted from 1": lambda found: found["labels"].__iadd__(1),
    "one label": lambda found: found["labels"].__setitem__((1, 0), (found["labels"][1, 0] + 1) % 4),
    "no class": lambda found: found["labels"].__setitem__((0, 3), np.nan),
    "two boxes changed places": lambda found: found["boxes"].__setitem__((2, [0, 7]), found["boxes"][2, [7, 0]]),
    "a box moved": lambda found: found["boxes"][0, 5].__iadd__(0.02),
    "height and width": lambda found: found["boxes"].__setitem__(..., found["boxes"][..., [1, 0, 3, 2]]),
    "a score": lambda found: found["scores"][1, 4:5].__iadd__(2e-4),
    "worst first": lambda found: [v.__setitem__(..., v[:, ::-1].copy()) for v in found.values()],
    "one twice": lambda found: [v.__setitem__((slice(None), 6), v[:, 5]) for v in found.values()],
    "not a number": lambda found: found["boxes"].__setitem__((0, 0), np.nan),
}


@pytest.mark.parametrize("kind", ["none", *BROKEN])
def test_detections_are_compared_one_to_one(kind):
    """Where nothing but last bits and ties differ, the artifact is as good as Keras; where anything else does, not."""
    task, rng = make(Detect()), np.random.default_rng(4)
    expected = answers(rng)
    found = as_another_runtime(expected, rng)
    if kind == "none":
        other = pairing.paired(expected, found)
        for i in range(3):
            cost = np.abs(expected["boxes"][i][:, None] - found["boxes"][i]).sum(axis=2)
            for name, values in found.items():
                np.testing.assert_array_equal(other[name][i], values[i][linear_sum_assignment(cost)[1]])
        assert not np.array_equal(other["boxes"], found["boxes"])
    else:
        BROKEN[kind](found)
    record = task.agreement(expected, found)
    apart = {what: difference / unit / TOLERANCE for what, difference, unit in task.differences(record)}
    assert all(difference <= 1 for difference in apart.values()) == (kind == "none"), apart
    if kind == "none":
        assert 0 < apart[""] < 0.1 and record["label_agreement"] == 1 - 3 / 24 and record["correlation"] > 0.9999
        assert set(task.agreements) < set(record)


def by_hand(model, images, sizes):
    """({"logits", "boxes"}, {"boxes" in pixels, "scores", "labels"}) of uint8 pictures (B, H, W, C) that fill sizes
    (B, 2) in the upper left: the model alone is ours.
    """
    pre, inside = model.spec.preprocessing, np.zeros(images.shape[:3], bool)
    for row, (height, width) in zip(inside, sizes, strict=True):
        row[:height, :width] = True
    x = np.where(inside[..., None], (images / 255 - pre.mean) / pre.std, 0).astype("float32")
    raw = model.predict_on_batch({"image": x, "mask": ~inside})
    shares = softmax(raw["logits"])[..., :-1]
    cx, cy, w, h = np.moveaxis(raw["boxes"].astype("float64"), -1, 0)
    corners = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1)
    boxes = corners * np.float64(sizes)[:, None, [1, 0, 1, 0]]
    return raw, {"boxes": boxes, "scores": shares.max(-1), "labels": shares.argmax(-1)}


def assert_same_detections(found, expected, box, score):
    """Of one picture, {"boxes", "scores", "labels"}: one to one by SciPy, boxes and scores within so much."""
    found, expected = ({name: np.asarray(value) for name, value in each.items()} for each in (found, expected))
    cost = np.abs(expected["boxes"][:, None] - found["boxes"]).sum(axis=2)
    order = linear_sum_assignment(cost + np.abs(expected["scores"][:, None] - found["scores"]))[1]
    np.testing.assert_allclose(found["boxes"][order], expected["boxes"], atol=box)
    np.testing.assert_allclose(found["scores"][order], expected["scores"], atol=score)
    np.testing.assert_array_equal(found["labels"][order], expected["labels"])
    assert (np.diff(found["scores"]) <= 0).all()


@pytest.fixture(scope="module")
def detector():
    """(a detector whose weights all matter, two pictures narrower and wider than its size, its detections in them)."""
    model, rng = kzoo.get("detr_toy", image_size=(32, 40), num_classes=3), np.random.default_rng(5)
    for weight in model.weights:
        near_one = weight.path.endswith(("gamma", "variance"))
        weight.assign(1 + rng.normal(0, 0.1, weight.shape) if near_one else rng.normal(0, 0.2, weight.shape))
    model.spec = dataclasses.replace(model.spec, class_names=("ant", "bee", "cat"))
    predictor = ModelPredictor(model, asked={"threshold": 0})
    pictures = photos(1, 60, 50) + photos(1, 40, 110)
    answers = [predictor.task.answer(predictor(picture), predictor.labels, 5)["objects"] for picture in pictures]
    return model, pictures, [as_arrays(answer) for answer in answers]


def as_arrays(objects):
    """Detections as an answer has them, by name."""
    named = {"boxes": "box", "scores": "score", "labels": "label"}
    return {name: np.array([found[key] for found in objects]) for name, key in named.items()}


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_an_artifact_finds_what_the_model_does(detector, tmp_path, format, capsys, monkeypatch):
    """By its own runtime, the boxes of one size in pixels of what each picture fills, by the command in those of the
    picture.
    """
    folder, (model, pictures, answers) = tmp_path / "artifact", detector
    card = kzoo.export(model, folder, format=format, pictures=photos())
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    capsys.readouterr()
    assert main(["predict", str(folder), *paths, "--json", "--threshold", "0"]) == 0
    for told, answer in zip(json.loads(capsys.readouterr().out), answers, strict=True):
        # the artifact of one size is given a rounded picture
        near = (1e-2, 1e-5) if format == "saved_model" else (0.5, 5e-3)
        assert_same_detections(as_arrays(told["objects"]), answer, *near)
    artifact = open_artifact(folder)
    count = int(np.argmax(-np.diff(answers[0]["scores"]))) + 1  # those above the widest gap
    between = float(np.mean(answers[0]["scores"][count - 1 : count + 1]))
    predictor = ArtifactPredictor(artifact, {"threshold": str(between)})
    assert len(predictor.task.answer(predictor(pictures[0]), predictor.labels, 5)["objects"]) == count < 6
    images, sizes = pixels(3, 32, 40), np.array([(32, 40), (32, 17), (9, 30)])
    given = {"images": images} if format == "saved_model" else {"images": images, "sizes": sizes.astype(np.int32)}
    raw, expected = by_hand(model, images, sizes if "sizes" in given else [(32, 40)] * 3)
    for name, found in by_its_runtime(folder, format, given).items():
        if name == "serving_raw":
            assert set(found) == set(raw)
            for key, array in raw.items():
                np.testing.assert_allclose(found[key], array, atol=2e-5)
        else:
            for i in range(3):
                assert_same_detections(*({k: v[i] for k, v in each.items()} for each in (found, expected)), 1e-3, 1e-5)
    assert ("sizes_input" in card, "raw_outputs" in card) == (format != "saved_model", format != "onnx")
    if format != "saved_model":
        monkeypatch.chdir(folder)
        exec((folder / "card.md").read_text().split("```python\n")[1].split("```")[0], {})
        assert capsys.readouterr().out.startswith("[[[")
    if format == "onnx":
        assert_broken_ones_are_seen(artifact, model, pictures)


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def by_its_runtime(folder, format, given):
    """{signature: what it gives} of an artifact that is called without kzoo."""
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx")
        names = [output.name for output in session.get_outputs()]
        return {"serving_default": dict(zip(names, session.run(names, given), strict=True))}
    if format == "litert":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(folder / "model.tflite"))
        names = ("serving_default", "serving_raw")
        return {name: interpreter.get_signature_runner(name)(**given) for name in names}
    import tensorflow as tf

    signatures = tf.saved_model.load(str(folder / "1")).signatures
    assert set(signatures) == {"serving_default", "serving_raw", "serving_jpeg"}
    names = ("serving_default", "serving_raw")
    called = {name: signatures[name](images=tf.constant(given["images"])) for name in names}
    return {name: {key: value.numpy() for key, value in outputs.items()} for name, outputs in called.items()}


def assert_broken_ones_are_seen(artifact, model, pictures):
    """One whose labels are another's, and one that looks at what lies beside the picture, are not verified."""
    from kzoo.exporting.serving import Serving
    from kzoo.exporting.verify import verify

    serving, run = Serving(model), artifact._run
    assert len(verify(artifact, serving, pictures, exact=True)) == 3
    broken = {
        "in labels": lambda given: (found := run(given)) | {"labels": (found["labels"] + 1) % 3},
        "": lambda given: run(given | {"sizes": np.full_like(given["sizes"], (32, 40))}),
    }
    for words, instead in broken.items():
        artifact._run = instead
        with pytest.raises(UserError, match=f"the onnx artifact disagrees with Keras by .*{words}"):
            verify(artifact, serving, pictures, exact=True)


def test_an_artifact_that_is_told_no_sizes_is_given_the_squeezed_picture():
    """Those of earlier versions: their boxes are of the whole size, which the picture was brought to."""

    class Earlier:
        labels, channels, image_size, any_size, takes_sizes = ("one", "two"), 3, (32, 40), False, False
        card = {"task": "detect", "preprocessing": dataclasses.asdict(Preprocessing(crop_mode="squash"))}

        def predict(self, images):
            assert images.shape == (1, 32, 40, 3) and images[0, :, 21:].min() == 255 > 0 == images[0, :, :19].max()
            boxes = np.float32([[[0, 8, 20, 16], [10, 0, 40, 32]]])
            return {"boxes": boxes, "scores": np.float32([[0.9, 0.6]]), "labels": np.float32([[1, 0]])}

    picture = np.zeros((64, 200, 3), np.uint8)
    picture[:, 100:] = 255
    predictor = ArtifactPredictor(Earlier(), {"threshold": "0.7"})
    (found,) = predictor.task.answer(predictor(picture), predictor.labels, 5)["objects"]
    assert found["label"] == "two" and found["box"] == [0, 16, 100, 32]


class FakeOnnx(Artifact):
    """One of one size that tells what it is given."""

    any_size, gives_raw, takes_sizes, image_size, channels, folder = False, False, True, (32, 40), 3, pathlib.Path("a")

    def __init__(self):
        self.card, self.labels = {"task": "detect", "preprocessing": dataclasses.asdict(Preprocessing())}, ()

    def _run(self, given):
        return given


def test_sizes_that_cannot_be_and_unknown_questions_are_refused():
    artifact, images = FakeOnnx(), pixels(2, 32, 40)
    assert artifact.predict(images)["sizes"].tolist() == [[32, 40]] * 2
    sizes = artifact.predict(images, [(1, 40), (7.0, 9.0)])["sizes"]
    assert sizes.tolist() == [[1, 40], [7, 9]] and sizes.dtype == np.int32
    for wrong in ([(33, 40)] * 2, [(1.5, 4)] * 2, [(0, 3)] * 2, [(3, 3)], [(np.nan, 3)] * 2):
        with pytest.raises(UserError, match="the height and width that each of the 2 pictures fills"):
            artifact.predict(images, wrong)
    with pytest.raises(UserError, match="a has no signature serving_raw"):
        artifact.predict_raw(images)
    artifact.takes_sizes = False
    with pytest.raises(UserError, match="a takes pictures alone; leave sizes out"):
        artifact.predict(images, [(3, 3)] * 2)
    with pytest.raises(UsageError, match="did you mean threshold"):
        ArtifactPredictor(artifact, {"treshold": "0"})
    with pytest.raises(UsageError, match="a score in 0..1, not 2"):
        ArtifactPredictor(artifact, {"threshold": "2"})
    artifact.card["task"] = "classify"
    with pytest.raises(UsageError, match="an artifact of the task classify is asked nothing beside the picture"):
        ArtifactPredictor(artifact, {"threshold": "0"})

"""The task of detection: what becomes of a picture and its boxes, COCO's figures, a run from its start to its answers."""

import csv
import dataclasses
import json
import pathlib

import keras
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment

import kzoo
from kzoo.cli import main
from kzoo.data import open_source
from kzoo.data.objects import canvas_of
from kzoo.errors import UsageError, UserError
from kzoo.exporting.artifact import Artifact, open_artifact
from kzoo.ops.detections import detections
from kzoo.ops.resize import fitted_size
from kzoo.predicting import ArtifactPredictor, ModelPredictor
from kzoo.preprocess import padded
from kzoo.schema import BoxAugment, Data, Detect, Optim, Recipe
from kzoo.specs import Preprocessing
from kzoo.tasks import make, pairing
from kzoo.tasks.average_precision import FIGURES, AveragePrecision
from tests.test_export import softmax
from tests.test_training_run import interrupt_after

RECIPE = Recipe(
    model="detr_toy",
    overrides={"image_size": (32, 40)},
    preprocessing=Preprocessing(crop_mode="squash"),
    task=Detect(),
    data=Data(
        source="shapes:n=16,size=32,max=3", batch_size=8, augment=BoxAugment(scales=(24, 32), crop_size=(20, 28))
    ),
    optim=Optim(lr=1e-3),
    epochs=2,
)


@pytest.mark.backends
def test_a_pictures_size_is_the_same_of_tensors():
    rng = np.random.default_rng(0)
    for height, width in [(64, 64), *rng.integers(20, 1500, (30, 2)).tolist()]:
        for canvas in (None, (480, 640), (640, 480)):
            tensors = fitted_size(*map(keras.ops.convert_to_tensor, (height, width)), 480, 640, canvas)
            assert tuple(map(int, tensors)) == fitted_size(height, width, 480, 640, canvas)


@pytest.mark.backends
@pytest.mark.parametrize("size", [(40, 60), (64, 48), (30, 200), (32, 40)])
def test_a_picture_is_padded_in_a_graph_as_on_the_host(size):
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), interpolation="bilinear")
    image, mask, filled = canvas_of(picture, (32, 40), preprocessing)
    found = padded(picture[None], (32, 40), preprocessing)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(found["mask"])[0], mask)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found["image"])[0], image, atol=2e-5)
    assert not mask[: filled[0], : filled[1]].any() and mask.sum() == mask.size - filled[0] * filled[1]


@pytest.mark.backends
def test_detections_are_the_official_post_processing_best_first():
    rng = np.random.default_rng(2)
    logits, boxes = rng.normal(size=(2, 7, 4)), rng.uniform(0.1, 0.9, (2, 7, 4))
    sizes = np.array([[100, 200], [50, 30]], np.float32)
    found = keras.tree.map_structure(
        keras.ops.convert_to_numpy, detections(logits.astype("float32"), boxes.astype("float32"), sizes)
    )
    for i, (height, width) in enumerate(sizes):
        shares = np.exp(logits[i]) / np.exp(logits[i]).sum(axis=1, keepdims=True)
        order = np.argsort(-shares[:, :-1].max(axis=1))
        np.testing.assert_allclose(found["scores"][i], shares[order, :-1].max(axis=1), rtol=1e-5)
        np.testing.assert_array_equal(found["labels"][i], shares[order, :-1].argmax(axis=1))
        cx, cy, w, h = boxes[i, order].T
        corners = np.stack(
            [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height], 1
        )
        np.testing.assert_allclose(found["boxes"][i], corners, rtol=1e-4, atol=1e-3)


def some_objects(rng, count, score=False):
    low = rng.uniform(0, 150, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 150, (count, 2))], axis=1).astype(np.float32)
    told = {"boxes": boxes, "labels": rng.integers(0, 3, count)}
    if score:
        return told | {"scores": rng.uniform(size=count).astype(np.float32)}
    return told | {"crowd": rng.uniform(size=count) < 0.2, "area": (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)}


def near(rng, objects):
    """Detections, most of which are some of the objects, moved a little."""
    boxes = objects["boxes"] + rng.normal(0, 4, objects["boxes"].shape)
    found = some_objects(rng, len(boxes) + 2, score=True)
    found["boxes"][: len(boxes)], found["labels"][: len(boxes)] = boxes, objects["labels"]
    return found


def test_figures_are_those_of_cocos_files(tmp_path, capsys):
    rng, judge, annotations, rows = np.random.default_rng(3), AveragePrecision(), [], []
    for number in range(20):
        objects = some_objects(rng, int(rng.integers(0, 5)))
        found = near(rng, objects)
        judge.add(objects, found)
        for box, label, crowd, area in zip(*(objects[k] for k in ("boxes", "labels", "crowd", "area")), strict=True):
            x0, y0, x1, y1 = box.tolist()
            told = {"id": len(annotations) + 7, "image_id": 1000 - number, "category_id": int(label) * 10 + 5}
            told |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": float(area), "iscrowd": int(crowd)}
            annotations.append(told)
        for box, label, score in zip(*(found[k] for k in ("boxes", "labels", "scores")), strict=True):
            x0, y0, x1, y1 = box.tolist()
            told = {"image_id": 1000 - number, "category_id": int(label) * 10 + 5, "score": float(score)}
            rows.append(told | {"bbox": [x0, y0, x1 - x0, y1 - y0]})
    names = ("one", "two", "three")
    kinds = [{"id": i * 10 + 5, "name": name} for i, name in enumerate(names)]
    pictures = [{"id": 1000 - i, "height": 300, "width": 300} for i in range(20)]
    (tmp_path / "truth.json").write_text(
        json.dumps({"images": pictures, "annotations": annotations, "categories": kinds})
    )
    (tmp_path / "found.json").write_text(json.dumps(rows))
    truth = COCO(str(tmp_path / "truth.json"))
    told = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "bbox")
    told.evaluate()
    told.accumulate()
    told.summarize()
    capsys.readouterr()
    result = judge.result(names)
    assert capsys.readouterr().out == ""
    assert 0.05 < result["ap"] < 0.95
    np.testing.assert_allclose([result.get(name, -1) for name in FIGURES], told.stats, atol=1e-6)
    for i, name in enumerate(names):
        told.params.catIds = [i * 10 + 5]
        told.evaluate()
        told.accumulate()
        told.summarize()
        assert result[f"ap/{name}"] == pytest.approx(told.stats[0], abs=1e-6)


def test_nothing_to_find_is_said_and_sizes_without_objects_are_left_out():
    judge = AveragePrecision()
    wrong = some_objects(np.random.default_rng(0), 3, score=True) | {"labels": np.zeros(3, int)}
    judge.add(some_objects(np.random.default_rng(0), 0), wrong)
    with pytest.raises(UserError, match="none of the pictures has an object"):
        judge.result(("one", "two", "three"))
    box = np.float32([[10, 10, 150, 150]])
    whole = {"boxes": box, "labels": np.array([1]), "crowd": np.array([False]), "area": np.float32([140 * 140])}
    judge.add(whole, {"boxes": box, "labels": np.array([1]), "scores": np.float32([0.3])})
    result = judge.result(("one", "two", "three"))
    assert result["ap_large"] == pytest.approx(1) == result["ap/two"] and not {"ap_small", "ap/one"} & set(result)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return kzoo.train(RECIPE, tmp_path_factory.mktemp("detect") / "run")


def test_a_run_is_judged_by_average_precision(run):
    rows = list(csv.DictReader((run.workdir / "log.csv").open()))
    assert {"loss", "eval_ap", "eval_ap50"} <= set(rows[0]) and rows[-1]["eval_ap"] != ""
    assert {"ap", "ap50", "ap75", "ar100", "ap/circle"} <= set(run.metrics) and run.metrics["images"] == 16
    again = kzoo.evaluate(run.workdir)
    assert again == run.metrics


@pytest.mark.slow
@pytest.mark.backends
def test_a_detector_is_stopped_and_resumed_bit_for_bit(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            kzoo.train(RECIPE, tmp_path / "run", {"checkpoint.every_steps": 1})
    again = kzoo.train(RECIPE, tmp_path / "run", {"checkpoint.every_steps": 1})
    assert [row["loss"] for row in again.history] == [row["loss"] for row in run.history]
    for one, other in zip(kzoo.load(again.workdir).weights, kzoo.load(run.workdir).weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))


def test_a_run_finds_objects_in_a_picture(run, tmp_path, capsys):
    picture = open_source(RECIPE.data.source, "test").read(0)[0]
    Image.fromarray(picture).resize((90, 60)).save(tmp_path / "a.png")
    words = ["predict", str(run.workdir), str(tmp_path / "a.png"), "--threshold", "0", "--json"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    model = kzoo.load(run.workdir)
    outputs = model.predict(
        keras.tree.map_structure(lambda x: x[None], kzoo.preprocessor(model)(np.array(Image.open(tmp_path / "a.png")))),
        verbose=0,
    )
    found = kzoo.postprocess(model, outputs, [(60, 90)])
    assert len(told["objects"]) == model.config.num_queries
    np.testing.assert_allclose([o["box"] for o in told["objects"]], found["boxes"][0], atol=0.02)
    np.testing.assert_allclose([o["score"] for o in told["objects"]], found["scores"][0], atol=1e-5)
    assert [o["label"] for o in told["objects"]] == [model.spec.class_names[i] for i in found["labels"][0]]
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
    assert main([*words[:3], "--set", "threshold=2"]) == 2 and "a score in 0..1" in capsys.readouterr().err
    with pytest.raises(UserError, match="gives no boxes"):
        kzoo.postprocess(kzoo.get("vit_toy"), outputs, [(60, 90)])


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
    from kzoo.exporting.verify import TOLERANCE

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
def trained(run):
    """The run's model, and its detections in two pictures, narrower and wider than its own size."""
    model, source = kzoo.load(run.workdir), open_source(RECIPE.data.source, "test")
    predictor = ModelPredictor(model, asked={"threshold": 0})
    sizes = ((90, 60), (40, 110))
    pictures = [np.array(Image.fromarray(source.read(i)[0]).resize(size)) for i, size in enumerate(sizes)]
    answers = [predictor.task.answer(predictor(picture), predictor.labels, 5)["objects"] for picture in pictures]
    return model, pictures, [as_arrays(answer) for answer in answers]


def as_arrays(objects):
    """Detections as an answer has them, by name."""
    named = {"boxes": "box", "scores": "score", "labels": "label"}
    return {name: np.array([found[key] for found in objects]) for name, key in named.items()}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["saved_model", "onnx", "litert"])
def test_an_artifact_finds_what_the_run_does(run, trained, tmp_path, format, capsys, monkeypatch):
    """By its own runtime, the boxes of one size in pixels of what each picture fills, by the command in those of the
    picture.
    """
    folder, (model, pictures, answers) = tmp_path / "artifact", trained
    card = kzoo.export(run.workdir, folder, format=format)
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
    middle = float(np.mean(np.sort(answers[0]["scores"])[2:4]))
    predictor = ArtifactPredictor(artifact, {"threshold": str(middle)})
    assert len(predictor.task.answer(predictor(pictures[0]), predictor.labels, 5)["objects"]) == 3
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


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"overrides.num_classes": 2}, "has 3 classes, the model 2; set overrides.num_classes"),
        ({"task.max_boxes": 9}, "task.max_boxes is 9, and the model finds at most 6"),
        ({"data.source": "digits"}, "the task detect needs the objects of each picture"),
        ({"data.eval_crops": 5}, "several crops, which the task detect has none of"),
        ({"model": "vit_toy"}, "gives no boxes|aux_outputs"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(tmp_path, changes, told):
    with pytest.raises(UserError, match=told):
        kzoo.train(RECIPE, tmp_path / "run", changes)


def test_captions_count_objects():
    task = make(Detect())
    y = {"labels": np.array([[0, 0, 1], [2, 0, 0]]), "valid": np.array([[True, True, True], [False, False, False]])}
    assert task.captions(({}, y), ("circle", "square", "triangle")) == ["2 circle\n1 square", ""]

"""The task of detection: what becomes of a picture and its boxes, COCO's figures, a run from its start to its answers."""

import csv
import json

import keras
import numpy as np
import pytest
import scipy.optimize
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import kzoo
from kzoo import explain
from kzoo.checking import randomise
from kzoo.cli import main
from kzoo.data import open_source
from kzoo.data.objects import Canvases, on_canvas
from kzoo.errors import UserError
from kzoo.ops.detections import detections
from kzoo.ops.resize import fitted_size
from kzoo.preprocess import padded
from kzoo.schema import BoxAugment, Data, Detect, Optim, Recipe
from kzoo.specs import Preprocessing
from kzoo.tasks import make
from kzoo.tasks.average_precision import FIGURES, AveragePrecision
from kzoo.tasks.instability import PICTURES, assigned
from kzoo.tasks.views.detect import targets_of
from kzoo.tasks.views.running_ap import RunningAP50
from kzoo.weights.read import spec_of
from tests.test_detect_loss import giou
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
    shown, (filled,) = on_canvas([picture], Canvases((32, 40)), preprocessing)
    found, mask = padded(picture[None], (32, 40), preprocessing), shown["mask"][0]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(found["mask"]), shown["mask"])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found["image"]), shown["image"], atol=2e-5)
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


def guessed(seed, count, queries=12, classes=4, room=6, noise=0.03):
    """(outputs, y as evaluation has it) of `count` pictures of 100 pixels: most objects are found, some twice, some by
    another name.
    """
    rng = np.random.default_rng(seed)
    boxes, logits = rng.uniform(0.1, 0.9, (count, queries, 4)), rng.normal(size=(count, queries, classes + 1))
    sides = rng.uniform(0.1, 0.5, (count, room, 2))
    wanted, labels = (
        np.concatenate([rng.uniform(0.2, 0.8, sides.shape), sides], 2),
        rng.integers(0, classes, (count, room)),
    )
    there, logits[..., -1] = np.arange(room) < rng.integers(0, room + 1, (count, 1)), 4
    for i, j in np.argwhere(there):
        for query in (j, j + room)[: 1 + (rng.uniform() < 0.2)]:
            boxes[i, query] = np.abs(wanted[i, j] + rng.normal(0, noise, 4))
            named = labels[i, j] if rng.uniform() < 0.9 else rng.integers(0, classes)
            logits[i, query, named] += rng.uniform(2, 11)
    middle, half = wanted[..., :2], wanted[..., 2:] / 2
    y = {"boxes": wanted.astype("float32"), "labels": labels.astype("int32"), "valid": there}
    y |= {"crowd": np.zeros_like(there), "area": (sides.prod(axis=2) * 1e4).astype("float32")}
    y |= {"original": (100 * np.concatenate([middle - half, middle + half], 2)).astype("float32")}
    y["size"] = np.full((count, 2), 100, np.int32)
    return {"logits": logits.astype("float32"), "boxes": boxes.astype("float32")}, y


def part(structure, rows):
    return keras.tree.map_structure(lambda array: array[rows], structure)


@pytest.mark.backends
def test_ap50_while_training_is_cocos():
    figure = RunningAP50(4)
    for seed, noise in ((0, 0.02), (1, 0.06)):
        outputs, y = guessed(seed, 150, noise=noise)
        judge = make(Detect()).meter(None, open_source("shapes:n=4", "test"))
        judge.class_names = tuple("abcd")
        judge.update(outputs, y, np.ones(150, bool))
        expected = judge.result()["ap50"]
        figure.reset_state()
        for start in (0, 50, 100):
            now, rows = part((outputs, y), slice(start, start + 50)), np.arange(60) < 50
            # pictures without weight are none
            found, told = keras.tree.map_structure(lambda a: np.concatenate([a, a[:10]]), now)
            figure.update_state(found["logits"], found["boxes"], targets_of(told, 4), rows)
        assert 0.15 < expected < 0.9 and float(figure.result()) == pytest.approx(expected, abs=0.01)


def queries_of(outputs, y, settings):
    """The query of each object, picture by picture, by SciPy, in float64."""
    found = []
    for logits, boxes, wanted, labels, there in zip(
        *(outputs[k].astype("float64") for k in ("logits", "boxes")),
        *(y[k] for k in ("boxes", "labels", "valid")),
        strict=True,
    ):
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        cost = [
            [
                settings.cost_bbox * np.abs(box - other).sum()
                - settings.cost_class * shares[q, label]
                - settings.cost_giou * giou(box, other)
                for q, other in enumerate(boxes)
            ]
            for box, label in zip(wanted[there].astype("float64"), labels[there], strict=True)
        ]
        found += scipy.optimize.linear_sum_assignment(np.reshape(cost, (-1, len(boxes))))[1].tolist()
    return found


@pytest.mark.backends
def test_instability_is_the_share_of_objects_that_changed_their_query():
    settings, source, memory = Detect(cost_class=2.0, cost_giou=1.0), open_source("shapes:n=4", "test"), {}
    task, queries, told = make(settings), [], []
    truth = guessed(0, 24)[1]
    for seed in range(3):
        meter, outputs = task.meter(None, source), guessed(0, 24)[0]
        moved = np.random.default_rng(seed).permuted(np.tile(np.arange(12), (24, 1)), axis=1)  # queries change places
        rows = slice(0, 8 * seed)  # in some pictures
        outputs = {
            k: np.concatenate([a[np.arange(24)[:, None], moved][rows], a[rows.stop :]]) for k, a in outputs.items()
        }
        for start in (0, 16):  # the second batch is half padding
            taken = [*range(start, min(start + 16, 24)), *[0] * (start // 2)]
            meter.update(*part((outputs, truth), np.array(taken)), np.arange(16) < 24 - start)
        queries.append(queries_of(outputs, truth, settings))
        told.append(meter.since(memory))
        assert memory == json.loads(json.dumps(memory)) == {"queries": queries[-1]}
    shares = [np.mean(np.array(one) != np.array(other)) for one, other in zip(queries[1:], queries, strict=False)]
    assert 0 < shares[0] < shares[1] < 1
    assert told == [{}, *({"instability": pytest.approx(share)} for share in shares)]
    assert task.meter(None, source).since(memory) == {}  # of other objects: not compared


def test_instability_is_of_so_many_pictures():
    outputs, y = part(guessed(0, 8), np.arange(PICTURES + 30) % 8)
    meter = make(Detect()).meter(None, open_source("shapes:n=4", "test"))
    for start in (0, PICTURES - 10):
        now = part((outputs, y), slice(start, start + PICTURES - 10))
        meter.update(*now, np.ones(len(now[1]["valid"]), bool))
    assert len(meter.instability.queries) == y["valid"][:PICTURES].sum()


def test_the_assignment_outside_of_steps_is_scipys():
    rng = np.random.default_rng(0)
    for number in range(300):
        queries = int(rng.integers(1, 16))
        shape = int(rng.integers(0, queries + 1)), queries
        cost = rng.integers(0, 3, shape).astype(float) if number % 3 else rng.normal(size=shape)
        found, (rows, columns) = assigned(cost), scipy.optimize.linear_sum_assignment(cost)
        assert len(set(found.tolist())) == len(rows)
        assert cost[rows, found].sum() == pytest.approx(cost[rows, columns].sum())
    assert sorted(assigned(np.full((3, 4), np.nan)).tolist()) == [0, 1, 2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return kzoo.train(RECIPE, tmp_path_factory.mktemp("detect") / "run")


def test_a_run_is_judged_by_average_precision(run):
    rows = list(csv.DictReader((run.workdir / "log.csv").open()))
    assert rows[0]["eval_instability"] == "" and 0 <= float(rows[1]["eval_instability"]) <= 1
    assert all(0 <= float(row["ap50"]) <= 1 for row in rows)
    assert {"loss", "eval_ap", "eval_ap50"} <= set(rows[0]) and rows[-1]["eval_ap"] != ""
    assert {"ap", "ap50", "ap75", "ar100", "ap/circle"} <= set(run.metrics) and run.metrics["images"] == 16
    # of one evaluation, which has none before it
    assert kzoo.evaluate(run.workdir) | {"instability": run.metrics["instability"]} == run.metrics


@pytest.mark.slow
@pytest.mark.backends
def test_a_detector_is_stopped_and_resumed_bit_for_bit(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            kzoo.train(RECIPE, tmp_path / "run", {"checkpoint.every_steps": 1})
    again = kzoo.train(RECIPE, tmp_path / "run", {"checkpoint.every_steps": 1})
    for name in ("loss", "ap50", "eval_ap", "eval_instability"):
        assert [row.get(name) for row in again.history] == [row.get(name) for row in run.history]
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
    attention_is_drawn_for_each_object(run, tmp_path, told["objects"], model, capsys)
    assert main([*words[:3], "--set", "threshold=2"]) == 2 and "a score in 0..1" in capsys.readouterr().err
    with pytest.raises(UserError, match="gives no boxes"):
        kzoo.postprocess(kzoo.get("vit_toy"), outputs, [(60, 90)])


def attention_is_drawn_for_each_object(run, folder, objects, model, capsys):
    """The map of each is that of the query which gives its box; none is said."""
    picture, out, drawn = np.array(Image.open(folder / "a.png")), folder / "looks", []
    words = ["predict", str(run.workdir), str(folder / "a.png"), "--attention", "--json", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        real = explain.draw_objects
        patch.setattr(explain, "draw_objects", lambda *given: drawn.append(given) or real(*given))
        assert main([*words, "--threshold", "0", "--points", "0.2,0.5", "1,0"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    names = {kind: str(out / f"000_a.{kind}.png") for kind in ("attention", "points")}
    assert {kind: told[kind] for kind in names} == names and told["objects"] == objects
    assert all(min(Image.open(name).size) > 100 for name in names.values())
    inputs = keras.tree.map_structure(lambda x: x[None], kzoo.preprocessor(model)(picture))
    cx, cy, w, h = model.predict(inputs, verbose=0)["boxes"][0].T
    boxes = np.stack([(cx - w / 2) * 90, (cy - h / 2) * 60, (cx + w / 2) * 90, (cy + h / 2) * 60], axis=1)
    maps = kzoo.attention(model, inputs)[0, -1].mean(axis=0)
    ((_, shown, shares, found, of, _),) = drawn
    assert of == objects and shares == (27 / 32, 1) and np.array_equal(shown, picture)
    queries = [int(np.abs(boxes - each["box"]).max(axis=1).argmin()) for each in objects]
    assert sorted(queries) == list(range(len(objects)))
    np.testing.assert_allclose(found, maps[queries], atol=1e-5)
    assert main([*words, "--threshold", "1"]) == 0
    told = capsys.readouterr()
    assert "a.png: no object scores 1 or more, so no attention is drawn" in told.err
    assert "attention" not in json.loads(told.out)[0]
    for wrong in (["--points", "0.5"], ["--points", "0.5,2"], ["--points", "a,b"]):
        assert main([*words, *wrong]) == 2 and "--points takes Y,X in 0..1" in capsys.readouterr().err
    assert main([*words[:3], "--points", "0,0"]) == 2 and "add --attention" in capsys.readouterr().err


def test_prediction_shows_pictures_as_evaluation_does():
    """In the same canvas; the network, which was built for one size, takes all of them."""
    task, rng = make(Detect(canvases=((32, 48), (48, 32), (48, 48)))), np.random.default_rng(0)
    network = randomise(kzoo.get("detr_toy", image_size=(32, 40), num_classes=3))
    batching = task.batching(network.take, open_source("shapes:n=1,size=32,max=2", "test"), Data(), 0, "numpy")
    opened = task.judged(None, network)
    assert opened.input["image"].shape[1:3] == (None, None) and task.judged(None, network) is opened
    tall, wide = (rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((60, 40), (40, 58)))
    objects = {"boxes": np.float32([[1, 2, 30, 30]]), "labels": np.array([1]), "crowd": np.array([False])}
    objects |= {"area": np.float32([812]), "image_id": 1}
    for pictures, canvas in (([tall], (48, 32)), ([wide], (32, 48)), ([tall, wide], (48, 48))):
        count = len(pictures)
        x, y, _ = batching.evaluate(pictures, [objects] * count, range(count), count)
        inputs, sizes = task.prepared(pictures, network.take)
        assert x["mask"].shape == (count, *canvas) and np.array_equal(sizes, y["size"])
        for name, array in x.items():
            np.testing.assert_array_equal(inputs[name], array)
        if canvas == (48, 32):
            wanted = detections(*map(opened.predict_on_batch(x).get, ("logits", "boxes")), y["size"])
            found = task.predictor(network, None, network.take)(pictures[0])
            for name, array in wanted.items():
                np.testing.assert_allclose(found[name], keras.ops.convert_to_numpy(array)[0], atol=1e-4)
            filled = (~x["mask"][0]).any(axis=1).mean(), (~x["mask"][0]).any(axis=0).mean()
            assert task.shown(pictures[0], network.take)[1] == pytest.approx(filled)
    assert kzoo.attention(opened, x).shape == (2, 2, 4, 6, 6, 6)
    assert make(Detect()).judged(None, network) is network
    network.set_weights([weight + 1 for weight in network.get_weights()])
    for one, other in zip(task.judged(None, network).weights, network.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))


def ones_own(folder):
    """Ten pictures: (source of a COCO json whose categories have gaps, source of a VOC folder with other names)."""
    source, names = open_source("shapes:n=10,size=32,max=3", "train"), ("round", "square", "three")
    images, annotations = [], []
    for i in range(10):
        picture, objects = source.read(i)
        Image.fromarray(picture).save(folder / f"{i}.png")
        images.append({"id": 7 * i + 3, "file_name": f"{i}.png"})
        xml = ""
        for box, label in zip(objects["boxes"].tolist(), objects["labels"].tolist(), strict=True):
            x0, y0, x1, y1 = box
            told = {"id": len(annotations), "image_id": 7 * i + 3, "category_id": (90, 7, 40)[label]}
            annotations.append(told | {"bbox": [x0, y0, x1 - x0, y1 - y0]})
            sides = zip(("xmin", "ymin", "xmax", "ymax"), (x0 + 1, y0 + 1, x1, y1), strict=True)
            xml += f"<object><name>{names[label]}</name><bndbox>"
            xml += "".join(f"<{side}>{value}</{side}>" for side, value in sides) + "</bndbox></object>"
        (folder / f"{i}.xml").write_text(f"<annotation>{xml}</annotation>")
    kinds = [{"id": number, "name": name} for number, name in ((90, "circle"), (3, "none"), (40, "tri"), (7, "square"))]
    content = {"images": images, "annotations": annotations, "categories": kinds}
    (folder / "boxes.json").write_text(json.dumps(content))
    return f"coco:{folder},{folder}/boxes.json", f"voc:{folder}"


@pytest.mark.slow
def test_a_transfer_to_ones_own_pictures(run, tmp_path, capsys):
    """The network of any run goes on with other classes and more queries, from a COCO json and from a VOC folder."""
    changes = {"init_from": str(run.workdir), "steps": 1, "epochs": 1, "task.aux_loss": False}
    coco, voc = ones_own(tmp_path)
    more = changes | {"data.source": coco, "overrides.num_queries": 8}
    first = kzoo.train("detr_transfer", tmp_path / "coco", more)
    receipt = json.loads((first.workdir / "init_from.json").read_text())
    assert receipt["adapted"] == ["query_embed/table"]
    assert set(receipt["reinitialised"]) == {"class_embed/kernel", "class_embed/bias"}
    spec = spec_of(first.workdir)
    assert spec.name == "detr_toy" and spec.class_names == ("none", "square", "tri", "circle")
    assert (spec.overrides["num_queries"], tuple(spec.overrides["image_size"])) == (8, (32, 40))
    of_classes = {key for key in first.metrics if "/" in key}
    assert first.metrics["images"] == len(open_source(coco, "test")) < 10 and of_classes <= {
        "ap/square",
        "ap/tri",
        "ap/circle",
    }
    assert main(["predict", str(first.workdir), str(tmp_path / "0.png"), "--set", "threshold=0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)[0]["objects"]
    assert len(told) == 8 and {found["label"] for found in told} <= {"none", "square", "tri", "circle"}
    assert open_source(voc, "train").class_names == ("round", "square", "three")
    with pytest.raises(UserError, match=r"objects, more than task.max_boxes=1; set overrides.num_queries to \d"):
        kzoo.train("detr_transfer", tmp_path / "few", more | {"overrides.num_queries": 1})


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

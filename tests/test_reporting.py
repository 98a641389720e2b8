"""Reports of evaluations: their figures against scikit-learn's, pycocotools' and NumPy's own, their page, their folder."""

import contextlib
import csv
import html
import html.parser
import io
import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics as reference
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import kzoo
from kzoo import schema
from kzoo.cli import main
from kzoo.data import open_source
from kzoo.errors import UserError
from kzoo.figures import look
from kzoo.reporting import flow, page, sheets
from kzoo.specs import Preprocessing, Take
from kzoo.tasks import make, named
from kzoo.tasks.box_meter import BoxMeter
from kzoo.tasks.classify import Classify
from kzoo.tasks.reports import calibration
from kzoo.tasks.reports.base import Drawing, Section, Sheet, Table, Tile, Worst
from kzoo.tasks.reports.classes import confusion, draw_confusion
from kzoo.tasks.reports.classify import ClassReporter, log_shares
from kzoo.tasks.reports.detect import BoxReporter
from kzoo.tasks.reports.multilabel import MultiLabelReporter
from tests.conftest import BROWSERS

NAMES = ("<script>document.title='no'</script>", "\"quoted\" & 'single'", "ünïcode 🦉 猫", "$a_b$ \\frac", "plain")


def network(classes, names=()):
    take = Take((4, 4), 3, Preprocessing())
    return SimpleNamespace(classes=classes, take=take, spec=SimpleNamespace(class_names=names))


def source(names=(), **told):
    return SimpleNamespace(**{"name": "made", "class_names": names, "num_classes": len(names), "called": str} | told)


def heard(reporter, logits, targets, crops=1, batch=16):
    """The reporter after all of logits (N * crops, C) and targets, in batches of which the last is padded."""
    rng = np.random.default_rng(9)
    for start in range(0, len(targets), batch):
        y = targets[start : start + batch]
        real = np.arange(batch) < len(y)
        y = np.pad(y, [(0, batch - len(y))] + [(0, 0)] * (y.ndim - 1))
        outputs = logits[start * crops : (start + batch) * crops]
        outputs = np.pad(outputs, ((0, batch * crops - len(outputs)), (0, 0)))
        reporter.update(rng.normal(size=(batch * crops, 4, 4, 3)).astype("float32"), y, outputs, real)
    reporter.close(None)
    return reporter


def answers(classes, count=150, crops=1, seed=0):
    """(logits, labels) of a model that is right often; the class before the last occurs in neither, the last is never
    true.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - 2, count).astype(np.int32)
    logits = rng.normal(size=(count * crops, classes)) + 2 * np.eye(classes)[np.repeat(labels, crops)]
    logits[:, classes - 2], logits[0::crops, classes - 1][:4] = -20, 30
    return logits.astype("float32"), labels


def tables(reporter):
    """{file or heads: Table} of a reporter's sections."""
    parts = [part for section in reporter.sections() for part in section.parts]
    return {part.file or part.heads[0]: part for part in parts if isinstance(part, Table)}


@pytest.mark.parametrize("crops", [1, 3])
def test_figures_per_class_are_scikit_learns(crops, tmp_path):
    names = NAMES + ("never", "false")
    logits, labels = answers(len(names), crops=crops)
    made = heard(ClassReporter(network(len(names)), source(names)), logits, labels, crops)
    views = np.exp(logits.astype("float64")).reshape(len(labels), crops, -1)
    shares = (views / views.sum(axis=-1, keepdims=True)).mean(axis=1)
    predicted = shares.argmax(axis=1)
    assert predicted.max() == len(names) - 1
    expected = reference.classification_report(
        labels, predicted, labels=[*range(5), 6], target_names=[*NAMES, "false"], output_dict=True, zero_division=0
    )
    table = tables(made)["per_class"]
    for name, *row in table.rows:
        if name == "never":
            assert row == [None, None, None, 0]
        else:
            assert row == pytest.approx(list(expected[name].values()))
    means = [list(expected[key].values()) for key in ("macro avg", "weighted avg")]
    assert [row[1:] for row in table.foot] == [pytest.approx(mean) for mean in means]
    assert made.figures()["macro_f1"] == pytest.approx(expected["macro avg"]["f1-score"])
    assert (made.counts == reference.confusion_matrix(labels, predicted, labels=range(len(names)))).all()
    assert made.losses.mean() == pytest.approx(reference.log_loss(labels, shares, labels=range(len(names))))
    made.write(tmp_path)
    rows = list(csv.DictReader(open(tmp_path / "predictions.csv", encoding="utf-8", newline="")))
    assert [row["label"] for row in rows] == [names[label] for label in labels]
    assert [float(row["probability"]) for row in rows] == pytest.approx(shares.max(axis=1), abs=1e-6)
    told = [[float(row[name]) for name in names] for row in rows]
    np.testing.assert_allclose(told, shares, atol=1e-6)
    matrix = list(csv.reader(open(tmp_path / "confusion_matrix.csv", encoding="utf-8", newline="")))
    assert matrix[0][1:] == [row[0] for row in matrix[1:]] == list(names)
    assert [row[1:] for row in matrix[1:]] == made.counts.astype(str).tolist()


def test_the_worst_pictures_are_those_of_the_highest_loss():
    logits, labels = answers(5)
    given = np.random.default_rng(3).normal(size=(len(labels), 4, 4, 3)).astype("float32")
    made = ClassReporter(network(5), source(called=lambda i: f"pictures/{i}.png"))
    for start in range(0, len(labels), 50):
        rows = slice(start, start + 50)
        made.update(given[rows], labels[rows], logits[rows], np.ones(50, bool))
    made.close(None)
    order = np.argsort(
        [-reference.log_loss([y], [p], labels=range(5)) for y, p in zip(labels, _shares(logits), strict=True)]
    )
    tiles = made.sections()[-1].parts[0].tiles
    assert [tile.lines[-1] for tile in tiles] == [f"pictures/{i}.png" for i in order[:24]]
    first = np.clip(given[order[0]] * Preprocessing().std + Preprocessing().mean, 0, 1)
    assert np.abs(tiles[0].picture / 255 - first).max() < 1 / 255


def _shares(logits):
    shares = np.exp(logits.astype("float64"))
    return shares / shares.sum(axis=1, keepdims=True)


def test_pictures_that_do_not_count_shift_no_name():
    made = ClassReporter(network(3), source())
    real = np.array([True, False, True, True])
    logits, labels = np.eye(3, dtype="float32")[[0, 1, 2, 2]], np.array([0, 1, 2, 0])
    made.update(np.zeros((4, 4, 4, 3), "float32"), labels, logits, real)
    made.update(np.zeros((4, 4, 4, 3), "float32"), labels, logits, real)
    assert made.numbers == [0, 2, 3, 4, 6, 7]


def test_one_logit_answers_for_two_classes():
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(90, 1)).astype("float32"), rng.integers(0, 2, 90).astype(np.int32)
    made = heard(ClassReporter(network(1, ("cat",)), source()), logits, labels)
    likely = 1 / (1 + np.exp(-logits[:, 0].astype("float64")))
    assert made.names == ("not cat", "cat")
    assert (made.predicted == (likely > 0.5)).all()
    assert made.confidence == pytest.approx(np.maximum(likely, 1 - likely))
    assert made.losses.mean() == pytest.approx(reference.log_loss(labels, likely))
    both = log_shares(np.array([[1.0], [-2.0]]), crops=2)  # of two crops
    assert np.exp(both[0, 1]) == pytest.approx(np.mean(1 / (1 + np.exp([-1.0, 2.0]))))


def expected_calibration_error(confidence, right, bins=15):
    """By the paper's formula, bin by bin: (low, high]."""
    total = 0.0
    for number in range(bins):
        inside = [i for i, c in enumerate(confidence) if number / bins < c <= (number + 1) / bins]
        if inside:
            total += (
                len(inside)
                / len(confidence)
                * abs(
                    sum(float(right[i]) for i in inside) / len(inside)
                    - sum(confidence[i] for i in inside) / len(inside)
                )
            )
    return total


def test_the_calibration_error_is_the_papers():
    rng = np.random.default_rng(5)
    confidence = rng.random(400) ** 0.5
    confidence[:3] = 1.0, 1e-9, 8 / 15
    right = rng.random(400) < confidence**2
    found = calibration.reliability(confidence, right)
    assert found.error == pytest.approx(expected_calibration_error(confidence.tolist(), right), abs=1e-12)
    assert found.counts.sum() == 400 and found.error > 0.1
    assert calibration.reliability(np.ones(8), np.ones(8, bool)).error == 0
    assert calibration.reliability(np.zeros(4), np.zeros(4, bool)).error == 0


def test_of_several_labels_the_figures_are_scikit_learns(tmp_path):
    rng = np.random.default_rng(6)
    names = NAMES[:4]
    targets = (rng.random((70, 4)) < 0.3).astype("float32")
    targets[:, 3] = 0  # which nobody has
    logits = np.round(rng.normal(size=(70, 4)) + targets, 1).astype("float32")  # with equals
    made = heard(MultiLabelReporter(network(4), source(names, multilabel=True)), logits, targets)
    shares = 1 / (1 + np.exp(-logits.astype("float64")))
    expected = reference.classification_report(
        targets, shares > 0.5, target_names=names, output_dict=True, zero_division=0
    )
    table = tables(made)["per_class"]
    for i, (name, precision, *row) in enumerate(table.rows):
        assert row == pytest.approx(list(expected[name].values()))
        assert precision == (
            pytest.approx(reference.average_precision_score(targets[:, i], logits[:, i])) if i < 3 else None
        )
    assert table.foot[0][2:] == pytest.approx(tuple(expected["macro avg"].values()))
    assert table.foot[1][2:] == pytest.approx(tuple(expected["micro avg"].values()))
    mean = np.mean([row[1] for row in table.rows[:3]])
    assert made.figures()["mean_average_precision"] == pytest.approx(mean)
    losses = [reference.log_loss(t, s, labels=[0, 1]) for t, s in zip(targets, shares, strict=True)]
    assert made.losses == pytest.approx(losses, rel=1e-6)
    made.write(tmp_path)
    rows = list(csv.reader(open(tmp_path / "predictions.csv", encoding="utf-8", newline="")))
    assert rows[0] == ["picture", "labels", "predicted", "loss", *names] and len(rows) == 71


def test_of_equal_values_the_first_are_kept_and_nan_is_the_worst():
    worst = Worst(3)
    for place, value in enumerate((1.0, 5.0, float("nan"), 5.0, 5.0, 0.0)):
        worst.offer(value, place, lambda place=place: f"made {place}")
    assert [(place, made) for _, place, made in worst.ranked()] == [(2, "made 2"), (1, "made 1"), (3, "made 3")]


def detections(offsets):
    """(BoxReporter, BoxMeter, source) that have heard a perfect detector of shapes but for what offsets do to it:
    {(picture, object): pixels by which its box is off, None: it is not found}.
    """
    shapes = open_source("shapes:n=40,size=48,max=4", "test")
    take = Take((48, 48), 3, Preprocessing(), queries=6)
    task = make(schema.Detect(max_boxes=6))
    model = SimpleNamespace(config=SimpleNamespace(num_classes=3), take=take, spec=SimpleNamespace(class_names=()))
    reporter, meter = BoxReporter(model, shapes), BoxMeter(shapes.class_names, task.settings.costs)
    seen = 0
    for x, y, weights in task.loader(
        take, shapes, schema.Data(batch_size=8, augment=schema.BoxAugment()), 8
    ).evaluation():
        x, y = ({key: np.asarray(value) for key, value in each.items()} for each in (x, y))
        logits, boxes = np.full((8, 6, 4), -4.0, "float32"), np.full((8, 6, 4), 0.5, "float32")
        logits[..., 3] = 4
        for row in range(8):
            for i in np.flatnonzero(y["valid"][row]):
                off = offsets.get((seen + row, i), 0)
                boxes[row, i] = y["boxes"][row, i]
                if off is not None:
                    logits[row, i, y["labels"][row, i]], logits[row, i, 3] = 6 - i / 10, -4
                    boxes[row, i, 0] += off / y["size"][row, 1]
        real = np.asarray(weights) > 0
        outputs = {"logits": logits, "boxes": boxes}
        meter.update(outputs, y, real)
        reporter.update(x, y, outputs, real)
        seen += 8
    reporter.close(meter)
    return reporter, meter, shapes


def test_a_detectors_report_tells_what_is_missed_and_false(tmp_path):
    some = open_source("shapes:n=40,size=48,max=4", "test")
    pictures = [i for i in range(len(some)) if len(some.open(i)[1]["labels"]) >= 2][:3]
    reporter, meter, shapes = detections({(pictures[0], 0): None, (pictures[1], 1): 30, (pictures[2], 0): 1})
    figures, count = meter.result(), sum(len(shapes.open(i)[1]["labels"]) for i in range(len(shapes)))
    told = tables(reporter)["per_class"]
    assert told.foot[0][4:] == (count - 2, 2, 1)
    assert reporter.figures() == pytest.approx(
        {"precision": (count - 2) / (count - 1), "recall": (count - 2) / count, "f1": 2 * (count - 2) / (2 * count - 1)}
    )
    tiles = reporter.sections()[-1].parts[0].tiles
    kinds = [NAMES_OF_SHAPES[some.open(picture)[1]["labels"][i]] for picture, i in ((pictures[1], 1), (pictures[0], 0))]
    assert [tile.lines[0] for tile in tiles] == [f"image {pictures[1]}", f"image {pictures[0]}"]
    assert tiles[0].lines[1] == f"missed {kinds[0]}" and tiles[0].lines[2].startswith(f"false {kinds[0]} at ")
    assert tiles[1].lines[1:] == (f"missed {kinds[1]}",)
    reporter.write(tmp_path)
    truth = COCO()
    truth.dataset = {"images": [], "annotations": [], "categories": [{"id": i} for i in range(3)], "info": {}}
    for i in range(len(shapes)):
        objects = shapes.open(i)[1]
        truth.dataset["images"].append({"id": objects["image_id"]})
        for (x0, y0, x1, y1), label, area in zip(
            objects["boxes"].tolist(), objects["labels"], objects["area"], strict=True
        ):
            entry = {"image_id": objects["image_id"], "category_id": int(label), "bbox": [x0, y0, x1 - x0, y1 - y0]}
            entry |= {"id": len(truth.dataset["annotations"]) + 1, "area": float(area), "iscrowd": 0}
            truth.dataset["annotations"].append(entry)
    truth.createIndex()
    judge = COCOeval(truth, truth.loadRes(json.loads((tmp_path / "predictions.json").read_text())), "bbox")
    for step in (judge.evaluate, judge.accumulate, judge.summarize):
        step()
    assert figures["ap"] == pytest.approx(judge.stats[0], abs=1e-4) and 0.9 < figures["ap"] < 1
    table = tables(reporter)["average_precision"]
    assert table.foot[0][1:4] == pytest.approx(tuple(judge.stats[:3]), abs=1e-4)
    assert table.foot[0][4] == pytest.approx(judge.stats[3], abs=1e-4) and table.foot[0][6] is None
    for i, row in enumerate(table.rows):
        assert row[1] == pytest.approx(figures[f"ap/{NAMES_OF_SHAPES[i]}"])
        assert row[2] == pytest.approx(judge.eval["precision"][0, :, i, 0, -1].mean(), abs=1e-4)
    rows = list(csv.DictReader(open(tmp_path / "predictions.csv", newline="")))
    assert len(rows) == 6 * len(shapes) and rows[0].keys() >= {"image_id", "class", "score", "x0", "y1"}


NAMES_OF_SHAPES = ("circle", "square", "triangle")


@pytest.mark.slow
def test_a_masked_autoencoders_report_shows_what_it_paints(tmp_path):
    model, task = (
        kzoo.get("mae_vit_toy" if "mae_vit_toy" in kzoo.list_models() else kzoo.list_models("mae*toy*")[0]),
        named("masked"),
    )
    pictures = open_source("fake:n=10,size=40", "test")
    loader = task.loader(model.take, pictures, schema.Data(batch_size=4), 4)
    task.listener = made = task.reporter(model, pictures)
    figures = task.evaluate(None, model, loader, lambda: loader)
    assert len(made.errors) == 10 and made.errors.mean() == pytest.approx(figures["loss"], rel=1e-5)
    table = tables(made)["errors"]
    assert table.rows[0][1:] == pytest.approx(tuple(np.percentile(made.errors, (0, 5, 25, 50, 75, 95, 100))))
    _, first, highest = made.sections()
    assert [tile.lines[0] for tile in first.parts[0].tiles] == [f"picture {i}" for i in range(6)]
    assert highest.parts[0].tiles[0].lines[0] == f"picture {made.errors.argmax()}"
    height, width = first.parts[0].tiles[0].picture.shape[:2]
    assert width == 3 * height + 8 and page.section(first).count("<img") == 6
    made.write(tmp_path)
    assert (tmp_path / "predictions.csv").read_text().count("\n") == 11


def test_a_matrix_of_many_classes_is_drawn_too():
    rng = np.random.default_rng(7)
    for classes in (3, 120, 300):
        counts = confusion(rng.integers(0, classes, 5000), rng.integers(0, classes, 5000), classes)
        with look():
            axis = draw_confusion(counts, [NAMES[i % 5] + str(i) for i in range(classes)]).axes[0]
        words = [label.get_text() for label in axis.get_yticklabels()]
        assert len(words) == {3: 3, 120: 120, 300: 38}[classes] and max(map(len, words)) <= 24
        assert len(axis.texts) == (np.count_nonzero(counts) if classes == 3 else 0)


class Strict(html.parser.HTMLParser):
    """Every element is closed where it has to be, no id comes twice, pictures say what they show; keeps tags and
    texts.
    """

    VOID = {"meta", "link", "img", "source", "br"}

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.ids, self.addresses = [], [], [], set(), []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        told = dict(attributes)
        assert len(told) == len(attributes) and not any(name.startswith("on") for name in told)
        assert told.get("id") not in self.ids or "id" not in told
        self.ids.add(told.get("id"))
        self.addresses += [told[name] for name in ("src", "href", "srcset", "action", "data") if name in told]
        assert tag != "img" or told["alt"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag == "rect"
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)


def test_the_page_is_whole_and_escapes_every_text():
    nasty = (*NAMES, "</script><img src=x onerror=alert(1)>", "\udcff\x00\x1b", "&amp;")
    tile = Tile(np.zeros((3, 5, 3), np.uint8), nasty)
    parts = (
        Table(nasty, [nasty, (*[1] * 7, None)], "t", foot=[nasty]),
        Sheet("s", [tile, Tile(np.zeros((200, 300, 3), np.uint8), ("x",))]),
        Drawing("d", lambda: sheets.draw(Sheet("s", [tile])), nasty[5]),
    )
    text = page.page(
        nasty[0], "k", nasty[5], [(name, name) for name in nasty], [page.section(Section(nasty[5], nasty, parts))], ""
    )
    read = Strict(text)
    assert read.tags.count("script") == read.tags.count("style") == 1 and read.tags.count("img") == 3
    assert all(address.startswith("data:") for address in read.addresses)
    assert text.startswith("<!DOCTYPE html>") and "url(" not in text and "@import" not in text
    for name in nasty[:6]:
        assert read.texts.count(name) >= 3
    assert "\\udcff\ufffd\ufffd" in read.texts
    text.encode()


def test_a_table_that_is_too_long_says_where_the_rest_is():
    text = page.table(Table(("a", "b"), [(f"row {i}", i / 7) for i in range(30)], "per_class", bars=("b",), most=10))
    assert text.count("<tr>") == 11 and "20 more are in per_class.csv" in text
    assert ">0.143<" in text and "width='14.3'" in text


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run on pictures of classes with names of all kinds, and those pictures."""
    folder = tmp_path_factory.mktemp("reports")
    rng = np.random.default_rng(8)
    labels = np.arange(40) % 5
    images = np.clip(rng.normal(128, 30, (40, 16, 16, 3)) + 20 * labels[:, None, None, None], 0, 255).astype(np.uint8)
    told = {"class_names": np.array(NAMES), "num_classes": 5}
    np.savez(folder / "p.npz", x_train=images, y_train=labels, x_test=images[:23], y_test=labels[:23], **told)
    recipe = schema.Recipe(
        model="vit_toy",
        data=schema.Data(source=f"npz:{folder / 'p.npz'}", batch_size=8),
        optim=schema.Optim(lr=0.003),
        epochs=2,
        xla="off",
    )
    kzoo.train(recipe, folder / "run")
    return folder


@pytest.fixture(scope="module")
def written(place):
    """The folder of its report, and the metrics that the command told."""
    folder, told = place / "report", io.StringIO()
    with contextlib.redirect_stdout(told):
        assert main(["evaluate", str(place / "run"), "--report", str(folder), "--json"]) == 0
    metrics = json.loads(told.getvalue())
    assert metrics.pop("report") == str(folder / "evaluation.html")
    return folder, metrics


@pytest.mark.slow
def test_a_report_is_of_the_figures_that_evaluation_tells(place, written):
    folder, metrics = written
    assert metrics == kzoo.evaluate(place / "run")
    told = json.loads((folder / "report.json").read_text())
    assert told["metrics"] == metrics and told["trained"]["result"].items() >= {("accuracy", metrics["accuracy"])}
    rows = list(csv.DictReader(open(folder / "predictions.csv", encoding="utf-8", newline="")))
    assert np.mean([row["label"] == row["predicted"] for row in rows]) == pytest.approx(metrics["accuracy"])
    assert np.mean([float(row["loss"]) for row in rows]) == pytest.approx(metrics["loss"], abs=1e-5)
    right = [row["label"] == row["predicted"] for row in rows]
    error = expected_calibration_error([float(row["probability"]) for row in rows], right)
    assert told["figures"]["expected_calibration_error"] == pytest.approx(error, abs=1e-5)
    drawn = ("confusion_matrix", "reliability", "worst_pictures", "learning_curves")
    assert all(min(Image.open(folder / f"{name}.png").size) > 300 for name in drawn)
    assert {path.name for path in folder.iterdir()} == {*told["files"], "report.json"}


@pytest.mark.slow
def test_its_page_stands_alone(place, written):
    text = (written[0] / "evaluation.html").read_text(encoding="utf-8")
    read = Strict(text)
    assert all(address.startswith("data:") for address in read.addresses)
    assert not re.search(r"https?://", text) and read.tags.count("script") == 1
    assert set(NAMES) <= set(read.texts)
    told = " ".join(read.texts)
    for word in ("vit_toy", str(place / "p.npz"), "23 pictures", "kzoo 0.", "adamw", 'model = "vit_toy"'):
        assert word in told
    assert read.tags.count("figure") == 3 + 23  # drawings and pictures


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("x")
    (tmp_path / "full" / "report.json").write_text('{"kind": "kzoo report"}')
    for name, why in (("file", "is a file"), ("full", "holds no kzoo report"), ("file/below", "Not a directory")):
        with pytest.raises(UserError, match=why):
            flow.report(tmp_path / "run", tmp_path / name)
    assert main(["evaluate", str(tmp_path / "none"), "--report", str(tmp_path / "new")]) == 1
    assert "is not a run" in capsys.readouterr().err and not (tmp_path / "new").exists()
    assert main(["evaluate", "none", "--report", "new", "--probe", "knn"]) == 2


def test_a_sheet_is_drawn_with_all_its_pictures():
    tiles = [Tile(np.full((20, 30, 3), i, np.uint8), (NAMES[i % 5], "x" * 60)) for i in range(8)]
    with look(night=True):
        figure = sheets.draw(Sheet("s", tiles))
        figure.savefig(io.BytesIO())
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 8 and shown[2].get_title().startswith(NAMES[2])


OWN = {"accounts.google.com", "clients2.google.com", "update.googleapis.com"}  # hosts that Chromium itself asks


def browsed(file, folder, *words, width=1200):
    """(the DOM of a page as Chromium has it after its script, what the console said, hosts that were asked for), without
    a network.
    """
    log, program = folder / "net.json", next(filter(None, map(shutil.which, BROWSERS)))
    options = (
        (
            "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync "
            "--disable-component-update --disable-extensions --disable-default-apps --proxy-server=127.0.0.1:9 "
            "--host-resolver-rules=MAP*^NOTFOUND --enable-logging=stderr --hide-scrollbars"
        )
        .replace("*^", " * ~")
        .split("--")[1:]
    )
    command = [program, *("--" + option.strip() for option in options), f"--window-size={width},900"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", *words]
    done = subprocess.run([*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    asked = set(re.findall(r'"url":"https?://([^/"]+)', log.read_text()))
    return done.stdout, said, asked - OWN


PROBE = """<script>
addEventListener("load", () => {
const heads = [...document.querySelectorAll("table.sorts th.n button")], order = [], told = document.createElement("pre");
const first = () => [...document.querySelector("table.sorts tbody").rows].map((row) => row.cells[3].dataset.value).join(" ");
for (let turn = 0; turn < 3; turn++) { heads[2].click(); order.push(first()); }
told.textContent = JSON.stringify({order, images: document.images.length,
  drawn: [...document.images].every((image) => image.complete && image.naturalWidth > 0),
  wide: document.documentElement.scrollWidth, room: innerWidth, ground: getComputedStyle(document.body).backgroundColor,
  night: [...document.querySelectorAll("picture img")].map((image) => image.currentSrc === image.src)});
told.id = "probe";
document.body.append(told);
});
</script></body>"""


@pytest.mark.browser
@pytest.mark.slow
def test_the_page_opens_in_a_browser(written, tmp_path):
    (tmp_path / "other.html").write_text("<img src='http://pictures.test/a.png'><script>console.error('no')</script>")
    _, said, asked = browsed(tmp_path / "other.html", tmp_path)
    assert len(said) == 1 and asked == {"pictures.test"}  # which would be seen
    dom, said, asked = browsed(written[0] / "evaluation.html", tmp_path)
    assert said == [] and asked == set()
    read = Strict(dom)
    assert read.tags.count("script") == 1 and "<title>run</title>" in dom
    assert read.tags.count("button") == dom.count('scope="col"') == 5 + 4 + 5
    assert set(NAMES) <= set(read.texts) and {"Confusion matrix", "Calibration", "Worst pictures"} <= set(read.texts)


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("night", [False, True])
def test_the_page_fits_a_phone_by_day_and_by_night_and_its_tables_sort(written, tmp_path, night):
    text = (written[0] / "evaluation.html").read_text(encoding="utf-8")
    text = re.sub("script-src '[^']+'", "script-src 'unsafe-inline'", text).replace("</body>", PROBE)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    words = ["--blink-settings=preferredColorScheme=0"] if night else []
    dom, said, _ = browsed(tmp_path / "page.html", tmp_path, *words, width=390)
    told = json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', dom)[1]))
    assert said == [] and told["drawn"] and told["images"] == 3 + 23
    assert told["wide"] <= told["room"] <= 500
    assert told["ground"] == ("rgb(21, 24, 29)" if night else "rgb(255, 255, 255)")
    assert told["night"] == [not night] * 3
    falls, rises, before = ([float(value) for value in each.split()] for each in told["order"])
    assert falls == sorted(before, reverse=True) and rises == sorted(before) and len(before) == 5


@pytest.mark.slow
def test_a_report_takes_the_place_of_an_earlier_one_alone(place, written, monkeypatch):
    folder, before = written[0], (written[0] / "report.json").read_text()
    names = sorted(path.name for path in place.iterdir())

    def fails(*arguments):
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(page, "page", fails)
        with pytest.raises(RuntimeError, match="in the middle"):
            flow.report(place / "run", folder)
    assert (folder / "report.json").read_text() == before
    assert sorted(path.name for path in place.iterdir()) == names
    with monkeypatch.context() as patch:  # a task that has none tells the common part
        patch.setattr(Classify, "reporter", lambda *arguments: None)
        flow.report(place / "run", folder, f"npz:{place / 'p.npz'}", best=True)
    assert {path.name for path in folder.iterdir()} == {"evaluation.html", "learning_curves.png", "report.json"}
    read = Strict((folder / "evaluation.html").read_text(encoding="utf-8"))
    assert read.tags.count("table") == 0 and "best of the run run" in read.texts
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="notes.txt, which kzoo did not write"):
        flow.report(place / "run", folder)

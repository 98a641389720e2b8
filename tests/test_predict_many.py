"""Predicting many pictures: what is found, the answers of batches beside those of single pictures, and the tables."""

import csv
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import kzoo
from kzoo import schema, tasks
from kzoo.cli import main
from kzoo.errors import UsageError
from kzoo.exporting.formats import FORMATS
from kzoo.predicting import ModelPredictor, answers, open_target, pictures_of, predict, table_of
from kzoo.tasks.classify import Classify

ROOT = pathlib.Path(__file__).parent.parent
CLASSES = ("bird", "cat", "dog")


def picture(path, seed, size=(60, 44)):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    low = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    low.resize(size, Image.Resampling.BICUBIC).save(path, quality=92)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("many")


@pytest.fixture(scope="module")
def photos(home):
    """Eleven pictures of two sizes, one upright only by its Exif, one grey, one with alpha, and a damaged one."""
    for i in range(8):
        picture(home / "photos" / ("a" if i % 2 else "b/deep") / f"{i:02}.jpg", i, (60, 44) if i % 3 else (37, 80 + i))
    rng = np.random.default_rng(9)
    exif = Image.Exif()
    exif[0x0112] = 6
    low = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((70, 40))
    low.save(home / "photos" / "turned.jpg", exif=exif)
    Image.fromarray(rng.integers(0, 256, (44, 60), dtype=np.uint8)).save(home / "photos" / "grey.png")
    Image.fromarray(rng.integers(0, 256, (44, 60, 4), dtype=np.uint8)).save(
        home / "photos" / "alpha.WEBP", lossless=True
    )
    for name in (".hidden.jpg", ".cache/x.jpg", "a/notes.txt"):
        (home / "photos" / name).parent.mkdir(exist_ok=True)
        (home / "photos" / name).write_bytes(b"no picture")
    (home / "photos" / "a" / "bad.jpg").write_bytes(b"no picture")
    return home / "photos"


@pytest.fixture(scope="module")
def run(home):
    """A run of two steps on colour pictures with named classes."""
    for i in range(12):
        for split in ("train", "test"):
            picture(home / "data" / split / CLASSES[i % 3] / f"{i:02}.jpg", i)
    recipe = schema.Recipe(
        model="vit_toy",
        data=schema.Data(source=f"folder:{home / 'data'}", batch_size=4),
        optim=schema.Optim(lr=0.05),
        preprocessing=schema.Preprocessing(crop_pct=0.875),
        steps=4,
        epochs=2,
        xla="off",
    )
    kzoo.train(recipe, home / "run")
    return home / "run"


@pytest.fixture(scope="module")
def onnx(run, home):
    kzoo.export(run, home / "onnx", format="onnx")
    return home / "onnx"


def names_of(given, split=None):
    return [one.name for one in pictures_of(given, split)]


def good(folder):
    return [name for name in names_of(str(folder)) if "bad" not in name]


def test_a_folder_is_all_pictures_below_it_in_order(photos, tmp_path, monkeypatch):
    expected = ["a/01", "a/03", "a/05", "a/07", "a/bad", "alpha", "b/deep/00", "b/deep/02", "b/deep/04", "b/deep/06"]
    found = [os.path.splitext(os.path.relpath(name, photos))[0] for name in names_of(str(photos))]
    assert found == [*expected, "grey", "turned"]
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "again").symlink_to(tmp_path / "loop")
    with pytest.raises(kzoo.UserError, match=r"loop holds no pictures \(.jpg"):
        pictures_of(str(tmp_path / "loop"))


def test_patterns_are_expanded_and_what_exists_comes_first(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    assert names_of("**/0[13].jpg") == ["a/01.jpg", "a/03.jpg"]
    assert names_of("a/*") == [f"a/{name}.jpg" for name in ("01", "03", "05", "07", "bad")]
    assert names_of("a/*.txt") == ["a/notes.txt"]
    with pytest.raises(kzoo.UserError, match=r"no picture matches \*.tif"):
        pictures_of("*.tif")
    monkeypatch.chdir(tmp_path)
    for name in ("x[1].jpg", "x1.jpg", "digits", "-", "@x"):
        (tmp_path / name).write_bytes(b"")
        assert names_of(name) == [name]
    assert names_of(["none.jpg", "x[12].jpg"]) == ["none.jpg", "x1.jpg"]


def test_lists_are_a_path_a_line(photos, tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_bytes(b"one.jpg\r\n\n two [3].jpg\ncaf\xe9.png")
    expected = ["one.jpg", " two [3].jpg", os.fsdecode(b"caf\xe9.png")]
    assert names_of(f"@{tmp_path / 'list.txt'}") == expected
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"a.jpg\nb.jpg\n")))
    assert names_of(["-", "c.jpg"]) == ["a.jpg", "b.jpg", "c.jpg"]
    (tmp_path / "empty").write_bytes(b"\n")
    for word, sentence in (("@none", "none cannot be read"), (f"@{tmp_path / 'empty'}", "names no picture")):
        with pytest.raises(kzoo.UserError, match=sentence):
            pictures_of(word)


def test_a_source_has_ids_and_true_labels(home, run):
    source = pictures_of(f"folder:{home / 'data'}", "train")
    first, (array, label) = next(iter(source)), next(iter(source)).read(3)
    assert len(source) == 12 and source.labelled and label == "bird" and array.shape == (44, 60, 3)
    assert first.name == str(home / "data" / "train" / "bird" / "00.jpg")
    digits = list(pictures_of(["digits", "fake:n=3"]))
    assert [one.name for one in digits[-4:]] == [str(len(digits) - 4), "0", "1", "2"]
    assert digits[0].read(3)[0].shape[-1] == 3  # as many channels as the model takes
    with pytest.raises(UsageError, match="--split chooses"):
        pictures_of("a.jpg", "train")
    with pytest.raises(kzoo.UserError, match="no folder"):
        pictures_of(f"folder:{home / 'none'}")


def same(found, wanted, tolerance=2e-6):
    """Answers of a classifier, or of a detector, with the same numbers."""
    assert [one["image"] for one in found] == [one["image"] for one in wanted]
    for own, other in zip(found, wanted, strict=True):
        if "objects" in other:
            assert [o["label"] for o in own["objects"]] == [o["label"] for o in other["objects"]]
            numbers = [[(o["score"], *o["box"]) for o in answer["objects"]] for answer in (own, other)]
            np.testing.assert_allclose(*numbers, rtol=1e-3, atol=0.02)
            continue
        chances = [{c["label"]: c["probability"] for c in answer["classes"]} for answer in (own, other)]
        assert chances[0] == {label: pytest.approx(p, abs=tolerance) for label, p in chances[1].items()}


@pytest.mark.parametrize(
    "target",
    [
        "run",
        pytest.param("saved_model", marks=pytest.mark.slow),
        "onnx",
        pytest.param("litert", marks=pytest.mark.slow),
    ],
)
def test_batches_have_the_numbers_of_single_pictures(photos, run, onnx, home, target):
    """Pictures of several sizes, some turned, grey or with alpha; the last batch is not full."""
    if not (home / target).exists():
        kzoo.export(run, home / target, format=target)
    assert set(FORMATS) == {"saved_model", "onnx", "litert"}
    predictor, names = open_target(home / target), good(photos)
    wanted = predict(predictor, names)
    assert len({answer["classes"][0]["probability"] for answer in wanted}) == len(names)  # it tells them apart
    for size in (4, 64):
        same(list(answers(predictor, pictures_of(names), batch_size=size)), wanted)


def test_large_pictures_make_small_batches(photos, onnx, monkeypatch):
    predictor, names, sizes = open_target(onnx), good(photos), []
    whole = predictor.artifact.predict
    monkeypatch.setattr(predictor.artifact, "predict", lambda images: sizes.append(len(images)) or whole(images))
    monkeypatch.setattr("kzoo.predicting.many.LARGEST", 3 * 32 * 32 * 3)
    found = list(answers(predictor, pictures_of(names)))
    assert set(sizes) == {3} and [one["image"] for one in found] == names


@pytest.mark.slow
def test_a_detectors_batches_share_a_canvas(photos):
    """Whatever pictures stand beside it, a picture lies in the canvas that it has by itself."""
    model = kzoo.get("detr_toy", num_classes=3)
    settings = schema.Detect(canvases=((64, 96), (96, 64), (96, 96)))
    for weight in model.trainable_weights:
        if weight.path.endswith(("class_embed/kernel", "logits/kernel")):
            weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    predictor = ModelPredictor(model, tasks.make(settings), asked={"threshold": 0.05})
    names = good(photos)
    found = list(answers(predictor, pictures_of(names), batch_size=4))
    assert sum(len(answer["objects"]) for answer in found) > len(names)
    same(found, predict(predictor, names))
    text = kzoo.predict(model, names[:2], threshold=0.05)
    assert set(text[0]["objects"][0]) == {"label", "index", "score", "box"}


class Own(Classify):
    def predict(self, network, view, picture, take):
        return {"probabilities": np.array([1.0, 0.0, 0.0])}


class Finished(Classify):
    def finished(self, network, outputs):
        return {"probabilities": super().finished(network, outputs)["probabilities"][::-1]}


def test_a_task_that_predicts_by_itself_is_asked_picture_by_picture(photos, run):
    model = kzoo.load(run)
    names = good(photos)[:3]
    (plain, own, other) = (ModelPredictor(model, kind()) for kind in (Classify, Own, Finished))
    assert own.batches() is None and plain.batches() and other.batches()
    found = list(answers(own, pictures_of(names)))
    assert all(one["classes"][0] == {"label": "bird", "index": 0, "probability": 1.0} for one in found)
    same(list(answers(other, pictures_of(names))), predict(other, names))


def call(capsys, *words):
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_table_has_a_row_for_every_picture_also_for_a_bad_one(capsys, photos, onnx, tmp_path):
    """CSV, JSON lines and Parquet, read by others, have the numbers of --json."""
    status, out, err = call(capsys, "predict", onnx, photos, "--json")
    wanted = {answer["image"]: answer for answer in json.loads(out)}
    bad = str(photos / "a" / "bad.jpg")
    assert status == 1 and err.startswith(f"kzoo: {bad} cannot be decoded") and len(wanted) == 12
    for suffix in ("csv", "jsonl", "parquet"):
        path = tmp_path / f"new-{suffix}" / f"x.{suffix}"
        status, out, err = call(capsys, "predict", onnx, photos, "none.jpg", "--out", path, "--top", 2)
        assert (status, out) == (1, f"{path}: 13 pictures, 2 of them without an answer\n")
        told = f"kzoo: 2 of 13 pictures have no answer: {bad}, none.jpg; the column error of {path} says why.\n"
        assert err == told
        assert [p.name for p in path.parent.iterdir()] == [path.name]
        if suffix == "jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            same(
                [row for row in rows if "error" not in row],
                [answer | {"classes": answer["classes"][:2]} for answer in wanted.values() if "error" not in answer],
            )
            continue
        if suffix == "csv":
            rows = list(csv.DictReader(path.open(newline="")))
        else:
            from pyarrow import parquet

            rows = parquet.read_table(path).to_pylist()
        assert list(rows[0]) == ["image", "label", "probability", "label_2", "probability_2", "error"]
        assert [row["image"] for row in rows] == [*wanted, "none.jpg"]
        assert [row["image"] for row in rows if row["error"]] == [bad, "none.jpg"]
        for row in rows:
            if not row["error"]:
                for after, one in zip(("", "_2"), wanted[row["image"]]["classes"], strict=False):
                    assert row[f"label{after}"] == one["label"]
                    assert float(row[f"probability{after}"]) == pytest.approx(one["probability"], abs=1e-6)


def test_a_source_has_its_true_labels_in_the_table(capsys, home, onnx, tmp_path):
    status, out, _ = call(
        capsys, "predict", onnx, f"folder:{home / 'data'}", "--split", "train", "--out", tmp_path / "x.csv", "--json"
    )
    rows = list(csv.DictReader((tmp_path / "x.csv").open(newline="")))
    assert status == 0 and json.loads(out) == {"out": str(tmp_path / "x.csv"), "images": 12, "errors": 0}
    assert [row["true_label"] for row in rows] == [name for name in CLASSES for _ in range(4)]
    assert list(rows[0])[:4] == ["image", "true_label", "label", "probability"]


def test_text_names_the_bad_ones_at_the_end_and_draws_the_others(capsys, photos, onnx, tmp_path):
    files = [photos / "a" / "bad.jpg", photos / "a" / "01.jpg", "none.jpg", photos / "grey.png"]
    status, out, err = call(capsys, "predict", onnx, *files, "--out", tmp_path / "drawn", "--top", 1)
    assert status == 1 and [line.partition(": ")[0] for line in out.splitlines()] == [str(files[1]), str(files[3])]
    assert err.count("\n") == 1 and "2 of 4 pictures have no answer" in err and "none.jpg cannot be read" in err
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == ["001_01.png", "003_grey.png"]


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["--out", "x.json"], 2, "--out takes FILE.csv"),
        (["--out", "x.csv", "--attention"], 2, "--attention draws"),
        (["--batch-size", "0", "--out", "x.csv"], 2, "--batch-size must be at least 1"),
        (["--split", "train"], 2, "--split chooses"),
        (["--out", "file/x.csv"], 1, "Not a directory"),
        (["*.nothing"], 1, "no picture matches"),
    ],
)
def test_mistakes_are_told_in_a_sentence(capsys, photos, onnx, tmp_path, monkeypatch, words, status, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    found, out, err = call(capsys, "predict", onnx, photos / "grey.png", *words)
    assert (found, out) == (status, "") and sentence in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_parquet_needs_its_package(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(kzoo.UserError, match=r'writing Parquet needs pyarrow: pip install "kzoo\[tables\]"'):
        table_of(tmp_path / "x.parquet")


def test_features_and_errors_of_autoencoders_have_columns(capsys, photos, tmp_path):
    model = kzoo.get("vit_toy", num_classes=0)
    model.save(tmp_path / "encoder.keras")
    kzoo.get("mae_toy").save(tmp_path / "mae.keras")
    names = good(photos)[:3]
    table = tmp_path / "x.csv"
    assert call(capsys, "predict", tmp_path / "encoder.keras", *names, "--out", table)[0] == 0
    rows = list(csv.DictReader(table.open(newline="")))
    wanted = model.predict_on_batch(
        np.concatenate([kzoo.preprocessor(model)(one.read(3)[0][None]) for one in pictures_of(names)])
    )
    found = np.array([[float(row[f"feature_{i}"]) for i in range(wanted.shape[1])] for row in rows])
    np.testing.assert_allclose(found, wanted, atol=2e-4)  # Pillow resizes here, keras.ops there
    assert call(capsys, "predict", tmp_path / "mae.keras", *names, "--out", table)[0] == 0
    rows = list(csv.DictReader(table.open(newline="")))
    assert list(rows[0]) == ["image", "reconstruction_error", "mask_ratio", "error"] and len(rows) == 3
    status, out, _ = call(capsys, "predict", tmp_path / "mae.keras", *names, "--json")
    told = [answer["reconstruction_error"] for answer in json.loads(out)]
    assert [float(row["reconstruction_error"]) for row in rows] == pytest.approx(told, abs=1e-6)


def test_objects_have_a_row_each(tmp_path):
    """And a picture without any has one that says so."""
    box = {"label": "cat", "index": 1, "score": 0.75, "box": [1.5, 2, 30, 40.25]}
    pairs = [
        ("a.jpg", {"objects": [box, box | {"score": 0.5}]}),
        ("b.jpg", {"objects": []}),
        ("c.jpg", {"error": "bad"}),
    ]
    for order in (pairs, pairs[::-1]):  # the first may be one that cannot be read
        with table_of(tmp_path / "x.csv") as table:
            for name, answer in order:
                table.add({"image": name} | answer)
        rows = {
            (row["image"], row["score"]): list(row.values())[1:]
            for row in csv.DictReader((tmp_path / "x.csv").open(newline=""))
        }
        assert rows == {
            ("a.jpg", "0.75"): ["cat", "0.75", "1.5", "2.0", "30.0", "40.25", ""],
            ("a.jpg", "0.5"): ["cat", "0.5", "1.5", "2.0", "30.0", "40.25", ""],
            ("b.jpg", ""): ["", "", "", "", "", "", ""],
            ("c.jpg", ""): ["", "", "", "", "", "", "bad"],
        }


KILLED = """
import os, pathlib, signal, sys
from kzoo.predicting import table_of
with table_of(sys.argv[1]) as table:
    for i in range(5000):
        table.add({"image": f"{i}, \\n.jpg", "classes": [{"label": "cat", "probability": i / 5000}]})
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_kill_leaves_whole_rows(tmp_path, suffix):
    """Those of Parquet lie beside, in a file that is not yet one: what was there before stays."""
    path = tmp_path / f"x.{suffix}"
    path.write_text("before")
    killed = subprocess.run([sys.executable, "-c", KILLED, path], env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    if suffix == "parquet":
        assert path.read_text() == "before"
        return
    text = path.read_text()
    rows = list(csv.DictReader(io.StringIO(text))) if suffix == "csv" else list(map(json.loads, text.splitlines()))
    assert text.endswith("\n") and [row["image"] for row in rows] == [f"{i}, \n.jpg" for i in range(5000)]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_asked_to_end_it_keeps_what_it_has(photos, onnx, tmp_path, suffix):
    """By SIGTERM, in the middle of a long list."""
    (tmp_path / "list").write_text(f"{photos / 'grey.png'}\n" * 100_000)
    path = tmp_path / f"x.{suffix}"
    words = [sys.executable, "-m", "kzoo", "predict", onnx, f"@{tmp_path / 'list'}", "--out", path]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    beside = {"csv": lambda: path, "parquet": lambda: next(tmp_path.glob(".x.tmp-*"), path)}[suffix]
    while process.poll() is None and not (beside().exists() and beside().stat().st_size > 100):
        time.sleep(0.05)
    process.terminate()
    err = process.communicate(timeout=60)[1]
    if suffix == "csv":
        rows = list(csv.DictReader(path.open(newline="")))
    else:
        from pyarrow import parquet

        rows = parquet.read_table(path).to_pylist()
    assert process.returncode == 143 and 0 < len(rows) < 100_000 and all(row["label"] for row in rows)
    assert err == f"ended by SIGTERM: {path} holds what was found in {len(rows):,} of 100,000 pictures\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["list", path.name]


def test_predict_in_python(photos, run, onnx):
    """Of files, folders and arrays, by a run, an artifact and a model in hand."""
    names = good(photos)
    wanted = predict(open_target(run), names, top=2)
    found = kzoo.predict(run, str(photos), top=2, errors="keep", batch_size=5)
    same([one for one in found if "error" not in one], wanted)
    arrays = [one.read(3)[0] for one in pictures_of(names)]
    same([one | {"image": name} for one, name in zip(kzoo.predict(run, arrays, top=2), names, strict=True)], wanted)
    model = kzoo.load(run)
    batch = np.stack([array for array in arrays if array.shape == (44, 60, 3)])
    rest = [one for one, array in zip(wanted, arrays, strict=True) if array.shape == (44, 60, 3)]
    found = kzoo.predict(model, batch, top=2)
    assert [one["image"] for one in found] == list(map(str, range(len(batch))))
    same([one | {"image": other["image"]} for one, other in zip(found, rest, strict=True)], rest)
    same(kzoo.predict(onnx, names[0]), predict(open_target(onnx), names[:1]))
    with pytest.raises(UsageError, match="a model that kzoo built"):
        kzoo.predict(object(), names)
    for wrong, sentence in ((str(photos), "bad.jpg cannot be decoded"), (arrays[0] / 255.0, "uint8 of shape")):
        with pytest.raises(kzoo.UserError, match=sentence):
            kzoo.predict(run, wrong)


def test_several_true_labels_are_told_as_a_csv_lists_them(photos, tmp_path):
    rows = [("grey.png", "cat|bird"), ("alpha.WEBP", "dog"), ("turned.jpg", "")]
    table = photos / "several.csv"
    table.write_text("path,labels,split\n" + "".join(f"{name},{labels},test\n" for name, labels in rows))
    found = {os.path.basename(one.name): one.read(3)[1] for one in pictures_of(f"csv:{table}")}
    table.unlink()
    assert found == {"grey.png": "bird|cat", "alpha.WEBP": "dog", "turned.jpg": ""}

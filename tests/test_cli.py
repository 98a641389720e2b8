"""The command line: exit status 0, 1 or 2, one sentence on stderr, JSON alone on stdout; the whole way also without
TensorFlow.
"""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import kzoo
from kzoo import schema
from kzoo.cli import main
from kzoo.exporting.formats import FORMATS
from kzoo.predicting import Answer
from kzoo.tasks import named

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on colour pictures with named classes, from folders."""
    root = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(8)
    for split in ("train", "test"):
        for i in range(12):
            path = root / "pictures" / split / ("bird", "cat", "dog")[i % 3] / f"{i:02}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            low = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
            Image.fromarray(low).resize((60 + i, 44), Image.Resampling.BICUBIC).save(path, quality=92)
    recipe = schema.Recipe(
        model="vit_toy",
        data=schema.Data(source=f"folder:{root / 'pictures'}", batch_size=4),
        optim=schema.Optim(lr=0.01),
        preprocessing=schema.Preprocessing(crop_pct=0.875),
        epochs=2,
    )
    kzoo.train(recipe, root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def jpeg(run):
    return run.parent / "pictures" / "test" / "cat" / "01.jpg"


def call(capsys, *words):
    """(exit status, stdout, stderr) of a command in this process."""
    try:
        status = main([str(word) for word in words])
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["train", "vit_tiny_digit"], 2, "vit_tiny_digits"),
        (["train", "vit_tiny_digits", "--set", "optim.lrr=1"], 2, "optim.lr"),
        (["train", "vit_tiny_digits", "--set", "epochs"], 2, "KEY=VALUE"),
        (["train", "vit_tiny_digits", "--set", "epochs=many"], 2, "epochs takes int"),
        (["train", "vit_tiny_digits", "--set", "optim.name=adm"], 2, "adamw"),
        (["train", "none/recipe.txt"], 1, "does not exist"),
        (["train", "vit_tiny_digits", "--workdir", "a" * 300], 1, "File name too long"),
        (["train", "vit_tiny_digits", "--workdir", "a\0b"], 1, "NUL"),
        (["train", "a" * 300 + ".py"], 1, "File name too long"),
        (["train", "vit_tiny_digits", "--preview", "--out", __file__], 1, "Not a directory"),
        (["train", "vit_tiny_digits", "--out", "x"], 2, "--preview"),
        (["evaluate", "none"], 1, "not a run"),
        (["evaluate", "vit_toy"], 2, "add --probe knn or linear, and --data SOURCE"),
        (["evaluate", "none", "--random-weights"], 2, "add --probe knn or linear, and --data SOURCE"),
        (["evaluate", __file__], 2, "add --probe knn or linear, and --data SOURCE"),
        (["evaluate", "vit_toy", "--probe", "kn"], 2, "did you mean knn"),
        (["evaluate", "vit_toy", "--probe", "knn"], 2, "add --data SOURCE"),
        (["evaluate", "vit_toy", "--probe", "knn", "--data", "digits"], 2, "--random-weights"),
        (["evaluate", "vit_toi", "--probe", "knn", "--data", "digits"], 2, "vit_toy"),
        (["evaluate", "runs/none", "--probe", "knn", "--data", "digits"], 1, "does not exist"),
        (["info", "vit_toi"], 2, "vit_toy"),
        (["list", "resnext*"], 1, "nothing matches"),
        (["check", "vitt"], 2, "vit"),
        (["check", "vit_toy", "--task", "classfy"], 2, "classify"),
        (["predict", "vit_toy", "a.jpg"], 2, "--random-weights"),
        (["predict", "vit_toyy", "a.jpg"], 2, "vit_toy"),
        (["predict", "runs/none", "a.jpg"], 1, "does not exist"),
        (["predict", "vit_toy", "a.jpg", "--random-weights"], 1, "a.jpg"),
        (["predict", __file__, "a.jpg", "--random-weights"], 2, "--random-weights goes with the NAME"),
        (["predict", "vit_toy", "a.jpg", "--random-weights", "--top", "0"], 2, "--top must be at least 1"),
        (["predict", "vit_toy", "a.jpg", "--random-weights", "--out", __file__], 1, "Not a directory"),
        (["predict", "vit_toy", "a.jpg", "--weights", "none.keras"], 1, "none.keras does not exist"),
        (["export", "vit_toy", "--format", "onx", "--out", "x"], 2, "onnx"),
        (["export", "vit_toy", "--format", "onnx", "--out", "x"], 2, "--random-weights"),
        (["data", "pack", "digit", "x.npz"], 2, "digits"),
        (["data", "pack", "digits", f"{__file__}/x.npz"], 1, "Not a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_get_a_status_and_one_sentence(capsys, tmp_path, monkeypatch, words, status, sentence):
    monkeypatch.chdir(tmp_path)
    found, out, err = call(capsys, *words)
    assert (found, out) == (status, "")
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("kzoo: ") and sentence in lines[0]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["trian"], ["train"], ["predict", "vit_toy"], ["list", "--jsn"]], ids=" ".join)
def test_wrong_usage_is_2(capsys, words):
    status, out, err = call(capsys, *words)
    assert (status, out) == (2, "") and "usage: kzoo" in err and "Traceback" not in err


def test_no_command_shows_the_help(capsys):
    status, out, err = call(capsys)
    assert (status, out) == (2, "") and "quickstart" in err


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(kzoo.UserError, match="not a run"):
        main(["evaluate", "none", "--debug"])


class ResourceExhaustedError(Exception):
    """TensorFlow's by name; torch's and JAX's are told by name or by text."""


class XlaRuntimeError(RuntimeError):
    """JAX's."""


MEMORY = "the memory ran out"


@pytest.mark.parametrize(
    ("words", "failure", "status", "sentence"),
    [
        (
            ["train", "vit_tiny_digits"],
            KeyboardInterrupt(),
            1,
            "interrupted; started again in the same folder, the run continues",
        ),
        (["evaluate", "run"], KeyboardInterrupt(), 1, "interrupted"),
        (["evaluate", "run"], "SIGTERM", 143, "ended by SIGTERM"),
        (["evaluate", "run"], MemoryError(), 1, MEMORY),
        (["evaluate", "run"], ResourceExhaustedError("OOM when allocating tensor"), 1, MEMORY),
        (["evaluate", "run"], XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), 1, MEMORY),
        (
            ["evaluate", "run"],
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
            1,
            MEMORY,
        ),
        (
            ["evaluate", "run"],
            PermissionError(13, "Permission denied", "x.npz"),
            1,
            "x.npz cannot be used (Permission denied)",
        ),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_end_from_outside_is_told_in_a_sentence(capsys, monkeypatch, words, failure, status, sentence):
    def fails(*arguments, **options):
        if failure == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        raise failure

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(f"kzoo.training.{words[0]}", fails)
    found, out, err = call(capsys, *words)
    assert (found, out, err.count("\n")) == (status, "", 1) and err.startswith(f"kzoo: {sentence}")
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_failures_are_ours_and_show_themselves(monkeypatch):
    monkeypatch.setattr("kzoo.training.evaluate", lambda *arguments: [][0])
    with pytest.raises(IndexError):
        main(["evaluate", "run"])


RECIPE_FILES = {
    "RECIPES = {\n": "line 1: '{' was never closed",
    "": "needs a table of recipes",
    "RECIPES = {}": "needs a table of recipes",
    "RECIPES = [1]": "needs a table of recipes",
    "RECIPES = {'a': 5}": "needs a table of recipes",
    "x = 1\nimport nowhere_to_be_found": "line 2: ModuleNotFoundError",
    "def f():\n    1 / 0\nf()": "line 2: ZeroDivisionError",
    "from kzoo.schema import Recipe\nRecipe(model='vit_toy', "
    "loss='cross_entropy')": "line 2: loss is a field of the task now",
    "import sys\nsys.exit(3)": "line 2: SystemExit: 3",
    "from kzoo.schema import Optim\n\nOptim(lr=-1)": "line 3: optim.lr must be at least 0",
    "x = 'caf\udce9'": "'utf-8' codec can't decode",
    "x = '\0'": "null bytes",
}


@pytest.mark.parametrize("text", RECIPE_FILES, ids=RECIPE_FILES.values())
def test_a_mistake_in_a_recipe_file_is_told_with_its_line(capsys, tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_bytes(os.fsencode(text))
    status, out, err = call(capsys, "train", path)
    assert (status, out, err.count("\n")) == (2 if "optim.lr" in err else 1, "", 1)
    assert err.startswith(f"kzoo: {path}") and RECIPE_FILES[text] in err


RECORDS = {
    "model = 5": "names no model",
    f"model = 'x'\nseed = {'[' * 90_000}{']' * 90_000}": "line 1: expected",
    f'model = "vit_toy"\noverrides.x = {"[" * 700}{"]" * 700}': "nested too deeply",
    'model = "vit_toy"\ninit_from = "a\\u0000b"': "line 2: no name or path of a recipe holds a NUL",
    "#" * 2_000_000: "is larger than any; give the recipe.txt",
}


@pytest.mark.parametrize("text", RECORDS, ids=RECORDS.values())
def test_a_record_that_is_none_is_told(capsys, tmp_path, text):
    (tmp_path / "recipe.txt").write_text(text)
    status, out, err = call(capsys, "train", tmp_path / "recipe.txt")
    assert status in (1, 2) and (out, err.count("\n")) == ("", 1) and RECORDS[text] in err


def test_list_and_info(capsys):
    status, out, err = call(capsys, "list", "vit_*_384", "--json")
    assert (status, json.loads(out), err) == (0, kzoo.list_models("vit_*_384"), "")
    status, out, _ = call(capsys, "list", "--recipes", "--json")
    assert (status, json.loads(out)) == (0, kzoo.list_recipes())
    status, out, _ = call(capsys, "info", "vit_toy", "--json")
    facts = json.loads(out)
    assert status == 0 and facts["params"] == kzoo.get("vit_toy").count_params() and facts["image_size"] == [32, 32]
    assert call(capsys, "info", "vit_toy")[1].count("\n") > 5


@pytest.mark.slow
def test_train_writes_json_alone_on_stdout(capsys, tmp_path):
    status, out, err = call(
        capsys,
        "train",
        "vit_tiny_digits",
        "--smoke",
        "--workdir",
        tmp_path / "run",
        "--set",
        "steps=1",
        "seed=4",
        "xla=off",
        "--json",
    )
    assert status == 0 and json.loads(out)["images"] == 64
    assert "step 1/1" in err and "evaluation accuracy" in err
    assert "seed = 4\n" in (tmp_path / "run" / "recipe.txt").read_text()


@pytest.mark.slow
def test_evaluate_tells_the_metrics_of_the_run(capsys, run):
    status, out, _ = call(capsys, "evaluate", run, "--json")
    wanted = json.loads((run / "metrics.json").read_text())
    assert status == 0 and json.loads(out) == pytest.approx({k: v for k, v in wanted.items() if k != "steps"}, rel=1e-6)
    status, out, err = call(capsys, "evaluate", run, "--data", "fake:classes=4", "--json")
    assert (status, out) == (1, "") and "4 classes" in err


@pytest.mark.slow
def test_run_and_artifact_agree_on_a_jpeg(capsys, run, jpeg):
    """The SavedModel resizes by itself; the ONNX file gets the picture resized and rounded to whole numbers."""
    status, out, _ = call(capsys, "predict", run, jpeg, "--json")
    (wanted,) = json.loads(out)
    assert status == 0 and wanted["image"] == str(jpeg)
    assert {c["label"] for c in wanted["classes"]} == {"bird", "cat", "dog"}
    assert sum(c["probability"] for c in wanted["classes"]) == pytest.approx(1, abs=1e-6)
    for format, tolerance in (("saved_model", 1e-4), ("onnx", 0.02)):
        out_folder = run.parent / format
        assert call(capsys, "export", run, "--format", format, "--out", out_folder)[0] == 0
        status, out, _ = call(capsys, "predict", out_folder, jpeg, "--json")
        (found,) = json.loads(out)
        expected = {c["label"]: pytest.approx(c["probability"], abs=tolerance) for c in wanted["classes"]}
        assert status == 0 and {c["label"]: c["probability"] for c in found["classes"]} == expected


def test_predict_shows_top_and_draws(capsys, run, jpeg, tmp_path):
    status, out, _ = call(capsys, "predict", run, jpeg, "--top", 1, "--out", tmp_path / "out")
    assert status == 0 and out.startswith(f"{jpeg}: ") and out.count("0.") == 1
    assert [p.suffix for p in (tmp_path / "out").iterdir()] == [".png"]
    (tmp_path / "no.jpg").write_bytes(b"no picture")
    status, out, err = call(capsys, "predict", run, tmp_path / "no.jpg")
    assert (status, out) == (1, "") and "no.jpg cannot be decoded" in err


def test_the_answer_is_given_though_its_pictures_cannot_be_written(capsys, run, jpeg, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device", "out/000.png")

    monkeypatch.setattr("kzoo.tasks.classify.save", full)
    status, out, err = call(capsys, "predict", run, jpeg, "--out", tmp_path / "out", "--json")
    assert (status, err) == (1, "kzoo: out/000.png cannot be used (No space left on device); check the path.\n")
    assert json.loads(out)[0]["image"] == str(jpeg)


def test_evaluate_tells_the_figures_of_a_run_that_is_read_only(capsys, run, monkeypatch):
    def read_only(path, text):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("kzoo.training.evaluation.write_text", read_only)
    status, out, err = call(capsys, "evaluate", run, "--json")
    assert status == 0 and json.loads(out)["images"] == 12
    assert err == f"evaluation.json could not be written into {run}: Read-only file system\n"


def test_output_that_the_terminal_cannot_spell_is_escaped(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), "ascii")
    picture = SimpleNamespace(name="caf\udce9.jpg")
    answer = [Answer(picture, {"classes": [{"label": "h\u00e9", "probability": 1.0}]})]
    monkeypatch.setattr("kzoo.predicting.open_target", lambda *arguments: SimpleNamespace(task=named("classify")))
    monkeypatch.setattr("kzoo.predicting.answers", lambda *arguments, **options: answer)
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["predict", "run", "caf\udce9.jpg"]) == 0
    output.flush()
    assert output.buffer.getvalue() == b"caf\\udce9.jpg: h\\xe9 1.0000\n"


@pytest.mark.slow
def test_predict_draws_what_the_model_looks_at(capsys, run, jpeg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(capsys, "predict", run, jpeg, jpeg, "--attention", "--json")
    drawn = ["000_01.attention.png", "001_01.attention.png", "filters.png", "positions.png"]
    assert (status, err) == (0, "") and sorted(p.name for p in (tmp_path / "kzoo-attention").iterdir()) == drawn
    assert [row["attention"] for row in json.loads(out)] == [f"kzoo-attention/{name}" for name in drawn[:2]]
    kzoo.get("vit_toy", num_classes=2, stem="conv").save("conv.keras")
    status, out, err = call(capsys, "predict", "conv.keras", jpeg, "--attention", "--out", "both")
    assert status == 0 and "both/positions.png" in out and err.startswith("no filters.png: vit_toy has no linear map")
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == [
        "000_01.attention.png",
        "000_01.png",
        "positions.png",
    ]


def test_an_artifact_keeps_no_attention(capsys, run, jpeg, tmp_path):
    assert call(capsys, "export", run, "--format", "onnx", "--out", tmp_path / "onnx")[0] == 0
    status, out, err = call(capsys, "predict", tmp_path / "onnx", jpeg, "--attention", "--out", tmp_path / "out")
    assert (status, out, len(err.strip().splitlines())) == (
        1,
        "",
        1,
    ) and "the run or model that it was exported from" in err
    assert not (tmp_path / "out").exists()


def test_a_preview_trains_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(capsys, "train", "vit_tiny_digits", "--preview", "--set", "epochs=3")
    wanted = ["kzoo-preview/vit_tiny_digits.batch.png", "kzoo-preview/vit_tiny_digits.schedule.png"]
    assert (status, out.splitlines(), err) == (0, wanted, "")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")) == wanted


WITHOUT_TENSORFLOW = """
import json, sys
sys.modules["tensorflow"] = None
from kzoo.cli import main
from kzoo.exporting.formats import FORMATS
for words in json.loads(sys.argv[1]):
    status = main(words)
    if status:
        sys.exit(f"{words} ended with {status}")
assert sys.modules["tensorflow"] is None
"""


@pytest.mark.slow
def test_the_whole_way_without_tensorflow(tmp_path):
    """JAX, from a packed file; importing TensorFlow raises. A grey picture of another size is predicted."""
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 20), dtype=np.uint8)).save(tmp_path / "grey.jpg")
    npz, run = tmp_path / "digits.npz", tmp_path / "run"
    settings = [f"data.source=npz:{npz}", "steps=4", "checkpoint.every_steps=2", "overrides.depth=1"]
    train = ["train", "vit_tiny_digits", "--workdir", str(run), "--json", "--set", *settings]
    commands = [
        ["data", "pack", "digits", str(npz), "--json"],
        train,
        train,  # finished: tells the same again
        ["evaluate", str(run), "--json"],
        ["predict", str(run), str(tmp_path / "grey.jpg"), "--json"],
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax"}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, json.dumps(commands)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    _, trained, again, evaluated, predicted = (json.loads(line) for line in result.stdout.splitlines())
    assert trained == again and trained["images"] == 355
    assert evaluated["accuracy"] == trained["accuracy"]
    assert [c["label"] for c in predicted[0]["classes"]] and 'record.compiled = "xla"' in (
        run / "recipe.txt"
    ).read_text()
    assert (run / "tensorboard").is_dir()


def test_the_help_of_export_names_every_format_and_what_each_is_quantised_to(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    told = capsys.readouterr().out
    for name, row in FORMATS.items():
        assert name in told and all(word in told for word in row.quantize), name

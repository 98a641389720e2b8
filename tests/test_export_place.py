"""An export takes its place whole or not at all: somebody else's files, failures at every step, kill -9 at every
moment.
"""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import kzoo
from kzoo.cli import main
from kzoo.errors import UserError
from kzoo.exporting import place
from kzoo.exporting.artifact import OnnxArtifact, open_artifact
from kzoo.exporting.papers import KIND


def artifact(folder, text, format="onnx"):
    """A folder that passes for an artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(json.dumps({"kind": KIND, "format": format}))
    (folder / "model.onnx").write_text(text)
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def build(out, text="new"):
    with place.staging(out) as folder:
        artifact(folder, text)
        place.move(folder, out)


@pytest.mark.parametrize("before", ["nothing", "empty folder", "artifact", "no parent"])
def test_takes_its_place(tmp_path, before):
    out = tmp_path / "deep" / "a" if before == "no parent" else tmp_path / "a"
    if before == "empty folder":
        out.mkdir()
    if before == "artifact":
        artifact(out, "old")
    build(out)
    assert (out / "model.onnx").read_text() == "new"
    assert [entry.name for entry in out.parent.iterdir()] == ["a"]


def test_two_renames_where_the_system_cannot_exchange(tmp_path, monkeypatch):
    monkeypatch.setattr(place, "_exchange", lambda a, b: False)
    build(artifact(tmp_path / "a", "old"))
    assert (tmp_path / "a" / "model.onnx").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="the exchange in one step is Linux' own")
def test_exchange_is_one_step(tmp_path):
    a, b = artifact(tmp_path / "a", "a"), artifact(tmp_path / "b", "b")
    assert place._exchange(a, b)
    assert (a / "model.onnx").read_text() == "b" and (b / "model.onnx").read_text() == "a"
    with pytest.raises(FileNotFoundError):
        place._exchange(tmp_path / "missing", b)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda out: out.write_text("x"), "is a file; name a folder"),
        (lambda out: (out.mkdir(), (out / "thesis.txt").write_text("x")), "is not empty and holds no kzoo artifact"),
        (lambda out: (out.mkdir(), (out / "card.json").write_text('{"title": "birthday"}')), "holds no kzoo artifact"),
        (
            lambda out: (artifact(out, "x") / "card.json").write_text('{"kind": "kzoo artifact", "format": "on'),
            "holds no kzoo artifact",
        ),
        (
            lambda out: (artifact(out, "x") / "card.json").write_bytes(b'{"kind": "kzoo artifact", "format": "\xff"}'),
            "holds no kzoo artifact",
        ),
        (lambda out: artifact(out, "x", "litert"), "holds a litert artifact; name another folder for onnx"),
        (lambda out: (artifact(out, "x") / "notes.txt").write_text("x"), "holds notes.txt, which kzoo did not write"),
    ],
)
def test_never_over_somebody_elses_files(tmp_path, prepare, words):
    out = tmp_path / "a"
    prepare(out)
    before = content(tmp_path)
    with pytest.raises(UserError, match=words):
        kzoo.export(None, out, format="onnx")
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("file/a", "Not a directory"),
        ("file/b/a", "Not a directory"),
        ("n" * 300, "File name too long"),
        ("n" * 250, "File name too long"),  # the name fits, that of the folder to build in does not
        ("a\0b", "NUL"),
        ("caf\udce9", "no UTF-8"),
        ("loop/a", "loop|symbolic"),
        ("readonly/a", "Permission denied"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path, monkeypatch, capsys, name, words):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "readonly").mkdir()
    access = os.access
    # root may write
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("readonly") and access(path, mode))
    with pytest.raises(UserError, match=f"^nothing can be written into .*({words}).*; name another folder.$"):
        kzoo.export(None, f"{tmp_path}/{name}", format="onnx")
    # the folder comes first
    assert main(["export", "no_such_model", "--format", "onnx", "--out", f"{tmp_path}/{name}"]) == 1
    assert "name another folder" in capsys.readouterr().err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "loop", "readonly"]


def test_only_one_export_at_a_time(tmp_path):
    """Of two, in threads of one process as in processes of equal numbers, the second is refused and nothing of the
    first is touched.
    """
    out = artifact(tmp_path / "a", "old")
    with place.staging(out) as folder:
        artifact(folder, "new")
        with (
            pytest.raises(UserError, match=r"another process is writing to .*a; wait for it or name another folder"),
            place.staging(out),
        ):
            pass
        place.clear(out)
        with place.staging(tmp_path / "b") as other:  # to another folder it may
            assert other.is_dir()
        place.move(folder, out)
    assert (out / "model.onnx").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_many_threads_end_with_a_whole_artifact(tmp_path):
    import concurrent.futures

    def attempt(text):
        try:
            build(tmp_path / "a", text)
        except UserError as error:
            return str(error)
        return text

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        said = list(pool.map(attempt, map(str, range(200))))
    done = [text for text in said if text.isdigit()]
    assert (tmp_path / "a" / "model.onnx").read_text() in done
    assert all("another process is writing" in text for text in said if text not in done)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_file_systems_without_locks(tmp_path, monkeypatch):
    """What others left is then not touched: they may be at work."""
    import fcntl

    def none(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    (tmp_path / ".a.tmp-12").mkdir()
    monkeypatch.setattr(fcntl, "flock", none)
    build(tmp_path / "a")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".a.tmp-12", "a"]


def test_files_are_replaced_by_threads_at_once(tmp_path):
    import concurrent.futures

    from kzoo.files import write_text

    texts = [str(i) * 1000 for i in range(10)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_text(tmp_path / "a.txt", texts[i % 10]), range(200)))
    assert (tmp_path / "a.txt").read_text() in texts
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_while_building_leaves_nothing(tmp_path):
    out = artifact(tmp_path / "a", "old")
    with pytest.raises(KeyboardInterrupt), place.staging(out) as folder:
        artifact(folder, "half")
        raise KeyboardInterrupt
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"] and (out / "model.onnx").read_text() == "old"


KILLED = """
import os, pathlib, signal, sys
from kzoo.exporting import place
out, moment = pathlib.Path(sys.argv[1]), sys.argv[2]

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def after(function):
    return lambda *args: (function(*args), die())

if moment == "building":
    place._sync = die
elif moment == "exchanged":
    place._exchange = after(place._exchange)
elif moment == "deleting":
    place.shutil.rmtree = die
elif moment == "between renames":
    place._exchange = lambda a, b: False
    os.rename = after(os.rename)
with place.staging(out) as folder:
    (folder / "card.json").write_text(pathlib.Path(out / "card.json").read_text())
    (folder / "model.onnx").write_text("new")
    place.move(folder, out)
"""


@pytest.mark.parametrize(
    ("moment", "left"), [("building", "old"), ("exchanged", "new"), ("deleting", "new"), ("between renames", "old")]
)
def test_killed_at_any_moment(tmp_path, moment, left):
    out = artifact(tmp_path / "a", "old")
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", KILLED, str(out), moment], env=os.environ | {"PYTHONPATH": str(root)})
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".a.tmp-*")) + list(tmp_path.glob(".a.old-*"))) == (
        2 if moment == "between renames" else 1
    )
    with place.staging(out):
        assert (out / "model.onnx").read_text() == left  # put back, if it was caught between two renames
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_leftovers_of_earlier_versions_go_and_other_names_stay(tmp_path):
    kept, left = [tmp_path / ".ab.tmp-1", tmp_path / ".a.tmp-mine"], [tmp_path / ".a.tmp-123", tmp_path / ".a.old-123"]
    for folder in (*kept, *left):
        folder.mkdir()
    artifact(tmp_path / "a", "old")
    build(tmp_path / "a")
    assert all(folder.is_dir() for folder in kept) and not any(folder.exists() for folder in left)


@pytest.fixture(scope="module")
def model():
    return kzoo.get("vit_toy")


@pytest.fixture(scope="module")
def artifact_of_model(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "a"
    kzoo.export(model, folder, format="onnx")
    return folder


@pytest.fixture
def exported(artifact_of_model, tmp_path):
    """A real artifact and its content."""
    shutil.copytree(artifact_of_model, tmp_path / "a")
    return tmp_path / "a", content(tmp_path)


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow
def test_failed_exports_leave_what_was_there(model, exported, monkeypatch):
    import onnx

    from kzoo.exporting import card

    out, before = exported
    run = OnnxArtifact._run
    off = {"logits": 2e-4, "probabilities": 0.0}
    wrong = open_artifact(out).predict(np.zeros((1, 32, 32, 3), np.uint8))
    assert wrong["logits"].shape == (1, 10) and set(wrong) == set(off)
    failures = [
        (
            OnnxArtifact,
            "_run",
            lambda self, x: {k: v + off[k] for k, v in run(self, x).items()},
            "disagrees with Keras by 0.0002 where",
        ),
        (
            OnnxArtifact,
            "_run",
            lambda self, x: {k: v * np.nan for k, v in run(self, x).items()},
            "disagrees with Keras by nan where",
        ),
        (OnnxArtifact, "_run", lambda self, x: {"logits": run(self, x)["logits"]}, "the artifact returned"),
        (onnx, "save", full_disk, "could not be written: the disk is full"),
        (card, "write", full_disk, "could not be written: the disk is full"),
        (place, "_sync_one", full_disk, "could not be written: the disk is full"),
    ]
    for owner, name, broken, words in failures:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            with pytest.raises(UserError, match=words):
                kzoo.export(model, out, format="onnx")
        assert content(out.parent) == before and [entry.name for entry in out.parent.iterdir()] == ["a"]


def test_full_disk_under_tensorflow(model, tmp_path, monkeypatch):
    import tensorflow as tf

    def full(*args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, "variables.data; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(UserError, match="the disk is full"):
        kzoo.export(model, tmp_path / "a", format="saved_model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_real_export_killed_while_it_verifies(exported):
    out, before = exported
    code = f"import kzoo; kzoo.export(kzoo.get('vit_toy'), {str(out)!r}, format='onnx')"
    root = pathlib.Path(__file__).parent.parent
    child = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(root)}, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while not list(out.parent.glob(".a.tmp-*/model.onnx")) and child.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -signal.SIGKILL and len(list(out.parent.glob(".a.tmp-*/model.onnx"))) == 1
    assert content(out) == {name.removeprefix("a/"): data for name, data in before.items()}
    assert open_artifact(out).predict(np.zeros((1, 32, 32, 3), np.uint8))["logits"].shape == (1, 10)
    with place.staging(out):
        pass
    assert [entry.name for entry in out.parent.iterdir()] == ["a"]


def test_its_own_damaged_artifact_is_replaced(model, exported):
    """The card still says whose it is and of which format, whatever else is wrong."""
    out, _ = exported
    card = json.loads((out / "card.json").read_text())
    (out / "card.json").write_text(json.dumps({"kind": card["kind"], "format": card["format"], "input": None}))
    (out / "model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        open_artifact(out)
    kzoo.export(model, out, format="onnx")
    assert open_artifact(out).card["model"] == "vit_toy"


CHILD = """
import pathlib, sys, time
from kzoo.exporting import place
with place.staging(pathlib.Path(sys.argv[1])) as folder:
    (folder / "model.onnx").write_text("half")
    time.sleep(60)
"""


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_export_ends_its_child(tmp_path, monkeypatch, interruption):
    """Under JAX and torch a child exports: an exception here, as a signal raises it, ends it, and what it had built is
    gone.
    """
    from kzoo.exporting import relay

    out, children = artifact(tmp_path / "a", "old"), []

    class Popen(subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__([command[0], "-c", CHILD, str(out)], **options)
            children.append(self)

        def communicate(self, *args, **options):
            if building():
                return super().communicate(*args, **options)
            while not building() and self.poll() is None:
                time.sleep(0.005)
            raise interruption

    def building():
        return list(tmp_path.glob(".a.tmp-*/model.onnx"))

    monkeypatch.setattr(subprocess, "Popen", Popen)
    with pytest.raises(interruption):
        relay.export_in_child(tmp_path / "run", out, "onnx", None, None, "none")
    assert children[0].returncode == -signal.SIGKILL
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"] and (out / "model.onnx").read_text() == "old"


@pytest.mark.backends
def test_every_backend_exports(tmp_path):
    """Under JAX and torch a child process whose backend is TensorFlow does it, and refuses as it would here."""
    import onnxruntime

    model = kzoo.get("vit_toy")
    random = np.random.default_rng(0)
    model.set_weights([random.normal(0, 0.2, weight.shape).astype("float32") for weight in model.get_weights()])
    images = random.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    card = kzoo.export(model, tmp_path / "a", format="onnx", pictures=list(images), pictures_from="noise")
    assert card["pictures"] == "noise" and card == json.loads((tmp_path / "a" / "card.json").read_text())
    logits = onnxruntime.InferenceSession(tmp_path / "a" / "model.onnx").run(["logits"], {"images": images})[0]
    expected = keras.ops.convert_to_numpy(model(kzoo.preprocessor(model)(images), training=False))
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    with pytest.raises(UserError, match="nowhere.keras does not exist"):
        kzoo.export(tmp_path / "nowhere.keras", tmp_path / "b")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]

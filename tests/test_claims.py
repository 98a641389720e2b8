"""What a small file may claim: runs and .keras files that name giants, unpack to gigabytes, are malformed or were
changed; all are refused in a sentence, before they cost anything. Runs of earlier versions load, and a damaged one
names the checkpoint before it.
"""

import dataclasses
import errno
import functools
import io
import json
import os
import pathlib
import re
import shutil
import time
import types

import keras
import numpy as np
import pytest
import safetensors.numpy

import kzoo
import kzoo.data
from benchmarks.fuzz import memory, randomised
from benchmarks.mutate import inflate
from kzoo import recipe_files, schema
from kzoo.archives import zips
from kzoo.archives.zips import SEAL as ARCHIVE_SEAL
from kzoo.errors import UserError
from kzoo.files import replacing
from kzoo.training import engine, state
from kzoo.training.workdir import claimed
from kzoo.weights.checkpoint import SPEC
from kzoo.weights.read import read_checkpoint, spec_of
from tests.test_checkpoint import rezip, sealed


@pytest.fixture(scope="module")
def toy():
    return randomised(kzoo.get("vit_toy", num_classes=3), seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy):
    """The folder of a run as it is after two saves, never trained."""
    folder = tmp_path_factory.mktemp("run")
    task = kzoo.task(toy)
    task.compile(optimizer=keras.optimizers.SGD(momentum=0.9))
    task.optimizer.build(task.trainable_variables)
    for step in (3, 4):
        state.save(task, folder, meta_of(toy, step=step))
    return folder


def meta_of(model, step=4, **changed):
    row = {"epoch": 1, "step": 3, "lr": 0.1, "time": 1.0, "loss": 2.0}
    told = {
        "step": step,
        "history": [row],
        "metrics": {"accuracy": 0.5},
        "seconds": 1.5,
        "side": None,
        "started": "today",
        "kzoo": "0",
    }
    return told | {"spec": dataclasses.asdict(model.spec)} | changed


def as_bytes(array):
    np.save(file := io.BytesIO(), array)
    return file.getvalue()


def resaved(run, folder, change):
    """The run's checkpoint with `change({member: bytes})` made, by somebody who knows nothing of seals; its folder."""
    folder.mkdir()
    shutil.copy(run / "checkpoint.npz", folder)
    rezip(folder / "checkpoint.npz", lambda m: change(m).items())
    return folder


def on_itself(times, key, **options):
    """The options of a network on a network on a network."""
    return functools.reduce(lambda below, _: options | {key: below}, range(times), {"norm": "layer"})


def with_meta(text):
    return lambda m: (
        {k: v for k, v in m.items() if k != ARCHIVE_SEAL} | {"meta.npy": as_bytes(np.frombuffer(text, "uint8"))}
    )


def told(path, words, *readers):
    """Each reader refuses `path` in one sentence that matches, without the memory of what the file claims."""
    for reader in readers:
        before = memory(new=True)
        with pytest.raises(UserError, match=words) as error:
            reader(path)
        text = str(error.value)
        assert "\n" not in text and text.endswith((".", "?")) and str(path) in text and "safe_mode" not in text
        assert memory() - before < 100e6


def get(path):
    return kzoo.get("vit_toy", num_classes=3, weights=path)


GIANTS = [
    {"name": "vit_gigantic_patch14_224"},
    *({"overrides": dict({"num_classes": 3}, **giant)} for giant in (
        {"depth": 100_000},
        {"depth": 60},
        {"embed_dim": 65_536, "mlp_ratio": 16.0},
        {"image_size": 1_000_000},
        {"image_size": 40_000, "pos_embed": "sincos2d"},
        {"num_classes": 1 << 40},
        {"num_classes": 1 << 20},
    )),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("giant", GIANTS, ids=str)
def test_a_small_file_builds_no_giant(tmp_path, toy, run, giant):
    meta = meta_of(toy)
    meta["spec"] |= giant
    folder = resaved(run, tmp_path / "run", with_meta(json.dumps(meta).encode()))
    told(folder, "far more weights than it holds|cannot be built|must be at most", kzoo.load, spec_of)
    began = time.monotonic()
    if giant != GIANTS[-1]:  # another head does not move the grid of the position table, for which the others are built
        told(folder, "far more weights than it holds|cannot be built|must be at most", get)
    kzoo.save_weights(toy, tmp_path / "toy.safetensors", layout="timm")
    tensors = safetensors.numpy.load_file(tmp_path / "toy.safetensors")
    sealed(tmp_path / "toy.safetensors", tensors, **{SPEC: json.dumps(meta["spec"])})
    told(tmp_path / "toy.safetensors", "far more weights than it holds|cannot be built|must be at most", spec_of)
    assert time.monotonic() - began < 10


def test_the_numerics_that_a_file_implies_build_no_giant(tmp_path, toy, run):
    """A hybrid's are the options of its backbone, which hold its sizes too."""
    meta = meta_of(toy)
    meta["spec"] |= {"name": "hybrid_toy", "overrides": {"backbone_options": ["norm=group", "width=32000"]}}
    folder = resaved(run, tmp_path / "run", with_meta(json.dumps(meta).encode()))
    told(folder, "far more weights than it holds", kzoo.load, lambda path: kzoo.get("hybrid_toy", weights=path))


LAMBDA = json.dumps(
    {
        **{"module": "keras.layers", "class_name": "Lambda", "registered_name": None, "name": "code", "inbound_nodes": []},
        "config": {"name": "code", "function": {"class_name": "__lambda__", "config": {"code": "4wEA", "defaults": None, "closure": None}}},
    }
).encode() + b", "  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb'"units": \d+', b'"units": 1000000000'),
        (rb'"patch_size": 8, "dim": \d+', b'"patch_size": 8, "dim": 1000000000'),
        (rb'("input_layers": ).*?\]\]?,', rb'\1"text",'),
        (rb'"layers": \[', b'"layers": [' + b'{"class_name": "Activation"},' * 10_000),
        (rb'"layers": \[', b'"layers": [' + LAMBDA),
        (rb'"spec": \{', b'"spec": [], "more": {'),
    ],
    ids=["units", "dim", "input_layers", "layers", "Lambda", "spec"],
)
def test_a_keras_config_builds_no_giant_and_nothing_malformed(tmp_path, toy, old, new):
    toy.save(tmp_path / "toy.keras")

    def change(members):
        config = json.loads(members["config.json"])
        config["config"].pop("sealed")
        text = json.dumps(config).encode()
        changed = re.sub(old, new, text)
        assert changed != text
        return [
            (name, content) for name, content in (members | {"config.json": changed}).items() if name != ARCHIVE_SEAL
        ]

    rezip(tmp_path / "toy.keras", change)
    told(tmp_path / "toy.keras", "far more|cannot be built|is not one that this version", kzoo.load)


@pytest.mark.parametrize("member", ["meta.npy", "config.json", "weights/head/kernel.npy", "model.weights.h5"])
def test_what_a_small_file_unpacks_to(tmp_path, toy, run, member, monkeypatch):
    """Texts are bounded, and so is the whole: before any of it is unpacked."""
    monkeypatch.setattr("benchmarks.mutate.BOMB", 300 << 20)
    path = tmp_path / "checkpoint.npz"
    if "npy" in member:
        shutil.copy(run / "checkpoint.npz", path)
    else:
        toy.save(tmp_path / "toy.keras")
        path = (tmp_path / "toy.keras").rename(path)
    path.write_bytes(inflate(path.read_bytes(), None, member)[0])
    assert path.stat().st_size < 3e6
    told(path, "far more than|more than the file can hold", kzoo.load, get)
    monkeypatch.setattr(zips, "_ANYWAY", 1 << 40)
    if member in ("meta.npy", "config.json"):
        told(path, "far more than", kzoo.load, get)


def test_shapes_are_compared_before_bytes_are_read(tmp_path, toy, run):
    """A weight of another shape whose bytes are damaged too: it is its shape that is told."""
    wrong = as_bytes(np.zeros((99, 99), "float32"))
    folder = resaved(
        run,
        tmp_path / "run",
        lambda m: with_meta(json.dumps(meta_of(toy)).encode())(m) | {"weights/blocks_0/mlp/fc1/kernel.npy": wrong},
    )
    data = (folder / "checkpoint.npz").read_bytes()
    place = data.index(wrong) + len(wrong) - 1
    (folder / "checkpoint.npz").write_bytes(data[:place] + b"x" + data[place + 1 :])
    told(folder, "does not fit vit_toy|do not fit this model: blocks_0/mlp/fc1/kernel", kzoo.load, get)


@pytest.mark.parametrize("reader", [kzoo.load, get, lambda path: kzoo.data.open_source(f"npz:{path}", "train")])
def test_a_pipe_or_device_is_not_waited_for(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", pathlib.Path("/dev/zero")):
        told(path, "is a pipe or a device", reader)


@pytest.mark.parametrize(
    "change",
    [
        *({key: None} for key in ("step", "history", "metrics", "seconds", "spec", "started")),
        *({"spec": {"name": "vit_toy", "overrides": {}, "preprocessing": {}} | part} for part in (
            {"overrides": []}, {"overrides": {"zz": 1}}, {"name": "hybrid_toy", "overrides": on_itself(500, "backbone_options")},
            {"name": "hybrid_toy", "overrides": on_itself(12, "backbone_options", backbone="hybrid_toy")},
            {"overrides": {"patch_size": 0}}, {"overrides": {"mlp_ratio": float("nan")}},
            {"preprocessing": None}, {"preprocessing": {"mean": ["a"]}}, {"preprocessing": {"mean": [float("inf")] * 3}},
            {"preprocessing": {"std": [], "mean": []}}, {"preprocessing": {"crop": 1}}, {"class_names": [1, 2]}, {"class_names": "ab"},
            {"name": 5}, {"name": "vit_joy"}, {"name": ""}, {"zzz": 1}, {"license": None},
        )),
        {"spec": [1]}, {"spec": "vit_toy"}, {"spec": {}}, {"spec": {"name": "vit_toy"}},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_of_another_version_or_malformed(tmp_path, toy, run, change):
    """None takes the key away. What only resuming needs only resuming misses."""
    meta = {key: value for key, value in meta_of(toy, **change).items() if value is not None or key == "side"}
    folder = resaved(run, tmp_path / "run", with_meta(json.dumps(meta).encode()))
    resumes = change.get("spec", {}) is None or "spec" not in change or not isinstance(change["spec"], dict)
    words = "is damaged|is not one that this version of kzoo can use|cannot be built"
    if "spec" in change:
        told(folder, words, kzoo.load, spec_of)
    if resumes:
        told(folder, words, read_checkpoint)


@pytest.mark.parametrize(
    "text",
    [
        b"abc",
        b"[]",
        b'{"spec": NaN}',
        b'{"spec": ' + b"9" * 10_000 + b"}",
        b"\xff",
        b"[" * 100_000,
        b'{"step": 1, "step": 2}',
        b"",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_record_that_is_no_json(tmp_path, run, text):
    told(resaved(run, tmp_path / "run", with_meta(text)), "is damaged", kzoo.load, spec_of, get, read_checkpoint)


@pytest.mark.parametrize(
    "changed",
    [
        *({"step": value} for value in (-1, 1.5, True, "3", 1 << 60)),
        *({"history": value} for value in ({}, [1], [{"step": 1}], [{"epoch": 1, "step": 1, "time": "now"}])),
        {"metrics": []}, {"seconds": -1.0}, {"seconds": float("nan")}, {"seconds": "1"}, {"side": "224"}, {"side": 1.5}, {"started": 5},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_that_no_run_can_continue(tmp_path, toy, run, changed):
    folder = resaved(run, tmp_path / "run", with_meta(json.dumps(meta_of(toy, **changed)).encode()))
    told(folder, "is damaged or was made to mislead: its meta", read_checkpoint)


def test_a_damaged_checkpoint_names_the_one_before_it(tmp_path, run):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run/checkpoint.npz"
    path.write_bytes(path.read_bytes()[:-9])
    words = r"rename .*checkpoint.npz.previous to checkpoint.npz: the run then continues from step 3\."
    told(tmp_path / "run", words, kzoo.load, read_checkpoint)
    path.with_name("checkpoint.npz.previous").rename(path)
    assert read_checkpoint(tmp_path / "run")[1]["step"] == 3
    (tmp_path / "run/checkpoint.npz.previous").write_bytes(b"no checkpoint either")
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"get another copy of it, or train it again in another folder\.$"):
        read_checkpoint(tmp_path / "run")


def test_a_run_that_lost_its_checkpoint_is_not_begun_anew(tmp_path, run):
    recipe = schema.Recipe(model="vit_toy")
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/recipe.txt").write_text(recipe_files.dump(recipe))
    (tmp_path / "run/checkpoint.npz").unlink()
    with (
        pytest.raises(UserError, match="has lost its checkpoint.npz: rename checkpoint.npz.previous to it"),
        claimed(tmp_path / "run", recipe),
    ):
        pass
    (tmp_path / "run/checkpoint.npz.previous").rename(tmp_path / "run/checkpoint.npz")
    with claimed(tmp_path / "run", recipe):
        pass


def test_a_record_of_another_image_size_than_the_recipes(tmp_path, toy, run):
    folder = resaved(run, tmp_path / "run", with_meta(json.dumps(meta_of(toy, side=50_000)).encode()))
    for sizes in ((), (8, 32)):
        session = types.SimpleNamespace(
            workdir=folder, resumes=True, recipe=schema.Recipe(model="vit_toy", progressive=sizes, epochs=2)
        )
        with pytest.raises(UserError, match="is of pictures of 50000 pixels, which its recipe does not train on"):
            engine._Session._first_side(session)


@pytest.mark.parametrize("links", [True, False])
def test_a_save_that_fails_keeps_both_checkpoints(tmp_path, run, links, monkeypatch):
    """Links or, where the file system has none, copies: both as they were, then both one further."""
    folder, names = shutil.copytree(run, tmp_path / "run"), ("checkpoint.npz", "checkpoint.npz.previous")
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    before = [(folder / name).read_bytes() for name in names]
    with pytest.raises(OSError), replacing(folder / names[0], previous=names[1]) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [(folder / name).read_bytes() for name in names] == before
    for content, kept in ((b"new", before[0]), (b"newer", b"new")):
        with replacing(folder / names[0], previous=names[1]) as temporary:
            temporary.write_bytes(content)
        assert [(folder / name).read_bytes() for name in names] == [content, kept]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


# Seals.


def unsealed(members):
    """As earlier versions wrote them."""
    meta = json.loads(np.load(io.BytesIO(members["meta.npy"])).tobytes())
    return with_meta(json.dumps({key: value for key, value in meta.items() if key != "sealed"}).encode())(members)


def altered(members, old, new):
    """One text exchanged, in whichever member it is; those of one length, as the headers of arrays tell theirs."""
    changed = {name: content.replace(old, new) for name, content in members.items()}
    assert changed != members and len(old) == len(new)
    return changed


CHANGES = {
    "a weight": lambda m: m | {"weights/head/bias.npy": as_bytes(np.ones(3, "float32"))},
    "the optimizer's state": lambda m: m | {"optimizer/00000.npy": as_bytes(np.int64(7))},
    "preprocessing": lambda m: altered(m, b'"mean": [0.5, 0.5, 0.5]', b'"mean": [0.4, 0.5, 0.5]'),
    "the model's name": lambda m: altered(m, b'"vit_toy"', b'"vit_joy"'),
    "the step": lambda m: altered(m, b'"step": 4', b'"step": 9'),
    "an array more": lambda m: m | {"optimizer/99999.npy": as_bytes(np.ones(2))},
    "an array less": lambda m: {name: content for name, content in m.items() if name != "optimizer/00001.npy"},
    "the seal": lambda m: {name: content for name, content in m.items() if name != ARCHIVE_SEAL},
    "another's seal": lambda m: m | {ARCHIVE_SEAL: m[ARCHIVE_SEAL][:-64] + b"0" * 64},
    "a long seal": lambda m: m | {ARCHIVE_SEAL: bytes(17 << 20)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_changed_after_it_was_written_is_refused(tmp_path, run, change):
    folder = resaved(run, tmp_path / "run", CHANGES[change])
    told(
        folder,
        "was changed after it was written|its fingerprint is gone|is damaged",
        kzoo.load,
        spec_of,
        get,
        read_checkpoint,
    )


def test_runs_of_earlier_versions_carry_no_seal_and_load(tmp_path, toy, run):
    folder = resaved(run, tmp_path / "run", unsealed)
    assert read_checkpoint(folder)[1]["step"] == 4 and spec_of(folder) == toy.spec
    compiled = kzoo.load(run)
    compiled.compile(loss="mse")
    keras.saving.save_model(compiled, tmp_path / "toy.keras")  # past our own `save`
    assert spec_of(tmp_path / "toy.keras") == toy.spec and not kzoo.load(tmp_path / "toy.keras").compiled
    for model in (kzoo.load(folder), kzoo.load(run), kzoo.load(tmp_path / "toy.keras")):
        for ours, theirs in zip(model.get_weights(), toy.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("change", ["preprocessing", "the model's name", "weights", "metadata.json", "the seal"])
def test_a_keras_file_changed_after_it_was_written_is_refused(tmp_path, toy, change):
    path = tmp_path / "toy.keras"
    toy.save(path)
    assert keras.models.load_model(path).spec == kzoo.load(path).spec == toy.spec  # Keras passes over the seal

    def weights(members):
        data = members["model.weights.h5"]
        kernel = keras.ops.convert_to_numpy(toy.get_layer("head").kernel).tobytes()
        return altered(members, kernel, bytes(len(kernel))) if kernel in data else members

    changes = {"weights": weights, "metadata.json": lambda m: m | {"metadata.json": b"{}"}}
    rezip(path, lambda m: (changes | CHANGES)[change](m).items() if change in changes | CHANGES else m.items())
    told(path, "was changed after it was written|its fingerprint is gone", kzoo.load, spec_of, get)


def test_whole_models_are_saved_as_keras_files_alone(tmp_path, toy):
    for name in ("toy.h5", "toy.weights.h5", "toy.hdf5"):
        with pytest.raises(UserError, match="is saved as NAME.keras, its weights by kzoo.save_weights"):
            toy.save(tmp_path / name)
    toy.save(tmp_path / "toy.keras")
    with pytest.raises(UserError, match="exists; give another name"):
        toy.save(tmp_path / "toy.keras", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["toy.keras"]

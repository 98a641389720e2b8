"""Weights into models: strict, all or nothing, surgery only where asked for, position tables as torch resizes them,
with a receipt.
"""

import dataclasses
import hashlib
import json

import keras
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import kzoo
from kzoo.errors import UserError
from kzoo.registry import config_of_model
from kzoo.weights.names import encode


def filled(seed=1, **overrides):
    """A toy whose every weight is random."""
    model = kzoo.get("vit_toy", **overrides)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape).astype("float32") for w in model.get_weights()])
    return model


def by_path(model):
    return {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}


def assert_equal_weights(model, other):
    for path, value in by_path(model).items():
        np.testing.assert_array_equal(value, by_path(other)[path], err_msg=path)


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    path = tmp_path_factory.mktemp("donor") / "donor.keras"
    model = filled()
    model.save(path)
    model.save_weights(path.with_name("donor.weights.h5"))
    return model, path


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_the_same_model_takes_everything(donor, suffix):
    model, path = donor
    path = path.with_name("donor" + suffix)
    taker = kzoo.get("vit_toy", weights=path)
    assert_equal_weights(taker, model)
    report = taker.load_report
    assert set(report.loaded) == set(by_path(model)) and report.resized == report.reinitialised == report.unused == ()
    assert report.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"{len(model.weights)} loaded" in str(report)
    again = kzoo.get("vit_toy")
    assert kzoo.load_weights(again, path) == report
    assert_equal_weights(again, model)


@pytest.mark.parametrize("size", [64, (24, 40), 16, (16, 64)], ids=str)
def test_position_tables_are_resized_as_torch_does(donor, size):
    """(16, 64) has as many cells as the donor's 4 x 4 grid: the shapes agree, the places do not."""
    model, path = donor
    taker = kzoo.get("vit_toy", image_size=size, weights=path)
    table = by_path(model)["pos_embed/table"]
    grid = torch.tensor(table[:, 1:]).reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    rows, columns = (side // 8 for side in ((size, size) if isinstance(size, int) else size))
    wanted = torch.nn.functional.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)
    ours = by_path(taker)["pos_embed/table"]
    np.testing.assert_allclose(
        ours[:, 1:], wanted.permute(0, 2, 3, 1).reshape(1, rows * columns, -1).numpy(), atol=2e-5
    )
    np.testing.assert_array_equal(ours[:, :1], table[:, :1])
    assert taker.load_report.resized == ("pos_embed/table",)
    assert len(taker.load_report.loaded) == len(model.weights) - 1


def test_another_number_of_classes_reinitialises_the_head_alone(donor):
    model, path = donor
    taker = kzoo.get("vit_toy", num_classes=3, weights=path)
    assert set(taker.load_report.reinitialised) == {"head/kernel", "head/bias"}
    theirs = by_path(model)
    for name, value in by_path(taker).items():
        if not name.startswith("head/"):
            np.testing.assert_array_equal(value, theirs[name])


def test_no_head_leaves_the_donors_head_unused(donor):
    taker = kzoo.get("vit_toy", num_classes=0, weights=donor[1])
    # the file's own names: the layer and the number of its weight
    assert set(taker.load_report.unused) == {"head/0", "head/1"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"num_classes": 3}, "head/kernel"),
        ({"image_size": 64}, "pos_embed/table"),
        ({"image_size": (16, 64)}, r"pos_embed/table.*for the grid \(4, 4\)"),
        ({"embed_dim": 16}, "and [0-9]+ more"),
        ({"depth": 1}, "blocks_1.*is not in the model"),
        ({"depth": 3}, "blocks_2.*is missing"),
        ({"in_channels": 1}, "patch_embed"),
    ],
)
def test_what_was_not_asked_for_is_refused_and_changes_nothing(donor, overrides, words):
    taker = filled(seed=2, **overrides)
    before = by_path(taker)
    with pytest.raises(UserError, match=words) as error:
        kzoo.load_weights(taker, donor[1])
    assert "\n" not in str(error.value)
    for path, value in by_path(taker).items():
        np.testing.assert_array_equal(value, before[path])


@pytest.mark.parametrize("overrides", [{"num_classes": 3}, {"embed_dim": 16}])
def test_an_h5_that_does_not_fit_changes_nothing(donor, overrides):
    taker = filled(seed=2, **overrides)
    before = by_path(taker)
    with pytest.raises(UserError, match="do not fit this model"):
        kzoo.load_weights(taker, donor[1].with_name("donor.weights.h5"))
    for path, value in by_path(taker).items():
        np.testing.assert_array_equal(value, before[path])


def test_a_table_with_other_class_tokens_is_not_resized(donor):
    with pytest.raises(UserError, match="do not fit"):
        kzoo.get("vit_toy", image_size=64, class_token=False, global_pool="avg", weights=donor[1])


def by_timms_names(model):
    return encode(model, config_of_model(model).layouts()["timm"], config_of_model(model))


PREFIXES = (
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "net.",
    "backbone.",
    "encoder.",
    "model.backbone.",
)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    "write", [save_file, lambda tensors, path: torch.save({k: torch.tensor(v) for k, v in tensors.items()}, path)]
)
def test_what_training_wraps_a_model_in_is_taken_off(donor, tmp_path, prefix, write):
    """Whole, with an average's count beside it, and with a head that lies outside of the wrapped part, as mmpretrain's
    do.
    """
    tensors = by_timms_names(donor[0])
    whole = {prefix + name: value for name, value in tensors.items()}
    outside = {name if name.startswith("head") else prefix + name: value for name, value in tensors.items()}
    for content, unused in ((whole, ()), (whole | {"n_averaged": np.array(3)}, ("n_averaged",)), (outside, ())):
        write(content, tmp_path / "file")
        taker = kzoo.get("vit_toy", weights=tmp_path / "file")
        assert_equal_weights(taker, donor[0])
        assert taker.load_report.unused == unused


def test_a_file_of_a_teacher_and_a_student_gives_the_teacher_and_says_so(donor, tmp_path):
    teacher = {name: torch.tensor(value) for name, value in by_timms_names(donor[0]).items()}
    torch.save({"student": {name: value + 1 for name, value in teacher.items()}, "teacher": teacher}, tmp_path / "file")
    taker = kzoo.get("vit_toy", weights=tmp_path / "file")
    assert_equal_weights(taker, donor[0])
    assert taker.load_report.part == "teacher" and "(format torch, its teacher, sha256" in str(taker.load_report)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_whole_numbers_are_no_trained_weights(donor, tmp_path, dtype):
    tensors = by_timms_names(donor[0])
    save_file(tensors | {"head.bias": tensors["head.bias"].astype(dtype)}, tmp_path / "file")
    with pytest.raises(
        UserError, match=rf"head/bias \(.*\) is {dtype}, no weight that was trained; save it in the floats"
    ):
        kzoo.get("vit_toy", weights=tmp_path / "file")
    taker = filled(seed=2)
    arrays = {
        f"weights/{path}": value.astype(dtype) if path == "head/bias" else value
        for path, value in by_path(donor[0]).items()
    }
    meta = json.dumps({"spec": dataclasses.asdict(donor[0].spec)}).encode()
    np.savez(tmp_path / "checkpoint.npz", meta=np.frombuffer(meta, "uint8"), **arrays)
    with pytest.raises(UserError, match=f"head/bias .* is {dtype}, no weight"):
        kzoo.load_weights(taker, tmp_path)


def test_a_stack_of_more_blocks_than_any_model_has_is_refused(tmp_path):
    """A tensor without values may have any length."""
    np.savez(
        tmp_path / "a.npz", **{"params/Transformer/encoderblock/LayerNorm_0/scale": np.zeros((1 << 40, 0), "float32")}
    )
    with pytest.raises(
        UserError, match="stacks 1099511627776 blocks in params/Transformer/encoderblock/LayerNorm_0/scale"
    ):
        kzoo.get("vit_toy", weights=tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.keras", None, "does not exist"),
        ("none.weights.h5", None, "does not exist"),
        ("model.pkl", b"cos\nsystem\n", "of no format that kzoo knows"),
        ("bad.keras", b"no zip", "of no format that kzoo knows"),
        ("bad.weights.h5", b"no hdf5", "of no format that kzoo knows"),
        ("folder", "folder", "holds no"),
    ],
)
def test_what_holds_no_weights_is_told(tmp_path, name, content, words):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        kzoo.get("vit_toy", weights=path)


def test_a_keras_file_of_another_kind_is_told(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="carries no spec"):
        kzoo.load(tmp_path / "other.keras")


def test_nothing_pickled_is_executed(tmp_path):
    """A checkpoint whose meta is a pickled object is damage, not code."""
    (tmp_path / "run").mkdir()
    np.savez(tmp_path / "run" / "checkpoint.npz", meta=np.array([{"step": 1}], dtype=object))
    with pytest.raises(UserError, match="is damaged"):
        kzoo.load(tmp_path / "run")

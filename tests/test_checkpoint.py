"""Files of weights of every format: read as their own libraries wrote them; bad and hostile ones refused in a sentence,
nothing run.
"""

import argparse
import hashlib
import json
import pathlib
import pickle
import struct
import time
import warnings
import zipfile

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import kzoo
from benchmarks.fuzz import RIGHT, Judge, samples
from benchmarks.mutate import Runs
from kzoo.errors import MissingPackage, UserError
from kzoo.weights.checkpoint import SEAL, SPEC, fingerprint, open_checkpoint
from kzoo.weights.formats.base import is_finite
from kzoo.weights.read import spec_of, told_spec

RNG = np.random.default_rng(0)
TENSORS = {
    "a/kernel": RNG.normal(size=(3, 4, 5)).astype("float32"),
    "a/half": RNG.normal(size=(7,)).astype("float16"),
    "a/brain": RNG.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
    "double": RNG.normal(size=(2, 2)),
    "index": np.arange(5),
    "scalar": np.array(3.5, "float32"),
    "empty": np.zeros((0, 3), "float32"),
}


def in_torch(array):
    return (
        torch.tensor(array.astype("float32")).bfloat16() if array.dtype == ml_dtypes.bfloat16 else torch.tensor(array)
    )


IN_TORCH = {name: in_torch(array) for name, array in TENSORS.items()}


def write_h5(path, tensors=TENSORS):
    """As Keras lays its file out: a layer a group, its name an attribute of the group `vars`."""
    with h5py.File(path, "w") as file:
        for i, (name, array) in enumerate(tensors.items()):
            group = file.create_group(f"layers/dense_{i}/vars")
            group.attrs["name"] = name.rpartition("/0")[0] or name
            group.create_dataset("0", data=array)
            if array.dtype == ml_dtypes.bfloat16:
                group["0"].attrs["dtype"] = "bfloat16"


def write_shards(folder, write=safetensors.numpy.save_file, ending="safetensors", tensors=TENSORS):
    names = sorted(tensors)
    where = {name: f"part-{i % 2}.{ending}" for i, name in enumerate(names)}
    for part in sorted(set(where.values())):
        write({name: tensors[name] for name in names if where[name] == part}, folder / part)
    index = folder / f"{'model' if ending == 'safetensors' else 'pytorch_model'}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


def write_run(folder):
    meta = np.frombuffer(b'{"step": 1}', "uint8")
    np.savez(folder / "checkpoint.npz", meta=meta, **{f"weights/{name}": array for name, array in TENSORS.items()})


WRITERS = {  # format, and what writes TENSORS in it, each by the format's own library
    "safetensors": ("safetensors", lambda path: safetensors.numpy.save_file(TENSORS, path, metadata={"format": "np"})),
    "safetensors of torch": ("safetensors", lambda path: safetensors.torch.save_file(IN_TORCH, path)),
    "torch": ("torch", lambda path: torch.save(IN_TORCH, path)),
    "torch, legacy": ("torch", lambda path: torch.save(IN_TORCH, path, _use_new_zipfile_serialization=False)),
    "npz": ("npz", lambda path: np.savez(open(path, "wb"), **TENSORS)),
    "npz, deflated": ("npz", lambda path: np.savez_compressed(open(path, "wb"), **TENSORS)),
    "weights.h5": ("weights.h5", write_h5),
    "run": ("run", lambda path: (path.mkdir(), write_run(path))),
    "shards": ("safetensors", lambda path: (path.mkdir(), write_shards(path))),
    "shards of torch": ("torch", lambda path: (path.mkdir(), write_shards(path, torch.save, "bin", IN_TORCH))),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_is_read_as_it_was_written(tmp_path, writer):
    """Under a name that tells nothing: the format is found in the content."""
    format, write = WRITERS[writer]
    write(tmp_path / "weights")
    suffix = "/0" if format == "weights.h5" else ""
    with open_checkpoint(tmp_path / "weights") as checkpoint:
        assert checkpoint.format == format
        assert {n: (t.shape, t.dtype) for n, t in checkpoint.tensors.items()} == {
            name + suffix: (array.shape, array.dtype.name) for name, array in TENSORS.items()
        }
        checkpoint.verify(checkpoint.tensors)
        read = {name: checkpoint.read(name + suffix) for name in TENSORS}
        stored = {name: checkpoint.stored(name + suffix) for name in TENSORS}
    for name, array in TENSORS.items():  # valid after the file was closed
        wide = array.astype("float32") if array.dtype.itemsize == 2 else array
        assert read[name].dtype == wide.dtype and stored[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], wide, err_msg=name)
        np.testing.assert_array_equal(stored[name], array, err_msg=name)


def test_other_orders_of_bytes_and_axes_are_read(tmp_path):
    arrays = {
        "big": TENSORS["double"].astype(">f8"),
        "columns": np.asfortranarray(TENSORS["a/kernel"]),
        "strided": np.arange(12.0)[::2],
    }
    np.savez(tmp_path / "a.npz", **arrays)
    transposed = torch.arange(6.0).reshape(2, 3).T
    torch.save({"t": transposed}, tmp_path / "a.pt")
    with open_checkpoint(tmp_path / "a.npz") as checkpoint:
        for name, array in arrays.items():
            assert checkpoint.read(name).dtype.isnative
            np.testing.assert_array_equal(checkpoint.read(name), array)
    with open_checkpoint(tmp_path / "a.pt") as checkpoint:
        checkpoint.verify(["t"])
        np.testing.assert_array_equal(checkpoint.read("t"), transposed.numpy())


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"model": {"w": 1}, "args": argparse.Namespace(lr=0.1), "epoch": 3}, 1),
        ({"state_dict": {"w": 1, "note": "text"}, "optimizer": {"w": 9}}, 1),
        ({"state_dict": {"w": 1}, "state_dict_ema": {"w": 2}}, 2),
        ({"model": {"w": 1}, "model_ema": {"w": 2}}, 2),
        ({"model": {"w": 1}, "ema": {"module": {"w": 2}, "updates": 7}}, 2),
        ({"model": {"w": 1}, "model_ema": None}, 1),
        ({"model": {"state_dict": {"w": 1}}}, 1),
        ({"w": 1, "epoch": 3}, 1),
        ({"model_state_dict": {"w": 1}, "optimizer_state_dict": {"w": 9}}, 1),
        ({"net": {"w": 1}}, 1),
        ({"params": {"w": 1}, "params_ema": {"w": 2}}, 2),
        ({"weights": {"w": 1}}, 1),
        ({"student": {"w": 1}, "teacher": {"w": 2}}, 2),
        ({"model": {"w": 1}, "teacher": {"w": 2}}, 1),  # of a distillation
    ],
    ids=str,
)
def test_wrappers_of_training_scripts_are_taken_off(tmp_path, content, wanted):
    def tensors(part):
        if not isinstance(part, dict):
            return part
        return {key: torch.full((2,), float(value)) if key == "w" else tensors(value) for key, value in part.items()}

    torch.save(tensors(content), tmp_path / "a.pth")
    with open_checkpoint(tmp_path / "a.pth") as checkpoint:
        assert set(checkpoint.tensors) == {"w"} and checkpoint.read("w").tolist() == [wanted, wanted]
        several = (
            sum(
                "w" in str(part)
                for key, part in content.items()
                if key not in ("args", "optimizer", "optimizer_state_dict")
            )
            > 1
        )
        assert (checkpoint.part in content) == several


@pytest.fixture(scope="module")
def toy():
    model = kzoo.get("vit_toy", num_classes=3)
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape).astype("float32") for w in model.get_weights()])
    return model


@pytest.mark.parametrize("format", ["keras", "weights.h5"])
def test_what_keras_wrote_is_named_by_layers(tmp_path, toy, format):
    path = tmp_path / f"toy.{format}"
    toy.save(path) if format == "keras" else toy.save_weights(path)
    path = path.rename(tmp_path / "unnamed")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == format and checkpoint.spec == (toy.spec if format == "keras" else None)
        checkpoint.verify(checkpoint.tensors)
        assert len(checkpoint.tensors) == len(toy.weights)
        for layer in toy._flatten_layers(include_self=False):
            own = layer.weights if not list(layer._flatten_layers(include_self=False)) else []
            for i, weight in enumerate(own):
                name = f"{weight.path.rpartition('/')[0]}/{i}"
                np.testing.assert_array_equal(checkpoint.read(name), keras.ops.convert_to_numpy(weight), err_msg=name)


def test_a_runs_averages_come_before_its_weights(tmp_path, toy):
    meta = json.dumps({"spec": {"name": "vit_toy", "overrides": {}, "preprocessing": {"crop_pct": 0.9}}}).encode()
    one, two = np.ones(3, "float32"), np.full(3, 2, "float32")
    arrays = {"weights/a/bias": one, "average/a/bias": two, "weights/a/mean": one, "optimizer/00000": one}
    np.savez(tmp_path / "checkpoint.npz", meta=np.frombuffer(meta, "uint8"), **arrays)
    with open_checkpoint(tmp_path) as checkpoint, open_checkpoint(tmp_path / "checkpoint.npz") as same:
        assert checkpoint.format == same.format == "run" and checkpoint.spec.preprocessing.crop_pct == 0.9
        assert {name: checkpoint.read(name)[0] for name in checkpoint.tensors} == {"a/bias": 2, "a/mean": 1}
        assert (
            checkpoint.digest()
            == same.digest()
            == hashlib.sha256((tmp_path / "checkpoint.npz").read_bytes()).hexdigest()
        )


def test_a_hugging_face_folder_tells_its_config(tmp_path):
    safetensors.numpy.save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text('{"hidden_act": "gelu"}')
    with open_checkpoint(tmp_path) as checkpoint:
        assert (
            checkpoint.config == {"hidden_act": "gelu"}
            and checkpoint.metadata == {"format": "pt"}
            and checkpoint.spec is None
        )
    (tmp_path / "config.json").write_text("{")
    assert_refused(tmp_path, "config.json is damaged or not")


def test_the_digest_of_shards_is_that_of_sha256sums_listing(tmp_path):
    index = write_shards(tmp_path)
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(tmp_path.iterdir())]
    with open_checkpoint(index) as checkpoint:
        assert len(sums) == 3 and checkpoint.digest() == hashlib.sha256("".join(sums).encode()).hexdigest()


def test_the_spec_is_found_without_building(tmp_path, toy, monkeypatch):
    toy.save(tmp_path / "toy.keras")
    kzoo.save_weights(toy, tmp_path / "toy.weights.h5")
    safetensors.numpy.save_file(TENSORS, tmp_path / "a.safetensors")
    monkeypatch.setattr("keras.models.load_model", None)
    assert spec_of(tmp_path / "toy.keras") == spec_of(tmp_path / "toy.weights.h5") == toy.spec
    with pytest.raises(UserError, match="does not tell which model"):
        spec_of(tmp_path / "a.safetensors")
    assert told_spec(tmp_path / "a.safetensors") is None


# What must be refused.


def assert_refused(path, words):
    """Opening and verifying `path` is one sentence that matches `words` and names the file."""
    with pytest.raises(UserError, match=words) as error, open_checkpoint(path) as checkpoint:
        checkpoint.verify(checkpoint.tensors)
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and str(path) in text


def in_header(**entries):
    """A safetensors file of 8 bytes of data with this header."""
    return with_header(json.dumps(entries).encode())


def with_header(text):
    return struct.pack("<Q", len(text)) + text + bytes(8)


ENTRY = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; give the folder of a run, .keras"),
        (b"cos\nsystem\n(S'true'\ntR.", "no format that kzoo knows"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "no format that kzoo knows"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "do not take eight bytes"),
        (b"\x89HDF\r\n\x1a\n" + bytes(5) + b"\x08\x08" + bytes(600), "is damaged or not"),
        (b"PK\x03\x04" + bytes(600), "is damaged or not"),
        (b"{}", "is JSON, but no index of weights"),
        (b'{"weight_map": {"a": 1}}', "is JSON, but no index of weights"),
        (b'{"weight_map": ' + b"[" * 100_000, "is damaged or not"),
        (b'{"weight_map": {"a": "x", "a": "y"}}', "names 'a' twice"),
        (b'{"weight_map": {"a": "\xff"}}', "is damaged or not"),
        (with_header(b'{"a":' + ENTRY + b',"a":' + ENTRY + b"}"), "names 'a' twice"),
        (with_header(b'{"a":' + ENTRY)[:20], "is damaged or not"),
        (in_header(a={"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}), "is damaged or not"),
        (in_header(a={"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}), "is damaged or not"),
        (in_header(a={"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}), "stores a as F8_E4M3"),
        (struct.pack("<Q", 1 << 62) + b"{" + bytes(64), "is damaged or not"),
        (pickle.dumps({"a": 1}, protocol=4), "holds more than tensors or is damaged|holds no tensors"),
    ],
)
def test_no_format_and_broken_headers(tmp_path, content, words):
    (tmp_path / "file").write_bytes(content)
    assert_refused(tmp_path / "file", words)


def test_what_is_not_there(tmp_path):
    assert_refused(tmp_path / "none.safetensors", "does not exist")
    assert_refused(tmp_path, "holds no checkpoint.npz")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_files(tmp_path, writer, share):
    path = tmp_path / "weights"
    WRITERS[writer][1](path)
    file = max(path.iterdir(), key=lambda f: f.stat().st_size) if path.is_dir() else path
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert_refused(path, "is damaged|no format that kzoo knows")


@pytest.mark.parametrize("writer", ["torch", "npz", "npz, deflated", "run"])
def test_a_flipped_bit_of_the_data_does_not_pass_a_checksum(tmp_path, writer):
    path = tmp_path / "weights"
    WRITERS[writer][1](path)
    file = path / "checkpoint.npz" if path.is_dir() else path
    with zipfile.ZipFile(file) as archive:
        largest = max((m for m in archive.infolist() if "data.pkl" not in m.filename), key=lambda m: m.compress_size)
    data = bytearray(file.read_bytes())
    data[largest.header_offset + 30 + len(largest.filename) + 20 + largest.compress_size - 4] ^= 1
    file.write_bytes(data)
    assert_refused(path, "is damaged or not")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
def test_what_is_not_finite(tmp_path, value, dtype):
    array = np.full(3000, 2, dtype)
    safetensors.numpy.save_file({"a": array}, tmp_path / "good")
    array[-1] = value
    safetensors.numpy.save_file({"a": array, "b": np.zeros(2)}, tmp_path / "bad")
    assert_refused(tmp_path / "bad", "NaN or infinity in a")
    with open_checkpoint(tmp_path / "bad") as bad, open_checkpoint(tmp_path / "good") as good:
        bad.verify(["b"])  # only what is used has to be finite
        good.verify(["a"])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
def test_the_largest_values_are_finite(dtype):
    """Their squares are not."""
    largest = np.full((3, 4), ml_dtypes.finfo(dtype).max)
    assert is_finite(largest) and is_finite(-largest.T) and not is_finite(np.full((3, 4), np.nan, dtype).T)


def rezip(path, change):
    """Writes a zip archive anew, with right checksums: `change({name: bytes})` gives the members, pairs of name and
    bytes.
    """
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in change(members):
            archive.writestr(name, content)


def npy(header, data=b""):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


HUGE = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n", bytes(8))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: [*m.items(), ("index.npy", m["index.npy"])], "holds 'index.npy' twice"),
        (lambda m: [*m.items(), ("../index.npy", m["index.npy"])], "leads out of the archive"),
        (lambda m: [*m.items(), ("/etc/index.npy", m["index.npy"])], "leads out of the archive"),
        (lambda m: [*m.items(), ("c:\\index.npy", m["index.npy"])], "leads out of the archive"),
        (lambda m: [*m.items(), ("huge.npy", HUGE)], "huge.npy declares 4398046511104 bytes and holds 8"),
        (
            lambda m: [("a.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -1), }\n", bytes(8)))],
            "is damaged",
        ),
        (lambda m: [("a.npy", npy("(" * 3000))], "is damaged or not"),
        (
            lambda m: [("a.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }\n", pickle.dumps(1)))],
            "never run",
        ),
        (
            lambda m: [("a.npy", npy("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }\n", bytes(8)))],
            "stores a as complex64",
        ),
        (lambda m: [("a.npy", m["index.npy"][:-1])], "declares 40 bytes and holds 39"),
        (lambda m: [*m.items(), ("readme.txt", b"")], "a zip archive, but not of weights"),
    ],
)
def test_hostile_archives(tmp_path, change, words):
    np.savez(tmp_path / "a.npz", **TENSORS)
    rezip(tmp_path / "a.npz", change)
    assert_refused(tmp_path / "a.npz", words)


@pytest.mark.parametrize(
    ("offset", "form", "value", "words"),
    [
        (24, "<I", 1 << 31, "claims 2147483648 bytes, more than the file can hold"),  # uncompressed size
        (20, "<I", 1 << 31, "more than the file can hold"),  # compressed size
        (8, "<H", 1, "is encrypted"),
        (10, "<H", 12, "packed in a way that kzoo does not read"),  # bzip2
    ],
)
def test_what_an_archives_table_claims(tmp_path, offset, form, value, words):
    np.savez(tmp_path / "a.npz", a=np.ones(8))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    struct.pack_into(form, data, data.index(b"PK\x01\x02") + offset, value)
    (tmp_path / "a.npz").write_bytes(data)
    assert_refused(tmp_path / "a.npz", words)


def test_a_keras_archive_with_a_changed_member(tmp_path, toy):
    toy.save(tmp_path / "toy.keras")
    rezip(tmp_path / "toy.keras", lambda m: (m | {"config.json": b"[" * 100_000}).items())
    assert_refused(tmp_path / "toy.keras", "is damaged or not")
    toy.save(tmp_path / "toy.keras")
    data = bytearray((tmp_path / "toy.keras").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "toy.keras").write_bytes(data)
    assert_refused(tmp_path / "toy.keras", "Bad CRC-32")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w | {"empty": "../part-0.safetensors"}, "does not lie beside it"),
        (lambda w: w | {"empty": "/part-0.safetensors"}, "does not lie beside it"),
        (lambda w: w | {"empty": "part-7.safetensors"}, "get all of the files"),
        (lambda w: w | {"new": "part-0.safetensors"}, "new is not in part-0"),
        (lambda w: {name: part for name, part in w.items() if name != "scalar"}, "scalar is in no list, but in part-"),
        (lambda w: dict.fromkeys(w, "model.safetensors.index.json"), "is damaged or not|no format"),
    ],
)
def test_shards_that_do_not_fit_their_index(tmp_path, change, words):
    folder = tmp_path / "folder"
    folder.mkdir()
    index = write_shards(folder)
    (tmp_path / "part-0.safetensors").write_bytes((folder / "part-0.safetensors").read_bytes())
    index.write_text(json.dumps({"weight_map": change(json.loads(index.read_text())["weight_map"])}))
    assert_refused(index, words)


def hostile_h5(path, make):
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other["secret"] = np.ones(4)
    with h5py.File(path, "w") as file:
        make(file.create_group("layers/dense/vars"), path.with_name("other.h5"))


def virtual(group, other):
    layout = h5py.VirtualLayout(shape=(4,), dtype="float64")
    layout[:] = h5py.VirtualSource(other, "secret", shape=(4,))
    group.create_virtual_dataset("0", layout)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda group, other: group.update({"0": h5py.ExternalLink(other, "secret")}), "is a link"),
        (lambda group, other: group.update({"0": h5py.SoftLink("/layers")}), "is a link"),
        (lambda group, other: group.file["layers"].update({"again": group.file["layers/dense"]}), "linked twice"),
        (lambda group, other: group.update({"0": group.file["layers"]}), "is not a dataset"),
        (virtual, "from another file"),
        (lambda group, other: group.create_dataset("0", (4,), "f8", external=[(other, 0, 32)]), "from another file"),
        (lambda group, other: group.create_dataset("0", (1 << 40,), "f4"), "more than the file holds"),
        (
            lambda group, other: group.create_dataset("0", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip"),
            "more than",
        ),
        (lambda group, other: group.create_dataset("0", (2,), "c8"), "as complex64"),
        (lambda group, other: group.create_dataset("0", data="text"), "as object"),
        (lambda group, other: group.file.move("layers", "else"), "not of weights that Keras 3 saved"),
    ],
)
def test_hostile_hdf5(tmp_path, make, words):
    hostile_h5(tmp_path / "a.h5", make)
    assert_refused(tmp_path / "a.h5", words)


def test_a_heap_that_libhdf5_would_not_return_from(tmp_path):
    """Its texts blanked: an object of no bytes follows the header of 16."""
    write_h5(tmp_path / "a.h5")
    data = bytearray((tmp_path / "a.h5").read_bytes())
    heap = data.index(b"GCOL") + 16
    data[heap : heap + 64] = bytes(64)
    (tmp_path / "a.h5").write_bytes(data)
    assert_refused(tmp_path / "a.h5", "one of its heaps does not end")


def test_heaps_that_overlap_take_no_minutes(tmp_path):
    """Each of 20,000 heaps lies in an object of the one before: looking through all of each is 200 million steps."""
    write_h5(tmp_path / "a.h5")
    count, data = 20_000, bytearray((tmp_path / "a.h5").read_bytes())
    for i in range(count):  # an object of 16 bytes, whose content begins a heap up to the end
        data += struct.pack("<H6xQ", 1, 16) + b"GCOL\x01\0\0\0" + struct.pack("<Q", 32 * (count - i) - 16)
    (tmp_path / "a.h5").write_bytes(data)
    began = time.monotonic()
    assert_refused(tmp_path / "a.h5", "its heaps hold over|one of its heaps does not end")
    assert time.monotonic() - began < 5


def test_one_dataset_under_many_names(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        first = file.create_dataset("layers/dense_0/vars/0", data=np.ones(1 << 20, "float32"))
        for i in range(1, 80):
            file.create_group(f"layers/dense_{i}/vars")["0"] = first
    assert_refused(tmp_path / "a.h5", "more than the file holds for it")


def test_layers_of_one_name(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(2):
            file.create_group(f"layers/dense_{i}/vars").attrs["name"] = "same"
            file[f"layers/dense_{i}/vars/0"] = np.ones(2)
    assert_refused(tmp_path / "a.h5", "holds same/0 twice")


def test_tensors_beyond_the_file(tmp_path):
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", "declares more bytes than the file holds")
    torch.save({"a": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", "stores a as complex64")
    torch.save({"a": torch.eye(2).to_sparse()}, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", "stores a as sparse_coo")
    torch.save({"a": 1, "generator": {"w": torch.zeros(2)}}, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", "holds no tensors where weights are looked for.*it holds 'a', 'generator'")
    torch.save(dict.fromkeys(map(str, range(99)), torch.zeros(2 << 20)), tmp_path / "a.pth")  # one storage
    assert_refused(tmp_path / "a.pth", "declares more bytes than the file holds")


@pytest.mark.parametrize(
    "write",
    [
        lambda path, code: torch.save({"a": code}, path),
        lambda path, code: torch.save({"a": code}, path, _use_new_zipfile_serialization=False),
        lambda path, code: np.savez(open(path, "wb"), a=np.array(code, dtype=object)),
        lambda path, code: path.write_bytes(pickle.dumps(code)),
        lambda path, code: path.write_bytes(pickle.dumps(code, protocol=0)),
    ],
    ids=["torch", "torch, legacy", "npz", "pickle", "pickle of protocol 0"],
)
def test_code_in_a_pickle_is_not_run(tmp_path, write):
    write(tmp_path / "file", Runs(tmp_path / "made"))
    assert_refused(tmp_path / "file", "never run|no format that kzoo knows")
    assert not (tmp_path / "made").exists()
    pickle.loads(pickle.dumps(Runs(tmp_path / "made")))  # as it would have been
    assert (tmp_path / "made").exists()


# Seals.


def sealed(path, tensors, **texts):
    texts = {SPEC: json.dumps({"name": "vit_toy", "overrides": {}, "preprocessing": {}})} | texts
    texts = {SEAL: fingerprint(sorted(tensors.items()), texts)} | texts
    safetensors.numpy.save_file(tensors, path, metadata={key: text for key, text in texts.items() if text})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"vit_toy", b"vit_joy"),
        (b"scalar", b"scalor"),
        (SEAL.encode(), b"kzoo_sha257"),
        (np.float32(3.5).tobytes(), bytes(4)),
    ],
)
def test_a_sealed_file_cannot_be_changed_unnoticed(tmp_path, old, new):
    sealed(tmp_path / "file", TENSORS)
    with open_checkpoint(tmp_path / "file") as checkpoint:
        checkpoint.verify([])
        assert checkpoint.spec.name == "vit_toy"
    data = (tmp_path / "file").read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    (tmp_path / "file").write_bytes(data.replace(old, new))
    assert_refused(tmp_path / "file", "was changed after it was written|its fingerprint is gone")


def test_a_sealed_h5_cannot_be_changed_unnoticed(tmp_path, toy):
    kzoo.save_weights(toy, tmp_path / "toy.weights.h5")
    with open_checkpoint(tmp_path / "toy.weights.h5") as checkpoint:
        checkpoint.verify([])
        assert checkpoint.spec == toy.spec
    with h5py.File(tmp_path / "toy.weights.h5", "r+") as file:
        file["layers/dense/vars/1"][0] += 1
    assert_refused(tmp_path / "toy.weights.h5", "was changed after it was written")


def test_the_fingerprint_covers_names_dtypes_shapes_values_and_texts():
    one = np.arange(4, dtype="float32")
    contents = [
        ([("a", one)], {}),
        ([("b", one)], {}),
        ([("a", one.view("int32"))], {}),
        ([("a", one.reshape(2, 2))], {}),
        ([("a", one + 1)], {}),
        ([("a", one), ("b", one[:0])], {}),
        ([("a", one)], {"key": "text"}),
        ([("a", one)], {"key": "other"}),
    ]
    assert len({fingerprint(*content) for content in contents}) == len(contents)
    assert fingerprint([("a", one)], {SEAL: "x"}) == fingerprint([("a", one.astype(">f4"))])
    assert fingerprint([("a", one.reshape(2, 2))]) == fingerprint([("a", np.asfortranarray(one.reshape(2, 2)))])


@pytest.mark.parametrize(
    "spec", ["[]", '{"name": "vit_toy"}', '{"name": 5, "overrides": {}, "preprocessing": {}}', "{"]
)
def test_a_spec_that_is_none(tmp_path, spec):
    sealed(tmp_path / "file", TENSORS, **{SPEC: spec})
    with (
        pytest.raises(UserError, match="is damaged or|is not one that"),
        open_checkpoint(tmp_path / "file") as checkpoint,
    ):
        assert checkpoint.spec


# Surroundings.


@pytest.mark.parametrize("writer", ["safetensors", "torch"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, writer):
    WRITERS[writer][1](tmp_path / "weights")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=rf"needs {writer}: pip install"):
        open_checkpoint(tmp_path / "weights")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr("builtins.open", forbidden)
    assert_refused(tmp_path / "file", "may not be read")


def test_reading_safetensors_copies_nothing(tmp_path):
    safetensors.numpy.save_file(TENSORS, tmp_path / "file")
    with open_checkpoint(tmp_path / "file") as checkpoint:
        array = checkpoint.read("a/kernel")
    assert not array.flags.owndata and not array.flags.writeable


@pytest.mark.slow
def test_mutated_files_of_all_formats_are_refused_or_harmless(tmp_path):
    """A short run of benchmarks.fuzz, which does a thousand."""
    found = samples(tmp_path / "valid")
    judge = Judge(found)
    for number in range(6 * len(found)):
        name = found[number % len(found)].name
        outcome, detail, *_ = judge(name, number, pathlib.Path(tmp_path, f"case{number}"))
        assert outcome in RIGHT, f"{name} {number}: {detail}"

"""Sources by name: the embedded digits, generated pictures, .npz files, folders, and packing."""

import os

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.mutate import repacked
from kzoo import data
from kzoo.errors import UsageError, UserError

RNG = np.random.default_rng(2)
IMAGES = RNG.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(40) % 4


def test_digits_are_scikit_learns_and_the_splits_are_stratified():
    reference = load_digits()
    pairs = zip(np.round(reference.data * 255 / 16).astype(np.uint8), reference.target, strict=True)
    want = {(image.tobytes(), int(label)) for image, label in pairs}
    train, test = (data.open_source("digits", split) for split in ("train", "test"))
    assert len(train) + len(test) == len(reference.target) == 1797
    got = [
        (image.tobytes(), label) for source in (train, test) for image, label in map(source.read, range(len(source)))
    ]
    assert set(got) == want
    assert (train.num_classes, train.channels, train.class_names) == (10, 1, tuple("0123456789"))
    shares = np.bincount(test.labels) / np.bincount(reference.target)
    assert np.abs(shares - 0.2).max() < 0.01


def test_fake_pictures_are_repeatable_varied_and_told_apart_by_split():
    source = data.open_source("fake:classes=3,size=20,n=12,channels=1", "train")
    assert (len(source), source.num_classes, source.channels) == (12, 3, 1)
    images, labels = source.batch(np.arange(12))
    assert labels.tolist() == [0, 1, 2] * 4
    assert len({image.shape for image in images}) > 1 and all(
        image.std() > 10 and image.dtype == np.uint8 for image in images
    )
    again, other = (data.open_source(source.name, split).read(0)[0] for split in ("train", "test"))
    np.testing.assert_array_equal(again, images[0])
    assert other.shape != again.shape or (other != again).any()
    assert (len(data.open_source("fake", "test")), data.open_source("fake", "test").read(0)[0].shape[-1]) == (64, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fakes", "unknown data source 'fakes'; did you mean fake"),
        ("fake:clases=3", "unknown option of the fake source 'clases'; did you mean classes"),
        ("fake:n=0", "n of the fake source must be a whole number of at least 1, not '0'"),
        ("npz", "needs a name or path: npz:WHERE"),
    ],
)
def test_wrong_names_are_usage_errors(spec, message):
    with pytest.raises(UsageError, match=message):
        data.open_source(spec, "train")


@pytest.mark.parametrize("style", [("x_{}", "y_{}"), ("{}_images", "{}_labels")])
def test_npz_key_styles(tmp_path, style):
    arrays = {
        key.format(split): value
        for split in ("train", "val")
        for key, value in zip(style, (IMAGES, LABELS[:, None]), strict=True)
    }
    np.savez(tmp_path / "set.npz", **arrays)
    for split in ("train", "test"):  # val answers to test
        source = data.open_source(f"npz:{tmp_path}/set.npz", split)
        assert (len(source), source.num_classes, source.channels, source.class_names) == (40, 4, 3, ())
        images, labels = source.batch(np.array([7, 3]))
        np.testing.assert_array_equal(images, IMAGES[[7, 3]])
        assert labels.dtype == np.int32 and labels.tolist() == [3, 3]


def test_npz_without_splits_holds_out_a_tenth(tmp_path):
    labels = np.arange(2_000) % 7
    images = labels.astype(np.uint8)[:, None, None] + np.zeros((1, 2, 2), np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=labels, class_names=np.array(list("abcdefg")))
    train, test = (data.open_source(f"npz:{tmp_path}/set.npz", split) for split in ("train", "test"))
    assert len(train) + len(test) == 2_000 and 150 < len(test) < 250
    assert np.bincount(test.labels).min() > 10 and test.class_names == tuple("abcdefg")
    np.testing.assert_array_equal(test.images[:, 0, 0, 0], test.labels)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": IMAGES, "y_train": LABELS[:39]}, r"y_train of shape \(39,\) does not match the 40 pictures"),
        ({"x_train": IMAGES / 255, "y_train": LABELS}, "x_train must be uint8 .* not float64"),
        ({"x_train": IMAGES.swapaxes(1, 3), "y_train": LABELS}, r"must be uint8 of shape .* not uint8 \(40, 3, 5, 6\)"),
        ({"x_train": IMAGES, "y_train": LABELS / 1}, "labels must be whole numbers, not float64"),
        ({"x_train": IMAGES, "y_train": LABELS - (np.arange(40) == 4)}, "set.npz: sample 4 has label -1, outside 0..3"),
        ({"x_train": IMAGES, "y_train": LABELS, "num_classes": 3}, "set.npz: sample 3 has label 3, outside 0..2"),
        (
            {"images": IMAGES, "labels": LABELS, "class_names": ["a", "b"]},
            "set.npz: sample 2 has label 2, outside 0..1",
        ),
        ({"x_test": IMAGES, "y_test": LABELS}, "no split 'train'; .* found x_test, y_test"),
        (
            {"x_train": IMAGES.astype(object), "y_train": LABELS},
            "set.npz is damaged .* a pickled Python object, which is never run",
        ),
        ({"x_train": IMAGES[:, :0], "y_train": LABELS}, r"must be uint8 of shape .* not uint8 \(40, 0, 5, 3\)"),
        ({"x_train": IMAGES[..., [0] * 5], "y_train": LABELS}, r"must be uint8 of shape .* not uint8 \(40, 6, 5, 5\)"),
        ({"x_train": IMAGES, "y_train": np.eye(40)}, r"y_train of shape \(40, 40\) does not match the 40 pictures"),
        ({"x_train": IMAGES, "y_train": LABELS > 1}, "labels must be whole numbers, not bool"),
        (
            {"x_train": IMAGES, "y_train": LABELS + 9_000_000_000},
            "num_classes must be .* not 9000000004; correct it, or the labels",
        ),
        (
            {"x_train": IMAGES, "y_train": LABELS, "class_names": [list("abcd")]},
            r"class_names must be a list of texts, .* not <U1 \(1, 4\)",
        ),
        (
            {"x_train": IMAGES, "y_train": LABELS, "class_names": "abcd"},
            r"class_names must be a list of texts, .* not <U4 \(\)",
        ),
        (
            {"x_train": IMAGES, "y_train": LABELS, "class_names": [1, 2, 3, 4]},
            "class_names must be a list of texts, .* not int64",
        ),
        *(
            (
                {"x_train": IMAGES, "y_train": LABELS, "num_classes": told},
                "num_classes must be a whole number from 1 to 1000000, not ",
            )
            for told in (2.7, 10**12, float("nan"), -5, 0, "4", [4, 4], True)
        ),
    ],
)
def test_npz_errors_name_the_file_and_the_cause(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError, match=message) as caught:
        data.open_source(f"npz:{tmp_path}/set.npz", "train")
    assert "set.npz" in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04broken", b"\x93NUMPY"])
def test_files_that_are_no_npz(tmp_path, content):
    if content is not None:
        (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(UserError, match="no file" if content is None else "set.npz is damaged or not what it seems"):
        data.open_source(f"npz:{tmp_path}/set.npz", "train")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"(40, 6, 5, 3), }          ", b"(400000000, 6000, 5000, 3), }"[:29], "declares .* bytes and holds 360"),
        (b"'fortran_order'", b"(((((((((((((((", "is damaged or not what it seems"),
        (b"'|u1'", b"'|V0'", "declares 0 bytes and holds 3600"),
        (b"'|u1'", b"'|O8'", "a pickled Python object, which is never run"),
    ],
)
def test_npz_headers_that_claim_something_else(tmp_path, old, new, words):
    """Their checksums are right. What else may be wrong with such an archive stands with the weights, which share the
    reader.
    """
    np.savez(tmp_path / "set.npz", x_train=IMAGES, y_train=LABELS)
    content = (tmp_path / "set.npz").read_bytes()
    header = np.lib.format.magic(1, 0) + content.split(np.lib.format.magic(1, 0), 1)[1][: 120 + IMAGES.size]
    assert old in header
    (tmp_path / "set.npz").write_bytes(repacked(content, {"x_train.npy": header.replace(old, new)}))
    with pytest.raises(UserError, match=words):
        data.open_source(f"npz:{tmp_path}/set.npz", "train")


def test_npz_values_that_were_changed(tmp_path):
    np.savez(tmp_path / "set.npz", x_train=IMAGES, y_train=LABELS)
    content = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(content.replace(IMAGES.tobytes()[-9:], bytes(9)))
    with pytest.raises(UserError, match="Bad CRC-32 for file 'x_train.npy'"):
        data.open_source(f"npz:{tmp_path}/set.npz", "train")


def paint(root, *names):
    """A small picture file for each relative name, its colour drawn from the name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (len(name), ord(name[0]), 0)).save(path)


def test_folder_with_splits(tmp_path):
    paint(tmp_path, "train/cat/a.PNG", "train/cat/deep/b.jpeg", "train/dog/c.bmp", "val/dog/d.webp", "val/dog/e.gif")
    (tmp_path / "train/cat/notes.txt").write_text("no picture")
    train, test = (data.open_source(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert (train.class_names, train.channels, len(train), len(test)) == (("cat", "dog"), 3, 3, 2)
    assert [train.read(i)[1] for i in range(3)] == [0, 0, 1]
    assert [test.read(i)[1] for i in range(2)] == [1, 1]  # numbered as in training, though no cat is there
    assert train.read(0)[0].tolist() == [[[len("train/cat/a.PNG"), ord("t"), 0]] * 4] * 3


def test_folder_without_splits_holds_out_a_tenth_by_path(tmp_path):
    names = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(100)]
    paint(tmp_path / "one", *names)
    paint(tmp_path / "two", *names[:150])
    parts = {
        (where, split): data.open_source(f"folder:{tmp_path}/{where}", split)
        for where in ("one", "two")
        for split in ("train", "test")
    }
    files = {key: {file.relative_to(tmp_path / key[0]) for file in source._files} for key, source in parts.items()}
    assert files["one", "train"] | files["one", "test"] == {*map(type(tmp_path), names)}
    assert not files["one", "train"] & files["one", "test"] and 8 < len(files["one", "test"]) < 35
    # moving a set or adding pictures moves no picture to the other side
    assert files["two", "test"] <= files["one", "test"]


@pytest.mark.parametrize(
    ("make", "split", "message"),
    [
        (lambda root: None, "train", "there is no folder .*set; check the path"),
        (lambda root: root.mkdir(), "train", "set has no class folders"),
        (
            lambda root: [paint(root, "train/cat/a.png"), (root / "train/dog").mkdir()],
            "train",
            "train/dog has no pictures",
        ),
        (lambda root: paint(root, "train/cat/a.png"), "test", "no folder for the split 'test', only train"),
        (
            lambda root: paint(root, "train/cat/a.png", "test/dog/a.png"),
            "test",
            "test/dog is no class of the training split",
        ),
        (lambda root: paint(root, "cat/a.png"), "extra", "has no split 'extra'; choose train or test"),
    ],
)
def test_folder_errors_name_the_folder(tmp_path, make, split, message):
    make(tmp_path / "set")
    with pytest.raises(UserError, match=message):
        data.open_source(f"folder:{tmp_path}/set", split)


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


# What lies beside cat/a.png and dog/b.png, the files that count besides these two, and what is said of the rest.
@pytest.mark.parametrize(
    ("make", "more", "told"),
    [
        (
            lambda root: (link(root / "cat/me", "."), link(root / "cat/again", ".")),
            [],
            "2 links to folders that count already",
        ),
        (lambda root: link(root / "cat/all", ".."), [], "1 links to folders that count already"),
        (lambda root: link(root / "cat/friend", "../dog"), [], "1 links to folders that count already"),
        (
            lambda root: (paint(root.parent, "far/c.png"), link(root / "cat/far", root.parent / "far")),
            ["cat/far/c.png"],
            None,
        ),
        (lambda root: (paint(root.parent, "far/c.png"), link(root / "eel", root.parent / "far")), ["eel/c.png"], None),
        (
            lambda root: (paint(root.parent, "far/c.png"), link(root / "cat/c.png", root.parent / "far/c.png")),
            ["cat/c.png"],
            None,
        ),
        (lambda root: link(root / "cat/gone.png", "nowhere.png"), [], "1 broken links or no files"),
        (lambda root: os.mkfifo(root / "cat/pipe.png"), [], "1 broken links or no files"),
        (lambda root: paint(root, "cat/.ipynb_checkpoints/a-checkpoint.png", "cat/deep/.thumbs/a.png"), [], "2 hidden"),
        (
            lambda root: paint(root, "__MACOSX/a.png", "cat/@eaDir/a.png", "$RECYCLE.BIN/a.png", ".git/a.png"),
            [],
            "4 hidden",
        ),
        (lambda root: (root / "cat/._a.png").write_bytes(b"resource fork"), [], "1 hidden"),
        (lambda root: (root / "cat/Thumbs.db").write_bytes(b"x"), [], "1 of other kinds"),
    ],
)
def test_each_real_picture_counts_once_and_what_is_passed_over_is_told(tmp_path, capsys, make, more, told):
    root = tmp_path / "train"
    paint(root, "cat/a.png", "dog/b.png")
    make(root)
    source = data.open_source(f"folder:{root.parent}", "train")
    files = [file.relative_to(root).as_posix() for file in source._files]
    assert files == sorted(["cat/a.png", "dog/b.png", *more])
    assert [source.class_names[source.read(i)[1]] for i in range(len(source))] == [
        file.partition("/")[0] for file in files
    ]
    assert capsys.readouterr().err == (f"folder:{root.parent}, train: 2 pictures; passed over {told}\n" if told else "")


def test_a_class_that_is_another_class_is_refused(tmp_path):
    paint(tmp_path, "train/cat/a.png")
    link(tmp_path / "train/kitty", "cat")
    with pytest.raises(UserError, match="kitty has no pictures of its own"):
        data.open_source(f"folder:{tmp_path}", "train")


def test_names_of_no_encoding_are_escaped(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    paint(tmp_path, *(f"{name}/{i}.png" for i in range(30)))
    train, test = (data.open_source(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("caf\\udce9",) and len(train) + len(test) == 30
    assert train.read(0)[0].shape == (3, 4, 3)


def test_a_bad_picture_is_named_when_it_is_read(tmp_path):
    paint(tmp_path, "train/cat/a.png", "train/cat/b.png")
    (tmp_path / "train/cat/a.png").write_bytes((tmp_path / "train/cat/a.png").read_bytes()[:40])
    source = data.open_source(f"folder:{tmp_path}", "train")
    (tmp_path / "train/cat/b.png").unlink()
    with pytest.raises(UserError, match="train/cat/a.png cannot be decoded"):
        source.read(0)
    with pytest.raises(UserError, match="train/cat/b.png cannot be read"):
        source.read(1)


def test_pack_and_read_back(tmp_path):
    paint(tmp_path / "set", "train/cat/a.png", "train/dog/b.png", "test/dog/c.png")
    file = data.pack(f"folder:{tmp_path}/set", tmp_path / "set.npz")
    for split in ("train", "test"):
        packed, source = data.open_source(f"npz:{file}", split), data.open_source(f"folder:{tmp_path}/set", split)
        assert (len(packed), packed.num_classes, packed.class_names) == (len(source), 2, ("cat", "dog"))
        for i in range(len(source)):
            np.testing.assert_array_equal(packed.read(i)[0], source.read(i)[0])
            assert packed.read(i)[1] == source.read(i)[1]


def test_empty_pictures_are_packed_so_that_they_are_read_back(tmp_path, monkeypatch):
    """They shrink to less than a reader believes: what was packed is then stored as it is."""
    monkeypatch.setattr("kzoo.archives.zips._ANYWAY", 0)
    for split in ("train", "test"):
        for i in range(2):
            (tmp_path / f"set/{split}/cat").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (200, 200)).save(tmp_path / f"set/{split}/cat/{i}.png")
    source = data.open_source(f"npz:{data.pack(f'folder:{tmp_path}/set', tmp_path / 'set.npz')}", "test")
    np.testing.assert_array_equal(source.images, np.zeros((2, 200, 200, 3)))


def test_a_failed_pack_leaves_the_old_file(tmp_path, monkeypatch):
    file = data.pack("digits", tmp_path / "set.npz")
    before = file.read_bytes()
    with pytest.raises(UserError, match="differ in size"):
        data.pack("fake", file)

    def full(path, **arrays):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(UserError, match="cannot write .*set.npz .No space left"):
        data.pack("digits", file)
    assert file.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["set.npz"]
    with pytest.raises(UserError, match="name it set.npz"):
        data.pack("digits", tmp_path / "set.zip")

"""`kzoo data check`: what it finds in a folder of bad files, in lists, in sets with boxes and in streams."""

import io
import json
import os
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kzoo import data
from kzoo.cli import main
from kzoo.data import checkup
from tests.test_own_data import COLOURS, coco, paint, written

RNG = np.random.default_rng(6)


def noise(height=12, width=16, channels=3):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(format, image=None, **options):
    out = io.BytesIO()
    (Image.fromarray(noise()) if image is None else image).save(out, format, **options)
    return out.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def of_size(width, height):
    """A PNG that says it is so large and has hardly any pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def turned():
    image = Image.fromarray(noise(8, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    return encoded("JPEG", image, exif=exif)


def frames(format):
    first, *others = (Image.fromarray(noise()) for _ in range(3))
    return encoded(format, first, save_all=True, append_images=others)


# What cannot be read: {name: (bytes, a part of the reason)}
UNREADABLE = {
    "zero.jpg": (b"", "an empty file"),
    "cut.jpg": (encoded("JPEG", Image.fromarray(noise(60, 60)))[:700], "truncated"),
    "cut.png": (encoded("PNG", Image.fromarray(noise(60, 60)))[:3000], "truncated"),
    "cut.webp": (encoded("WEBP", Image.fromarray(noise(60, 60)))[:900], ""),
    "text.jpg": (b"no picture at all\n", "text"),
    "page.png": (b"<!DOCTYPE html><html>404 Not Found</html>", "HTML"),
    "bomb.png": (of_size(60_000, 60_000), "exceeds limit"),
    "heic.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "HEIC"),
    "tiff.jpg": (encoded("TIFF"), "TIFF"),
    "header.bmp": (b"BM" + bytes(60), "BMP"),
    "head_crc.png": (bytes([*encoded("PNG")[:29], 1, 2, 3, 4, *encoded("PNG")[33:]]), "PNG"),
    "noise.gif": (bytes(RNG.integers(128, 256, 300, dtype=np.uint8)), "no known picture format"),
    "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "XML"),
    "paper.jpg": (b"%PDF-1.7\n" + bytes(range(256)), "PDF"),
}
# What can, and is told: {name: bytes}
ODD = {
    "moving.gif": frames("GIF"),
    "moving.webp": frames("WEBP"),
    "print.jpg": encoded("JPEG", Image.fromarray(noise()).convert("CMYK")),
    "deep.png": encoded("PNG", Image.fromarray((np.arange(64, dtype=np.uint16) * 999).reshape(8, 8))),
    "dot.png": encoded("PNG", Image.new("RGB", (1, 1), (1, 2, 3))),
    "really.jpg": encoded("PNG"),
    "ünïcode 猫.png": encoded("PNG"),
    "glass.png": encoded("PNG", Image.fromarray(noise(channels=4))),
    "phone.jpg": turned(),
    "grey.png": encoded("PNG", Image.fromarray(noise()[..., 0])),
}


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """A folder with two classes: cats that are odd or bad in some way, dogs that are well but for copies."""
    root = tmp_path_factory.mktemp("messy")
    for name, content in ({name: found for name, (found, _) in UNREADABLE.items()} | ODD).items():
        path = root / "train/cat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    dogs = [noise() for _ in range(12)]
    for split, some in (("train", range(12)), ("test", (3,))):
        for i in some:
            path = root / split / "dog" / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(dogs[i]).save(path)
    cat = root / "train/cat"
    Image.fromarray(dogs[5]).save(root / "train/dog/again.bmp")  # the same pixels in another file
    (cat / "dog.png").write_bytes((root / "train/dog/07.png").read_bytes())  # the same bytes, another label
    (root / "test/cat").mkdir()
    (root / "test/cat/fine.png").write_bytes(encoded("PNG"))
    (cat / "x.jpg").mkdir()  # a folder with a picture's name, and nothing in it
    (cat / "gone.png").symlink_to("nowhere.png")
    (cat / "circle.png").symlink_to("circle.png")
    (cat / "around").symlink_to("..")
    (cat / "scan.tiff").write_bytes(encoded("TIFF"))
    (cat / ".hidden.png").write_bytes(encoded("PNG"))
    os.mkfifo(cat / "pipe.png")
    return root


def names(entries):
    return sorted(pathlib.Path(entry["picture"]).name for entry in entries)


def groups(entries):
    return [
        (
            entry["same"],
            *sorted(f"{one['split']}/{one['class']}/{pathlib.Path(one['picture']).name}" for one in entry["pictures"]),
        )
        for entry in entries
    ]


def test_twenty_kinds_of_bad_files(messy):
    seen = []
    report = data.check(f"folder:{messy}", progress=lambda *numbers: seen.append(numbers))
    assert json.loads(json.dumps(report)) == report and report["wrong"]
    reasons = {pathlib.Path(one["picture"]).name: one["reason"] for one in report["unreadable"]}
    assert sorted(reasons) == sorted(UNREADABLE)
    for name, (_, part) in UNREADABLE.items():
        assert part in reasons[name] and str(messy) not in reasons[name], (name, reasons[name])
    assert names(report["animated"]) == ["moving.gif", "moving.webp"]
    assert names(report["turned"]) == ["phone.jpg"]
    assert [(one["picture"], one["format"]) for one in report["misnamed"]] == [(f"{messy}/train/cat/really.jpg", "PNG")]
    assert groups(report["leaks"]) == [("bytes", "test/dog/03.png", "train/dog/03.png")]
    assert groups(report["duplicates"]) == [("pixels", "train/dog/05.png", "train/dog/again.bmp")]
    assert groups(report["conflicts"]) == [("bytes", "train/cat/dog.png", "train/dog/07.png")]
    passed = {what: sorted(pathlib.Path(path).name for path in paths) for what, paths in report["passed"].items()}
    assert passed == {
        "broken links or no files": ["circle.png", "gone.png", "pipe.png"],
        "hidden": [".hidden.png"],
        "links to folders that count already": ["around"],
        "of other kinds": ["scan.tiff"],
    }
    cats, total = len(UNREADABLE) + len(ODD) + 1, len(UNREADABLE) + len(ODD) + 1 + 13 + 2
    assert report["splits"] == {
        "train": {"pictures": cats + 13, "classes": {"cat": cats, "dog": 13}},
        "test": {"pictures": 2, "classes": {"cat": 1, "dog": 1}},
    }
    assert seen[-1] == (total, total) and report["few"] == {} and report["problems"] == []
    modes = {"CMYK": 1, "L": 1, "RGBA": 1, "I;16": 1}
    assert {mode: report["modes"].get(mode) for mode in modes} == modes
    assert sum(report["modes"].values()) == sum(report["formats"].values()) == total - len(UNREADABLE)
    assert report["formats"]["GIF"] == report["formats"]["WEBP"] == 1 and report["formats"]["JPEG"] == 2
    assert report["heights"] == [1, 12, 20] and report["widths"] == [1, 16, 16] and report["aspects"][0] == 0.4


def test_the_command(messy, capsys):
    assert main(["data", "check", f"folder:{messy}"]) == 1
    out, err = capsys.readouterr()
    assert "14 cannot be read:" in out and "and 6 more (--json has them all)" in out and "#" not in err
    assert f"{messy}/train/dog/03.png (train, dog) = {messy}/test/dog/03.png (test, dog)" in out
    assert out.splitlines()[-1] == "something is wrong" and len(out.splitlines()) < 60
    assert main(["data", "check", f"folder:{messy}", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["unreadable"]) == len(UNREADABLE)
    assert main(["data", "check", "digits"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing is wrong"
    assert main(["data", "check", f"folder:{messy}/none"]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_a_bar_on_a_terminal_alone(messy, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(checkup, "_AT_ONCE", 500)
    main(["data", "check", "digits"])
    err = capsys.readouterr().err
    assert "[########" in err and "1,442 of 1,797 pictures" in err and err.endswith("\r\033[K")


def test_lists_name_the_line(tmp_path):
    paint(tmp_path, "a/cat.png", "dog.png", "eel.png")
    (tmp_path / "dog.png").write_bytes(b"")
    text = (
        "path,label,split\na/cat.png,cat|eel,train\ndog.png,cat,train\nx.png,eel,train\neel.png,eel,test\na,cat,test\n"
    )
    report = data.check(written(tmp_path, text))
    assert [(one["picture"], one["reason"]) for one in report["unreadable"]] == [
        (f"{tmp_path}/dog.png ({tmp_path}/set.csv, line 3)", "no known picture format, but an empty file"),
        (f"{tmp_path}/x.png ({tmp_path}/set.csv, line 4)", "No such file or directory"),
        (f"{tmp_path}/a ({tmp_path}/set.csv, line 6)", "Is a directory"),
    ]
    assert report["splits"]["train"] == {"pictures": 3, "classes": {"cat": 2, "eel": 2}, "without": 0}
    assert report["few"] == {"cat": 2, "eel": 2}
    assert "classes with fewer than 10 pictures to learn from: cat 2, eel 2" in checkup.lines(report)


def test_sets_with_boxes(tmp_path):
    name = coco(tmp_path, 30)
    (tmp_path / "4.png").unlink()
    (tmp_path / "5.png").write_bytes(b"no picture")
    Image.new("RGB", (9, 9)).save(tmp_path / "6.png")  # another size than its annotations are of
    report = data.check(name)
    reasons = {pathlib.Path(one["picture"]).name: one["reason"] for one in report["unreadable"]}
    assert (
        sorted(reasons) == ["4.png", "5.png", "6.png"]
        and "its annotations are of a picture of 3 x 4" in reasons["6.png"]
    )
    objects = [split["objects"] for split in report["splits"].values()]
    assert [sum(one[key] for one in objects) for key in ("pictures", "objects")] == [30, 30]
    assert any("objects of each class: thing" in line for line in checkup.lines(report))


def test_a_split_that_is_not_to_be_had_is_a_problem(tmp_path):
    paint(tmp_path, "cat/a.png")
    report = data.check(f"folder:{tmp_path}")
    assert [split["pictures"] for split in report["splits"].values()] == [1] and report["wrong"]
    assert "too few pictures to hold some out" in report["problems"][0]


def test_streams_are_checked_too(tmp_path, monkeypatch):
    import tensorflow as tf

    from kzoo.data.tfds_source import StreamSource

    class Feature:
        num_classes, names = 3, list(COLOURS)

    files = [encoded("PNG") for _ in range(9)]
    files[4], files[8] = b"broken", files[1]
    records = tf.data.Dataset.from_tensor_slices((files, np.arange(9) % 3))
    source = StreamSource("stream", records, 9, Feature, 3)
    monkeypatch.setattr(checkup, "_STREAMED", 4)
    monkeypatch.setattr(checkup, "splits_of", lambda *_: ("train",))
    monkeypatch.setattr(checkup, "open_source", lambda *_, **__: source)
    report = data.check("stream")
    assert [(one["picture"], one["reason"]) for one in report["unreadable"]] == [
        ("stream[4]", "no known picture format, but text")
    ]
    assert report["splits"]["train"]["classes"] == {"cat": 3, "dog": 3, "eel": 3}
    assert [[one["picture"] for one in group["pictures"]] for group in report["conflicts"]] == [
        ["stream[1]", "stream[8]"]
    ]

"""The second half hour of a new user, played from outside of the package with public names alone: a messy folder of
one's own pictures is checked, a part of it held out, a model trained with class weights and early stopping, evaluated
with a report, asked about a folder, exported, and served by TensorFlow alone.

Run as `python tests/second_half_hour.py [FOLDER]`; FOLDER keeps what it makes (default: a temporary one).
"""

import csv
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image, ImageDraw

COUNTS = {"disc": 160, "square": 90, "ring": 45, "cross": 60}
BROKEN = {"disc/empty.jpg": b"", "square/page.png": b"<html><body>404</body></html>", "ring/notes.jpg": b"no picture"}
RECIPE = """
from kzoo.schema import Augment, Classify, Data, EarlyStop, Optim, Recipe, Schedule, run_as_script

RECIPES = {
    "mine": Recipe(
        model="resnet18",
        overrides={"image_size": 32, "width": 16, "depths": (1, 1, 1), "stem_stride": 1},
        task=Classify(label_smoothing=0.05),
        data=Data(
            source="folder:PICTURES", holdout=0.2, class_weight="balanced", bad_pictures="skip",
            batch_size=16, augment=Augment(flip=0.5, shift=2),
        ),
        optim=Optim(lr=2e-3),
        schedule=Schedule(name="constant", warmup_epochs=1),
        early_stop=EarlyStop(patience=8),
        epochs=60,
    )
}
run_as_script(__name__, RECIPES)
"""
SERVING = """
import json, sys
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures["serving_jpeg"]
(name,) = served.structured_input_signature[1]
out = served(**{name: tf.constant([open(p, "rb").read() for p in sys.argv[2:]])})
assert not {"kzoo", "keras_cv"} & set(sys.modules), "TensorFlow alone was to serve"
print(json.dumps(out["probabilities"].numpy().tolist()))
"""


def kzoo(*words, status=0):
    """What `kzoo WORDS` prints; it has to end with that status."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "kzoo", *map(str, words)], capture_output=True, text=True)
    print(f"{time.monotonic() - began:6.1f} s  kzoo {' '.join(map(str, words))}", flush=True)
    assert done.returncode == status, f"status {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.stdout


def picture(kind, rng):
    """A shape of some colour and place on noise, of a size of its own."""
    side, wide = (int(v) for v in rng.integers(36, 72, 2))
    noise = rng.integers(0, 90, (side, wide, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    draw, radius = ImageDraw.Draw(image), min(side, wide) * rng.uniform(0.28, 0.42)
    x, y = (rng.uniform(radius, whole - radius) for whole in (wide, side))
    colour = tuple(int(v) for v in rng.integers(140, 256, 3))
    box = (x - radius, y - radius, x + radius, y + radius)
    if kind == "disc":
        draw.ellipse(box, fill=colour)
    elif kind == "square":
        draw.rectangle(box, fill=colour)
    elif kind == "ring":
        draw.ellipse(box, outline=colour, width=max(int(radius / 4), 3))
    else:
        draw.line((box[0], y, box[2], y), fill=colour, width=max(int(radius / 3), 3))
        draw.line((x, box[1], x, box[3]), fill=colour, width=max(int(radius / 3), 3))
    return image


def messy(folder, rng):
    """Classes of unequal sizes, JPEG, PNG and grey pictures among each other, and what does not belong there."""
    for kind, count in COUNTS.items():
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            image = picture(kind, rng)
            if number % 11 == 3:
                image.convert("L").save(folder / kind / f"{number:03d}.png")
            elif number % 7 == 2:
                image.save(folder / kind / f"Bild {number} ü.png")
            else:
                image.save(folder / kind / f"{number:03d}.jpg", quality=92)
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    whole = (folder / "cross/000.jpg").read_bytes()
    (folder / "cross/cut.jpg").write_bytes(whole[: len(whole) // 2])
    shutil.copy(folder / "disc/000.jpg", folder / "disc/000 (copy).jpg")
    (folder / "disc/Thumbs.db").write_bytes(b"\0" * 100)
    (folder / ".DS_Store").write_bytes(b"\0")


def check(folder):
    """What is wrong with the folder is told, each file by its name."""
    told = kzoo("data", "check", f"folder:{folder}", "--json", status=1)
    json.loads(told)
    for name in (*BROKEN, "cross/cut.jpg", "disc/000 (copy).jpg"):
        assert pathlib.Path(name).name in told, name
    return kzoo("data", "check", f"folder:{folder}", status=1)


def reported(report, metrics):
    """The report stands alone and says what the command said."""
    page = (report / "evaluation.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//|file:)""", page), "the page asks for other files"
    assert all(kind in page for kind in COUNTS)
    with open(report / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == metrics["images"]
    hit = np.mean([row["label"] == row["predicted"] for row in rows])
    assert abs(hit - metrics["accuracy"]) < 1e-6, (hit, metrics)


def asked(folder, place):
    """{picture: label} by `kzoo predict` of a folder; the file that is none is told by status and row."""
    kzoo("predict", place / "run", folder, "--best", "--out", place / "answers.csv", status=1)
    with open(place / "answers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    bad = [row for row in rows if row["error"]]
    assert [pathlib.Path(row["image"]).name for row in bad] == ["torn.jpg"], bad
    return {row["image"]: row for row in rows if not row["error"]}


def main(place):
    began, rng = time.monotonic(), np.random.default_rng(7)
    pictures, fresh = place / "pictures", place / "fresh"
    messy(pictures, rng)
    fresh.mkdir()
    for number in range(40):
        kind = list(COUNTS)[number % 4]
        picture(kind, rng).save(fresh / f"{kind}_{number}.jpg", quality=92)
    (fresh / "torn.jpg").write_bytes(b"\xff\xd8\xff torn")

    print(check(pictures))
    (place / "mine.py").write_text(RECIPE.replace("PICTURES", str(pictures)))
    trained = json.loads(kzoo("train", place / "mine.py", "--workdir", place / "run", "--json"))
    again = json.loads(kzoo("train", place / "mine.py", "--workdir", place / "run", "--json"))
    assert trained == again, "a finished run, started again, stays as it is"
    epochs = sum(1 for _ in open(place / "run/log.csv")) - 1
    assert epochs < 60, "it was to stop early"
    metrics = json.loads(kzoo("evaluate", place / "run", "--best", "--report", place / "report", "--json"))
    assert metrics["accuracy"] > 0.9, metrics
    reported(place / "report", metrics)

    answers = asked(fresh, place)
    right = np.mean([pathlib.Path(name).name.startswith(row["label"]) for name, row in answers.items()])
    assert len(answers) == 40 and right > 0.85, right

    kzoo("export", place / "run", "--best", "--format", "saved_model", "--out", place / "served")
    assert (place / "served/labels.txt").read_text().split() == sorted(COUNTS)
    names = sorted(answers)[:8]
    command = [sys.executable, "-c", SERVING, str(place / "served/1"), *names]
    served = subprocess.run(command, capture_output=True, text=True, cwd=place)
    assert served.returncode == 0, served.stderr[-3000:]
    for name, shares in zip(names, json.loads(served.stdout), strict=True):
        assert sorted(COUNTS)[int(np.argmax(shares))] == answers[name]["label"], name
        assert abs(max(shares) - float(answers[name]["probability"])) < 1e-3, name
    print(
        f"{time.monotonic() - began:6.1f} s in all: accuracy {metrics['accuracy']:.3f} after {epochs} epochs, "
        f"{right:.3f} of fresh pictures"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        folder = pathlib.Path(sys.argv[1]).resolve()
        folder.mkdir(parents=True)
        main(folder)
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(pathlib.Path(folder).resolve())

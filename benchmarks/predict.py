"""Predicting a folder of pictures: `kzoo predict FOLDER --out FILE.csv` beside decoding alone plus the model alone.

Synthetic photographs of 500 x 375 pixels as JPEG files. `decode` is nothing but JPEG to uint8 by Pillow on as many
threads as cores, and `alone` the same artifact (or .keras file) over batches of as many pictures that lie ready in
memory at its own size. `inside` is the work of the command, files to table, in a process that has opened the artifact
as they have, and `command` the whole process, which imports its runtime and opens the artifact first. What is compared
is the seconds of these two in units of the sum of the first two, which took their turns beside them.
"""

import concurrent.futures
import csv
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.common import CHILD_ENVIRONMENT, Peer, cores, emit, interleave, medians, parser, progress, spread
from benchmarks.input import photograph

COPIES = 20  # names of a file
KINDS = ("saved_model", "onnx", "litert", "keras")


def write_pictures(folder, count):
    """JPEG files, of which COPIES are the same under other names."""
    from PIL import Image

    folder.mkdir()
    for number in range(count):
        if number % COPIES == 0:
            first = folder / f"{number:05d}.jpg"
            Image.fromarray(photograph(number)).save(first, quality=90)
        else:
            os.link(first, folder / f"{number:05d}.jpg")


def write_target(path, kind, name):
    """The artifact or .keras file of a model with a random head, whose answers differ."""
    import keras

    import kzoo

    model = kzoo.get(name)
    head = model.layers[-1].kernel  # starts as zeros, which would agree with anything
    head.assign(keras.random.normal(head.shape, stddev=0.02, seed=0))
    if kind == "keras":
        model.save(path)
    else:
        kzoo.export(model, path, format=kind)


class _After:
    """A workload whose first call, which warms it up, does a part alone."""

    def __init__(self, work, count):
        self.work, self.count, self.first = work, count, True

    def __call__(self):
        self.work(64 if self.first else self.count)
        self.first = False


def decode(folder, count):
    """Pillow on as many threads as cores, file by file."""
    import io

    from PIL import Image

    pool, files = concurrent.futures.ThreadPoolExecutor(cores()), sorted(pathlib.Path(folder).iterdir())

    def one(file):
        return np.asarray(Image.open(io.BytesIO(file.read_bytes())).convert("RGB")).shape

    return _After(lambda number: list(pool.map(one, files[:number])), count)


def alone(path, kind, count, batch):
    """The artifact, opened once, over batches in memory."""
    from kzoo.predicting import open_target

    predictor = open_target(path)
    if kind == "keras":
        take = predictor.model.take
        pictures = np.random.default_rng(0).normal(size=(batch, *take.image_size, take.channels)).astype("float32")
        run = predictor.model.predict_on_batch
    else:
        pictures = np.stack([photograph(number, *predictor.artifact.image_size) for number in range(batch)])
        run = predictor.artifact.predict
    return _After(lambda number: [run(pictures) for _ in range(-(-number // batch))], count)


def inside(path, folder, count, batch, out):
    """The files into a table, by an artifact that was opened before."""
    from kzoo.predicting import answers, open_target, pictures_of, table_of

    predictor, files = open_target(path), sorted(map(str, pathlib.Path(folder).iterdir()))

    def run(number):
        with table_of(out) as table:
            for answer in answers(predictor, pictures_of(files[:number]), batch_size=batch):
                table.add(answer)

    return _After(run, count)


def command(path, folder, batch, out):
    """A callable that gives the seconds of the whole command; its file is looked at."""
    words = [sys.executable, "-m", "kzoo", "predict", path, folder, "--batch-size", str(batch), "--out", out]
    expected = len(list(folder.iterdir()))

    def turn():
        began = time.perf_counter()
        subprocess.run(words, env=CHILD_ENVIRONMENT, check=True, capture_output=True)
        seconds = time.perf_counter() - began
        with open(out, newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == expected and all(row["probability"] and not row["error"] for row in rows)
        return seconds

    return turn


def prepared(name, kinds, count, batch, home):
    """{name: peer} over pictures and targets written into a folder."""
    folder = home / "pictures"
    progress(f"writing {count} pictures")
    write_pictures(folder, count)
    peers = {"decode": Peer(decode, folder, count)}
    for kind in kinds:
        path = home / (f"{kind}.keras" if kind == "keras" else kind)
        progress(f"writing and opening {kind}")
        with concurrent.futures.ProcessPoolExecutor(
            1, initializer=os.environ.update, initargs=(CHILD_ENVIRONMENT,)
        ) as p:
            p.submit(write_target, path, kind, name).result()
        peers[f"{kind}_alone"] = Peer(alone, path, kind, count, batch)
        peers[f"{kind}_inside"] = Peer(inside, path, folder, count, batch, home / f"{kind}_inside.csv")
        peers[f"{kind}_command"] = command(path, folder, batch, home / f"{kind}.csv")
    return peers


def ratios(values, kinds, of):
    """{kind: {"ratio": of the medians, "worst": of the rounds' own}}: `of` to decoding plus the model alone."""
    middle, found = medians(values), {}
    for kind in kinds:
        parts = zip(values[f"{kind}_{of}"], values["decode"], values[f"{kind}_alone"], strict=True)
        own = [whole / (decoding + running) for whole, decoding, running in parts]
        both = middle["decode"] + middle[f"{kind}_alone"]
        found[kind] = {"ratio": round(middle[f"{kind}_{of}"] / both, 3), "worst": round(max(own), 3)}
    return found


def main():
    options = parser(__doc__, rounds=3)
    options.add_argument("--model", default="vit_tiny_patch16_224")
    options.add_argument("--count", type=int, default=2000, help="pictures (default 2000)")
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="kzoo-predict-") as home:
        peers = prepared(asked.model, asked.kinds, asked.count, asked.batch, pathlib.Path(home))
        values = interleave(peers, asked.rounds, warm_up=False)
        for peer in peers.values():
            if isinstance(peer, Peer):
                peer.end()
    result = {
        "model": asked.model,
        "pictures": asked.count,
        "batch": asked.batch,
        "rounds": asked.rounds,
        "seconds": {name: round(value, 2) for name, value in medians(values).items()},
        "to_the_sum": {of: ratios(values, asked.kinds, of) for of in ("inside", "command")},
        "spread": spread(values),
    }
    emit("predict", result, asked.save)


if __name__ == "__main__":
    main()

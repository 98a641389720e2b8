"""kzoo quickstart: train the embedded digits, export three ways, verify, and show."""

import pathlib
import statistics
import time

import numpy as np

from kzoo import data
from kzoo.errors import require
from kzoo.exporting import export
from kzoo.exporting.artifact import open_artifact
from kzoo.exporting.formats import FORMATS
from kzoo.figures import new_figure, save
from kzoo.predicting import ArtifactPredictor, ModelPredictor, run_pictures
from kzoo.system import say
from kzoo.training import train
from kzoo.weights import load


def quickstart(folder):
    """Runs it all in `folder` and returns (rows, text): one row for Keras and each artifact, and the table."""
    require("tensorflow", "tensorflow_datasets", why="the quickstart")
    for row in FORMATS.values():
        require(*row.packages, why="the quickstart's exports")
    require("matplotlib", why="the quickstart's pictures")
    folder = pathlib.Path(folder)
    run = folder / "run"
    train("vit_tiny_digits", run)
    model = load(run)
    cards = {}
    for format in FORMATS:
        say(f"exporting {format} and comparing it with Keras in its own runtime")
        cards[format] = export(model, folder / format, format, **run_pictures(run), run=run)
    held_out = data.open_source("digits", "test")
    pictures, labels = held_out.batch(np.arange(len(held_out)))
    predictors = {"keras": ModelPredictor(model)} | {f: ArtifactPredictor(open_artifact(folder / f)) for f in FORMATS}
    probabilities = {
        name: np.stack([predictor(picture)["probabilities"] for picture in pictures])
        for name, predictor in predictors.items()
    }
    latencies = _latencies(predictors, pictures[0])
    rows = [_row(name, p, labels, latencies[name], cards.get(name), run) for name, p in probabilities.items()]
    _draw_predictions(folder / "predictions.png", pictures, labels, probabilities["keras"], held_out.class_names)
    _draw_confusion(folder / "confusion_matrix.png", labels, probabilities["keras"], held_out.class_names)
    curve = run / "learning_curve.png"
    pictures_text = f"pictures: {folder / 'predictions.png'}, {folder / 'confusion_matrix.png'}, {curve}"
    return rows, f"{table(rows)}\n{pictures_text}\ntry: kzoo predict {folder / 'onnx'} PICTURE"


def _row(name, probabilities, labels, latency, card, run):
    size = card["file_bytes"] if card else (run / "model.keras").stat().st_size
    return {
        "model": name,
        "accuracy": float(np.mean(probabilities.argmax(axis=1) == labels)),
        "max_abs_difference": max(r["max_abs_difference"] for r in card["verified"]) if card else None,
        "file_bytes": size,
        "latency_ms": latency,
    }


def _latencies(predictors, picture, rounds=30):
    """Median milliseconds from one picture to its probabilities, the peers taking turns."""
    times = {name: [] for name in predictors}
    for _ in range(rounds):
        for name, predictor in predictors.items():
            began = time.perf_counter()
            predictor(picture)
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def table(rows):
    """The rows as text for a terminal."""
    lines = [f"{'':<12} {'accuracy':>9} {'largest difference':>19} {'size':>9} {'one picture':>12}"]
    for row in rows:
        difference = "" if row["max_abs_difference"] is None else f"{row['max_abs_difference']:.1e}"
        size, latency = f"{row['file_bytes'] / 1e6:.2f} MB", f"{row['latency_ms']:.2f} ms"
        lines.append(f"{row['model']:<12} {row['accuracy']:>9.2%} {difference:>19} {size:>9} {latency:>12}")
    return "\n".join(lines)


def _draw_predictions(path, pictures, labels, probabilities, names, count=24):
    """The least certain held-out pictures, with what was said and what they are."""
    figure = new_figure(10, 5.6)
    order = np.argsort(probabilities.max(axis=1))[:count]
    for axis, i in zip(figure.subplots(3, 8).flat, order, strict=True):
        said = int(probabilities[i].argmax())
        axis.imshow(pictures[i], cmap="gray_r")
        axis.set_title(
            f"{names[said]} ({probabilities[i, said]:.0%})\nis {names[labels[i]]}",
            fontsize=9,
            color="g" if said == labels[i] else "r",
        )
        axis.axis("off")
    figure.suptitle("The least certain of the held-out digits")
    save(figure, path)


def _draw_confusion(path, labels, probabilities, names):
    """How often each class (row) was taken for each (column)."""
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    figure = new_figure(5.5, 5)
    axis = figure.subplots()
    axis.imshow(counts, cmap="Blues")
    for (row, column), value in np.ndenumerate(counts):
        if value:
            axis.text(
                column, row, value, ha="center", va="center", color="white" if value > counts.max() / 2 else "black"
            )
    axis.set(
        xticks=range(len(names)),
        xticklabels=names,
        yticks=range(len(names)),
        yticklabels=names,
        xlabel="predicted",
        ylabel="is",
    )
    save(figure, path)

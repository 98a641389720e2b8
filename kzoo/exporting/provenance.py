"""Where a model's weights come from: the run that trained them, by which recipe, with what result."""

import contextlib
import csv
import hashlib
import json
import pathlib

from kzoo.errors import UserError
from kzoo.recipe_files import dump, is_run, read_recipe

UNKNOWN = "unknown"
BEST = "best.npz"  # as in kzoo.weights.read, which needs Keras
VERSION = "version."  # what a record's keys of versions begin with


def run_of(source):
    """(the folder of the run that a path means, whether its best weights): a run, or a file of weights that lies in
    one; (None, False) for anything else.
    """
    if not isinstance(source, (str, pathlib.Path)):
        return None, False
    path = pathlib.Path(source)
    folder = (
        path if is_run(path) else path.parent if path.name in (BEST, "model.keras") and is_run(path.parent) else None
    )
    return folder, folder is not None and path.name == BEST


def provenance(model, run=None, best=False):
    """What is known of a model's weights, as JSON has it: {"weights_sha256", "trained"}, trained being what a run's own
    files say of it, the tag of published weights, or "unknown".
    """
    told = {"weights_sha256": weights_digest(model)}
    if run is not None:
        return told | {"trained": of_run(run, best)}
    return told | {"trained": model.spec.tag or UNKNOWN}


def of_run(run, best=False):
    """{"run", "weights", "data", "model", "task", "result", ..., "recipe"} of a run, by its recipe.txt, log.csv and
    metrics.json; what they do not say is None. "recipe" is the text of its recipe.txt.
    """
    run = pathlib.Path(run)
    recipe, record = read_recipe(run)
    rows = history(run)
    last = best_row(run, rows) if best else rows[-1] if rows else {}
    return {
        "run": run.resolve().name,
        "weights": "best" if best else "last",
        "model": recipe.model,
        "task": recipe.task.kind,
        "data": recipe.data.source,
        "train_split": recipe.data.train_split,
        "eval_split": recipe.data.eval_split,
        "training_images": record.get("training_images"),
        "init_from": recipe.init_from,
        "epochs": int(last["epoch"]) if "epoch" in last else None,
        "steps": int(last["step"]) if "step" in last else None,
        "batch_size": recipe.data.batch_size,
        "optimizer": recipe.optim.name,
        "lr": recipe.optim.lr,
        "schedule": recipe.schedule.name,
        "seed": recipe.seed,
        "minutes": rows[-1].get("minutes") if rows else None,
        "result": _evaluated(last) if best else metrics_of(run),
        "started": record.get("started"),
        "backend": record.get("backend"),
        "versions": {key.removeprefix(VERSION): record[key] for key in record if key.startswith(VERSION)},
        "recipe": dump(recipe),
    }


def metrics_of(run):
    """What the metrics.json of a run says; None where it has not finished."""
    try:
        told = json.loads((pathlib.Path(run) / "metrics.json").read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def history(run):
    """The rows of a run's log.csv, [{column: number}] without what is empty; [] where there is none."""
    try:
        with open(pathlib.Path(run) / "log.csv", newline="", encoding="utf-8") as file:
            return [_numbers(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):
        return []


def _numbers(row):
    found = {}
    for key, value in row.items():
        with contextlib.suppress(TypeError, ValueError):
            found[key] = float(value)
    return found


def best_row(run, rows):
    """The row whose evaluation gave the run's best weights, by what best.npz says of itself; {} where neither says."""
    from kzoo.weights.formats.npz import Npz

    try:
        with Npz(pathlib.Path(run) / BEST) as file:
            step = file.meta().get("step")
    except UserError:
        return {}
    return next((row for row in rows if row.get("step") == step), {})


def _evaluated(row):
    return {key.removeprefix("eval_"): value for key, value in row.items() if key.startswith("eval_")} or None


def weights_digest(model):
    """SHA-256 over shape, type and bytes of every weight, in the model's order."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(weight.tobytes())
    return digest.hexdigest()


def lines(told):
    """The provenance of a card as lines of a list in Markdown."""
    trained, found = told["trained"], [f"SHA-256 of the weights: `{told['weights_sha256']}`"]
    if not isinstance(trained, dict):
        known = "unknown" if trained == UNKNOWN else f"published elsewhere, see the tag `{trained}`"
        return [f"Trained: {known}", *found]
    count = trained["training_images"]
    pictures = f", {count:,} pictures" if count else ""
    began = f", starting from `{trained['init_from']}`" if trained["init_from"] else ""
    found.insert(0, f"Trained on: `{trained['data']}`, split {trained['train_split']}{pictures}{began}")
    found.insert(1, f"Recipe: {recipe_line(trained)}; all of its settings are in `card.json`")
    if trained["result"]:
        told = ", ".join(f"{name} {value:.4g}" for name, value in headed(trained["result"]))
        found.insert(2, f"Result on the split {trained['eval_split']}, {trained['weights']} weights: {told}")
    versions = ", ".join(f"{name} {version}" for name, version in sorted(trained["versions"].items()))
    return [*found, f"Trained with: {versions}, on {trained['backend']}"]


def recipe_line(trained):
    """What was done, in a line."""
    told = [f"task {trained['task']}"]
    if trained["epochs"]:
        epochs = f"{trained['epochs']:,} epoch" + "s" * (trained["epochs"] > 1)
        told.append(f"{epochs}, {trained['steps']:,} steps of {trained['batch_size']} pictures")
    told.append(f"{trained['optimizer']} at {trained['lr']:g}, {trained['schedule']}")
    told += [f"{trained['minutes']:.1f} minutes"] if trained["minutes"] else []
    return "; ".join(told) + f"; seed {trained['seed']}"


def headed(result):
    """[(figure, value)] of a result, without those of single classes and of the pass itself."""
    return [(name, value) for name, value in result.items() if "/" not in name and name not in ("images", "steps")]

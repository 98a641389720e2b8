"""A training run killed (SIGKILL) at random moments and started again ends in the state of the run that nobody touched,
bit for bit.

A toy with everything random switched on that its task allows, a checkpoint every three steps: a classifier of the
embedded digits, a masked autoencoder of them that is judged by its neighbours, a detector of generated shapes, cropped
and in two canvases, or the example package's encoder of rings, whose task has a head, and averages of it, in its view.
Compared are the checkpoint's arrays, all that training goes on from, the best weights and log.csv but for its times.
Moments are uniform over the duration of the untouched run, so they fall into start-up, compilation, steps, saving and
evaluation. A run that finishes before its kill is compared and another begins, until all kills are spent.
"""

import csv
import dataclasses
import hashlib
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.common import CHILD_ENVIRONMENT, ROOT, emit, parser, progress
from kzoo import recipe_files, schema, settings

CLASSIFY = schema.Recipe(
    model="vit_toy",
    overrides={
        "in_channels": 1,
        "pos_drop_rate": 0.1,
        "proj_drop_rate": 0.1,
        "attn_drop_rate": 0.1,
        "drop_path_rate": 0.1,
    },
    data=schema.Data(
        source="digits",
        batch_size=32,
        augment=schema.Augment(
            crop_scale=(0.5, 1.0), flip=0.5, shift=2, rand_augment=schema.RandAugment(), erase=0.3, mixup=0.2
        ),
    ),
    optim=schema.Optim(ema=0.99, accumulate=2),
    schedule=schema.Schedule(warmup_steps=10),
    checkpoint=schema.Checkpoint(every_steps=3),
    epochs=1000,
    steps=1200,  # ends the run; long enough that most kills fall into its steps
    task=schema.Classify(label_smoothing=0.1),
)
# A batch has the four turns of each picture, which nothing mixes.
AUGMENT = dataclasses.replace(CLASSIFY.data.augment, mixup=0.0, color_jitter=0.2)
ROTATION = dataclasses.replace(
    CLASSIFY,
    overrides=CLASSIFY.overrides | {"in_channels": 3},
    data=schema.Data(source="rings:n=400", batch_size=8, eval_batch_size=50, augment=AUGMENT),
    steps=500,
)
# Masks are drawn anew for every epoch; the paper's crops and flips, and dropped paths, which it does without.
MASKED = dataclasses.replace(
    CLASSIFY,
    model="mae_toy",
    overrides={"in_channels": 1, "drop_path_rate": 0.1},
    task=schema.Masked(knn_reference=300, knn_queries=100),
    data=dataclasses.replace(CLASSIFY.data, augment=dataclasses.replace(CLASSIFY.data.augment, mixup=0.0)),
    steps=500,
)
# Pictures of many sizes, of which a batch in seven fits the smaller canvas; the matching is judged by the one before.
DETECT = dataclasses.replace(
    CLASSIFY,
    model="detr_toy",
    overrides={"image_size": 48, "drop_rate": 0.1},
    task=schema.Detect(canvases=((48, 48), (64, 64))),
    data=schema.Data(
        source="shapes:n=160,size=64,max=4",
        batch_size=4,
        eval_batch_size=16,
        augment=schema.BoxAugment(
            scales=(32, 40, 48), max_size=64, crop_scales=(48, 64), crop_size=(32, 48), color_jitter=0.2
        ),
    ),
    eval_every=2,
    steps=500,
)
RECIPES = {
    "classify": (CLASSIFY, {}),
    "masked": (MASKED, {}),
    "detect": (DETECT, {}),
    "rotation": (ROTATION, {"task.kind": "rotation", "task.hidden": 8}),
}
TIMES = ("images_per_second", "minutes")  # columns of log.csv
EXAMPLE = ROOT / "tests" / "plugin_example"  # the package that the task "rotation" comes from


def train(recipe_file, workdir, kill_after=None):
    """Begins or continues the run in `workdir`: True when it finished, False when it was killed `kill_after` seconds
    after its start.
    """
    command = [sys.executable, "-m", "kzoo", "train", str(recipe_file), "--workdir", str(workdir)]
    log = workdir.with_suffix(".log")
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=CHILD_ENVIRONMENT, stdout=output, stderr=output)
        try:
            status = process.wait(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
    if status != 0:
        sys.exit(f"training in {workdir.name} failed with status {status}:\n{log.read_text()[-3000:]}")
    return True


def killed_run(recipe_file, workdir, kills, draw_moment):
    """Trains to the end through at most `kills` kills; returns the seconds after its start at which each process was
    killed.
    """
    history = []
    while len(history) < kills:
        moment = draw_moment()
        if train(recipe_file, workdir, kill_after=moment):
            return history
        history.append(round(moment, 2))
        progress(f"{workdir.name}: killed after {moment:.1f} s, {kills - len(history)} kills left")
    train(recipe_file, workdir)
    return history


def digest_of(workdir):
    """SHA-256 of what a run ends with: names, shapes, types and every bit of its checkpoint's arrays and of its best
    weights', and the figures of each epoch.
    """
    digest = hashlib.sha256()
    for name in ("checkpoint.npz", "best.npz"):
        with np.load(workdir / name) as file:
            for key in sorted(set(file.files) - {"meta", "kzoo_sha256"}):  # which hold times
                digest.update(f"{name} {key} {file[key].shape} {file[key].dtype}".encode() + file[key].tobytes())
    with (workdir / "log.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            digest.update(repr([(key, row[key]) for key in row if key not in TIMES]).encode())
    return digest.hexdigest()


def install(package, folder):
    """Installs a package into the folder, where this process and those that it starts find it."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), str(package)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    sys.path.append(str(folder))
    CHILD_ENVIRONMENT["PYTHONPATH"] += os.pathsep + str(folder)


def measure(recipe, folder, kills, seed):
    """The figures of one comparison, as emit() prints them; `folder` is empty and keeps the runs."""
    recipe_file = folder / "recipe.txt"
    recipe_file.write_text(recipe_files.dump(recipe))
    start = time.perf_counter()
    train(recipe_file, folder / "untouched")
    duration = time.perf_counter() - start
    expected = digest_of(folder / "untouched")
    progress(f"untouched: {duration:.1f} s, state {expected[:12]}")
    draw, runs = random.Random(seed), []
    while (left := kills - sum(len(run["killed_after_s"]) for run in runs)) > 0:
        workdir = folder / f"killed_{len(runs)}"
        history = killed_run(recipe_file, workdir, left, lambda: draw.uniform(0, duration))
        resumed = [int(step) for step in re.findall(r"from step (\d+) of", workdir.with_suffix(".log").read_text())]
        runs.append(
            {"killed_after_s": history, "resumed_from_step": resumed, "identical": digest_of(workdir) == expected}
        )
        progress(f"{workdir.name}: identical {runs[-1]['identical']}")
    return {
        "task": recipe.task.kind,
        "steps": recipe.steps,
        "checkpoint_every_steps": recipe.checkpoint.every_steps,
        "xla": recipe.xla,
        "kills": kills,
        "seed": seed,
        "untouched_s": round(duration, 1),
        "runs": runs,
        "all_identical": all(run["identical"] for run in runs),
    }


def main():
    options = parser(__doc__)
    options.add_argument(
        "--task", choices=RECIPES, default="classify", help="rotation: that of the example package (default classify)"
    )
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="changes the recipe, as kzoo train does"
    )
    options = options.parse_args()
    recipe, own = RECIPES[options.task]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if options.task == "rotation":
            install(EXAMPLE, folder / "site")
        recipe = settings.override(recipe, own | dict(pair.split("=", 1) for pair in options.set))
        result = measure(recipe, folder, options.kills, options.seed)
    emit(f"kill_resume_{options.task}".removesuffix("_classify"), result, options.save)
    return 0 if result["all_identical"] else 1


if __name__ == "__main__":
    sys.exit(main())

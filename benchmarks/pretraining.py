"""What pictures without labels are worth: a masked autoencoder of all of CIFAR-10's, then its encoder on a tenth of the
labels.

`random` is the encoder untrained, `scratch` the classifier trained on a tenth of the labels, `pretrain_75` the
autoencoder trained without labels at a mask ratio of 75 %, `finetune_75` the classifier of `scratch` begun with its
encoder: the same pictures, epochs and random changes. Figures are on the whole test set: the accuracy of classifiers as
they end; of features, the votes of 20 neighbours among all training pictures and a linear head trained on them. Runs
lie in `--workdir`, where a stopped one goes on; each finished row is a line of results/pretraining.jsonl and is not
measured again, so that `--minutes` cuts the whole into pieces. `--save` writes results/pretraining.md and .json of the
rows that are there; the latter's are not measured again either.
"""

import dataclasses
import hashlib
import json
import pathlib
import statistics
import time

from benchmarks.common import RESULTS, ROOT, emit, environment, parser, progress
from benchmarks.small_data import compared, mean_and_spread, named, pictures, spread_text
from recipes.mae_cifar10 import RECIPES

KEPT = RESULTS / "pretraining.jsonl"
RATIOS = (75, 50, 90)
ARMS = {
    "random": "features of the encoder untrained",
    "scratch": "trained on the labelled pictures alone",
    **{f"pretrain_{ratio}": f"features after pre-training with {ratio} % hidden" for ratio in RATIOS},
    **{f"finetune_{ratio}": f"pre-trained with {ratio} % hidden, then on the labelled pictures" for ratio in RATIOS},
}
MEASURED = [(arm, seed) for seed in range(3) for arm in ("random", "scratch", "pretrain_75", "finetune_75")] + [
    (f"{stage}_{ratio}", 0) for ratio in RATIOS[1:] for stage in ("pretrain", "finetune")
]
# figure, arm ahead, arm behind, by how many points at least, whose statement
CLAIMS = [
    ("test_accuracy", "finetune_75", "scratch", 4, "pre-training pays on a tenth of the labels"),
    ("knn_accuracy", "pretrain_75", "random", 0, "features are better than random ones"),
    ("linear_accuracy", "pretrain_75", "random", 0, "features are better than random ones"),
]


def recipe(arm, seed, options):
    """The Recipe of one row; of a fine-tuning one without the run that it starts from."""
    stage, _, ratio = arm.partition("_")
    if stage in ("pretrain", "random"):
        found = RECIPES["mae_tiny_cifar10"]
        overrides = found.overrides | ({"mask_ratio": int(ratio) / 100} if ratio else {})
        data = dataclasses.replace(found.data, source=options.data)
        return dataclasses.replace(
            found,
            overrides=overrides,
            data=data,
            epochs=options.pretrain_epochs,
            eval_every=options.pretrain_epochs // 2 or 1,
            seed=seed,
        )
    found = RECIPES["mae_tiny_cifar10_finetune"]
    # a network begun at random learns in all of its layers alike
    optim = found.optim if ratio else dataclasses.replace(found.optim, layer_decay=None)
    return dataclasses.replace(
        found,
        init_from=None,
        data=dataclasses.replace(found.data, source=named(options), batch_size=64),
        optim=optim,
        epochs=options.epochs,
        eval_every=options.epochs,
        schedule=dataclasses.replace(found.schedule, warmup_epochs=min(2.0, options.epochs / 2)),
        seed=seed,
    )


def digest(arm, seed, options):
    """Of everything that the figures of a row were asked with."""
    from kzoo.recipe_files import dump

    asked = [recipe(arm, seed, options)]
    if arm.startswith("finetune"):
        asked.append(recipe(arm.replace("finetune", "pretrain"), seed, options))
    return hashlib.sha256("\n".join(map(dump, asked)).encode()).hexdigest()[:12]


def folder(arm, seed, options):
    return pathlib.Path(options.workdir) / f"{arm}_{seed}_{digest(arm, seed, options)}"


def measure(arm, seed, options):
    """Trains what one row asks for, or goes on with it; its record."""
    import keras

    import kzoo

    keras.utils.clear_session()  # what the run before has left
    plan, workdir = recipe(arm, seed, options), folder(arm, seed, options)
    record = {"arm": arm, "seed": seed, "digest": digest(arm, seed, options)}
    if arm == "random":
        keras.utils.set_random_seed(seed)
        model = kzoo.get(plan.model, preprocessing=plan.preprocessing, **plan.overrides)
        return record | features(model, options) | {"date": environment()["date"]}
    if arm.startswith("finetune"):
        before = folder(arm.replace("finetune", "pretrain"), seed, options)
        if not (before / "model.keras").is_file():
            raise SystemExit(f"{arm} of seed {seed} begins with what {before.name} ends with; measure that first.")
        plan = dataclasses.replace(plan, init_from=str(before))
    if arm.startswith("pretrain"):
        run = kzoo.train(plan, workdir)
        record |= {"reconstruction_loss": run.metrics["loss"]} | features(kzoo.load(workdir), options)
    else:
        run = kzoo.train(plan, workdir, data=pictures(options))
        record |= {"test_loss": run.metrics["loss"], "test_accuracy": run.metrics["accuracy"]}
    return record | {
        "images_per_second": statistics.median(row["images_per_second"] for row in run.history),
        "date": environment()["date"],
    }


def features(model, options):
    """{"knn_accuracy", "linear_accuracy"} of a model's encoder, of all test pictures by all training ones."""
    from kzoo.data import open_source
    from kzoo.probing import probe_model

    sources = [open_source(options.data, split) for split in ("train", "test")]
    found = {kind: probe_model(model, kind, *sources, batch_size=500) for kind in ("knn", "linear")}
    return {f"{kind}_accuracy": found[kind][f"{kind}_accuracy"] for kind in found}


def kept(options):
    """{(arm, seed): record} of what was measured with these settings, here or by whoever saved it."""
    saved = KEPT.with_suffix(".json")
    records = json.loads(saved.read_text())["records"] if saved.exists() else []
    records += map(json.loads, KEPT.read_text().splitlines() if KEPT.exists() else [])
    return {
        (r["arm"], r["seed"]): r
        for r in records
        if r["arm"] in ARMS and r["digest"] == digest(r["arm"], r["seed"], options)
    }


def judged(records):
    """What the records say to each of CLAIMS for which there are any: a difference holds where it is at least as large
    as claimed and beyond two standard errors."""
    found = []
    for figure, ahead, behind, least, statement in CLAIMS:
        lists = [[r[figure] for r in records if r["arm"] == arm] for arm in (ahead, behind)]
        if all(lists):
            difference, error, seen = compared(*lists, ">")
            if seen == "holds" and difference * 100 < least:
                seen = "does not hold"
            asked = f"{ahead} > {behind}" + (f" by {least} points" if least else "")
            told = {"figure": figure, "claim": asked, "statement": statement}
            found.append(told | {"difference": difference, "standard_error": error, "verdict": seen})
    return found


FIGURES = ("test_accuracy", "knn_accuracy", "linear_accuracy")


def summary(records, options):
    """What results/pretraining.json says."""
    arms = {}
    for arm in (arm for arm in ARMS if any(r["arm"] == arm for r in records)):
        own = [r for r in records if r["arm"] == arm]
        told = {"what": ARMS[arm], "seeds": sorted(r["seed"] for r in own)}
        for figure in (figure for figure in FIGURES if figure in own[0]):
            told[figure] = dict(zip(("mean", "spread"), mean_and_spread([r[figure] for r in own]), strict=True))
        if "images_per_second" in own[0]:
            told["images_per_second"] = statistics.median(r["images_per_second"] for r in own)
        arms[arm] = told
    settings = {"data": options.data, "labelled": named(options)}
    settings |= {"pretrain_epochs": options.pretrain_epochs, "epochs": options.epochs}
    return settings | {"arms": arms, "claims": judged(records), "records": records}


HEAD = """# What pre-training without labels is worth on CIFAR-10

Written by `python -m benchmarks.pretraining --save`, not by hand. A ViT-Ti of 6 blocks on patches of 4x4 pixels at 32 px, pre-trained as a
masked autoencoder for {pretrain_epochs} epochs on all training pictures of {data}, then trained for {epochs} epochs on {labelled}, as many
of each class; `scratch` is trained on those alone, with the same random changes and epochs. Accuracy on the whole test set, in percent, of
the model as it ends; k-NN (20 neighbours, temperature 0.07) and linear probe ask the encoder's class token, about all test pictures by all
training pictures. Mean and standard deviation over the seeds, which draw first weights, masks and the order of pictures. Images a second
are the median epoch's, other work on the machine included.
"""

CLAIMED = """
## What is claimed

The difference of the means in points, with its standard error; a claim holds where the difference is as large as it says and beyond two
standard errors.
"""


def report(result):
    """The text of results/pretraining.md."""
    told = environment()
    versions = ", ".join(f"{name} {told['versions'][name]}" for name in ("keras", "tensorflow"))
    dates = sorted(r["date"] for r in result["records"])
    lines = [HEAD.format(**result)]
    lines += [f"{dates[0]} to {dates[-1]} UTC, {told['cpu']}, {told['cores']} cores; {versions}.", ""]
    columns = ("row", "seeds", "accuracy", "k-NN", "linear probe", "images/s")
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, arm in result["arms"].items():
        cells = [f"`{name}`: {arm['what']}", len(arm["seeds"])]
        cells += [spread_text(arm[figure], 100) if figure in arm else "" for figure in FIGURES]
        cells.append(f"{arm['images_per_second']:.0f}" if "images_per_second" in arm else "")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [CLAIMED, "| figure | claim | what it says | difference | verdict |", "|---|---|---|---|---|"]
    for claim in result["claims"]:
        difference = spread_text({"mean": claim["difference"], "spread": claim["standard_error"]}, 100)
        told = claim["figure"].replace("_", " "), claim["claim"], claim["statement"], difference, claim["verdict"]
        lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def arguments(words=None):
    options = parser(__doc__)
    options.add_argument("--arms", nargs="+", choices=ARMS, help="these rows alone")
    options.add_argument("--seeds", nargs="+", type=int, help="these seeds alone")
    options.add_argument("--pretrain-epochs", type=int, default=10, help="(default 10)")
    options.add_argument("--epochs", type=int, default=12, help="of training on labels (default 12)")
    options.add_argument("--images", type=int, default=5000, help="pictures with labels (default 5000)")
    options.add_argument("--data", default="tfds:cifar10", help="or npz:FILE, as `kzoo data pack` writes it")
    options.add_argument("--minutes", type=float, help="begin no row after so many; go on by the same command")
    options.add_argument(
        "--workdir", default=ROOT / "runs" / "pretraining", help="where the runs lie (default runs/pretraining)"
    )
    return options.parse_args(words)


def main():
    options, start = arguments(), time.monotonic()
    RESULTS.mkdir(exist_ok=True)
    waiting = [
        (arm, seed)
        for arm, seed in MEASURED
        if (not options.arms or arm in options.arms) and (not options.seeds or seed in options.seeds)
        if (arm, seed) not in kept(options)
    ]
    for number, (arm, seed) in enumerate(waiting, 1):
        if options.minutes is not None and time.monotonic() - start > 60 * options.minutes:
            progress(f"{len(waiting) - number + 1} rows are left; the same command goes on with them")
            break
        record = measure(arm, seed, options)
        with KEPT.open("a") as file:
            file.write(json.dumps(record) + "\n")
        found = ", ".join(f"{figure} {record[figure]:.4f}" for figure in FIGURES if figure in record)
        progress(f"{number} of {len(waiting)}: {arm}, seed {seed}: {found}")
    found = kept(options)
    result = summary([found[row] for row in MEASURED if row in found], options)
    if options.save:
        (RESULTS / "pretraining.md").write_text(report(result))
    emit("pretraining", result, options.save)


if __name__ == "__main__":
    main()

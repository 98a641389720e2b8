"""Convolution helps where data is small: models of equal size, trained alike on a tenth of CIFAR-10, over several
seeds.

Every model has about 388,000 weights and sees the same pictures of 32 px under the same recipe; only the architecture
and the seed differ. Figures are of the model as it ends: on the training pictures, unchanged, and on the whole test
set. Runs lie in `--workdir`, where a stopped one goes on; each finished one is a line of results/small_data.jsonl and
is not trained again. `--save` writes results/small_data.md and small_data.json of all that is there for these settings.
Which of the papers' orderings hold is computed.
"""

import hashlib
import json
import math
import pathlib
import statistics

from benchmarks.common import RESULTS, ROOT, emit, environment, parser, progress
from benchmarks.parity import parameters_of

KEPT = RESULTS / "small_data.jsonl"
DRAW = 0  # seed of the choice of training pictures
TOKENS = {"embed_dim": 72, "num_heads": 3, "class_token": False, "global_pool": "avg"}
STAGES = {  # on maps of 16, 8, 8 and 4 cells a side
    **{"embed_dim": (24, 48, 72, 96), "stem_width": 24, "strides": (1, 2, 1, 2)},
    **{"head_dim": 24, "representation_size": None, "stride_mode": "1x1", "pool_type": "max2"},  # as the paper has them
}
# of stride 4 and 128 channels
MAP = {"norm": "group", "weight_std": "timm", "padding": "same", "width": 32, "depths": (3,)}


def _layout(letters, depths):
    return (
        f"CoAtNet {'-'.join(letters)}, {depths}",
        "coatnet_0_224",
        STAGES | {"layout": tuple(letters), "depths": depths},
    )


# What it is, kzoo's row, overrides. ViT, ViT_REL and the hybrid work on 8x8 cells of 4x4 pixels and average them.
MODELS = {
    "vit": ("ViT, 6 blocks on patches of 4x4", "vit_tiny_patch16_224", TOKENS | {"patch_size": 4, "depth": 6}),
    "vit_rel": (
        "ViT_REL, 6 blocks of relative attention on patches of 4x4",
        "vit_rel_d384_l12_patch16_224",
        {
            "stem_stride": 4,
            "stem_width": 72,
            "embed_dim": (72,),
            "depths": (6,),
            "head_dim": 24,
            "representation_size": None,
        },
    ),
    "cctt": _layout("CCTT", (1, 3, 3, 1)),
    "hybrid": (
        "hybrid, a ResNet's stem and 3 bottlenecks under a ViT of 5 blocks",
        "vit_base_r50_s16_224",
        TOKENS | {"backbone": "resnet_toy", "backbone_options": MAP, "depth": 5},
    ),
    "cccc": _layout("CCCC", (2, 2, 4, 1)),
    "ccct": _layout("CCCT", (1, 4, 3, 1)),
    "cttt": _layout("CTTT", (3, 2, 3, 1)),
    "resnet": ("ResNet of basic blocks, (1, 2, 2)", "resnet18", {"width": 24, "depths": (1, 2, 2)}),
}
DEFAULT = ("vit", "vit_rel", "cctt", "hybrid")

# Which figures each statement is about, and the statement: names in its order, best first. "~": no difference is
# claimed.
BETTER = {"test_accuracy": 1, "train_loss": -1, "gap": -1}  # the sign of what is ahead
GENERALISES, CAPACITY = "CoAtNet, section 2.2, generalisation", "CoAtNet, section 2.2, capacity"
CLAIMS = [
    *(
        ("test_accuracy", name, ">", "vit", "convolution or relative positions help where data is small")
        for name in ("vit_rel", "cctt")
    ),
    ("test_accuracy", "hybrid", ">", "vit", "ViT, section 4.4, at small budgets"),
    *(
        (figure, *pair, GENERALISES)
        for figure in ("gap", "test_accuracy")
        for pair in (("cccc", "~", "ccct"), ("ccct", ">=", "cctt"), ("cctt", ">", "cttt"), ("cttt", ">", "vit_rel"))
    ),
    *(
        ("train_loss", *pair, CAPACITY)
        for pair in (("cctt", "~", "cttt"), ("cttt", ">", "vit_rel"), ("vit_rel", ">", "ccct"), ("ccct", ">", "cccc"))
    ),
]


def recipe(name, seed, options, source):
    """The Recipe of one model and seed on the training pictures of `source`; nothing but these two differs between
    runs.
    """
    from kzoo.schema import Augment, Data, Optim, Recipe, Schedule
    from kzoo.specs import Preprocessing

    _, row, overrides = MODELS[name]
    return Recipe(
        model=row,
        overrides={"image_size": 32} | overrides,
        preprocessing=Preprocessing(),
        data=Data(source=source, batch_size=64, eval_batch_size=500, augment=Augment(flip=0.5, shift=2)),
        optim=Optim(lr=1e-3, weight_decay=0.05),
        schedule=Schedule(warmup_epochs=min(2.0, options.epochs / 2)),
        epochs=options.epochs,
        eval_every=options.epochs,
        seed=seed,
    )


def named(options):
    """What the training pictures are called in the record of a run."""
    return f"{options.data}, {options.images} pictures of the training split (seed {DRAW})"


def digest(name, seed, options):
    """Of everything that the figures of a run were asked with."""
    from kzoo.recipe_files import dump

    return hashlib.sha256(dump(recipe(name, seed, options, named(options))).encode()).hexdigest()[:12]


def balanced(source, count, name):
    """A source of that name: pictures of another, as many of each class as of any other, `count` in all, drawn by DRAW.

    Raises ValueError where a class has too few of them.
    """
    import numpy as np

    from kzoo.data.sources import ArraySource

    images, labels = source.batch(np.arange(len(source)))
    each, generator = count // source.num_classes, np.random.default_rng(DRAW)
    if each < 1 or min(np.bincount(labels, minlength=source.num_classes)) < each:
        raise ValueError(f"{source.name} has no {each} pictures of every class; ask for fewer")
    drawn = np.concatenate(
        [generator.permutation(np.flatnonzero(labels == k))[:each] for k in range(source.num_classes)]
    )
    return ArraySource(name, images[drawn], labels[drawn], source.num_classes, source.class_names)


def pictures(options):
    """(training, evaluation) sources: balanced() of the training pictures, drawn once for all; the whole test set."""
    from kzoo.data.sources import open_source

    whole, test = (open_source(options.data, split) for split in ("train", "test"))
    return balanced(whole, options.images, named(options)), test


def measure(name, seed, options, sources):
    """Trains one model from one seed, or goes on with it; its record."""
    import keras

    import kzoo

    keras.utils.clear_session()  # what the run before has left
    asked = digest(name, seed, options)
    plan = recipe(name, seed, options, sources[0].name)
    run = kzoo.train(plan, pathlib.Path(options.workdir) / f"{name}_{seed}_{asked}", data=sources)
    train, parameters = kzoo.evaluate(run.workdir, data=sources[0]), parameters_of(kzoo.load(run.workdir))
    return {
        "model": name,
        "seed": seed,
        "digest": asked,
        "parameters": parameters,
        "train_loss": train["loss"],
        "train_accuracy": train["accuracy"],
        "test_loss": run.metrics["loss"],
        "test_accuracy": run.metrics["accuracy"],
        "gap": train["accuracy"] - run.metrics["accuracy"],
        "minutes": run.history[-1]["minutes"],
        "images_per_second": statistics.median(row["images_per_second"] for row in run.history),
        "date": environment()["date"],
    }


def kept(options):
    """{(model, seed): record} of what was measured with these settings, whatever the models and seeds asked for now."""
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    records = [
        r
        for r in map(json.loads, lines)
        if r["model"] in MODELS and r["digest"] == digest(r["model"], r["seed"], options)
    ]
    return {(r["model"], r["seed"]): r for r in records}


def mean_and_spread(values):
    """(mean, standard deviation of the sample; None of a single one)."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def compared(ahead, behind, relation):
    """(difference of the means, its standard error or None, verdict) of two lists of figures of which the higher is
    better.

    Two standard errors decide: beyond them a difference is there, within them it is not ("~" and ">=" then hold, ">" is
    not decided).
    """
    (one, s), (other, t) = mean_and_spread(ahead), mean_and_spread(behind)
    if s is None or t is None:
        return one - other, None, "not decided"
    error = math.sqrt(s**2 / len(ahead) + t**2 / len(behind))
    seen = 0 if abs(one - other) <= 2 * error else math.copysign(1, one - other)
    verdicts = {"~": ("does not hold", "holds", "does not hold"), ">=": ("does not hold", "holds", "holds")}
    return one - other, error, verdicts.get(relation, ("does not hold", "not decided", "holds"))[int(seen) + 1]


def judged(records):
    """What the records say to each of CLAIMS for which there are any."""
    found = []
    for figure, one, relation, other, where in CLAIMS:
        lists = [[BETTER[figure] * r[figure] for r in records if r["model"] == name] for name in (one, other)]
        if all(lists):
            difference, error, verdict = compared(*lists, relation)
            claim = {"figure": figure, "claim": f"{one} {relation} {other}", "where": where}
            found.append(claim | {"difference": difference, "standard_error": error, "verdict": verdict})
    return found


FIGURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "gap")


def summary(records, options):
    """What results/small_data.json says."""
    models = {}
    for name in (name for name in MODELS if any(r["model"] == name for r in records)):
        own = [r for r in records if r["model"] == name]
        told = {"what": MODELS[name][0], "parameters": own[0]["parameters"], "seeds": sorted(r["seed"] for r in own)}
        told |= {
            figure: dict(zip(("mean", "spread"), mean_and_spread([r[figure] for r in own]), strict=True))
            for figure in FIGURES
        }
        models[name] = told | {
            what: statistics.median(r[what] for r in own) for what in ("images_per_second", "minutes")
        }
    settings = {"data": named(options), "epochs": options.epochs}
    return settings | {"models": models, "claims": judged(records), "records": records}


HEAD = """# Convolution and attention where data is small

Written by `python -m benchmarks.small_data --save`, not by hand. Models of about equally many weights, trained from scratch for
{epochs} epochs on {data}, as many of each class, and tested on the whole test set, at 32 px: one recipe (AdamW, random flips and
shifts; see benchmarks/small_data.py), several seeds each, which draw the first weights and the order of the pictures. Figures are of
the finished model, mean and standard deviation over the seeds; those on the training pictures are without their random changes.
"Gap" is training accuracy less test accuracy. The images a second are the median epoch's, other work on the machine included.
"""

CLAIMED = """
## Which orderings of the papers hold here

A > B: A is ahead (higher test accuracy, smaller gap, lower training loss). The difference of the means is given in favour of A, with
its standard error; two of these decide. A small gap may also be that of a model which learnt little: read it beside the accuracy.
"""


def spread_text(figure, scale):
    """mean ± spread, in units of 1 / scale."""
    digits = 1 if scale == 100 else 3
    around = "" if figure["spread"] is None else f" ± {figure['spread'] * scale:.{digits}f}"
    return f"{figure['mean'] * scale:.{digits}f}{around}"


def report(result):
    """The text of results/small_data.md."""
    told = environment()
    versions = ", ".join(
        f"{name} {told['versions'][name]}" for name in ("keras", "tensorflow", "jax") if name in told["versions"]
    )
    dates = sorted(r["date"] for r in result["records"])
    lines = [HEAD.format(epochs=result["epochs"], data=result["data"])]
    lines += [f"{dates[0]} to {dates[-1]} UTC, {told['cpu']}, {told['cores']} cores; {versions}.", ""]
    columns = (
        "model",
        "weights",
        "seeds",
        "train loss",
        "train accuracy, %",
        "test loss",
        "test accuracy, %",
        "gap, points",
        "images/s",
    )
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, model in result["models"].items():
        figures = [spread_text(model[figure], 1 if figure.endswith("loss") else 100) for figure in FIGURES]
        first = (f"`{name}`: {model['what']}", f"{model['parameters']:,}", len(model["seeds"]))
        cells = (*first, *figures, f"{model['images_per_second']:.0f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [CLAIMED, "| figure | claim | from | difference | verdict |", "|---|---|---|---|---|"]
    for claim in result["claims"]:
        scale = 1 if claim["figure"] == "train_loss" else 100
        difference = spread_text({"mean": claim["difference"], "spread": claim["standard_error"]}, scale)
        lines.append(
            f"| {claim['figure'].replace('_', ' ')} | {claim['claim']} | {claim['where']} | {difference} | "
            f"{claim['verdict']} |"
        )
    return "\n".join(lines) + "\n"


def arguments(words=None):
    options = parser(__doc__)
    options.add_argument("--models", nargs="+", choices=(*MODELS, "all"), default=DEFAULT, help="(default %(default)s)")
    options.add_argument("--seeds", type=int, default=3, help="runs of each model (default 3)")
    options.add_argument("--epochs", type=int, default=20, help="(default 20)")
    options.add_argument("--images", type=int, default=5000, help="training pictures (default 5000)")
    options.add_argument("--data", default="tfds:cifar10", help="or npz:FILE, as `kzoo data pack` writes it")
    options.add_argument(
        "--workdir", default=ROOT / "runs" / "small_data", help="where the runs lie (default runs/small_data)"
    )
    return options.parse_args(words)


def main():
    options = arguments()
    RESULTS.mkdir(exist_ok=True)
    names = MODELS if "all" in options.models else options.models
    waiting = [(name, seed) for seed in range(options.seeds) for name in names if (name, seed) not in kept(options)]
    sources = pictures(options) if waiting else None
    for number, (name, seed) in enumerate(waiting, 1):
        record = measure(name, seed, options, sources)
        with KEPT.open("a") as file:
            file.write(json.dumps(record) + "\n")
        accuracy = f"test accuracy {record['test_accuracy']:.4f}, train loss {record['train_loss']:.3f}"
        progress(
            f"{number} of {len(waiting)}: {name}, seed {seed}: {accuracy}, {record['images_per_second']:.0f} images/s"
        )
    result = summary([record for _, record in sorted(kept(options).items())], options)
    if options.save:
        (RESULTS / "small_data.md").write_text(report(result))
    emit("small_data", result, options.save)


if __name__ == "__main__":
    main()

"""Memory that a training step takes beyond the model: plain, with recomputed activations, with accumulated gradients,
with both.

Every case is a process of its own, which builds the recipe's model and optimizer, reads its resident memory, trains a
few steps of the same effective batch, and reads its peak. Parameters, moments and accumulators are there before the
first step and stand apart.
"""

import json
import os
import subprocess
import sys

from benchmarks.common import CHILD_ENVIRONMENT, ROOT, emit, parser, progress, seconds_of

ACCUMULATE = {"optim.accumulate": 4}
CASES = {
    "plain": {},
    "remat": {"remat": True},
    "accumulate": ACCUMULATE,
    "remat_accumulate": {"remat": True} | ACCUMULATE,
}
MODEL = "vit_small_patch16_224"
MIB = 2**20


def child(model, batch, changes):
    """Prints {"model_mib", "step_mib", "images_per_second"} of one case."""
    import resource

    import kzoo
    import kzoo.data
    from kzoo.schema import Data, Recipe
    from kzoo.settings import override
    from kzoo.tasks import named
    from kzoo.training.plan import Plan
    from kzoo.training.stage import Stage

    settings = named(kzoo.info(model).task).settings
    # init_from: frozen parts are trained on as if they had been filled, which costs the same
    recipe = override(Recipe(model=model, task=settings, init_from="none", data=Data(batch_size=batch)), changes)
    micro = batch // recipe.optim.accumulate
    recipe = override(recipe, {"data.batch_size": micro})
    source = f"{settings.smoke_source}:size=32,n={batch}" + (",classes=10" if settings.smoke_source == "fake" else "")
    stage = Stage(Plan(recipe, kzoo.data.open_source(source, "train")))
    stage.compile()
    images, labels = next(iter(stage.training.epoch(0)))
    before = resident()

    def step():
        for _ in range(recipe.optim.accumulate):
            stage.view.train_on_batch(images, labels)

    step()
    seconds = seconds_of(step, at_least=4)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rate = round(batch / seconds, 2)
    print(
        json.dumps(
            {"model_mib": round(before / MIB), "step_mib": round((peak - before) / MIB), "images_per_second": rate}
        )
    )


def resident():
    """Bytes of memory that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main():
    options = parser(__doc__)
    options.add_argument("--model", default=MODEL)
    options.add_argument("--batch", type=int, default=32, help="pictures in a step of the optimizer")
    options.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="these cases alone")
    options.add_argument("--case", help="JSON of recipe changes; used by the benchmark itself")
    options = options.parse_args()
    if options.case:
        return child(options.model, options.batch, json.loads(options.case))
    cases = {}
    for name, changes in ((name, CASES[name]) for name in options.only):
        arguments = ["--model", options.model, "--batch", str(options.batch), "--case", json.dumps(changes)]
        command = [sys.executable, "-m", "benchmarks.memory", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=CHILD_ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
        cases[name] = json.loads(done.stdout.splitlines()[-1])
        progress(f"{name}: {cases[name]}")
    result = {"model": options.model, "batch": options.batch, "cases": cases}
    if plain := cases.get("plain"):
        result["share_of_plain"] = {
            name: round(case["step_mib"] / plain["step_mib"], 3) for name, case in cases.items()
        }
    emit("memory" if options.model == MODEL else f"memory_{options.model}", result, options.save)


if __name__ == "__main__":
    main()

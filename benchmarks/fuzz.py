"""Damaged weights of every format by kzoo.load_weights, whole models by kzoo.load, artifacts by open_artifact: what is
refused, goes unseen, breaks, costs.

Every file is a small valid one with changes drawn from a seed; the model it is loaded into runs in a process of its
own, with limits of time and memory, so that a crash or a hang is an outcome like any other. Exit status 1 where an
outcome is one that must not be.
"""

import collections
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.common import ON_CPU, emit, parser, progress
from benchmarks.mutate import declare, inflate, mutate_bytes, mutate_inside, plant

SECONDS, MEMORY = 60, 2 << 30  # that a load may take; bytes beyond what the process holds before
# Outcomes. The first three are right; the others must not be.
REFUSED, EQUAL, UNGUARDED = "refused", "loaded equal", "loaded different, digest too"
SILENT, CHANGED, EXECUTED = "silent load", "changed by a refused load", "executed code"
CRASH, HANG, COSTLY, EXCEPTION = "crash", "hang", "over 2 GB", "other exception"
RIGHT, WRONG = (REFUSED, EQUAL, UNGUARDED), (SILENT, CHANGED, EXECUTED, CRASH, HANG, COSTLY, EXCEPTION)


@dataclass(frozen=True)
class Sample:
    """A valid file, or folder of them. opened: what is loaded, beneath `folder`; damaged: the files to mutate, beneath
    it.

    guarded: whether the format, or kzoo's seal, has a checksum over all weights. In the others a changed value is a
    value: then only the digest in the receipt tells. sealed: whether it is kzoo's, which no new checksum of an
    archive's members makes good.
    """

    name: str
    folder: pathlib.Path
    opened: str
    guarded: bool
    damaged: tuple[str, ...] = ()

    @property
    def whole(self):
        """Whether it is a whole model, which kzoo.load takes."""
        return self.name in ("run", "best", "keras")

    @property
    def served(self):
        """Whether it is an artifact, which its own runtime opens."""
        return self.name.startswith("artifact")

    @property
    def sealed(self):
        return self.whole or self.name.endswith("sealed")


def samples(root):
    """[Sample] of every format that kzoo reads, of a toy whose every weight is random."""
    import torch
    from safetensors.numpy import save_file

    import kzoo
    from kzoo import registry
    from kzoo.archives.zips import seal
    from kzoo.registry import config_of_model
    from kzoo.weights.names import encode

    found = []

    def sample(name, opened, guarded, damaged=()):
        folder = pathlib.Path(root, name)
        folder.mkdir(parents=True)
        found.append(Sample(name, folder, opened, guarded, damaged or (opened,)))
        return folder / opened

    model = randomised(kzoo.get("vit_toy"), seed=1)
    weights = {weight.path: np.asarray(weight) for weight in model.weights}
    layouts = registry.config_of("vit_toy")[1].layouts()
    timm, google = (encode(model, layouts[name], config_of_model(model)) for name in ("timm", "google"))
    tensors = {name: torch.tensor(array) for name, array in timm.items()}
    told = {
        "spec": dataclasses.asdict(model.spec),
        "step": 3,
        "history": [],
        "metrics": {},
        "seconds": 1.0,
        "side": None,
    }
    meta = np.frombuffer(json.dumps(told | {"started": "", "sealed": True}).encode(), "uint8")

    def run(path, weights, **others):
        np.savez(path, meta=meta, **{f"weights/{key}": value for key, value in weights.items()}, **others)
        seal(path)

    run(sample("run", "", True, ("checkpoint.npz",)) / "checkpoint.npz", weights, **{"optimizer/00000": np.int64(3)})
    best = sample("best", "best.npz", True)
    run(best, weights, **{"task/head/kernel": np.diag(HEAD), "task/head/bias": HEAD})
    run(best.with_name("checkpoint.npz"), {key: -value for key, value in weights.items()})
    model.save(sample("keras", "model.keras", True))
    kzoo.save_weights(model, sample("weights.h5 sealed", "model.weights.h5", True))
    model.save_weights(sample("weights.h5", "model.weights.h5", False))
    kzoo.save_weights(model, sample("safetensors sealed", "model.safetensors", True), layout="timm")
    save_file(timm, sample("safetensors", "model.safetensors", False))
    _save_shards(timm, sample("safetensors shards", "", False, ("model.safetensors.index.json", *SHARDS)))
    torch.save({"model": tensors}, sample("torch zip", "model.pth", True))
    torch.save(tensors, sample("torch legacy", "model.pth", False), _use_new_zipfile_serialization=False)
    np.savez(sample("npz", "model.npz", True), **google)
    kzoo.save_weights(model, sample("hf folder sealed", "", True, ("model.safetensors", "config.json")), layout="hf")
    for format, payload in (
        ("saved_model", ("1/saved_model.pb", WEIGHTS)),
        ("onnx", ("model.onnx",)),
        ("litert", ("model.tflite",)),
    ):
        kzoo.export(model, sample(f"artifact {format} sealed", "", True, (*payload, "card.json", "labels.txt")), format)
    return found


HEAD = np.arange(1, 5, dtype="float32")  # of the view's own layer that best weights hold
WEIGHTS = "1/variables/variables.data-00000-of-00001"


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def _save_shards(tensors, folder):
    from safetensors.numpy import save_file

    names = sorted(tensors)
    where = {name: SHARDS[i % 2] for i, name in enumerate(names)}
    for shard in SHARDS:
        save_file({name: tensors[name] for name in names if where[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def randomised(model, seed):
    """The model, every weight of it random."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=weight.shape).astype("float32") for weight in model.get_weights()])
    return model


def damage(sample, number, folder):
    """Writes mutation `number` of a sample into `folder`: (path to load, what was done, whether a checksum still guards
    it).
    """
    rng = np.random.default_rng([number, *sample.name.encode()])
    shutil.copytree(sample.folder, folder)
    target = folder / sample.damaged[rng.integers(len(sample.damaged))]
    data, zipped = target.read_bytes(), target.read_bytes()[:2] == b"PK"
    guarded = sample.guarded
    if rng.integers(12) == 0:
        data, done = plant(data, rng, folder / "executed"), "plant code"
    elif zipped and rng.integers(12) == 0:
        data, done = inflate(data, rng)
    elif sample.whole and rng.integers(8) == 0:
        data, done = declare(data, rng)
    elif zipped and rng.integers(3) == 0:
        (data, done), guarded = mutate_inside(data, rng), sample.sealed
    else:
        data, done = mutate_bytes(data, rng)
    target.write_bytes(data)
    return folder / sample.opened, f"{target.name} {done}", guarded


class Judge:
    """Loads damaged files into one toy a format and says what came of it; the toy is then as before."""

    def __init__(self, found):
        self._samples = {sample.name: sample for sample in found}
        # name of a sample: (its model, filled with other weights; those; the file's; the file's digest), or its answer
        self._fitted = {}

    def __call__(self, name, number, folder):
        """(outcome, detail, seconds, bytes) of mutation `number` of the sample `name`, written into `folder`, which
        must not exist.
        """
        path, done, guarded = damage(self._samples[name], number, folder)
        began, held = time.monotonic(), memory(new=True)
        outcome, detail = (
            self._answered(name, path) if self._samples[name].served else self._filled(name, path, guarded)
        )
        for read in [self._loaded] * self._samples[name].whole + [self._viewed] * (name == "best"):
            found, said = read(name, path)
            outcome, detail = (found, said) if found in WRONG and outcome in RIGHT else (outcome, detail)
        seconds, taken = time.monotonic() - began, memory() - held
        if (folder / "executed").exists():
            outcome = EXECUTED
        elif outcome in RIGHT and taken > MEMORY:
            outcome = COSTLY
        return outcome, f"{done}: {detail}", seconds, taken

    def _answered(self, name, path):
        """(outcome, detail) of an artifact's answer to two pictures, and of what its card says of them."""
        return _read(lambda: _same(_answer(path), self._model(name)), "")

    def _filled(self, name, path, guarded):
        """(outcome, detail) of kzoo.load_weights."""
        import kzoo
        from kzoo.errors import UserError

        model, before, expected, digest = self._model(name)
        try:
            report = kzoo.load_weights(model, path)
        except UserError as error:
            outcome, detail = REFUSED if _same(model.get_weights(), before) else CHANGED, str(error)
        except Exception as error:
            outcome, detail = EXCEPTION, f"{type(error).__name__}: {error}"
        else:
            told = not guarded and report.digest != digest
            outcome, detail = EQUAL if _same(model.get_weights(), expected) else UNGUARDED if told else SILENT, ""
        model.set_weights(before)
        return outcome, detail

    def _loaded(self, name, path):
        """(outcome, detail) of kzoo.load: the very model that was saved, or a refusal."""
        import kzoo

        model, _, expected, _ = self._model(name)
        best = name == "best"

        def unchanged():
            loaded = kzoo.load(path.parent if best else path, best)
            return loaded.spec == model.spec and _same(loaded.get_weights(), expected)

        return _read(unchanged, "kzoo.load")

    def _viewed(self, name, path):
        """(outcome, detail) of a task's view, its own layer filled from a run's best weights."""
        from kzoo.tasks import trained_view

        task, network = _headed_task(), self._model(name)[0]
        return _read(
            lambda: _same(
                trained_view(task, network, path.parent, best=True).head.get_weights(), [np.diag(HEAD), HEAD]
            ),
            "view",
        )

    def _model(self, name):
        sample = self._samples[name]
        if name not in self._fitted and sample.served:
            self._fitted[name] = _answer(sample.folder)
        elif name not in self._fitted:
            import kzoo

            model = kzoo.get("vit_toy", weights=sample.folder / sample.opened)  # so built that the numerics fit
            expected, digest = model.get_weights(), model.load_report.digest
            self._fitted[name] = randomised(model, seed=2), model.get_weights(), expected, digest
        return self._fitted[name]


def _read(unchanged, what):
    """(outcome, detail) of a call that reads, and tells whether what it read is as it was."""
    from kzoo.errors import UserError

    try:
        return (EQUAL if unchanged() else SILENT), what
    except UserError as error:
        return REFUSED, str(error)
    except Exception as error:
        return EXCEPTION, f"{what}: {type(error).__name__}: {error}"


def _headed_task():
    """A task whose view has a layer of its own."""
    import keras

    from kzoo.tasks.classify import Classify

    class Headed(Classify):
        def view(self, network):
            view = super().view(network)
            view.head = keras.layers.Dense(len(HEAD))
            view.head.build((None, len(HEAD)))
            return view

    return Headed()


def _answer(folder):
    """[every output, the labels, the preprocessing's mean] of an artifact, on two pictures."""
    from kzoo.exporting.artifact import open_artifact

    artifact = open_artifact(folder)
    pictures = np.random.default_rng(0).integers(0, 256, (2, *artifact.image_size, artifact.channels), dtype="uint8")
    outputs = artifact.predict(pictures)
    return [
        *(outputs[key] for key in sorted(outputs)),
        np.array(artifact.labels),
        np.array(artifact.card["preprocessing"]["mean"]),
    ]


def memory(new=False):
    """The most bytes that this process has held in memory since it was last asked with `new`; 0 where the system does
    not tell.
    """
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return 0
    if new:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1])


def _same(arrays, others):
    return len(arrays) == len(others) and all(np.array_equal(a, b) for a, b in zip(arrays, others, strict=True))


class Worker:
    """A process that judges, started anew after it crashed or hung."""

    def __init__(self, found):
        self._samples, self._process = found, None

    def __call__(self, *case):
        if self._process is None:
            self._start()
        self._pipe.send(case)
        try:
            if self._pipe.poll(SECONDS):
                return self._pipe.recv()
            outcome = HANG, f"over {SECONDS} s", SECONDS, 0
        except EOFError:
            self._process.join()
            outcome = CRASH, f"exit code {self._process.exitcode}", 0, 0
        self.close()
        return outcome

    def _start(self):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._samples), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def close(self):
        if self._process:
            self._process.kill()
            self._process = None


def _serve(pipe, found):
    os.environ.update(ON_CPU)
    os.dup2(2, 1)  # what a library prints is not the result
    judge = Judge(found)
    for sample in found:
        judge._model(sample.name)
    _limit_memory()
    pipe.send("ready")
    with contextlib.suppress(EOFError):  # the parent is done
        while True:
            pipe.send(judge(*pipe.recv()))


def _limit_memory():
    """At most twice MEMORY more than now, where the system can do that: what takes less is seen by what it takes."""
    pages = pathlib.Path("/proc/self/statm")
    if pages.exists():
        import resource

        now = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 2 * MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main():
    options = parser(__doc__)
    options.add_argument(
        "--files", type=int, default=1000, help="mutated files, shared out evenly over the formats (default 1000)"
    )
    options.add_argument(
        "--first", type=int, default=0, help="number of the first mutation; other numbers are other files"
    )
    options.add_argument("--only", nargs="+", help="formats to damage, by their names in the result (default all)")
    args = options.parse_args()
    os.environ.update(ON_CPU)
    outcomes, wrong, most = collections.defaultdict(collections.Counter), [], collections.defaultdict(lambda: (0, 0))
    with tempfile.TemporaryDirectory() as root:
        found = samples(pathlib.Path(root, "valid"))
        found = [sample for sample in found if sample.name in (args.only or [sample.name])]
        worker = Worker(found)
        for number in range(args.files):
            name, case = found[number % len(found)].name, pathlib.Path(root, "case")
            outcome, detail, *cost = worker(name, args.first + number, case)
            shutil.rmtree(case)
            outcomes[name][outcome] += 1
            most[name] = tuple(map(max, most[name], cost))
            if outcome not in RIGHT:
                wrong.append(
                    {"format": name, "number": args.first + number, "outcome": outcome, "detail": detail[:500]}
                )
                progress(f"{outcome}: {name} {args.first + number}: {detail[:300]}")
            if (number + 1) % 100 == 0:
                progress(f"{number + 1} of {args.files}")
        worker.close()
    total = sum(outcomes.values(), collections.Counter())
    totals = {outcome: total[outcome] for outcome in (*RIGHT, *WRONG)}
    worst = {name: {"seconds": round(seconds, 2), "mb": round(taken / 1e6)} for name, (seconds, taken) in most.items()}
    silent = sum(outcomes[sample.name][SILENT] for sample in found if sample.sealed)
    result = {"files": args.files, "first": args.first, "total": totals, "silent_of_sealed": silent, "worst": worst}
    result |= {"formats": outcomes, "wrong": wrong}
    emit("fuzz", result, args.save)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

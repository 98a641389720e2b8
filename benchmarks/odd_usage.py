"""Odd command lines: what ends in one sentence, what in a traceback, what takes long or much memory.

Every line is drawn from a seed out of tables of commands, targets, pictures, recipe files, settings and folders, most
of them missing, damaged or of another kind, and run in this process through kzoo.cli.main; a few are processes of their
own. Exit status 1 where an outcome is one that must not be.
"""

import collections
import contextlib
import io
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from benchmarks.common import CHILD_ENVIRONMENT, ON_CPU, emit, parser, progress

SECONDS, MEMORY = 60, 2 << 30  # that a line may take; bytes beyond what the process holds before
DONE, TOLD, USAGE = "done", "one sentence", "usage"
TRACEBACK, UNTOLD, LONG, LARGE = "traceback", "no sentence", "too long", "too large"
RIGHT, WRONG = (DONE, TOLD, USAGE), (TRACEBACK, UNTOLD, LONG, LARGE)

RECIPE_FILES = {
    "syntax.py": b"RECIPES = {",
    "empty.py": b"",
    "no_table.py": b"RECIPES = {}",
    "list.py": b"RECIPES = [1]",
    "fives.py": b"RECIPES = {'a': 5}",
    "imports.py": b"import nowhere_to_be_found",
    "fails.py": b"1 / 0",
    "exits.py": b"raise SystemExit",
    "latin.py": b"x = '\xe9'",
    "nul.py": b"\0",
    "rate.py": b"from kzoo.schema import Optim\nOptim(lr=-1)",
    "number.txt": b"model = 5",
    "deep.txt": b"model = " + b"[" * 90_000,
    "nul.txt": b'model = "vit_toy"\ninit_from = "a\\u0000b"',
    "huge.txt": b"#" * 3_000_000,
    "unknown.txt": b'model = "vit_toy"\nspeed = 3',
    "binary.txt": bytes(range(256)),
}
CHECKPOINTS = {"cut": lambda good: good[: len(good) // 2], "void": lambda good: b"", "text": lambda good: b"no archive"}
PATHS = (
    *("", " ", "no/where", "a" * 300, "a\0b", "file", "file/below", "pipe.png", "/dev/null", "folder", ".", "--"),
    *("caf\udce9", "é" * 90, "~none"),
)
NAMES = ("vit_toyy", "vit_toy.none", "vit_toy.", ".", "*", "VIT_TOY", "vit_toy\n", "hf://", "hf://a", "hf://a/b/../c")
PICTURES = (
    *(
        "good.png",
        "cut.png",
        "void.png",
        "text.jpg",
        "pipe.png",
        "folder",
        "gone.png",
        "loop.png",
        "bomb.png",
        "wide.png",
    ),
    *(
        "",
        "no.png",
        "a" * 300 + ".png",
        "a\0b.png",
        "/dev/null",
        "run/recipe.txt",
        "run/checkpoint.npz",
        "caf\udce9.png",
    ),
)
SOURCES = (
    *(
        "folder:",
        "folder:no",
        "folder:file",
        "folder:folder",
        "folder:loops",
        "folder:a\0b",
        "folder:" + "a" * 300,
        "folder:pipe.png",
    ),
    *(
        "npz:",
        "npz:no",
        "npz:file",
        "npz:folder",
        "npz:pipe",
        "fake:classes=0",
        "fake:classes=x",
        "fake:n=",
        "fake:size=99,classes=2",
    ),
    *("tfds:", "tfds:none", "tfds:../x", "digits:x", "", ":", "coco", "fake:" + "n=1," * 50, "http://x", "fake:n=1"),
)
SETTINGS = (
    *(
        "epochs=0",
        "epochs=-1",
        "epochs=1e999",
        "epochs=nan",
        "epochs=",
        "epochs",
        "=1",
        "epochs=[1]",
        "epochs=True",
        "epochs=1_0",
    ),
    *(
        "optim.lr=-1",
        "optim.lr=nan",
        "optim.lr=x",
        "optim=5",
        "optim.name=",
        "optim.freeze=(",
        'optim.freeze=["("]',
        "optim.lr.x=1",
    ),
    *(
        "optim.accumulate=0",
        "optim.layer_decay=2",
        "optim.ema=1",
        "schedule.warmup_steps=-1",
        "schedule.name=step",
        "schedule.min_lr=9",
    ),
    *(
        "data.batch_size=0",
        "data.batch_size=100000",
        "data.eval_crops=3",
        "data.train_split=x",
        "data.eval_split=",
        "data.augment=1",
    ),
    *(
        "data.augment.shift=99",
        "data.augment.crop_scale=[2,1]",
        "data.augment.flip=2",
        "data.augment.mixup=-1",
        "data.augment.repeats=0",
    ),
    *(
        "overrides.depth=x",
        "overrides.depths=1",
        "overrides.patch_size=0",
        "overrides.image_size=0",
        "overrides.num_classes=-1",
    ),
    *(
        "overrides.mlp_ratio=0",
        "overrides.mlp_ratio=-1",
        "overrides.num_heads=7",
        "overrides.preprocessing=5",
        "overrides.act=none",
    ),
    *(
        "model=vit_toyy",
        "model=",
        "model=vit_toy.x",
        "task=x",
        "seed=-1",
        "seed=99999999999999999999",
        "steps=0",
        "precision=float8",
    ),
    *(
        "loss=x",
        "task.loss=x",
        "task.label_smoothing=1",
        "task.kind=x",
        "task.kind.x=1",
        "progressive=[0]",
        "progressive=[8,x]",
        "xla=x",
        "init_from=no",
        "init_from=file",
    ),
    *(
        "init_from=pipe.png",
        "init_from=hf://x",
        "checkpoint.every_steps=0",
        "keep_architecture=True",
        "preprocessing=1",
    ),
    *("preprocessing.std=[0]", "a.b.c=1", "é=1"),
)
FORMATS = ("", "onx", "ONNX", "saved_model", "onnx", "litert")
PROCESSES = (  # (arguments of Python, variables, what the shell does with the output)
    (["-m", "kzoo", "list"], {}, "| head -1 >/dev/null"),
    (["-m", "kzoo", "list"], {}, ">/dev/full"),
    (["-m", "kzoo", "train", os.fsencode("caf\udce9.py")], {"PYTHONIOENCODING": "ascii"}, ""),
    (["-m", "kzoo", "predict", "no", os.fsencode("caf\udce9.png")], {"LC_ALL": "C"}, ""),
    (["no_run.py"], {}, ""),
)


def prepare(root):
    """Fills the folder with a run, damaged copies of it, pictures, recipe files and whatever else the tables name."""
    import numpy as np
    from PIL import Image

    from kzoo import schema, train

    train(
        schema.Recipe(model="vit_toy", data=schema.Data(source="fake:n=8,classes=3", batch_size=4), steps=1),
        root / "run",
    )
    good = (root / "run" / "checkpoint.npz").read_bytes()
    for name, damage in CHECKPOINTS.items():
        shutil.copytree(root / "run", root / name)
        (root / name / "checkpoint.npz").write_bytes(damage(good))
    good = (root / "run" / "best.npz").read_bytes()
    for name, damage in CHECKPOINTS.items():
        shutil.copytree(root / "run", root / f"best_{name}")
        (root / f"best_{name}" / "best.npz").write_bytes(damage(good))
    for name in ("unnamed", "lost", "blocked"):
        shutil.copytree(root / "run", root / name)
    (root / "unnamed" / "recipe.txt").write_bytes(b"model = 5")
    for name in ("lost", "blocked"):
        (root / name / "checkpoint.npz").unlink()
    (root / "blocked" / "checkpoint.npz").mkdir()
    for name, content in RECIPE_FILES.items():
        (root / name).write_bytes(content)
    (root / "no_run.py").write_bytes(
        b"from kzoo.schema import run_as_script\nRECIPES = {}\nrun_as_script(__name__, RECIPES)\n"
    )
    (root / "folder.py").mkdir()
    (root / "folder").mkdir()
    (root / "file").write_bytes(b"a file")
    picture = io.BytesIO()
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(picture, "PNG")
    content = picture.getvalue()
    bomb = content[:16] + (20_000).to_bytes(4, "big") * 2 + content[24:]
    pictures = {
        "good.png": content,
        "cut.png": content[:60],
        "void.png": b"",
        "text.jpg": b"text",
        "bomb.png": bomb,
        "caf\udce9.png": content,
    }
    for name, content in pictures.items():
        (root / name).write_bytes(content)
    Image.new("I;16", (12_000, 12_000)).save(root / "wide.png")
    os.mkfifo(root / "pipe.png")
    (root / "gone.png").symlink_to("nowhere.png")
    (root / "loop.png").symlink_to("loop.png")
    for kind in ("cat", "dog"):
        (root / "loops" / kind).mkdir(parents=True)
        for name in ("up", "again"):
            (root / "loops" / kind / name).symlink_to("..")
        for i in range(20):
            shutil.copy(root / "good.png", root / "loops" / kind / f"{i}.png")


RUNS = ("run", "run/model.keras", "unnamed", "lost", "blocked", *CHECKPOINTS, *(f"best_{name}" for name in CHECKPOINTS))
BEST = [], ["--best"]


def _evaluate(one):
    return ["evaluate", one("run", one(*RUNS, *PATHS)), *one(*BEST), *one([], ["--data", one(*SOURCES)])]


def _predict(one):
    words = [
        "predict",
        one("run", one(*RUNS, *NAMES, *PATHS, "vit_toy", "resnet_toy")),
        one(*PICTURES),
        *one([], [one(*PICTURES)]),
    ]
    options = (
        ["--top", one("0", "-1", "x", "1e9", "999999999")],
        ["--out", one(*PATHS)],
        ["--weights", one(*PATHS)],
        ["--random-weights"],
    )
    options += (["--dtype", one("float8", "", "bfloat16")], ["--attention"], ["--json"], [], ["--random-weights"])
    return words + one(*BEST) + one(*options) + one(*options)


def _export(one):
    words = ["export", one("run", *RUNS, *NAMES, *PATHS), "--format", one(*FORMATS), "--out", one(*PATHS)]
    return (
        words
        + one(*BEST)
        + one([], ["--quantize", one("int8", "fp16", "")], ["--random-weights"], ["--weights", one(*PATHS)])
    )


def _train_file(one):
    return ["train", one(*RECIPE_FILES, "folder.py", "no.py", "no.txt", "syntax.py:x", "good.png", *PATHS, *NAMES)]


def _train(one):
    words = ["train", one("vit_tiny_digits", "unknown.txt", "run/recipe.txt"), "--smoke", "--set", one(*SETTINGS)]
    elsewhere = ["--workdir", one("unnamed", "lost", "blocked", "cut", *PATHS), "--set", f"data.source={one(*SOURCES)}"]
    return words + one([], [one(*SETTINGS)], ["--preview", "--out", one(*PATHS)], elsewhere)


def _others(one):
    word = one(*NAMES, *PATHS, "vit_toy")
    packed = ["data", "pack", one(*SOURCES), one(*PATHS)], ["data", "pack", "digits", one(*PATHS) + ".npz"]
    listed = (
        ["list", word],
        ["list", "--family", word],
        ["list", "--recipes", word],
        ["info", word],
        ["info", word, "--jsn"],
    )
    return one(*packed, *listed, ["check", word + "?"], ["check", "vit_toy", "--task", word], [word], ["data", word])


SHARES = (_evaluate, _predict, _predict, _predict, _export, _train, _train, _train_file, _others, _others)


def lines(count, seed):
    """`count` different command lines, each a list of words."""
    draw, found = random.Random(seed), {}

    def one(*options):
        return draw.choice(options)

    while len(found) < count:
        words = one(*SHARES)(one)
        found[tuple(words)] = words
    return list(found.values())


def judge(words):
    """(outcome, seconds, bytes of memory beyond before, what was said) of one line in this process."""
    from kzoo.cli import main

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    before, began, status, failure = _memory(reset=True), time.monotonic(), None, None
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
        except BaseException as error:
            failure = error
        finally:
            signal.alarm(0)
    seconds, memory = time.monotonic() - began, _memory() - before
    err.flush()
    said = err.buffer.getvalue().decode("utf-8", "replace")
    if failure is not None:
        said = f"{type(failure).__name__}: {failure}"
    return outcome(status, said, failure, seconds, memory), seconds, memory, said


def outcome(status, said, failure=None, seconds=0.0, memory=0):
    """The kind of end of a line, the worst that fits."""
    if isinstance(failure, _Late) or seconds > SECONDS:
        return LONG
    if failure is not None or "Traceback" in said or "Exception ignored" in said:
        return TRACEBACK
    if memory > MEMORY:
        return LARGE
    if status == 0:
        return DONE
    if status == 2 and "usage: kzoo" in said:
        return USAGE
    told = [line for line in said.splitlines() if line.startswith("kzoo: ")]
    return TOLD if status in (1, 2) and len(told) == 1 and said.rstrip().endswith(told[0]) else UNTOLD


class _Late(BaseException):
    """Nothing that the work catches."""


def _too_long(number, frame):
    raise _Late(f"over {SECONDS} s")


def _memory(reset=False):
    """Peak bytes of this process since the last reset; with reset, those of now. 0 where the system does not tell."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return 0
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def judge_process(words, variables, then):
    """outcome of a line that is a process of its own: Python with these arguments, the shell doing the rest."""
    quoted = b" ".join(b"'" + os.fsencode(word) + b"'" for word in words)
    command = b"set -o pipefail; " + os.fsencode(sys.executable) + b" " + quoted + b" " + then.encode()
    done = subprocess.run(
        ["bash", "-c", command], env=CHILD_ENVIRONMENT | variables, capture_output=True, timeout=SECONDS * 3
    )
    said = done.stderr.decode("utf-8", "replace")
    return DONE if "head" in then and done.returncode == 1 and not said else outcome(done.returncode, said), said


def measure(root, count, seed, processes=PROCESSES):
    """The result of `count` lines in `root`, an empty folder, which becomes the working folder meanwhile."""
    outcomes, wrong, slowest, largest = collections.defaultdict(collections.Counter), [], 0.0, 0

    def record(words, found, said):
        outcomes[words[0] if words else ""][found] += 1
        if found not in RIGHT:
            wrong.append({"words": [ascii(word) for word in words], "outcome": found, "said": ascii(said[-400:])})
            progress(f"{found}: {words!a}: {said[-300:]!a}")

    with contextlib.chdir(root):
        with contextlib.redirect_stderr(io.StringIO()):
            prepare(pathlib.Path(root))
        for number, words in enumerate(lines(count, seed), 1):
            found, seconds, memory, said = judge(words)
            record(words, found, said)
            slowest, largest = max(slowest, seconds), max(largest, memory)
            if number % 50 == 0:
                progress(f"{number} of {count}")
        for words, variables, then in processes:
            record(["process"], *judge_process(words, variables, then))
    total = sum(outcomes.values(), collections.Counter())
    totals = {kind: total[kind] for kind in (*RIGHT, *WRONG)}
    figures = {"slowest_s": round(slowest, 1), "largest_mib": largest >> 20}
    kept = {command if command in COMMANDS else "other": {} for command in outcomes}
    for command, counts in outcomes.items():
        own = kept[command if command in COMMANDS else "other"]
        own |= {kind: own.get(kind, 0) + n for kind, n in counts.items()}
    return (
        {"lines": count, "seed": seed, "processes": len(processes), "total": totals}
        | figures
        | {"commands": kept, "wrong": wrong}
    )


COMMANDS = ("train", "predict", "evaluate", "export", "list", "info", "check", "data", "process")


def main():
    options = parser(__doc__)
    options.add_argument("--lines", type=int, default=400, help="command lines to run (default 400)")
    options.add_argument("--seed", type=int, default=0, help="of what is drawn")
    args = options.parse_args()
    os.environ.update(ON_CPU)
    with tempfile.TemporaryDirectory() as root:
        result = measure(root, args.lines, args.seed)
    emit("odd_usage", result, args.save)
    return 1 if result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())

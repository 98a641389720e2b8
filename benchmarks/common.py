"""What the benchmarks share: the machine's description, peers that take turns, the one JSON line."""

import argparse
import atexit
import contextlib
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import signal
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = pathlib.Path(__file__).parent / "results"
# the figures are a CPU's unless an accelerator is asked for
ON_CPU = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
# peers share it
ON_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true", "TF_CPP_MIN_LOG_LEVEL": "3"}
CHILD_ENVIRONMENT = os.environ | ON_CPU | {"PYTHONPATH": str(ROOT)}  # of the processes that are timed or killed
LOAD_AT_START = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # well above 0: something else was running
PACKAGES = (
    *(
        "keras",
        "tensorflow",
        "jax",
        "torch",
        "timm",
        "transformers",
        "safetensors",
        "keras-hub",
        "keras-cv",
        "zeromodels",
    ),
    *("tf2onnx", "onnx", "onnxruntime", "ai-edge-litert", "numpy", "pillow"),
)


def parser(module_doc, rounds=None):
    """The options that the benchmarks share; the description is the first line of the docstring. `rounds` is a default,
    if any.
    """
    options = argparse.ArgumentParser(description=module_doc.splitlines()[0])
    if rounds:
        options.add_argument("--rounds", type=int, default=rounds, help=f"turns of each peer (default {rounds})")
    options.add_argument("--save", action="store_true", help="also write benchmarks/results/NAME.json")
    return options


def environment(gpu=None):
    """Date (UTC), hardware and versions that a figure is worthless without; gpu: the accelerator's name where the
    figures are its.
    """
    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "device": gpu or "cpu",
        "cpu": _cpu_model(),
        "cores": cores(),
        "load_at_start": LOAD_AT_START,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES if name in installed},
    }


def cores():
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu_model():
    listing = pathlib.Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def progress(text):
    """One line for whoever is waiting; stdout stays the result's alone."""
    print(text, file=sys.stderr, flush=True)


def interleave(peers, rounds, warm_up=True):
    """{name: [value of each round]} of callables that take turns; who goes first moves on with every round.

    What the machine does meanwhile so falls on all peers alike. With `warm_up`, a round before the first is run and
    not recorded.
    """
    names, values = list(peers), {name: [] for name in peers}
    for number in range(-1 if warm_up else 0, rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            value = peers[name]()
            if number >= 0:
                values[name].append(value)
        progress(f"round {number + 1} of {rounds}")
    return values


def medians(values):
    """{name: median} of interleave()'s lists."""
    return {name: statistics.median(series) for name, series in values.items()}


def spread(values):
    """{name: (largest - smallest) / median} of interleave()'s lists: how far to trust the medians."""
    return {name: round((max(series) - min(series)) / statistics.median(series), 3) for name, series in values.items()}


def quotient(over, under):
    """{"ratio": of the medians, "quartiles": of the rounds' own ratios} of two of interleave()'s lists."""
    rounds = [a / b for a, b in zip(over, under, strict=True)]
    low, _, high = statistics.quantiles(rounds, n=4) if len(rounds) > 1 else rounds * 3
    return {
        "ratio": round(statistics.median(over) / statistics.median(under), 3),
        "quartiles": [round(low, 3), round(high, 3)],
    }


def seconds_of(call, at_least=0.3):
    """Seconds that one `call()` takes, as the mean over as many calls as fill `at_least` seconds."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < at_least:
        call()
        count += 1
    return elapsed / count


class Peer:
    """A process of its own that prepares a workload once and then times it whenever it is called.

    Two frameworks in one process would share, or fight over, its threads; here the peer that has no turn is stopped
    (SIGSTOP), for threads that spin while they wait would take the others' cores. `setup(*arguments)` runs in the
    process, `variables` in its environment, and returns a callable without arguments; calling the Peer returns the
    seconds that it takes. The process ends with its parent.
    """

    def __init__(self, setup, *arguments, variables=ON_CPU):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, variables, setup, arguments), daemon=True)
        process.start()
        theirs.close()  # so that a dead peer is an EOFError here
        self._process, self._pid = process, process.pid
        atexit.register(process.kill)  # a stopped process would not hear the polite end that daemons are given
        self._answer()

    def __call__(self):
        os.kill(self._pid, signal.SIGCONT)
        self._pipe.send("turn")
        return self._answer()

    def end(self):
        """Ends the process, whose memory is free again."""
        self._process.kill()
        self._process.join()

    def _answer(self):
        answer = self._pipe.recv()
        os.kill(self._pid, signal.SIGSTOP)
        return answer


def in_turn_alone(setup, *arguments, variables=ON_CPU):
    """Like Peer(), for workloads of which memory holds one at a time: every turn is a process anew, which prepares,
    is timed and ends.
    """

    def turn():
        peer = Peer(setup, *arguments, variables=variables)
        seconds = peer()
        peer.end()
        return seconds

    return turn


def _serve(pipe, variables, setup, arguments):
    os.environ.update(variables)
    os.dup2(2, 1)  # what a library prints is not the result
    workload = setup(*arguments)
    workload()  # compilation and first touch
    pipe.send("ready")
    with contextlib.suppress(EOFError):  # the parent is done
        while pipe.recv():
            pipe.send(seconds_of(workload))


def emit(name, result, save, gpu=None):
    """Prints the result, with the environment, as one JSON line; with `save` also writes results/NAME.json,
    indented.
    """
    result = {"benchmark": name} | result | environment(gpu)
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))

"""How long a user waits before anything happens: whole processes, in milliseconds, medians.

`floor` is Python doing nothing; timm lists its models, as `kzoo list` does.
"""

import functools
import importlib.util
import subprocess
import sys
import time

from benchmarks.common import CHILD_ENVIRONMENT, ROOT, emit, interleave, medians, parser, progress, spread

COMMANDS = {
    "floor": ("-c", "pass"),
    "import_kzoo": ("-c", "import kzoo"),
    "kzoo_list": ("-m", "kzoo", "list"),
    "timm_list": ("-c", "from tests.torch_reference import import_timm; import_timm().list_models()"),
    "import_keras_hub": ("-c", "import keras_hub"),
}
PEERS = {"timm_list": "timm", "import_keras_hub": "keras_hub"}
TARGETS_MS = {"import_kzoo": 50, "kzoo_list": 300}


def milliseconds(arguments):
    """The wall time of one Python process, start to exit; one that fails stops the benchmark."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=CHILD_ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    return 1e3 * (time.perf_counter() - start)


def measure(rounds):
    """The figures of one comparison, as emit() prints them."""
    absent = [name for name, package in PEERS.items() if importlib.util.find_spec(package) is None]
    progress(f"not installed, so not measured: {', '.join(absent) or 'none'}")
    commands = {
        name: functools.partial(milliseconds, command) for name, command in COMMANDS.items() if name not in absent
    }
    values = interleave(commands, rounds)
    took = medians(values)
    return {
        "rounds": rounds,
        "median_ms": {name: round(value, 1) for name, value in took.items()},
        "above_floor_ms": {name: round(value - took["floor"], 1) for name, value in took.items() if name != "floor"},
        "spread": spread(values),
        "targets_ms": TARGETS_MS,
        "ratio_to_kzoo_list": {name: round(took[name] / took["kzoo_list"], 1) for name in PEERS if name in took},
        "not_installed": absent,
    }


def main():
    options = parser(__doc__, rounds=11).parse_args()
    emit("startup", measure(options.rounds), options.save)


if __name__ == "__main__":
    main()

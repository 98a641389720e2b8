"""Loading one safetensors file of timm's: seconds and peak memory of kzoo.load_weights beside timm's load_checkpoint.

Every turn is a process of its own, which builds the model, sets the peak of its resident memory back (Linux), loads the
file, and reads the peak: what loading takes beyond the built model, mapped pages of the file included. kzoo also
computes the file's SHA-256; what that alone takes in the same process is told apart and subtracted. The file has been
read before, so it comes from the page cache. Further turns measure what a user calls, building the model with the
file's weights: kzoo.get(weights=), its SHA-256 and all, beside timm's create_model(checkpoint_path=).
"""

import gc
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from benchmarks.common import CHILD_ENVIRONMENT, ROOT, emit, interleave, medians, parser, progress, quotient, spread

MIB = 2**20
LIBRARIES = ("kzoo", "timm", "kzoo whole", "timm whole")


def write(name, path):
    """timm's random weights of a model as a safetensors file."""
    from safetensors.torch import save_file

    from tests.torch_reference import import_timm

    save_file(import_timm().create_model(name).state_dict(), path)


def loader(library, name, file):
    """A callable that loads the file into a model of the library, which is built here; of "... whole" turns, one that
    builds it too.
    """
    if library == "kzoo whole":
        import kzoo

        kzoo.get("vit_toy")  # the backend's import is not measured
        return lambda: kzoo.get(name, weights=file)
    if library == "timm whole":
        from tests.torch_reference import import_timm

        create = import_timm().create_model
        return lambda: create(name, checkpoint_path=str(file))
    if library == "kzoo":
        import kzoo

        model = kzoo.get(name)
        return lambda: kzoo.load_weights(model, file)
    from tests.torch_reference import import_timm

    model = import_timm().create_model(name)
    return lambda: import_timm("timm.models").load_checkpoint(model, str(file), strict=True)


def child(library, name, file):
    """Prints {"seconds", "digest_seconds", "peak_bytes"} of one turn."""
    load = loader(library, name, file)
    gc.collect()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = status("VmHWM")
    start = time.perf_counter()
    load()
    seconds = time.perf_counter() - start
    peak = status("VmHWM") - before
    start = time.perf_counter()
    with open(file, "rb") as opened:
        hashlib.file_digest(opened, "sha256")
    print(json.dumps({"seconds": seconds, "digest_seconds": time.perf_counter() - start, "peak_bytes": peak}))


def status(field):
    """Bytes of a field of this process's /proc/self/status."""
    return int(re.search(rf"{field}:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024


def turn(library, name, file):
    """What `child` measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load", "--name", name, "--child", library, str(file)]
    done = subprocess.run(command, cwd=ROOT, env=CHILD_ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(name, rounds):
    """The figures of the comparison, as emit() prints them."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.safetensors"
        subprocess.run(
            [sys.executable, "-m", "benchmarks.load", "--name", name, "--child", "write", str(file)],
            cwd=ROOT,
            check=True,
        )
        size = file.stat().st_size
        turns = interleave(
            {library: lambda library=library: turn(library, name, file) for library in LIBRARIES}, rounds
        )
    seconds = {library: [t["seconds"] for t in series] for library, series in turns.items()}
    digest = [t["digest_seconds"] for t in turns["kzoo"]]
    seconds |= {"digest": digest, "kzoo_without_digest": [a - b for a, b in zip(seconds["kzoo"], digest, strict=True)]}
    peaks = medians({library: [t["peak_bytes"] for t in series] for library, series in turns.items()})
    return {
        "model": name,
        "rounds": rounds,
        "file_mib": round(size / MIB, 1),
        "seconds": {name: round(value, 3) for name, value in medians(seconds).items()},
        "to_timm": quotient(seconds["kzoo_without_digest"], seconds["timm"]),
        "whole_to_timm": quotient(seconds["kzoo whole"], seconds["timm whole"]),
        "spread": spread(seconds),
        "peak_mib": {library: round(peak / MIB, 1) for library, peak in peaks.items()},
        "peak_to_weights": {library: round(peak / size, 3) for library, peak in peaks.items()},
    }


def main():
    options = parser(__doc__, rounds=5)
    options.add_argument("--name", default="vit_large_patch16_224")
    options.add_argument("--child", nargs=2, help="kzoo|timm|write and the file; used by the benchmark itself")
    options = options.parse_args()
    if options.child:
        what, file = options.child
        return write(options.name, file) if what == "write" else child(what, options.name, pathlib.Path(file))
    result = measure(options.name, options.rounds)
    progress(
        f"kzoo {result['to_timm']['ratio']} times timm's seconds, the digest apart; {result['whole_to_timm']['ratio']} "
        "with building"
    )
    emit("load", result, options.save)


if __name__ == "__main__":
    main()

"""Starting and comparing the peers of `infer` and `step`: one architecture from several libraries, beside the machine's
limit.

A peer's name is its library and its mode, for example timm_compiled; "bfloat16" in the mode marks reduced precision,
and only peers of one precision are compared. What a library does not have, or what is not installed, is left out and
listed with the reason.
"""

import importlib.util
import subprocess
from dataclasses import dataclass

import kzoo
from benchmarks.common import (
    ON_CPU,
    ON_GPU,
    Peer,
    emit,
    in_turn_alone,
    interleave,
    medians,
    parser,
    progress,
    quotient,
    spread,
)

PACKAGE_OF = {
    **{
        "kzoo": "keras",
        "keras_hub": "keras_hub",
        "zeromodels": "zeromodels",
        "timm": "timm",
        "transformers": "transformers",
    },
    **{"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"},
}
LIBRARIES = ("timm", "keras_hub", "zeromodels")  # that kzoo is compared with
COMPARED = {"keras_hub": ("vit",), "zeromodels": ("vit", "detr")}  # the families that they are known to build alike
PEAKS = ("tensorflow", "jax", "torch")  # whose matrix product is the machine's limit


@dataclass(frozen=True)
class Work:
    """What every peer is given."""

    model: str  # kzoo's name
    timm: str  # timm's name of it, or "none"
    batch: int
    image_size: int | None  # pixels a side; None: the model's own
    matmul: int  # side of the matrices that measure the peak
    omp_wait: str  # what OpenMP threads of torch do while they wait: ACTIVE spins, PASSIVE sleeps
    gpu: bool

    @property
    def overrides(self):
        """Of kzoo.get."""
        return {} if self.image_size is None else {"image_size": self.image_size}


def run(name, doc, setups, model, batch, passes):
    """A benchmark's whole command: measures what the command line asks for and emits it; of another model than usual,
    under its name too.

    setups: {"cpu" | "gpu": {peer's name: setup(work) -> callable}}; model and batch are defaults; passes: how many
    forward passes' products one call costs, 3 for a training step.
    """
    options = _options(doc, model, batch).parse_args()
    timm = options.timm or options.model
    work = Work(options.model, timm, options.batch, options.image_size, options.matmul, options.omp_wait, options.gpu)
    result = measure(setups["gpu" if work.gpu else "cpu"], work, options.rounds, passes, options.only)
    name = name if work.model == model else f"{name}_{work.model}"
    if work.gpu:
        emit(f"{name}_gpu", result, options.save, gpu_name())
    else:
        emit(name, result, options.save)


def measure(setups, work, rounds, passes, only=None):
    """The figures of one comparison, as emit() prints them."""
    peers, absent = start(setups, work, only)
    values = interleave(peers, rounds)
    seconds, peaks = split_peaks(values, work)
    rates = {name: work.batch / median for name, median in medians(seconds).items()}
    gmacs = gmacs_of(work)
    return {
        "model": work.model,
        "batch": work.batch,
        "image_size": work.image_size,
        "rounds": rounds,
        "gmacs": round(gmacs, 4),
        "images_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "peak_gflops": peaks,
        "share_of_peak": share_of_peak(rates, passes * gmacs, peaks),
        "kzoo_faster": compare(seconds),
        "spread": spread(values),
        "absent": absent,
    }


def _options(doc, model, batch):
    options = parser(doc, rounds=15)
    options.add_argument("--model", default=model)
    options.add_argument("--timm", help="timm's name of the model (default: the same); 'none' leaves timm out")
    options.add_argument("--batch", type=int, default=batch)
    options.add_argument("--image-size", type=int, help="pixels a side (default: the model's own)")
    shared_options(options)
    return options


def shared_options(options):
    """Adds what every comparison of peers is asked with."""
    options.add_argument("--matmul", type=int, default=4096, help="side of the matrices that measure the peak")
    options.add_argument(
        "--omp-wait", choices=("ACTIVE", "PASSIVE"), default="ACTIVE", help="spinning is torch's faster way if idle"
    )
    options.add_argument("--only", nargs="+", metavar="PEER", help="these peers alone")
    options.add_argument(
        "--gpu", action="store_true", help="on the accelerator: JAX beside compiled torch, in bfloat16"
    )


def gpu_name():
    """The accelerator's name, as its driver gives it."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def start(setups, work, only=None, alone=False):
    """({name: Peer}, {name: why it is left out}) of a table {name: setup(work) -> callable}; `alone`: of peers whose
    turns are processes anew.
    """
    begin = in_turn_alone if alone else Peer
    peers, absent = {}, {}
    for name, setup in setups.items():
        reason = "not asked for" if only and name not in only else lacks(library_of(name), work)
        if reason:
            absent[name] = reason
            continue
        progress(f"preparing {name}")
        peers[name] = begin(setup, work, variables=ON_GPU if work.gpu else ON_CPU)
    return peers, absent


def library_of(name):
    return max((library for library in PACKAGE_OF if name.startswith(library + "_")), key=len)


def lacks(library, work):
    """Why a library cannot take part; None where it can."""
    if importlib.util.find_spec(PACKAGE_OF[library]) is None:
        return "not installed"
    if library == "timm" and work.timm == "none":
        return "has no such model"
    if (families := COMPARED.get(library)) and kzoo.info(work.model).family not in families:
        return f"compared for the family {' and '.join(families)} alone"
    return None


def compare(seconds):
    """{precision: {library: quotient of its fastest mode's seconds and kzoo's fastest mode's}} of interleave()'s
    seconds.
    """
    result = {}
    for precision in ("float32", "bfloat16"):
        ours = fastest(seconds, "kzoo", precision)
        theirs = {library: fastest(seconds, library, precision) for library in LIBRARIES}
        found = {library: quotient(seconds[name], seconds[ours]) for library, name in theirs.items() if ours and name}
        if found:
            result[precision] = found
    return result


def fastest(seconds, library, precision):
    """The name of the library's mode with the smallest median in that precision, or None."""
    names = [n for n in seconds if library_of(n) == library and ("bfloat16" in n) == (precision == "bfloat16")]
    return min(names, key=lambda name: sorted(seconds[name])[len(seconds[name]) // 2], default=None)


def split_peaks(values, work):
    """(the peers' seconds, {matrix product: GFLOP/s by the median}) of interleave()'s seconds."""
    peaks = {name: series for name, series in values.items() if library_of(name) in PEAKS}
    rates = {name: round(2e-9 * work.matmul**3 / sorted(series)[len(series) // 2], 1) for name, series in peaks.items()}
    return {name: series for name, series in values.items() if name not in peaks}, rates


def share_of_peak(rates, gmacs, peaks):
    """{name: part of the fastest matrix product of its precision} that images/s of `gmacs` 10^9 multiply-accumulates
    each come to.
    """
    shares = {}
    for name, rate in rates.items():
        limit = max(
            (peak for product, peak in peaks.items() if ("bfloat16" in product) == ("bfloat16" in name)), default=None
        )
        if limit:
            shares[name] = round(2 * gmacs * rate / limit, 3)
    return shares


def gmacs_of(work):
    """10^9 multiply-accumulates of one picture's forward pass. Imports a framework: not before the peers are timed."""
    from kzoo.models.count import count
    from kzoo.registry import config_of

    builder, config = config_of(work.model, work.overrides)
    return count(lambda: builder(config))[1] / 1e9

"""Exact matching of boxes to queries inside a compiled step, beside SciPy's own solver and KerasHub's matcher.

First 11,000 random problems on every backend, each sum against SciPy's optimum (exit status 1 where one differs). Then the
time for 48 problems, 8 pictures x 6 layers: 20 boxes x 100 queries and 100 boxes x 300 queries, of random numbers and of
a detector's costs. SciPy is given them one by one in float64, its own format; KerasHub's matcher one by one in a
TensorFlow graph, and only the first few of them, its time taken times as many.
"""

import importlib.util
import multiprocessing
import os
import pathlib
import sys

import numpy as np

from benchmarks.common import ON_CPU, Peer, emit, interleave, medians, parser, quotient, spread

PROBLEMS, SIZES, KINDS = 48, ((20, 100), (100, 300)), ("uniform", "detector")
CHECKED = ("normal", "ties", "equal", "contested", "scales", "detector", "negative", "huge", "tiny", "full")
EACH, TARGETS, QUERIES = 1000, 12, 16  # problems of each kind that are checked, and their sides
# a sum may be this share of its terms' sizes above the optimum: rounding of float32, of which the costs are
ROUNDING = 1e-6
SAMPLE = {20: 4, 100: 1}  # of the problems, by their boxes, that KerasHub's matcher is given


def problems(kind, shape, seed=0):
    """(cost (B, T, Q) float32, valid (B, T)) of a kind in CHECKED, or uniform; of the first three problems, if there are
    as many, one has no target, one has one, one has all of them.
    """
    rng = np.random.default_rng([seed, *kind.encode()])
    count, targets, queries = shape
    cost = rng.normal(size=shape)
    if kind == "uniform":
        cost = rng.random(shape)
    elif kind == "ties":
        cost = rng.integers(0, 3, shape)
    elif kind == "equal":
        cost = np.ones(shape)
    elif kind == "contested":  # every target wants the same queries
        cost = rng.normal(size=(count, 1, queries)) + 0.05 * cost
    elif kind == "scales":
        cost = np.exp(10 * cost)
    elif kind == "detector":
        cost = _detector(rng, count, targets, queries)
    else:
        cost = {"negative": -np.abs(cost) - 1, "huge": 1e30 * cost, "tiny": 1e-30 * cost}.get(kind, cost)
    valid = rng.random(shape[:2]) < rng.random((count, 1)) + (kind == "full")
    for row, real in enumerate((0, 1, targets)[:count]):
        valid[row] = np.arange(targets) < real
    return cost.astype("float32"), valid


def _detector(rng, count, targets, queries):
    """DETR's matching costs of random boxes: minus a probability, 5 times L1, minus 2 times the generalised IoU."""

    def boxes(number):
        sides = rng.uniform(0.05, 0.5, (count, number, 2))
        return np.concatenate([rng.uniform(0.25, 0.75, sides.shape), sides], axis=-1)

    def area(low, high):
        return np.prod(np.maximum(high - low, 0), axis=-1)

    wanted, given = boxes(targets)[:, :, None], boxes(queries)[:, None]
    (a, b), (c, d) = ((x[..., :2] - x[..., 2:] / 2, x[..., :2] + x[..., 2:] / 2) for x in (wanted, given))
    shared = area(np.maximum(a, c), np.minimum(b, d))
    union, hull = area(a, b) + area(c, d) - shared, area(np.minimum(a, c), np.maximum(b, d))
    likely = rng.dirichlet(np.ones(20), (count, queries)).swapaxes(1, 2)
    likely = np.take_along_axis(likely, rng.integers(0, 20, (count, targets, 1)), axis=1)
    return 5 * np.abs(wanted - given).sum(axis=-1) - likely - 2 * (shared / union - (hull - union) / hull)


def sums(cost, valid, found):
    """(sums of the costs of an answer, the smallest there are, sums of their sizes), float64 (B,).

    Raises ValueError for an answer that is none: a query twice, none for a valid target, one for another.
    """
    from scipy.optimize import linear_sum_assignment

    rows = []
    for costs, real, queries in zip(np.asarray(cost, "float64"), valid, np.asarray(found), strict=True):
        costs, chosen = costs[real], queries[real]
        if (queries[~real] != -1).any() or len(set(chosen)) != real.sum() or (chosen < 0).any():
            raise ValueError(f"{queries} gives no query to each of {real}")
        best = costs[linear_sum_assignment(costs)]
        rows.append((costs[np.arange(len(chosen)), chosen].sum(), best.sum(), np.abs(best).sum()))
    return np.array(rows).T


def compiled(function, backend, xla=True):
    """The function as its backend compiles it; torch does not."""
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=xla, autograph=False)
    if backend == "jax":
        import jax

        return jax.jit(function)
    from keras import ops

    return lambda *given: function(*map(ops.convert_to_tensor, given))


def check(backend):
    """{kind: [problems, how many sums are above the optimum beyond ROUNDING, the largest share that one is]}."""
    from keras import ops

    from kzoo.ops.matching import linear_sum_assignment

    solve, result = compiled(linear_sum_assignment, backend), {}
    for kind in (*CHECKED, "bfloat16"):
        cost, valid = problems(kind, (EACH, TARGETS, TARGETS if kind == "full" else QUERIES))
        given = ops.cast(cost, "bfloat16" if kind == "bfloat16" else "float32")
        found = ops.convert_to_numpy(solve(given, valid))
        ours, best, size = sums(ops.convert_to_numpy(ops.cast(given, "float32")), valid, found)
        excess = (ours - best) / np.maximum(size, 1e-300)
        result[kind] = [len(cost), int((excess > ROUNDING).sum()), float(f"{max(excess.max(), 0):.1e}")]
    return result


def in_child(function, backend):
    """function(backend) in a process of its own, whose Keras has that backend."""
    os.environ.update(ON_CPU | {"KERAS_BACKEND": backend})
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, (backend,))


def ours(backend, xla, kind, size):
    """A callable that solves all problems in one call, the answer as an array."""
    os.environ["KERAS_BACKEND"] = backend
    import keras

    from kzoo.ops.matching import linear_sum_assignment

    cost, _ = problems(kind, (PROBLEMS, *size))
    solve = compiled(linear_sum_assignment, backend, xla)
    given = [keras.ops.convert_to_tensor(each) for each in (cost, np.ones(cost.shape[:2], bool))]
    return lambda: np.asarray(solve(*given))


def scipys(kind, size):
    from scipy.optimize import linear_sum_assignment

    costs = problems(kind, (PROBLEMS, *size))[0].astype("float64")
    return lambda: [linear_sum_assignment(cost) for cost in costs]


def keras_hubs(kind, size):
    """Its solver alone, of square problems; its module is loaded by its path, for the package wants others too."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf

    folder = pathlib.Path(importlib.util.find_spec("keras_hub").origin).parent
    spec = importlib.util.spec_from_file_location("d_fine_utils", folder / "src/models/d_fine/d_fine_utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cost = problems(kind, (PROBLEMS, *size))[0][: SAMPLE[size[0]]].swapaxes(1, 2)
    solve = tf.function(lambda each: module.hungarian_assignment(each, size[1]), autograph=False)
    given = [tf.constant(each) for each in cost]
    return lambda: [[np.asarray(part) for part in solve(each)] for each in given]


def check_keras_hub(backend):
    """{kind: [problems, how many sums of KerasHub's are above the optimum beyond ROUNDING]}, of those that are timed."""
    result, size = {}, SIZES[0]
    for kind in KINDS:
        answers = keras_hubs(kind, size)()
        cost = problems(kind, (PROBLEMS, *size))[0][: len(answers)]
        found = np.full(cost.shape[:2], -1)
        for row, (queries, targets, real) in zip(found, answers, strict=True):
            row[targets[real]] = queries[real]
        ours, best, size_of = sums(cost, np.ones(found.shape, bool), found)
        result[kind] = [len(cost), int((ours - best > ROUNDING * size_of).sum())]
    return result


def measure(kind, size, rounds, keras_hub):
    """The figures of one workload, milliseconds for all its problems."""
    peers = {
        "scipy": Peer(scipys, kind, size),
        "kzoo_tensorflow_xla": Peer(ours, "tensorflow", True, kind, size),
        "kzoo_jax_xla": Peer(ours, "jax", True, kind, size),
        "kzoo_tensorflow_graph": Peer(ours, "tensorflow", False, kind, size),
    }
    values = interleave(peers, rounds)
    if keras_hub:
        peers["keras_hub_graph"] = theirs = Peer(keras_hubs, kind, size)
        values["keras_hub_graph"] = [theirs() * PROBLEMS / SAMPLE[size[0]] for _ in range(min(rounds, 3))]
    for peer in peers.values():
        peer.end()
    ratios = {
        f"{name}_over_scipy": quotient(values[name], values["scipy"]) for name in values if name.startswith("kzoo")
    }
    found = medians(values)
    result = {"boxes": size[0], "queries": size[1], "problems": PROBLEMS, "costs": kind}
    result |= {"milliseconds": {name: round(1000 * seconds, 3) for name, seconds in found.items()}}
    result |= ratios | {"spread": spread(values)}
    if keras_hub:
        result["times_faster_than_keras_hub_graph"] = {
            name: round(found["keras_hub_graph"] / found[name]) for name in found if name.startswith("kzoo")
        }
    return result


def main():
    options = parser(__doc__, rounds=15)
    options.add_argument("--skip-check", action="store_true", help="the times alone")
    options = options.parse_args()
    backends = () if options.skip_check else ("tensorflow", "jax", "torch")
    checked = {backend: in_child(check, backend) for backend in backends}
    keras_hub = importlib.util.find_spec("keras_hub") is not None
    timed = [measure(kind, size, options.rounds, keras_hub) for size in SIZES for kind in KINDS]
    absent = {} if keras_hub else {"keras_hub": "not installed"}
    if keras_hub:
        checked["keras_hub"] = in_child(check_keras_hub, "tensorflow")
    wrong = sum(row[1] for backend in backends for row in checked[backend].values())
    result = {"rounds": options.rounds, "above_the_optimum": wrong, "checked": checked, "timed": timed}
    emit("match", result | {"absent": absent}, options.save)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

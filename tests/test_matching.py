"""The assignment inside a compiled step against SciPy's, problem by problem."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from benchmarks.match import CHECKED, ROUNDING, compiled, problems, sums
from kzoo.errors import UsageError
from kzoo.ops.matching import linear_sum_assignment

pytestmark = pytest.mark.backends
SHAPE = BATCH, TARGETS, QUERIES = 48, 9, 12


@functools.cache
def solver(xla=True):
    return compiled(linear_sum_assignment, keras.backend.backend(), xla)


def solved(cost, valid, xla=True):
    found = ops.convert_to_numpy(solver(xla)(cost, valid))
    assert found.dtype == np.int32 and found.shape == valid.shape and found.max(initial=-1) < cost.shape[2]
    return found


@pytest.mark.parametrize("kind", CHECKED)
def test_the_sum_is_the_smallest_there_is(kind):
    cost, valid = problems(kind, (BATCH, TARGETS, TARGETS if kind == "full" else QUERIES))
    ours, best, size = sums(cost, valid, solved(cost, valid))
    np.testing.assert_array_less(ours - best, ROUNDING * size + 1e-300)


def test_a_graph_without_xla_gives_the_same():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow has graphs that XLA does not compile")
    cost, valid = problems("contested", SHAPE)
    ours, best, size = sums(cost, valid, solved(cost, valid, xla=False))
    np.testing.assert_array_less(ours - best, ROUNDING * size + 1e-300)


def test_sixteen_bits_are_solved_as_they_are_written():
    cost, valid = problems("normal", SHAPE)
    short = ops.cast(cost, "bfloat16")
    rounded = ops.convert_to_numpy(ops.cast(short, "float32"))
    ours, best, size = sums(rounded, valid, solved(short, valid))
    np.testing.assert_array_less(ours - best, ROUNDING * size + 1e-300)


def test_costs_that_are_no_numbers_rank_last():
    """As few of them as there must be, and the smallest sum of the others; a target of nothing else takes what is
    left.
    """
    cost, valid = problems("normal", SHAPE)
    rng = np.random.default_rng(3)
    cost = cost + 3 * rng.normal(size=(BATCH, TARGETS, 1)).astype("float32")  # which target goes without then matters
    broken = rng.random(cost.shape) < rng.uniform(0.5, 1.0, (BATCH, 1, 1))
    broken[2], broken[3, 0] = True, True
    wrong = rng.choice(np.array([np.nan, np.inf, -np.inf], "float32"), cost.shape)
    found = solved(np.where(broken, wrong, cost), valid)
    far = 1e6  # beyond any sum of the others: SciPy then takes as few as there must be
    ours, best, _ = sums(np.where(broken, far, cost.astype("float64")), valid, found)
    assert (np.round(best / far) > 0).any() and (np.round(best / far) == 0).any()
    np.testing.assert_allclose(ours, best, atol=1e-3)


def test_costs_farther_apart_than_numbers_reach():
    far = np.finfo("float32").max
    cost = np.array([[[far, -far, 0], [1, -far, 2]], [[-far, far, 2], [-far, 3, far]]], "float32")
    valid = np.ones((2, 2), bool)
    ours, best, size = sums(cost, valid, solved(cost, valid))
    np.testing.assert_array_less(ours - best, ROUNDING * size)


def test_a_wrong_answer_would_be_seen():
    cost, valid = np.array([[[1.0, 2.0, 4.0], [0.0, 1.0, 1.0]]]), np.array([[True, True]])
    assert [list(sums(cost, valid, [answer])[:2, 0]) for answer in ([0, 2], [1, 0])] == [[2.0, 2.0], [2.0, 2.0]]
    assert sums(cost, valid, [[2, 0]])[0] == 4.0
    for answer, real in (([1, 1], [True, True]), ([1, -1], [True, True]), ([1, 0], [True, False])):
        with pytest.raises(ValueError, match="gives no query"):
            sums(cost, np.array([real]), np.array([answer]))


def test_no_target_at_all():
    assert solved(np.zeros((4, 0, 5), "float32"), np.zeros((4, 0), bool)).shape == (4, 0)


def test_more_targets_than_queries_are_refused():
    with pytest.raises(UsageError, match="6 targets .* 5"):
        linear_sum_assignment(np.zeros((1, 6, 5), "float32"), np.ones((1, 6), bool))


def test_no_gradient_goes_through():
    from tests.test_boxes import gradient

    cost, valid = problems("normal", (3, 3, 4))
    wanted = lambda x: ops.sum(x) + ops.cast(ops.sum(linear_sum_assignment(x, valid)), "float32")  # noqa: E731
    np.testing.assert_array_equal(gradient(wanted, cost), 1.0)

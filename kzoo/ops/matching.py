"""The assignment problem, solved exactly inside a compiled step, all problems of a batch at once.

Shortest augmenting paths with potentials (R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense
and sparse linear assignment problems", 1987), each problem at a path of its own: one turn of the loop scans one query
in every problem. Every target's cheapest query is given out before, where nobody asked for it earlier, which leaves
few paths to search.
"""

from keras import ops

from kzoo.errors import UsageError

FAR = 1e30  # the distance of a query that no path has reached; the costs that the search sees are at most 2 T + 2


def linear_sum_assignment(cost, valid):
    """The query of each target, so that every problem's sum of costs is the smallest that there is.

    cost (B, T, Q), any float; valid (B, T) bool -> (B, T) int32 in 0..Q-1, no query twice in a problem; -1 where a
    target is not valid. T <= Q, both fixed; computed in float32, without a gradient.

    NaN and infinite costs rank last: a problem has as few of those pairs as its targets allow, and the smallest sum
    over all others. Among equal sums any may be the answer. Raises UsageError for more targets than queries.
    """
    cost, valid = ops.stop_gradient(ops.convert_to_tensor(cost)), ops.cast(valid, "bool")
    targets, queries = cost.shape[1:]
    if targets is None or queries is None or targets > queries:
        raise UsageError(
            f"{targets} targets cannot each have a query of their own of {queries}: give the model more queries or "
            "the batch room for fewer boxes, and fixed numbers of both."
        )
    if not targets:
        return ops.zeros(ops.shape(valid), "int32")
    cost = prepared(ops.cast(cost, "float32"), valid)
    owner = _first_come(cost, valid)
    pending = ops.logical_and(valid, ops.logical_not(_owns(owner, targets)))
    owner = _search(cost, owner, pending)
    number = ops.arange(queries, dtype="int32")
    theirs = owner[:, None, :] == ops.arange(targets, dtype="int32")[:, None]  # (B, T, Q)
    return ops.max(ops.where(theirs, number, -1), axis=-1)


def prepared(cost, valid):
    """Costs with the same solutions: 0 the least of each target, no other above 1 but what ranks last, 2 T + 1 or
    more.
    """
    infinite = float("inf")
    number = ops.logical_and(ops.isfinite(cost), valid[..., None])
    # so that no two are too far apart for float32, nor is the reciprocal of their distance, by which XLA divides
    cost = cost / 16.0
    least = ops.min(ops.where(number, cost, infinite), axis=-1, keepdims=True)  # (B, T, 1)
    some = least < infinite  # a target without any cost takes what is left
    least = ops.where(some, least, 0.0)
    lowest = ops.min(ops.where(some, least, infinite), axis=1, keepdims=True)
    most = ops.max(ops.where(number, cost, -infinite), axis=(1, 2), keepdims=True)
    span = ops.maximum(ops.where(lowest < infinite, most - lowest, 0.0), 1e-37)
    # what ranks last costs every target the same, before its least is taken off
    last = 2.0 * (cost.shape[1] + 1) - ops.where(some, (least - lowest) / span, 0.0)
    above = ops.where(number, (cost - least) / span, infinite)
    return ops.where(some, ops.minimum(above, last), 0.0)


def _first_come(cost, valid):
    """The target (B, Q) to which each query is given: the first whose cheapest it is; -1 for none."""
    targets, queries = cost.shape[1:]
    number = ops.arange(queries, dtype="int32")
    wanted = ops.min(ops.where(cost <= 0.0, number, queries), axis=-1)  # (B, T)
    wanted = ops.where(valid, wanted, queries)
    asks = wanted[..., None] == number
    first = ops.min(ops.where(asks, ops.arange(targets, dtype="int32")[:, None], targets), axis=1)
    return ops.where(first < targets, first, -1)


def _owns(owner, targets):
    """Whether each target (B, T) has a query, of the queries' owners (B, Q)."""
    return ops.any(owner[:, None, :] == ops.arange(targets, dtype="int32")[:, None], axis=-1)


def _search(cost, owner, pending):
    """The owners (B, Q) after every pending target (B, T) has found a query, by one augmenting path each."""
    targets, queries = cost.shape[1:]
    number, order = ops.arange(queries, dtype="int32"), ops.arange(targets, dtype="int32")
    problem = ops.arange(ops.shape(cost)[0], dtype="int32")
    rows, flat = ops.reshape(cost, (-1, queries)), ops.reshape(cost, (-1,))

    def at(values, column):
        """values (B, Q) at a column (B,) of each problem."""
        return ops.take(ops.reshape(values, (-1,)), problem * queries + column)

    def next_root(pending):
        return ops.min(ops.where(pending, order, targets), axis=-1)

    def unfinished(root, *_):
        return ops.any(root < targets)

    def turn(root, row, via, base, floor, distance, before, scanned, price, owner, pending):
        line = problem * targets + ops.minimum(row, targets - 1)
        # from the row by way of each query that has not been scanned
        found = ops.maximum(ops.take(rows, line, axis=0) - price + base[:, None], floor[:, None])
        nearer = ops.where(scanned, distance, ops.minimum(found, distance))
        before = ops.where(nearer < distance, via[:, None], before)
        distance = nearer
        open_distance = ops.where(scanned, FAR, distance)
        floor = ops.min(open_distance, axis=-1)
        # the nearest, among equals one that is free
        rank = ops.where(owner < 0, number, number + queries)
        pick = ops.min(ops.where(open_distance <= floor[:, None], rank, 2 * queries), axis=-1)
        ends = pick < queries
        column = ops.where(ends, pick, pick - queries)
        ends = ops.logical_and(ends, root < targets)
        # where it is taken, the search goes on from its owner
        row = ops.maximum(at(owner, column), 0)
        base = floor - (ops.take(flat, (problem * targets + row) * queries + column) - at(price, column))
        done = ends[:, None]
        price = ops.where(ops.logical_and(done, scanned), price + distance - floor[:, None], price)
        scanned = ops.logical_and(ops.logical_or(scanned, number == column[:, None]), ops.logical_not(done))
        distance = ops.where(done, FAR, distance)
        owner = _handed_over(owner, before, column, ends, root, at, number)
        pending = ops.logical_and(pending, ops.logical_not(ops.logical_and(done, order == root[:, None])))
        root = next_root(pending)
        row, via = ops.where(ends, root, row), ops.where(ends, -1, column)
        base, floor = ops.where(ends, 0.0, base), ops.where(ends, 0.0, floor)
        return root, row, via, base, floor, distance, before, scanned, price, owner, pending

    root = next_root(pending)
    nothing, zeros = ops.zeros_like(cost[:, 0]), ops.zeros_like(cost[:, 0, 0])
    start = (root, root, ops.zeros_like(root) - 1, zeros, zeros, nothing + FAR, ops.zeros_like(owner) - 1)
    start += (ops.zeros_like(owner, dtype="bool"), nothing, owner, pending)
    # each path scans as many queries as there are targets at most
    return ops.while_loop(unfinished, turn, start, maximum_iterations=targets * (targets + 1))[-2]


def _handed_over(owner, before, column, ends, root, at, number):
    """The owners after each path that ends at its free column: every query on it goes to the owner of the one
    before, the first to the root.
    """

    def on_the_way(column, walks, owner):
        return ops.any(walks)

    def step(column, walks, owner):
        earlier = at(before, column)
        first = earlier < 0
        heir = ops.where(first, root, at(owner, ops.maximum(earlier, 0)))
        owner = ops.where(ops.logical_and(walks[:, None], number == column[:, None]), heir[:, None], owner)
        return ops.where(first, column, earlier), ops.logical_and(walks, ops.logical_not(first)), owner

    return ops.while_loop(on_the_way, step, (column, ends, owner), maximum_iterations=owner.shape[1])[-1]

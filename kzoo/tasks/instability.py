"""How far the matching of queries to objects moves between two evaluations. NumPy alone, but for the costs."""

import numpy as np

PICTURES = 300  # of the held-out ones the first: of 750 objects a share's standard error is 0.018 at most
_LAST = 1e9  # a cost that is no number


class Instability:
    """Gathers, batch by batch, the query that the last layer's matching gives each object of the first PICTURES
    pictures.

    costs: the weights of matching_cost. Some 0.3 ms a picture, half of what pycocotools takes for one.
    """

    def __init__(self, costs):
        self.costs, self.queries, self.pictures = costs, [], 0

    def update(self, outputs, y, real):
        rows = np.flatnonzero(real)[: PICTURES - self.pictures]
        self.pictures += len(rows)
        if not len(rows):
            return
        cost = self._cost(outputs, y)
        for i in rows:
            self.queries.extend(assigned(cost[i, y["valid"][i]]).tolist())

    def _cost(self, outputs, y):
        """(B, T, Q) as the loss has it."""
        from keras import ops

        from kzoo.tasks.views.detect import layers_of, matching_cost, targets_of

        logits, boxes = layers_of(outputs, aux_loss=False)
        cost = matching_cost(logits, boxes, targets_of(y, logits.shape[-1] - 1), **self.costs)
        return ops.convert_to_numpy(cost)[:, 0]

    def share(self, before):
        """The share of objects with another query than `before`, that list of the evaluation before; None where it was
        of other objects, or there are none.
        """
        if len(before) != len(self.queries) or not before:
            return None
        return float(np.mean(np.array(before) != np.array(self.queries)))


def assigned(cost):
    """The column of each row (T,) of a cost (T, Q), T at most Q, so that the sum is the smallest; float64.

    Each its cheapest where no two have the same; else a shortest augmenting path a row, with potentials, as in
    kzoo.ops.matching, whose loop is for compiled steps: called from outside of one it is compiled anew each time under
    JAX.
    """
    cost = np.nan_to_num(np.asarray(cost, np.float64), nan=_LAST, posinf=_LAST, neginf=-_LAST)
    rows, columns = cost.shape
    if rows and len(set(cheapest := np.argmin(cost, axis=1).tolist())) == rows:
        return np.array(cheapest)
    worth, price, owner = np.zeros(rows), np.zeros(columns), np.full(columns, -1)
    for root in range(rows):
        distance, before, unseen = np.full(columns, np.inf), np.full(columns, -1), np.ones(columns, bool)
        row, via, reached = root, -1, 0.0
        while True:
            found = reached + cost[row] - worth[row] - price
            nearer = unseen & (found < distance)
            distance[nearer], before[nearer] = found[nearer], via
            column = int(np.argmin(np.where(unseen, distance, np.inf)))
            reached = distance[column]
            if owner[column] < 0:
                break
            unseen[column] = False
            row, via = owner[column], column
        seen = np.flatnonzero(~unseen)
        worth[root] += reached
        worth[owner[seen]] += reached - distance[seen]
        price[seen] -= reached - distance[seen]
        while column >= 0:
            via = before[column]
            owner[column] = owner[via] if via >= 0 else root
            column = via
    given = np.flatnonzero(owner >= 0)
    result = np.empty(rows, int)
    result[owner[given]] = given
    return result

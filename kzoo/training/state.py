"""Everything a run needs to continue bit for bit, in one file: weights, averages, optimizer, random state, metrics,
position.
"""

import json

import keras
import numpy as np

from kzoo.archives.zips import seal
from kzoo.errors import UserError
from kzoo.files import replacing
from kzoo.keras_private import averages
from kzoo.weights.read import BEST, CHECKPOINT, PREVIOUS, read_checkpoint
from kzoo.weights.surgery import position_tables, resize_table


class Diverged(UserError):
    """A run has left the numbers: its loss or weights are not finite."""


def _weights(view):
    """{key: weight} of what the view computes with, but for what it was given."""
    return {f"weights/{v.path}": v for v in view.network.weights} | view.own()


def _groups(view):
    """{key: variable} of the view's whole state, but for what it was given. Weights go by name; the rest, unnamed, by
    its fixed order.
    """
    groups = _weights(view)
    averaged = {
        id(v): f"task_average/{key.removeprefix('task/')}" for key, v in groups.items() if key.startswith("task/")
    }
    if averages(view.optimizer):
        keys = [averaged.get(id(v), f"average/{v.path}") for v in view.trainable_variables]
        groups |= dict(zip(keys, averages(view.optimizer), strict=True))
    known = {id(v) for v in (*groups.values(), *view.given)}
    rest = {
        "optimizer": view.optimizer.variables,
        "metrics": view.metrics_variables,
        "state": view.non_trainable_variables,
    }
    for name, variables in rest.items():
        fresh = [v for v in variables if id(v) not in known]
        groups |= {f"{name}/{i:05d}": v for i, v in enumerate(fresh)}
        known |= {id(v) for v in fresh}
    return groups


def save(view, run, meta):
    """Replaces the run's checkpoint atomically and keeps the one before it. Refuses to replace a good one by a state
    that is not finite.
    """
    if hasattr(view, "jax_state_sync"):
        view.jax_state_sync()
    _write(run / CHECKPOINT, _groups(view), meta, "the last good checkpoint is kept", previous=PREVIOUS)


def save_best(view, network, run, meta):
    """Replaces the run's best weights atomically: those of `network`, which was evaluated, and of what the view has of
    its own.
    """
    own = {key: variable for key, variable in _groups(view).items() if key.startswith("task/")}
    _write(run / BEST, {f"weights/{v.path}": v for v in network.weights} | own, meta, "the last good ones are kept")


def _write(path, variables, meta, kept, previous=None):
    arrays = {key: keras.ops.convert_to_numpy(variable) for key, variable in variables.items()}
    bad = next((key for key, value in arrays.items() if not np.isfinite(value).all()), None)
    if bad:
        raise Diverged(f"{bad} is not finite after step {meta['step']}; {kept}. Lower optim.lr or clip harder.")
    with replacing(path, previous=previous) as temporary:
        np.savez(temporary, meta=np.frombuffer(json.dumps(meta | {"sealed": True}).encode(), "uint8"), **arrays)
        seal(temporary)


def restore(view, run):
    """Fills the view from the run's checkpoint: (meta, metric values by variable, which `fit` would otherwise reset).

    Running means of another version, of which a task had other ones, begin anew.
    """
    groups = _groups(view)
    arrays, meta = read_checkpoint(run, shapes={key: tuple(variable.shape) for key, variable in groups.items()})
    for key, value in arrays.items():
        groups[key].assign(value)
    return meta, {key: value for key, value in arrays.items() if key.startswith("metrics/")}


def set_metrics(view, values):
    """Puts metric values from restore() back."""
    groups = _groups(view)
    for key, value in values.items():
        groups[key].assign(value)


def _tables(before, after):
    """{key of its weight: its Table in one view and in the other} of the position tables of networks and of views' own
    layers.
    """
    found = []
    for view in (before, after):
        keys = {id(weight): key for key, weight in _weights(view).items()}
        found.append({keys[id(weight)]: table for weight, table in position_tables(view) if id(weight) in keys})
    return {key: (table, found[1][key]) for key, table in found[0].items() if key in found[1]}


def require_carried(before, after):
    """Raises UserError for a weight that the view `after`, the same run at another image size, cannot take over from
    `before`.
    """
    tables = _tables(before, after)
    old, new = ({key: tuple(weight.shape) for key, weight in _weights(view).items()} for view in (before, after))
    wrong = next((key for key in old | new if key not in tables and old.get(key) != new.get(key)), None)
    if wrong:
        shapes = " and ".join(str(shapes.get(wrong, "missing")) for shapes in (old, new))
        raise UserError(
            f"the weight {wrong.removeprefix('weights/')} is {shapes} at two of the sizes of progressive, and only "
            "position tables can be "
            "resized; train at one size."
        )


def carry(before, after):
    """Fills the view `after` from `before`, the same run at another image size.

    Position tables and their averages are resampled as for any change of size; the optimizer's memory of them linearly,
    which keeps squares positive. Raises as require_carried.
    """
    require_carried(before, after)
    given, groups, tables = _groups(before), _groups(after), _tables(before, after)
    keys = {id(variable): key for key, variable in groups.items()}
    for key, variable in groups.items():
        value = keras.ops.convert_to_numpy(given[key])
        old, new = tables.get(keys.get(after.optimizer.owners.get(id(variable)), key), (None, None))
        if old != new:
            value = resize_table(value, old, new, "bilinear" if key.startswith("optimizer/") else new.method)
        variable.assign(value)

"""A view's weights as a file that its network takes too: Keras' layout of the network, the optimizer's state beside."""

import pathlib

import keras
import numpy as np

_OPTIMIZER = "optimizer/vars"  # where Keras has it


def add_optimizer(path, view):
    """Adds the state of the view's optimizer, where there is any, to the one file of its network's weights."""
    path = pathlib.Path(path)
    if path.suffix != ".h5" or not getattr(view.optimizer, "built", False):
        return
    import h5py

    found = {}
    view.optimizer.save_own_variables(found)
    with h5py.File(path, "r+") as file:
        group = file.create_group(_OPTIMIZER)
        for name, value in found.items():
            value = np.asarray(value)
            group[name] = (
                value if value.dtype.kind in "fiub" else value.astype("float32")
            )  # bfloat16 is no type of HDF5


def read_optimizer(path, view):
    """Fills the view's optimizer with the state in a file, where both have one. Keras warns where it is of another."""
    path = pathlib.Path(path)
    if path.suffix != ".h5" or not view.compiled or not view.optimizer:
        return
    import h5py

    with h5py.File(path, "r") as file:
        if _OPTIMIZER in file:
            view.optimizer.build(view.trainable_variables)
            view.optimizer.load_own_variables({name: value[()] for name, value in file[_OPTIMIZER].items()})


def of_network(path, network):
    """Whether a file holds the network's weights in its own layout, not those of a whole view with the network as the
    one layer in it, as kzoo wrote them before.
    """
    path = pathlib.Path(path)
    if path.suffix != ".h5" or not path.is_file() or not isinstance(network, keras.Model):
        return True
    import h5py

    with h5py.File(path, "r") as file:
        return not ("layers" in file and len(file["layers"]) == 1 < len(network.layers))

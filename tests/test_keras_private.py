"""What kzoo takes of Keras beyond its public interface is there, is called as kzoo calls it, and is taken in one
file.
"""

import ast
import inspect

import keras
import pytest
from keras.src.backend.common import global_state, variables
from keras.src.utils import python_utils

from kzoo.keras_private import OfRun
from tests.test_architecture import ROOT

Optimizer, Layer = keras.optimizers.Optimizer, keras.layers.Layer
PINNED = {
    (Layer, "_flatten_layers"): ["self", "include_self", "recursive"],
    (Layer, "_build_at_init"): ["self"],
    (Layer, "_post_build"): ["self"],
    (keras.Model, "_maybe_symbolic_build"): ["self", "iterator", "data_batch"],  # under TensorFlow, as these tests are
    (Optimizer, "_get_variable_index"): ["self", "variable"],
    (Optimizer, "_use_weight_decay"): ["self", "variable"],
    (Optimizer, "_get_current_learning_rate"): ["self"],
    (Optimizer, "_clip_gradients"): ["self", "grads"],
    (Optimizer, "_apply_weight_decay"): ["self", "variables"],
    (Optimizer, "_backend_update_step"): ["self", "grads", "trainable_variables", "learning_rate"],
    (Optimizer, "_update_model_variables_moving_average"): ["self", "trainable_variables"],
    (Optimizer, "finalize_variable_values"): ["self", "var_list"],
    (Optimizer, "add_variable_from_reference"): ["self", "reference_variable", "name", "initializer"],
    (keras.optimizers.Muon, "_should_use_adamw"): ["self", "variable"],
    (global_state, "get_global_attribute"): ["name", "default", "set_to_default"],
    (global_state, "set_global_attribute"): ["name", "value"],
    (variables, "initialize_all_variables"): [],
    (python_utils, "default"): ["method"],
}


@pytest.mark.parametrize(("owner", "name"), PINNED, ids=lambda part: getattr(part, "__name__", part))
def test_it_is_called_as_kzoo_calls_it(owner, name):
    assert list(inspect.signature(getattr(owner, name)).parameters) == PINNED[owner, name]


@pytest.mark.backends
def test_what_is_read_is_there():
    layer, optimizer = keras.layers.Dense(1), keras.optimizers.AdamW(1e-3, use_ema=True)
    layer.build((1, 1))
    layer.trainable = False
    assert layer._trainable_variables == [layer.kernel, layer.bias]
    optimizer.build([layer.kernel])
    assert [v.shape for v in optimizer._model_variables_moving_average] == [(1, 1)]
    assert optimizer._iterations is optimizer.iterations and float(optimizer._learning_rate) == pytest.approx(1e-3)
    if keras.backend.backend() == "tensorflow":
        assert list(inspect.signature(optimizer._all_reduce_sum_gradients).parameters) == ["grads_and_vars"]


def test_every_overridden_private_is_pinned():
    overridden = {
        name for name in vars(OfRun) if name.startswith("_") and hasattr(Optimizer, name) and not name.startswith("__")
    }
    assert overridden <= {name for _, name in PINNED} | {"_all_reduce_sum_gradients"} and len(overridden) >= 6


@pytest.mark.parametrize("path", sorted((ROOT / "kzoo").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_file_takes_any(path):
    if path.name == "keras_private.py":
        return
    tree = ast.parse(path.read_text())
    assert not [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("keras.src")
    ]
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")]
    # those of named tuples
    ours = {node.attr for node in attributes if isinstance(node.ctx, ast.Store)} | {"_replace", "_asdict"}
    ours |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    ours |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert not {node.attr for node in attributes if not node.attr.startswith("__")} - ours

"""kzoo: a pluggable zoo of image models for Keras 3. Everything is resolved on first use; importing it costs milliseconds."""

import importlib.util
import sys

__version__ = "0.1.0"

_HOME = {
    "list_models": "registry", "list_recipes": "recipe_files", "info": "zoo", "get": "zoo", "recipe": "recipe_files",
    "register": "registry", "ModelInfo": "zoo", "Recipe": "schema", "UserError": "errors",
    "load": "weights", "load_weights": "weights", "save_weights": "weights",
    "preprocessor": "zoo", "task": "tasks", "register_task": "tasks",
    "train": "training", "evaluate": "training", "export": "exporting", "reduce_precision": "precision", "attention": "explain",
}  # fmt: skip
__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'kzoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"kzoo.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return [*globals(), *__all__]


class _AfterKeras:
    """Registers the model class as soon as Keras is imported, by whomever, so that `keras.models.load_model` finds it.

    Importing kzoo must not import Keras, and Keras looks its custom classes up in its own register alone.
    """

    searching = False

    def find_spec(self, name, path=None, target=None):
        if name != "keras" or self.searching:
            return None
        self.searching = True  # the other finders are asked for it now
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searching = False
        if spec is not None:
            run = spec.loader.exec_module

            def run_and_register(module):
                run(module)
                sys.meta_path.remove(self)  # not before: looking for a module is not yet importing it
                importlib.import_module("kzoo.models.base")

            spec.loader.exec_module = run_and_register
        return spec


if "keras" in sys.modules:
    importlib.import_module("kzoo.models.base")
else:
    sys.meta_path.insert(0, _AfterKeras())

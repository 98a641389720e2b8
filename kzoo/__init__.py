"""kzoo: a pluggable zoo of image models for Keras 3. Everything is resolved on first use; importing it costs
milliseconds.
"""

import importlib.util
import sys

__version__ = "0.1.0"

# fmt: off
_HOME = {
    "list_models": "registry", "list_recipes": "recipe_files", "info": "zoo", "get": "zoo", "recipe": "recipe_files",
    "register": "registry", "ModelInfo": "zoo", "Recipe": "schema", "UserError": "errors",
    "load": "weights", "load_weights": "weights", "save_weights": "weights",
    "preprocessor": "zoo", "task": "tasks", "register_task": "tasks",
    "train": "training", "evaluate": "training", "export": "exporting", "reduce_precision": "precision", "attention": "explain",
    "postprocess": "tasks.detect", "report": "reporting.flow",
    "features": "heads", "with_head": "heads", "with_classes": "heads",
    "predict": "predicting.public",
    "find_lr": "training", "sweep": "sweeping",
}
# fmt: on
__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'kzoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"kzoo.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return [*globals(), *__all__]


def _register():
    """Makes known to Keras the classes that its files name: the model's and, for the views of all tasks, one that loads
    theirs.
    """
    import keras

    importlib.import_module("kzoo.models.base")

    @keras.saving.register_keras_serializable("kzoo")
    class View(keras.Model):  # until the one of its name is imported: that loads more than listing and building need
        @classmethod
        def from_config(cls, config, custom_objects=None):
            return importlib.import_module("kzoo.tasks.views.base").View.from_config(config, custom_objects)


class _AfterKeras:
    """Registers our classes as soon as Keras is imported, by whomever, so that `keras.models.load_model` finds them.

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
                _register()

            spec.loader.exec_module = run_and_register
        return spec


if "keras" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterKeras())

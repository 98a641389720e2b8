"""What every task's keras.Model has in common."""

import dataclasses
import functools
import inspect

import keras

from kzoo.archives.typed import from_json
from kzoo.errors import UsageError, UserError
from kzoo.keras_private import BuiltModel
from kzoo.layers.base import parts_config, set_parts, split_config
from kzoo.schema import settings_class
from kzoo.tasks.views import files


def _is_metric(value):
    return isinstance(value, keras.metrics.Metric)


def _looked_at(name):
    """Keras' method of that name, whose arguments the view looks at first."""
    method = getattr(keras.Model, name)

    @functools.wraps(method)
    def looked_at(self, *args, **kwargs):
        self.look(name, inspect.signature(method).bind(self, *args, **kwargs).arguments)
        return method(self, *args, **kwargs)

    return looked_at


@keras.saving.register_keras_serializable("kzoo")
class View(BuiltModel):
    """What `fit` trains: a network, the loss (Keras' own hook compute_loss) and running figures, by a task's settings.

    Layers of a view's own, a pretext's head say, are built in its constructor, as attributes: what a run keeps of them
    is named by the attribute (see `own`). What it was given and never changes, a teacher, is to be frozen, its
    variables `given`.
    """

    terms = ()  # names of running means beside the loss, which compute_loss tells
    given = ()  # variables that checkpoints leave out
    lent = False  # whether it holds a teacher that no setting names: it then cannot be saved whole
    free = False  # whether a user trains it on targets of his own, of which no source tells
    weighs_classes = False  # whether class_weight has a meaning
    # {figure that it or an evaluation tells: 1 where more is better, -1 where less is}, for Keras' callbacks
    directions = {}
    fit, evaluate, train_on_batch, test_on_batch = map(
        _looked_at, ("fit", "evaluate", "train_on_batch", "test_on_batch")
    )

    def __init__(self, network, settings):
        super().__init__()
        self.network, self.settings = network, settings
        # Their order, and that of other metrics after them, decides the keys of a checkpoint.
        self.means = {name: keras.metrics.Mean(name=name) for name in self.terms}
        # Else `fit` would take a batch to build with and, with a threaded PyDataset, then deliver the rest in another
        # order.
        self.built = network.built

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for each in (cls, View):  # all go by one name in a file, for which Keras then asks the last of them
            keras.saving.register_keras_serializable("kzoo", "View")(each)

    def compile(
        self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None, weighted_metrics=None, **options
    ):
        """Keras' own, with its options. Raises UsageError for what `asked` refuses."""
        given = {"loss": loss, "loss_weights": loss_weights, "metrics": metrics, "weighted_metrics": weighted_metrics}
        super().compile(optimizer, **self.asked(given), **options)

    def compile_from_config(self, config):
        """As it was compiled when it was saved, the optimizer's variables made: Keras does so for a compile of its own
        alone.
        """
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def asked(self, given):
        """What Keras compiles, {argument: value}, of the losses and metrics that `compile` was given. A task of which
        only its own make sense refuses them: UsageError.
        """
        for name, value in given.items():
            if value is not None and value != [] and value != {}:
                raise UsageError(
                    f"the task {self.settings.kind} brings its own loss and figures ({', '.join(self.figures)}), by "
                    f"its settings; leave {name} out of compile()."
                )
        return {}

    @property
    def figures(self):
        """The names of what `fit` shows of the task itself."""
        others = [value.name for name, value in vars(self).items() if name[0] != "_" and _is_metric(value)]
        return ["loss", *self.means, *others]

    def look(self, name, given):
        """Called before Keras' fit, evaluate, train_on_batch and test_on_batch, the method of that name, with its
        arguments. Raises UsageError for a class_weight that has no meaning here.
        """
        if given.get("class_weight") is not None and not self.weighs_classes:
            raise UsageError(
                f"class_weight weighs the label of a picture, which the task {self.settings.kind} has none of; leave "
                "it out, or weigh pictures by sample_weight."
            )
        callbacks = given.get("callbacks")
        self.direct(keras.tree.flatten(getattr(callbacks, "callbacks", callbacks) or []))

    def direct(self, callbacks):
        """Tells those of Keras' callbacks that are to find out by themselves (mode="auto") which way a figure of the
        task is better: of themselves they know those that compile() was given, and the loss.
        """
        for callback in callbacks:
            figure = str(getattr(callback, "monitor", "")).removeprefix("val_")
            if getattr(callback, "mode", None) == "auto" and figure in self.directions:
                callback.mode = "max" if self.directions[figure] > 0 else "min"

    def save_weights(self, filepath, overwrite=True, **kwargs):
        """Keras' file of weights, of which the network alone takes its own by network.load_weights, with the state of
        the optimizer; where the view has layers of its own, all of it, for load_weights of such a view.
        """
        if self.own():
            return super().save_weights(filepath, overwrite=overwrite, **kwargs)
        self.network.save_weights(filepath, overwrite=overwrite, **kwargs)
        files.add_optimizer(filepath, self)

    def load_weights(self, filepath, skip_mismatch=False, **kwargs):
        """Of a file by save_weights, or of one of the network alone."""
        if self.own() or not files.of_network(filepath, self.network):
            return super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
        self.network.load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
        files.read_optimizer(filepath, self)

    def save(self, filepath, overwrite=True, **kwargs):
        """Keras' saving of the whole task. Raises as get_config, before a file is touched."""
        self.get_config()
        super().save(filepath, overwrite=overwrite, **kwargs)

    def get_config(self):
        """What rebuilds it: kind and settings of its task, the network, and which parts are frozen. Raises UserError
        for a lent teacher.
        """
        if self.lent:
            raise UserError(
                "this task holds a teacher that it was handed as an object, which no file can name: save the model "
                "that it trains, "
                "task.network.save(...), and give the teacher again."
            )
        network, settings = keras.saving.serialize_keras_object(self.network), dataclasses.asdict(self.settings)
        told = {"kind": self.settings.kind, "settings": settings, "network": network, "view": type(self).__name__}
        return told | ({"free": True} if self.free else {}) | parts_config(self)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The view of the task that a config names, of a plugin too; of a subclass that goes by a name of its own, that
        subclass.
        """
        from kzoo.tasks import make

        config, parts = split_config(config)
        settings = from_json(settings_class(config["kind"]), config["settings"], "the settings of its task")
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects)
        view = make(settings).view(network) if cls is View else cls(network, settings)
        if type(view).__name__ != config["view"]:
            raise UserError(
                f"it was saved from {config['view']}, but the task {settings.kind} trains by {type(view).__name__}: "
                "load it with the "
                "version that saved it, or put keras.saving.register_keras_serializable() over a subclass of your own "
                "and save again."
            )
        set_parts(view, parts)
        view.free = config.get("free", False)
        return view

    def build(self, input_shape):
        self.built = True  # the network builds itself when it is first called

    def call(self, inputs, training=None):
        return self.network(inputs, training=training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return self.get_metrics_result()

    def tell(self, *, weights=None, **values):
        """Adds to the means of these terms, by name: values of any shape, weighted by weights of that shape. Within
        compute_loss.
        """
        for name, value in values.items():
            self.means[name].update_state(value, sample_weight=weights)

    def replicas(self):
        """How many replicas share the batch: Keras adds up what TensorFlow's return, so that each gives its part of the
        loss.
        """
        strategy = getattr(self, "distribute_strategy", None)
        return strategy.num_replicas_in_sync if strategy else 1

    def total(self, value):
        """The value's sum over all replicas, of which TensorFlow's see a part of the batch each."""
        if self.replicas() == 1:
            return value
        import tensorflow as tf

        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)

    def own(self):
        """{name: weight} of the view's own layers and weights, as a checkpoint's keys and a recipe's patterns have
        them.

        "task/ATTRIBUTE/WEIGHT": the layer's own name, which Keras counts up in a process, is no part of it. Raises
        ValueError where two have one name, or where what is trained has none because it lies neither in the network nor
        in an attribute.
        """
        found = [
            (f"task/{attribute}{_below(part, weight)}", weight)
            # where torch puts those that are layers
            for attribute, part in (vars(self) | vars(self).get("_modules", {})).items()
            if not attribute.startswith("_")
            and isinstance(part, keras.layers.Layer | keras.Variable)
            and part is not self.network
            for weight in (part.weights if isinstance(part, keras.layers.Layer) else [part])
        ]
        known = {id(weight) for weight in (*self.network.variables, *self.given)}
        own = {name: weight for name, weight in found if id(weight) not in known}
        missing = {id(w): w.path for w in self.trainable_weights if id(w) not in known}
        for weight in own.values():
            missing.pop(id(weight), None)
        if missing:  # of two weights of one name the first is missing too
            raise ValueError(
                f"{type(self).__name__} trains {', '.join(missing.values())}, which need attributes and names of "
                "their own"
            )
        return own

    def layer_depths(self):
        """ZooModel.layer_depths of the network, and for the view's own weights, by name, the depth of a head."""
        depths = self.network.layer_depths()
        return depths | dict.fromkeys(self.own(), len(self.network.config.block_names()) + 1)


def _below(part, weight):
    """The path of a weight below the layer that it lies in, with a slash before it; "" for one that lies in no
    layer.
    """
    if part is weight:
        return ""
    return "/" + weight.path.removeprefix(f"{getattr(part, 'path', None) or part.name}/")

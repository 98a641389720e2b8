"""What a kind of work adds to a model, from sample to figures. Loads no Keras: an artifact's answers are read by its
runtime alone.
"""

# Where each step of a sample lives:
# - Detection. source: boxes in pixels. batching: one plan moves pixels and boxes, a canvas pads both; x {"image",
#   "mask"}, y {"boxes", "labels", "valid"}, open sides in the signature. view: matching and losses over the network's
#   build with auxiliary outputs (`building`). meter: boxes back to the original's pixels by the sizes in y, then AP;
#   `headline` is ("ap", 1).
# - MAE. batching: x {"image", "noise"}, drawn by uniforms of the keys, no y. view: the error on masked patches. meter:
#   that error; evaluate() adds k-NN of the encoder's features against reference(); `headline` asks the source whether
#   there are labels.
# - Rotation. batching: turns drawn from the keys, y their numbers. view: the head of four logits is its own layer, over
#   the pooled vector (`options` say num_classes=0), and goes with it. `judged` is the network with that head, which
#   figures need.
# - Colourisation. batching: x the grey picture, y the colours of its patches. view: a head over tokens (`building` says
#   global_pool="none", so that the spec is of the encoder that pools them). meter: the error a patch, of what is
#   `judged` too.
# - Distillation. batching, meter, headline: classification's. view: holds the teacher, calls it on x (normalised again
#   where the two differ) inside compute_loss; checkpoints leave out its variables.

import numpy as np

from kzoo.data import Loader, engine_for, prepare, resized
from kzoo.errors import UserError
from kzoo.figures import show
from kzoo.schema import TaskSettings
from kzoo.tasks.meters import Meter as Meter  # where plugins look for it

_TARGETS = {"label": "a label for each picture", "objects": "the objects of each picture", "picture": "pictures alone"}
FALL = 0.2  # of `overfits`: the share by which the loss has to fall
TASKS = {}  # {kind: the Task of that kind}, of the modules that were imported


def register_task(cls):
    """Links a Task to the kind of its settings. Used as a decorator, in a plugin's module by the name
    kzoo.register_task.
    """
    TASKS[cls.settings_class.kind] = cls
    return cls


class Task:
    """A kind of work: one instance for its settings, no other state, no variables. Found by the kind of its
    settings.
    """

    settings_class = TaskSettings
    targets = "label"  # what a source must give beside the picture: label | objects | picture (nothing more)
    curves = ("loss",)  # the figures of log.csv, TensorBoard and the learning curve, of training and of evaluation
    # whether `view` takes a teacher=, which kzoo.task was handed; without one it finds that of its settings
    taught = False
    # the figures of `agreement`, the first two of all outputs
    agreements = ("max_abs_difference", "largest_output", "correlation")
    crops = True  # whether the answers to several crops of a picture can be averaged
    building = {}  # overrides of the network while it trains, never in its spec
    asks = {}  # what `predictor` takes beside, {name: type}
    # whether artifacts of one size are told how much of it the picture fills, which lies in the upper left
    sized = False
    scale = ""  # of these, how what is in pixels of that part comes to those of the picture as it was, in words
    reads = ()  # which of them only say how outputs are read: what `reading` takes, and artifacts are asked too
    checks = ()  # of `kzoo check`, beyond those that every task passes: heads | overfits
    overfit_steps = 20  # of `overfits`, at most

    def __init__(self, settings=None):
        self.settings = self.settings_class() if settings is None else settings

    def headline(self, source):
        """(the figure that a run is judged by, 1 where more is better, else -1)."""
        return "loss", -1

    def options(self, source):
        """What kzoo.get is given for this data, where the recipe does not say otherwise."""
        return {"in_channels": source.channels}

    def accept(self, network, source):
        """The class names of this data for the network's spec. Raises UserError where network and data do not fit each
        other.
        """
        return ()

    def require(self, source, data):
        """Raises UserError where the source gives less than the task needs, and where pictures without labels would be
        mixed.
        """
        kind = self.settings_class.kind
        if self.targets not in ("picture", source.targets):
            found, needed = (_TARGETS.get(targets, targets) for targets in (source.targets, self.targets))
            raise UserError(
                f"{source.name} gives {found}, and the task {kind} needs {needed}: choose another data.source, or by "
                "task.kind a task that needs no more."
            )
        if self.targets == "picture" and getattr(data.augment, "mixes", False):
            raise UserError(
                f"MixUp and CutMix mix labels, and the task {kind} has none; set data.augment.mixup and .cutmix to 0."
            )
        if not self.crops and data.eval_crops != 1:
            raise UserError(
                f"data.eval_crops averages the answers to several crops, which the task {kind} has none of; leave it "
                "at 1."
            )

    def require_both(self, source, held_out):
        """Raises UserError where evaluate() could not judge by both sources, those of training and of evaluation."""

    def survey(self, loader):
        """Lines about the training data that are worth reading before the first step."""
        return ()

    def batching(self, take, source, data, seed, engine):
        """The Batching of a source for what a network takes, by a recipe's Data; engine: "tf" or "numpy", which runs
        it.
        """
        raise NotImplementedError

    def loader(self, take, source, data, batch_size, seed=0):
        """The Loader of those batches. Raises as require() does."""
        self.require(source, data)
        engine = engine_for(source)
        batching = self.batching(take, source, data, seed, engine)
        return Loader(source, batching, batch_size, seed, engine, data.sampler)

    def view(self, network):
        """The View that `fit` trains."""
        raise NotImplementedError

    def judged(self, view, network):
        """The model whose outputs the meter is given: the network or, where figures need them, it and the view's own
        layers after it.

        Never the view, which is compiled: its last bits are others. view is None where a run's checkpoint holds nothing
        of a view's own.
        """
        return network

    def meter(self, network, source):
        """A Meter of the figures of this data."""
        raise NotImplementedError

    def evaluate(self, view, network, loader, reference, between=lambda: None, memory=None):
        """{figure: number} over the loader's evaluation pass, with `images`, how many pictures there were; padding is
        left out.

        reference() gives the training split's loader, without augmentation. between() is called before every batch.
        memory: of a run, what its evaluation before left there (see Meter.since), to be replaced; None: of no run.
        """
        import keras

        meter, model, images = self.meter(network, loader.source), self.judged(view, network), 0
        with loader.plain_errors():
            for batch in loader.evaluation():
                between()
                x, y, weights = keras.tree.map_structure(np.asarray, batch)
                rows, real = len(keras.tree.flatten(x)[0]), weights > 0
                outputs = model.predict_on_batch(x)
                # Mirrored devices repeat the batch.
                meter.update(
                    keras.tree.map_structure(lambda array, rows=rows: np.asarray(array)[:rows], outputs), y, real
                )
                images += int(real.sum())
        moved = {} if memory is None else meter.since(memory)
        return meter.result() | moved | {"images": images}

    def served(self, network):
        """What of the network an artifact holds; all of it."""
        return network

    def inputs(self, images, take, sizes=None):
        """uint8 pictures (B, h, w, C) of one size, any -> (what the network takes, their own sizes (B, 2), None where
        outputs need none).

        Runs inside artifacts: in a SavedModel encoded pictures come one by one, and what the network takes of each has
        to be of one shape; in one of a fixed size the pictures were brought to it before, which is then their own. Of
        a `sized` task they lie in its upper left, and sizes (B, 2), height and width, are what they fill of it.
        """
        from kzoo.preprocess import preprocess

        return preprocess(images, take.image_size, take.preprocessing), None

    def prepared(self, pictures, take, sizes=None):
        """The same as `inputs` of uint8 pictures (h, w, C), each of its own size, in NumPy: what artifacts are compared
        with.
        """
        return np.stack([prepare(picture, take.image_size, take.preprocessing) for picture in pictures]), None

    def resizing(self, image_size):
        """What `inputs` does to a picture of any size, in words, where it is not what the preprocessing says."""
        return None

    def rescaled(self, outputs, size, image_size):
        """The outputs about one picture that was brought to image_size, for the picture as it was, `size` (height,
        width).
        """
        return outputs

    def outputs(self, network, raw, sizes):
        """{name: float32} of what the network gave, a tensor or a structure of them; the first is the network's own
        output.
        """
        import keras

        return {"features": keras.tree.map_structure(lambda array: keras.ops.cast(array, "float32"), raw)}

    def raw_outputs(self, raw):
        """{name: float32} of what the network gave, where `outputs` tells something else: a signature of its own, in
        formats that have several. {} for none.
        """
        return {}

    def reference(self, network, raw, sizes):
        """What the outputs of artifacts are compared with: `outputs` and, beside them, what `agreement` judges by."""
        return self.outputs(network, raw, sizes)

    def agreement(self, expected, found):
        """How two results of one batch compare, dictionaries of named arrays, in float64; `expected` may hold what
        `reference` adds.

        max_abs_difference over all of them; of the first, the network's own, largest_output and, where both vary,
        correlation.
        """
        import keras

        def flat(result):
            return [
                np.concatenate([np.asarray(a, np.float64).ravel() for a in keras.tree.flatten(value)])
                for value in result.values()
            ]

        pairs = list(zip(flat(expected), flat({name: found[name] for name in expected}), strict=True))
        difference, (own, other) = max(float(np.max(np.abs(a - b))) for a, b in pairs), pairs[0]
        record = {"max_abs_difference": difference, "largest_output": float(np.max(np.abs(own)))}
        if own.std() > 0 and other.std() > 0:
            record["correlation"] = float(np.corrcoef(own, other)[0, 1])
        return record

    def differences(self, record):
        """[(of what, a difference that an agreement tells, its unit)]: in units, each is held to the tolerance of exact
        artifacts; "" is all outputs.
        """
        return [("", record["max_abs_difference"], max(1.0, record["largest_output"]))]

    def agreed(self, record):
        """What an agreement says beside the differences, in words; "" for nothing."""
        return ""

    def facts(self, network):
        """What an artifact's card says of the network's answers: `classes`, how many there are, None for none."""
        return {"classes": None}

    def unlearnt(self, view, batch, logs):
        """What a view has not learnt of the one batch that it is trained on again and again, in a sentence; "" once it
        has. Asked by the check `overfits` after every step, of which `logs` has the figures.
        """
        first, last = logs[0]["loss"], logs[-1]["loss"]
        if len(logs) >= self.overfit_steps and first - last >= FALL * abs(first):
            return ""
        return f"{len(logs)} steps on one batch bring its loss from {first:.3g} to {last:.3g}, no lower"

    def example(self, network, batch, seed=0):
        """Generated inputs of the network, in their own structure; sides that it leaves open are those of its Take."""
        import keras

        rng, size = np.random.default_rng(seed), network.take.image_size

        def generated(tensor):
            sides = (side or size[axis % 2] for axis, side in enumerate(tensor.shape[1:]))
            return rng.normal(size=(batch, *sides)).astype("float32")

        return keras.tree.map_structure(generated, network.input)

    def predict(self, network, view, picture, take):
        """The outputs of one uint8 picture (h, w, C), as NumPy arrays without a batch; view: a run's, with its trained
        parts, else None.
        """
        import keras

        inputs, sizes = self.prepared([picture], take)
        outputs = self.outputs(network, network.predict_on_batch(inputs), sizes)
        return keras.tree.map_structure(lambda array: keras.ops.convert_to_numpy(array)[0], outputs)

    def predictor(self, network, view, take, **asked):
        """The function of one uint8 picture (h, w, C) that `predict` is, for several pictures; asked: by the names
        in `asks`.
        """
        return lambda picture: self.predict(network, view, picture, take)

    def reading(self, outputs, **asked):
        """The outputs of one picture, however they came about, with what `answer` is asked; asked: by the names in
        `reads`.
        """
        return outputs

    def answer(self, outputs, labels, top):
        """What the outputs of one picture say, as JSON has it; labels: the classes' names, or none; top: how many
        answers at most.
        """
        raise NotImplementedError

    def line(self, answer):
        """An answer as text."""
        raise NotImplementedError

    def draw(self, path, picture, outputs, answer):
        """Writes the picture with its answer as PNG. Needs the extra "plots"."""
        raise NotImplementedError

    def shown(self, picture, take):
        """(a uint8 picture as maps of attention are laid over it, the shares of the network's height and width that it
        fills).
        """
        return resized(picture, take.image_size, take.preprocessing).round().astype("uint8"), (1.0, 1.0)

    def explained(self, network, picture, outputs, labels):
        """A function of a path that writes there as PNG what the network, `served`, looks at in a picture, whose
        `predict` gave the outputs; or, where there is nothing to draw, a sentence that says why. labels: the classes'
        names, or none.

        Raises UserError for a network without attention.
        """
        from kzoo import explain

        inputs, _ = self.prepared([picture], network.take)
        maps, rolled = explain.attention(network, inputs)[0, -1], explain.rollout(network, inputs)[0]
        title = f"{network.spec.name}: {self.line(self.answer(outputs, labels, 1))}"
        fitted = self.shown(picture, network.take)[0]
        return lambda path: explain.draw_attention(path, fitted, maps, rolled, title)

    def explained_at(self, network, picture, points):
        """The same of what `points`, [(y, x), ...] in 0..1 of the picture, take in the last layer of self-attention.
        Raises as `explained`, and UsageError for other points.
        """
        from kzoo import explain

        inputs, _ = self.prepared([picture], network.take)
        maps = explain.attention(network, inputs, points=points)[0, -1].mean(axis=0)
        shown, shares = self.shown(picture, network.take)
        return lambda path: explain.draw_points(path, shown, shares, maps, points, network.spec.name)

    def captions(self, batch, names):
        """A line or more for each picture of a training batch, (x,) or (x, y) of arrays; names: the classes', or
        none.
        """
        raise NotImplementedError

    def show_sample(self, axis, image, batch, row, names):
        """Draws image (H, W, C) in 0..1, that row's of a training batch, on matplotlib's axis, with what `captions`
        does not say.
        """
        show(axis, image, vmin=0, vmax=1)

"""From a place on disk to a model: runs and .keras files. Nothing in them is executed."""

import contextlib
import pathlib
from dataclasses import dataclass

from kzoo.archives.reading import REMEDY, damaged, parsing
from kzoo.archives.typed import from_json
from kzoo.errors import UsageError, UserError, require_backend
from kzoo.layers.base import set_parts
from kzoo.models.base import build
from kzoo.specs import Spec
from kzoo.weights.checkpoint import CHECKPOINT, open_checkpoint
from kzoo.weights.formats.npz import Npz
from kzoo.weights.source import open_weights

PREVIOUS = f"{CHECKPOINT}.previous"  # the checkpoint before the last
BEST = "best.npz"  # the weights whose evaluation was the best


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What a run writes beside its arrays: the step that it reached, and what its logs and its record tell."""

    step: int
    history: tuple[dict, ...]
    metrics: dict
    seconds: float
    side: int | None
    spec: Spec
    started: str
    kzoo: str = ""
    sealed: bool = False
    frozen: tuple[str, ...] = ()  # paths of what the run does not train

    def __post_init__(self):
        if min(self.step, self.seconds) < 0:
            raise UserError("its meta counts below 0")
        for row in self.history:
            if not {"epoch", "step", "time"} <= set(row) or not all(
                isinstance(value, int | float) for value in row.values()
            ):
                raise UserError("its meta has a history of other rows than kzoo writes")


def read_checkpoint(run, prefixes=("",), shapes=None):
    """({key: array}, meta) of a run's checkpoint, of the keys that begin with one of `prefixes`.

    shapes: {key: shape} that it has to hold, compared before any array is read; where only those of running means
    differ, none of these is given. Raises UserError where there is none, it is damaged, was changed, or holds other
    shapes; the sentence names the checkpoint before it, where the run may go on.
    """
    path = pathlib.Path(run) / CHECKPOINT
    if not path.exists():
        raise UserError(f"{run} holds no {CHECKPOINT}: it is not a run, or it was stopped before its first checkpoint.")
    with _remedy_told(path), Npz(path) as file:
        meta = _checked(file.meta(), path)
        there = {key: tensor.shape for key, tensor in file.tensors.items()}
        read = there
        if shapes is not None and shapes != there:
            read = _lasting(there)
            if read != _lasting(shapes):
                raise UserError(
                    f"the checkpoint in {run} belongs to another model or optimizer; train in another folder."
                )
        return {key: file.stored(key) for key in read if key.startswith(tuple(prefixes))}, meta


def _lasting(shapes):
    """Those of a checkpoint's arrays that are no running means, of which another version may have others."""
    return {key: shape for key, shape in shapes.items() if not key.startswith("metrics/")}


def _checked(meta, path):
    """The meta itself, what is in Meta checked; other versions may tell more."""
    try:
        from_json(Meta, {key: value for key, value in meta.items() if key in Meta.__dataclass_fields__}, "its meta")
    except ValueError as error:  # of which UserError is one
        raise damaged(path, str(error).rstrip(".")) from error
    return meta


@contextlib.contextmanager
def _remedy_told(path):
    """Adds to the error about a damaged checkpoint of a run what can be done: to go on from the one before it, or to
    begin anew.
    """
    try:
        yield
    except UserError as error:
        if REMEDY not in str(error) or not path.exists():
            raise
        raise UserError(f"{str(error).rstrip('.')}, or {_way_out(path)}.") from error


def _way_out(path):
    """What can be done where this file of a run is damaged."""
    if path.name == BEST:
        return f"leave best out: the last weights are in {CHECKPOINT}"
    step = _step_of(path.with_name(PREVIOUS))
    if step is None:
        return "train it again in another folder"
    return f"rename {path.with_name(PREVIOUS)} to {CHECKPOINT}: the run then continues from step {step}"


def _step_of(path):
    """The step of a whole checkpoint; None for what is none."""
    try:
        with Npz(path) as file:
            step = _checked(file.meta(), path)["step"]
            file.check_sums()
            return step
    except UserError:
        return None


def best_of(source):
    """The file of a run's best weights. Raises UsageError for what is no run, UserError for a run that keeps none."""
    run = pathlib.Path(source) if isinstance(source, str | pathlib.Path) else None
    if run is None or not (run / CHECKPOINT).is_file():
        raise UsageError(
            f"best goes with the folder of a run, which {'a model' if run is None else repr(str(source))} is not; "
            "leave it out."
        )
    if not (run / BEST).is_file():
        raise UserError(
            f"{run} holds no {BEST}: it has no evaluation yet, or none better than those of an earlier version, which "
            "kept none; "
            "leave best out for its last weights, or train it further."
        )
    return run / BEST


def load(source, best=False):
    """The model of a run (its averaged weights where the run keeps an average) or of a .keras file.

    best: the weights whose evaluation was the best by the task's headline, of a run. Raises UsageError for best of
    anything else, UserError for a source that is neither, is damaged, was changed after kzoo wrote it, or holds another
    model than it names.
    """
    require_backend()
    source = pathlib.Path(best_of(source) if best else source)
    with _remedy_told(source if source.name == BEST else source / CHECKPOINT), open_checkpoint(source) as checkpoint:
        if checkpoint.format not in ("run", "keras"):
            raise UserError(
                f"{source} is neither the folder of a run nor a .keras file; kzoo.get(NAME, weights=...) reads weights "
                "alone."
            )
        if checkpoint.spec is None:
            raise UserError(f"{source} holds a Keras model, but not one of kzoo's: it carries no spec.")
        return _of_run(checkpoint) if checkpoint.format == "run" else _of_keras(checkpoint)


def spec_of(source):
    """The Spec of the model in a run, a .keras file or weights that kzoo wrote, which fits them. Raises UserError for
    anything else.
    """
    spec = told_spec(source)
    if spec is None:
        raise UserError(
            f"{source} does not tell which model its weights belong to; give a run, or a file that kzoo wrote."
        )
    return spec


def told_spec(source):
    """The Spec as in `spec_of`; None where the file tells of no model of kzoo's."""
    from kzoo.weights.surgery import skeleton_of

    with open_weights(source) as (checkpoint, _):
        if checkpoint.spec is None:
            return None
        require_backend()
        skeleton_of(checkpoint)
        return checkpoint.spec


def _of_run(checkpoint):
    from kzoo.weights.surgery import built_within

    spec = checkpoint.spec
    model = built_within(checkpoint, lambda: build(spec.name, spec.overrides, filled=True))
    model.spec = spec
    if any(
        w.path not in checkpoint.tensors or checkpoint.tensors[w.path].shape != tuple(w.shape) for w in model.weights
    ):
        raise UserError(
            f"the checkpoint in {checkpoint.path} does not fit {spec.name} as this version builds it; use the version "
            "of its recipe.txt."
        )
    checkpoint.verify(checkpoint.tensors)
    for weight in model.weights:
        weight.assign(checkpoint.read(weight.path))
    with parsing(checkpoint.path):
        set_parts(model, {"frozen": checkpoint.meta.get("frozen", ())})
    return model


def _of_keras(checkpoint):
    from kzoo.weights.surgery import built_within

    model = built_within(checkpoint, checkpoint.build)
    checkpoint.verify(checkpoint.tensors)
    try:
        checkpoint.fill(model)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise UserError(
            f"the weights in {checkpoint.path} do not fit the model that it describes; {REMEDY}."
        ) from error
    return model

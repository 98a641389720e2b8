"""The way of an export: refuse, rebuild, write aside, reopen, compare, and only then move into place."""

import errno
import pathlib

from kzoo.errors import UsageError, UserError, backend_name, require, unknown
from kzoo.exporting.formats import FORMATS
from kzoo.exporting.papers import whole_card
from kzoo.exporting.place import check_target, move, staging
from kzoo.exporting.provenance import run_of
from kzoo.registry import spec_of_model
from kzoo.tasks import of

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def export(
    model_or_run,
    out,
    format="saved_model",
    quantize=None,
    *,
    pictures=None,
    pictures_from="the caller's pictures",
    best=False,
    run=None,
):
    """Writes a model as an artifact folder that runs without kzoo, and returns its card.

    model_or_run: a model of kzoo, or the path of a run or .keras file. format: "saved_model", "onnx" or "litert";
    quantize: None, or for litert "fp16" or "dynamic", for saved_model "bfloat16". pictures: uint8 arrays (h, w, c) to
    verify with, described by pictures_from in the card; by default a few embedded digits. `out` may be new, empty, or
    an artifact of the same format, which is replaced in one step. best: a run's best weights, not its last. run: the
    folder of the run that a model in memory is of, for the card to say what it was trained on.

    Raises UserError, leaving `out` as it was, where the artifact cannot be written or disagrees with Keras; UsageError
    for an unknown format or quantisation and for best of no run, MissingPackage where the format's packages are not
    installed.
    """
    out = refuse(format, quantize, out)
    if best and run is None:
        from kzoo.weights.read import best_of

        model_or_run = best_of(model_or_run)
    origin = (run, best) if run is not None else run_of(model_or_run)
    if backend_name() != "tensorflow":
        from kzoo.exporting.relay import export_in_child

        return export_in_child(model_or_run, out, format, quantize, pictures, pictures_from, origin)
    from kzoo.data.samples import samples

    model = _loaded(model_or_run)
    pictures, pictures_from = samples(pictures, pictures_from)
    try:
        return _write(model, out, format, quantize, pictures, pictures_from, origin)
    except OSError as error:
        raise UserError(f"{out} could not be written: {_reason(error)}; what was there is unchanged.") from error


def refuse(format, quantize, out):
    """`out` as an absolute path. Raises before any work is done: for a format, quantisation or folder that cannot be,
    or for packages.
    """
    if format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    row = FORMATS[format]
    if quantize == "int8":
        raise UsageError(
            "quantize='int8' is not available in this version; quantize='dynamic' also stores weights in 8 bits."
        )
    if quantize is not None and quantize not in row.quantize:
        options = " or ".join(map(repr, row.quantize)) or "nothing but None"
        raise UsageError(f"format {format} takes {options} for quantize, not {quantize!r}.")
    require(*row.packages, why=f"exporting to {format}")
    return check_target(out, format)


def _write(model, out, format, quantize, pictures, pictures_from, origin):
    from kzoo.exporting import card as cards
    from kzoo.exporting.serving import Serving
    from kzoo.exporting.verify import latency, verify
    from kzoo.precision import REDUCED, precision_of, twin

    trained = precision_of(model)
    serving = Serving(model if trained == "float32" else twin(model, "float32"))
    written = Serving(twin(model, quantize)) if quantize in REDUCED else serving
    with staging(out) as folder:
        FORMATS[format].write(written, folder, quantize)
        card = cards.describe(serving, format, quantize, *origin) | {"trained_precision": trained}
        artifact = FORMATS[format].open(folder, card)
        records = verify(artifact, serving, pictures, exact=quantize is None)
        card |= cards.measure(folder, format, records, latency(artifact, serving, pictures[0]), pictures_from)
        cards.write(folder, card)
        card = whole_card(folder)
        check_target(out, format)  # again: the work took a while
        move(folder, out)
    return card


def _loaded(model_or_run):
    """The model itself, checked to be one that can be served."""
    model = model_or_run
    if isinstance(model, (str, pathlib.Path)):
        from kzoo.weights import load

        model = load(model)
    spec = spec_of_model(model)
    from kzoo.weights import require_trained

    require_trained(model)
    if model.config.features_only:
        raise UserError(
            f"{spec.name} returns several feature maps, which no artifact serves; build it without features_only."
        )
    names, classes = spec.class_names, of(model).facts(model)["classes"]
    if names and len(names) not in (classes, 2 if classes == 1 else None):  # one logit tells two apart
        raise UserError(
            f"the spec names {len(names)} classes and {spec.name} returns {classes or 'no'} numbers for classes; "
            "mend the names."
        )
    return model


def _reason(error):
    return "the disk is full, free some space" if error.errno in NO_ROOM else error.strerror or str(error)

"""Fitting weights into a model: strict, with a receipt; surgery only where it was asked for."""

import dataclasses
import re

import keras
import numpy as np

from kzoo import registry
from kzoo.errors import UserError
from kzoo.weights.names import BOOKKEEPING, Renamed, own_pieces, pieces, recognise
from kzoo.weights.report import LoadReport
from kzoo.weights.source import ModelTensors, open_weights
from kzoo.weights.surgery import (
    adapt_channels,
    guessed_table,
    keep_rows,
    position_layers,
    resize_table,
    skeleton_of,
    tables_of,
)

OWN = ("run", "keras", "weights.h5", "model")  # formats that name the weights as we do


def load_weights(model, source):
    """Fills `model` with the weights of `source`: strict, every name, shape and grid must fit, and the numerics they
    were made for.

    source: a run, a file of any format that `kzoo.weights.checkpoint` reads (.keras, .weights.h5, .safetensors, .pth,
    .npz), a folder of the Hugging Face Hub's kind, or "hf://org/repo[@revision][/file]". Returns a LoadReport, also
    kept as `model.load_report`. Raises UserError that lists what does not fit; the model's weights are then exactly as
    before.
    """
    model.load_report = report = fill(model, source)
    model.spec = dataclasses.replace(model.spec, tag="", license="", source=report.hub_source)
    return report


def fill(model, source, asked=()):
    """load_weights with the surgery that the options named in `asked` ask for, as in `kzoo.get`: another image_size
    resizes, ...
    """
    with open_weights(source) as (checkpoint, where):
        config = registry.config_of_model(model)
        for field, value in implied_numerics(checkpoint, model.spec.name, asked).items():
            if field not in asked and getattr(config, field) != value:
                raise UserError(
                    f"{where} was made for {field}={value!r}, this model was built with "
                    f"{field}={getattr(config, field)!r}: "
                    f"build it by kzoo.get({model.spec.name!r}, weights=...), which looks into the file first, or with "
                    f"{field}={value!r}."
                )
        return _fill(model, checkpoint, where, asked)


def build_and_fill(build, name, source, asked):
    """The model that `build(overrides)` makes of the row `name`, with the weights of `source`: the numerics they were
    made for come before what was asked for, {option: value}, as overrides. It carries its load_report.
    """
    with open_weights(source) as (checkpoint, where):
        config, implied = registry.config_of(name)[1], implied_numerics(checkpoint, name, asked)
        settings = {field: value for field, value in implied.items() if getattr(config, field) != value}
        if settings and checkpoint.spec is not None:  # what a file asks for must be what it holds
            skeleton_of(checkpoint)
        model = build(settings | asked)
        model.load_report = _fill(model, checkpoint, where, asked)
    return model


def transfer(model, donor, *, resize, new_head):
    """Copies the donor model's weights by path into `model`: all of them or, with an error, none.

    resize: position tables of another grid are resampled; new_head: a head of another number of classes keeps its fresh
    values.
    """
    asked = [option for option, wanted in (("image_size", resize), ("num_classes", new_head)) if wanted]
    return _fill(model, ModelTensors(donor), "", asked)


def implied_numerics(checkpoint, name, asked=()):
    """{option: value}, for models of the row `name`, of the numerics that the weights in a checkpoint were made for."""
    config = registry.config_of(name)[1]
    if checkpoint.spec is not None:
        donor = _config_of(checkpoint)
        return {field: getattr(donor, field, getattr(config, field)) for field in config.numerics}
    if checkpoint.format in OWN:
        return {}
    layout, given = recognise(checkpoint, config.layouts())
    return layout.numerics(given, asked)


def _config_of(checkpoint):
    """The config of the model that the weights belong to; None where none is told."""
    spec = getattr(checkpoint.model, "spec", None) if checkpoint.format == "model" else checkpoint.spec
    return registry.config_of(spec.name, spec.overrides)[1] if spec else None


def _fill(model, checkpoint, where, asked=()):
    """Fits the checkpoint's tensors into `model`, all of them or, with a UserError, none; `asked` names the options of
    `kzoo.get`.
    """
    fitting = _Fitting(model, checkpoint, where, asked)
    given, weights = fitting.given, fitting.weights
    checkpoint.verify(sorted({given.original(name) for piece, _ in fitting.plan for name in piece.reads}))
    for piece, change in sorted(fitting.plan, key=lambda step: [given.places[name] for name in step[0].names]):
        value = piece.decode([given.read(name) for name in piece.reads])
        _assign(weights[piece.path], change(value) if change else value)
    fates = {fate: tuple(paths) for fate, paths in fitting.fates.items()}
    told = {"format": checkpoint.format, "source": where, "part": checkpoint.part, "resized_by": tuple(fitting.rules)}
    return LoadReport(**fates, **told, digest=checkpoint.digest())


def _assign(weight, value):
    """Backends transpose a matrix several times as fast as NumPy writes its transposed view out."""
    transposed = value.ndim == 2 and value.flags.f_contiguous and not value.flags.c_contiguous
    weight.assign(keras.ops.transpose(value.T) if transposed else value)


class _Fitting:
    """What becomes of each weight of a model, decided from the shapes alone.

    fates: {field of LoadReport: names}. plan: [(piece to read, change of its value or None)].
    """

    def __init__(self, model, checkpoint, where, asked):
        self.where, self.asked, self.checkpoint = where, set(asked), checkpoint
        self.config = registry.config_of_model(model)
        self.weights = {weight.path: weight for weight in model.weights}
        self.heads, self.stems = self.config.head_layers, self.config.stem_kernels
        self.layout, self.given, found, unnamed = self._names(model)
        self.own_norms, self.left_norms = self._other_norms(model)
        self.tables, self.old_tables = position_layers(model), tables_of(checkpoint, model)
        self.fates = {fate: [] for fate in ("loaded", "resized", "adapted", "reinitialised", "unused", "training_only")}
        self.fates["reinitialised"] += [path for path in unnamed if _below(path, self.own_norms)]
        self.misfits = [f"{path} has no name in this layout" for path in unnamed if not _below(path, self.own_norms)]
        self.plan, self.remedies, self.rules = [], {}, {}  # the latter two: ordered sets
        for piece in found:
            self._decide(piece)
        self._find_unused(found)
        if self.misfits:
            raise UserError(self._explanation())

    def _names(self, model):
        """(layout or None for our own formats, the tensors by its names, pieces, paths without a name)."""
        if self.checkpoint.format in OWN:
            own = own_pieces(model, by_index=self.checkpoint.format in ("keras", "weights.h5"))
            return None, Renamed(self.checkpoint), own, []
        layout, given = recognise(self.checkpoint, self.config.layouts())
        return layout, given, *pieces(model, layout, self.config)

    def _other_norms(self, model):
        """(final norms of ours that the file does not have, those that it has in their place), where another pooling
        may be meant.
        """
        norms = self.config.pool_norms if "num_classes" in self.asked else ()
        ours = [norm for norm in norms if any(_below(weight.path, (norm,)) for weight in model.weights)]
        theirs = [norm for norm in norms if any(map(self._named_below((norm,)), self.given.places))]
        return (ours, theirs) if ours and theirs and not set(ours) & set(theirs) else ((), ())

    def _named_below(self, layers):
        """A function of a file's name: whether it is a weight of those layers of ours."""
        if self.layout is None:
            return lambda name: _below(name, layers)
        return self.layout.names(layers).fullmatch

    def _decide(self, piece):
        shapes = tuple(self.given.shapes.get(name) for name in piece.names)
        fits, change = None not in shapes and shapes == piece.shapes, None
        whole = self._whole_numbers(piece)
        fate = "loaded" if fits else None
        if whole:
            self.misfits.append(f"{piece.path} {piece.our_shape} is {whole}, no weight that was trained")
            self.remedies["save it in the floats that it was trained in"] = None
            return
        if piece.path in self.tables and None not in shapes:
            fate, change = self._table(piece, fits)
        elif not fits and _below(piece.path, self.heads) and "num_classes" in self.asked:
            fate = "reinitialised"
        elif _below(piece.path, self.own_norms):
            fate = "reinitialised"
        elif not fits and piece.path in self.stems and "in_channels" in self.asked and None not in shapes:
            fate, change = self._stem(piece)
        elif not fits and self.config.counted.get(piece.path) in self.asked and None not in shapes:
            fate, change = self._rows(piece)
        if fate is None:
            self.misfits.append(f"{piece.path} {piece.our_shape} {self._found(piece, shapes)}")
            self._advise(piece)
            return
        self.fates[fate].append(piece.path)
        if fate != "reinitialised":
            self.plan.append((piece, change))

    def _whole_numbers(self, piece):
        """The dtype of a tensor of whole numbers or truth values that would become a weight of floats; None where there
        is none.
        """
        if not keras.backend.is_float_dtype(self.weights[piece.path].dtype):
            return None
        kinds = [
            self.checkpoint.tensors[self.given.original(name)].dtype
            for name in piece.names
            if name in self.given.places
        ]
        return next((kind for kind in kinds if kind.startswith(("int", "uint", "bool"))), None)

    def _advise(self, piece):
        """Remembers which option of `kzoo.get` mends a misfit, where one does."""
        shape = self._decoded_shape(piece)
        if shape is None and piece.path.startswith(self.config.training_only):
            advice = "kzoo.get(..., weights=, num_classes=0) takes the encoder alone, without what only training needs"
        elif (
            _below(piece.path, self.heads)
            and piece.path.endswith("/kernel")
            and shape
            and shape[:-1] == piece.our_shape[:-1]
        ):
            advice = (
                f"kzoo.get(..., weights=, num_classes={shape[-1]}) takes the file's head, any other number named "
                "there a new one"
            )
        elif piece.path in self.tables and shape and shape[-1] == piece.our_shape[-1]:
            options = "= or ".join(self.config.regrids[:2])
            advice = f"kzoo.get(..., weights=, {options}=) resizes position tables"
        elif (
            piece.path in self.stems
            and shape
            and shape[:-2] == piece.our_shape[:-2]
            and shape[-1] == piece.our_shape[-1]
        ):
            advice = "kzoo.get(..., weights=, in_channels=) adapts the stem"
        elif piece.path in self.config.counted and shape and shape[1:] == piece.our_shape[1:]:
            advice = f"kzoo.get(..., weights=, {self.config.counted[piece.path]}=) keeps the first rows of the table"
        else:
            return
        self.remedies[advice] = None  # an ordered set

    def _decoded_shape(self, piece):
        """The shape of ours that the file's tensors would make; None where they make none."""
        try:
            return piece.decode([np.empty(self.given.shapes[name], "float32") for name in piece.names]).shape
        except (KeyError, ValueError, IndexError):
            return None

    def _table(self, piece, fits):
        """A position table: its rows may be as many as ours and still belong to another grid."""
        new, shape = self.tables[piece.path], self._decoded_shape(piece)
        if shape is None or shape[-1] != piece.our_shape[-1] or len(shape) != len(piece.our_shape):
            return None, None
        old = self.old_tables.get(piece.path) or guessed_table(self.checkpoint, new, shape[-2])
        if (
            old is None
            or old.prefix != new.prefix
            or (old.grid_size != new.grid_size and not self.asked & set(self.config.regrids))
        ):
            return None, None
        if old.grid_size == new.grid_size:
            return ("loaded" if fits else None), None
        method = (new.method, True) if self.layout is None or self.layout.antialias else ("bilinear", False)
        if self.layout is not None and self.layout.offsets:
            method = self.layout.offsets, True
        self.rules[method[0]] = None
        return "resized", lambda table: resize_table(table, old, new, *method)

    def _stem(self, piece):
        """The first convolution for other channels: one takes the sum, several the average's share each, as timm
        does.
        """
        shape, channels = self._decoded_shape(piece), piece.our_shape[-2]
        if shape is None or (*shape[:-2], channels, shape[-1]) != piece.our_shape:
            return None, None
        return "adapted", lambda kernel: adapt_channels(kernel, channels)

    def _rows(self, piece):
        """A table of another number of rows: the first stay, and any beyond them are as the model was built."""
        if (self._decoded_shape(piece) or ())[1:] != piece.our_shape[1:]:
            return None, None
        return "adapted", lambda table: keep_rows(table, keras.ops.convert_to_numpy(self.weights[piece.path]))

    def _found(self, piece, shapes):
        missing = [name for name, shape in zip(piece.names, shapes, strict=True) if shape is None]
        if missing:
            return f"is missing ({missing[0]})" if self.layout else "is missing"
        if piece.path in self.tables:
            old = self.old_tables.get(piece.path) or guessed_table(
                self.checkpoint, self.tables[piece.path], (self._decoded_shape(piece) or (0, 0))[-2]
            )
            grid = f" for the grid {old.grid_size}" if old else ""
            return f"has shape {shapes[0]}{grid}; its own is {self.tables[piece.path].grid_size}"
        return f"has shape {', '.join(map(str, shapes))}"

    def _find_unused(self, found):
        """What the file holds beyond the model: allowed where the layout says so, or where the call left that part
        out.
        """
        used, may_be_left, of_training = (
            {name for piece in found for name in piece.reads},
            self._leavable(),
            self._of_training(),
        )
        for name in self.given.places:
            if name not in used:
                original = self.given.original(name)
                if may_be_left(name):
                    self.fates["unused"].append(original)
                elif of_training(name):
                    self.fates["training_only"].append(original)
                else:
                    self.misfits.append(f"{original} is not in the model")
        for fate in ("unused", "training_only"):
            self.fates[fate] = list(dict.fromkeys(self.fates[fate]))  # once for a stack of blocks

    def _leavable(self):
        """A function of a file's name: whether it may stay unused. The layout's patterns are put together once, not for
        every name.
        """
        features, other_head = "features_only" in self.asked, "num_classes" in self.asked
        of_head = self._named_below((*(self.heads if other_head else ()), *self.left_norms))
        if self.layout is None:
            return lambda name: features or of_head(name)
        ignored, known = re.compile(f"{self.layout.ignored}|{BOOKKEEPING}"), self.layout.names()
        return lambda name: ignored.fullmatch(name) or (features and known.fullmatch(name)) or of_head(name)

    def _of_training(self):
        """A function of a file's name: whether only the training of the file's own model needed it."""
        if self.layout is not None:
            return re.compile(self.layout.training_only).fullmatch
        donor = _config_of(self.checkpoint)
        return lambda name: donor is not None and name.startswith(donor.training_only)

    def _explanation(self):
        shown = "; ".join(self.misfits[:5])
        more = f"; and {len(self.misfits) - 5} more" if len(self.misfits) > 5 else ""
        remedy = ", ".join(self.remedies) or "build it by kzoo.get with the overrides that the file was made with"
        return f"the weights of {self.where or self.checkpoint.path} do not fit this model: {shown}{more}; {remedy}."


def _below(path, layers):
    return path.startswith(tuple(f"{layer}/" for layer in layers))

"""The machinery of foreign names: which tensors of a file make a weight of ours, and back. The rules stand in the
families' files.
"""

import collections
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np

from kzoo.errors import UserError
from kzoo.keras_private import layers_in
from kzoo.models.layouts import ZEROS, Foreign, pattern


@dataclass(frozen=True)
class Piece:
    """One weight of ours, and the tensors of a file that it comes from.

    names and shapes: of those tensors, the names as after the aliases, the shapes of a file that fits. The others: what
    lies between.
    """

    path: str
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    our_shape: tuple[int, ...]
    right: Foreign = Foreign("")
    steps: tuple[tuple[Callable, Callable], ...] = ()

    @property
    def reads(self):
        """The names whose tensors `decode` takes: its own and that of the table whose first row it adds."""
        return (*self.names, self.right.plus_row_of) if self.right.plus_row_of else self.names

    def decode(self, arrays):
        """Ours from the file's tensors (which may have other lengths than `shapes` says)."""
        if not self.names:
            return np.zeros(self.our_shape, "float32")
        parts = []
        for array in arrays[: len(self.names)]:
            for _, to_ours in reversed(self.steps):
                array = to_ours(array)
            parts.append(array)
        value = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        if self.right.share:
            first, last, of = self.right.share
            value = value[..., first * value.shape[-1] // of : last * value.shape[-1] // of]
        return value + arrays[-1][:, :1] if self.right.plus_row_of else value

    def encode(self, value):
        """{name: tensor} of the file from ours; of a shared tensor, our part. Raises UserError for what the layout has
        no place for.
        """
        if not self.names:
            if np.any(value):
                raise UserError(
                    f"this layout has no place for {self.path}, which is not zero; use layout='timm' or 'keras'."
                )
            return {}
        parts = np.split(value, len(self.names), axis=-1) if len(self.names) > 1 else [value]
        return {name: self._to_file(part) for name, part in zip(self.names, parts, strict=True)}

    def _to_file(self, array):
        for to_file, _ in self.steps:
            array = to_file(array)
        return array


def pieces(model, layout, config):
    """([Piece], paths of the weights that the layout has no name for) of a model; `config` is that of its family."""
    depthwise = _depthwise_kernels(model)
    found, unnamed = [], []
    for weight in model.weights:
        right, names = _names_of(weight.path, layout)
        if right is None:
            unnamed.append(weight.path)
            continue
        shape = tuple(weight.shape)
        steps = tuple(_steps(weight.path, shape, right, layout, config, weight.path in depthwise))
        piece = Piece(weight.path, names, (), shape, right, steps)
        found.append(replace(piece, shapes=_shapes(piece)))
    return found, unnamed


def _depthwise_kernels(model):
    layers = [layer for layer in layers_in(model) if isinstance(layer, keras.layers.DepthwiseConv2D)]
    return {weight.path for layer in layers for weight in layer.weights}


def _names_of(path, layout):
    """(right side as a Foreign, names in the file) for a weight of ours; (None, ()) where no rule speaks of it."""
    stem, _, leaf = path.rpartition("/")
    for rules, text, suffix in ((layout.tensors, path, ""), (layout.layers, stem, layout.separator + "{leaf}")):
        for left, right in rules.items():
            match = pattern(left).fullmatch(text)
            if match:
                right = right if isinstance(right, Foreign) else Foreign(right)
                if right.name == ZEROS:
                    return right, ()
                template = right.name + ("" if "{leaf}" in right.name else suffix)
                values = dict(zip(re.findall(r"\{(\w+)\}", left), match.groups(), strict=True)) | {
                    "leaf": layout.leaves.get(leaf, leaf)
                }
                for word, value in values.items():
                    template = template.replace(f"{{{word}}}", value.replace("/", layout.separator))
                return right, _alternatives(template)
    return None, ()


def _alternatives(name):
    """`a.{x,y}.b` -> a.x.b, a.y.b."""
    before, brace, rest = name.partition("{")
    words, _, after = rest.partition("}")
    return tuple(before + word + after for word in words.split(",")) if brace else (name,)


def _steps(path, shape, right, layout, config, depthwise):
    """The changes from ours to the file's, in order: (there, back) each."""
    is_kernel = path.endswith("/kernel")
    if right.heads == "out":
        heads = config.num_heads
        yield lambda a: a.reshape(*a.shape[:-1], heads, -1), lambda a: a.reshape(*a.shape[:-2], -1)
    if right.heads == "in" and is_kernel:
        heads = config.num_heads
        yield lambda a: a.reshape(heads, -1, a.shape[-1]), lambda a: a.reshape(-1, a.shape[-1])
    if is_kernel and layout.style == "torch" and not right.as_is:
        order = {2: (1, 0), 4: (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)}[len(shape)]
        yield lambda a: a.transpose(order), lambda a: a.transpose(np.argsort(order))
    if is_kernel and right.pointwise:
        yield lambda a: a[..., None, None], lambda a: a.reshape(a.shape[:2])
    if right.drop_rows:
        rows = right.drop_rows
        yield lambda a: np.concatenate([np.zeros_like(a[:, :rows]), a], axis=1), lambda a: a[:, rows:]
    if right.ndim is not None:
        theirs, ours = right.ndim, len(shape)
        yield lambda a: _with_ndim(a, theirs), lambda a: _with_ndim(a, ours)


def _with_ndim(array, ndim):
    """Leading axes of length 1 added or dropped."""
    return array.reshape((1,) * (ndim - array.ndim) + array.shape[max(array.ndim - ndim, 0) :])


def _shapes(piece):
    """The shapes of the piece's tensors in a file that fits."""
    shape, share = list(piece.our_shape), piece.right.share
    if share:
        shape[-1] = shape[-1] // (share[1] - share[0]) * share[2]
    whole = np.empty(shape, "float32")  # never touched, so it costs no memory
    return tuple(part.shape for part in piece.encode(whole).values()) if piece.names else ()


def encode(model, layout, config):
    """{name: array} of the whole model in a layout. Raises UserError for a weight that it has no place for."""
    found, unnamed = pieces(model, layout, config)
    if unnamed:
        raise UserError(f"this layout has no name for {_few(unnamed)}; use another layout, 'keras' takes every model.")
    tensors = {name: np.zeros(shape, "float32") for name, shape in layout.blanks(config).items()}
    shared, weights = {}, {weight.path: weight for weight in model.weights}
    for piece in found:
        for name, array in piece.encode(keras.ops.convert_to_numpy(weights[piece.path])).items():
            if piece.right.share:
                shared.setdefault(name, []).append((piece.right.share, array))
            else:
                tensors[name] = contiguous(array)
    for name, parts in shared.items():
        arrays = [array for _, array in sorted(parts, key=lambda part: part[0])]
        tensors[name] = contiguous(np.concatenate(arrays, axis=0 if layout.style == "torch" else -1))
    return tensors


def contiguous(array):
    """The array in C order. NumPy copies a transposed matrix column by column, six times slower than by strips that fit
    the cache.
    """
    if array.ndim != 2 or array.flags.c_contiguous:
        return np.ascontiguousarray(array)
    copied = np.empty(array.shape, array.dtype)
    for start in range(0, array.shape[1], 16):
        copied[:, start : start + 16] = array[:, start : start + 16]
    return copied


def _few(names):
    return ", ".join(list(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# Attributes that training wrappers keep a model in: torch.compile, parallel and averaged models, Lightning, mmpretrain,
# DINO.
_WRAPPED_IN = re.compile(r"(module|_orig_mod|model|net|network|backbone|encoder|student|teacher)\.")
BOOKKEEPING = "n_averaged"  # what an averaged model counts beside its weights
_MOST_BLOCKS = 10_000  # that a stacked tensor may be split into


def unwrapped(names):
    """The prefixes that may be taken off a file's names: "", then each that most of them begin with, `module.`,
    `module._orig_mod.`, ...
    """
    found, prefix, left = [""], "", list(names)
    for _ in range(6):  # more than was ever seen
        heads = collections.Counter(match[0] for name in left if (match := _WRAPPED_IN.match(name)))
        head, count = heads.most_common(1)[0] if heads else ("", 0)
        if 2 * count < len(left) or not count:
            break
        prefix, left = prefix + head, [name.removeprefix(head) for name in left if name.startswith(head)]
        if len({name.removeprefix(prefix) for name in names}) == len(names):  # else it keeps two names apart
            found.append(prefix)
    return found


class Renamed:
    """A checkpoint's tensors, their names without `prefix` and changed by a layout's aliases: `shapes` {name: shape},
    `read(name)`.

    Stacked tensors are split.
    """

    def __init__(self, checkpoint, aliases=(), prefix=""):
        self.checkpoint, self.places, self.shapes = checkpoint, {}, {}
        self._last = (None, None)
        for original, tensor in checkpoint.tensors.items():
            self._place(original, original.removeprefix(prefix), tuple(tensor.shape), aliases)

    def _place(self, original, name, shape, aliases):
        for spelling, replacement in aliases:
            name = re.sub(spelling, replacement, name)
        stacked = "{i}" in name
        if stacked and shape and shape[0] > _MOST_BLOCKS:
            raise UserError(f"{self.checkpoint.path} stacks {shape[0]} blocks in {original}, more than any model has.")
        for index in range(shape[0]) if stacked and shape else [None]:
            one = name.replace("{i}", str(index))
            if one in self.places:
                raise UserError(
                    f"{self.checkpoint.path} holds {one} twice: as {self.places[one][0]} and as {original}."
                )
            self.places[one], self.shapes[one] = (original, index), shape[1:] if stacked else shape

    def original(self, name):
        """The file's own name of a tensor."""
        return self.places[name][0]

    def read(self, name):
        """The tensor, a NumPy array. Those of one stacked tensor are best read one after the other."""
        original, index = self.places[name]
        if self._last[0] != original:
            self._last = (original, self.checkpoint.read(original))
        return self._last[1] if index is None else self._last[1][index]


def recognise(checkpoint, layouts):
    """(the layout that knows most of the file's names, the checkpoint's tensors by its names), wrappers' prefixes taken
    off.

    Raises UserError for a file of which none knows a name.
    """
    best, known = None, 0
    for prefix in unwrapped(checkpoint.tensors):
        for layout in layouts.values():
            names, renamed = layout.names(), Renamed(checkpoint, layout.aliases, prefix)
            count = sum(names.fullmatch(name) is not None for name in renamed.places)
            if count > known:  # of equals the first: as the file has it
                best, known = (layout, renamed), count
    if best is None:
        raise UserError(
            f"{checkpoint.path} holds no weights of this family in a layout that kzoo knows "
            f"({', '.join(layouts) or 'none'}): "
            f"its tensors are named {_few(list(checkpoint.tensors))}."
        )
    return best


def own_pieces(model, by_index):
    """The weights under our own names: by path or, as Keras' HDF5 files have them, by the layer's path and the weight's
    index there.
    """
    found, counts = [], {}
    for weight in model.weights:
        layer = weight.path.rpartition("/")[0]
        index = counts[layer] = counts.get(layer, -1) + 1
        name = f"{layer}/{index}" if by_index else weight.path
        found.append(Piece(weight.path, (name,), (tuple(weight.shape),), tuple(weight.shape)))
    return found

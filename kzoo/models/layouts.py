"""How other libraries name a family's weights: short rules, read by `kzoo.weights`.

A family's config gives them by `layouts()`, {"timm": Layout(...), ...}; ours stand in kzoo/models/names. A rule goes
from a weight of ours to a tensor of the file; `{i}`, `{j}` and so on stand for numbers, `{rest}` for a path whose
separators are exchanged, `{a,b}` for several tensors that ours has side by side.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from kzoo.errors import UserError

# What a layer's own weights are called elsewhere, and what separates the parts of a name.
STYLES = {
    "torch": (".", {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias",
                    "moving_mean": "running_mean", "moving_variance": "running_var"}),
    "flax": ("/", {"kernel": "kernel", "bias": "bias", "gamma": "scale", "beta": "bias"}),
}  # fmt: skip
ZEROS = "zeros"  # the right side of a rule for a weight that the layout does not have: zero


@dataclass(frozen=True)
class Foreign:
    """The right side of a rule that needs more than a name.

    name: as in a plain rule. ndim: axes of the file's tensor, where axes of length 1 lead on one side. heads: "out" or
    "in", the axis of a projection that the file splits into (heads, head_dim). as_is: a matrix that is stored as ours,
    not transposed. pointwise: a matrix that the file stores as the kernel of a 1x1 convolution. share: (first, last,
    of), ours is that part of the file's output axis. drop_rows: leading rows of the file's position table that ours
    lacks. plus_row_of: a position table whose first row belongs here.
    """

    name: str
    ndim: int | None = None
    heads: str | None = None
    as_is: bool = False
    pointwise: bool = False
    share: tuple[int, int, int] | None = None
    drop_rows: int = 0
    plus_row_of: str | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a library names and arranges a family's weights.

    layers: rules for layers, whose kernel, bias, ... follow by the style; tensors: rules for whole weights, tried
    first. aliases: (pattern, replacement) applied to a file's names before anything else, for prefixes and older
    spellings; a replacement with `{i}` splits a tensor that is stacked over the blocks. ignored: pattern of names that
    such files hold beside the model; training_only: of those that only the training of the file's model needed.
    numerics: from a file (`kzoo.weights.names.Renamed`) and what `kzoo.get` was asked for, the overrides that its
    numbers were made for. antialias: how the library resizes position tables, bicubic with antialiasing or, False,
    bilinear without. offsets: how it resizes tables of offsets, a key of kzoo.weights.surgery.OFFSET_RULES; None: as
    the model's layers say. config: from a model's config, what the library's config.json says of it. blanks: from the
    same, {name: shape} of what the library's model has and ours has not, written as zeros.
    """

    style: str
    layers: Mapping[str, str | Foreign]
    tensors: Mapping[str, str | Foreign] = dataclasses.field(default_factory=dict)
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: str = r"(?!)"
    training_only: str = r"(?!)"
    numerics: Callable = lambda given, asked: {}
    antialias: bool = True
    offsets: str | None = None
    config: Callable | None = None
    blanks: Callable = lambda config: {}

    @property
    def separator(self):
        return STYLES[self.style][0]

    @property
    def leaves(self):
        return STYLES[self.style][1]

    def names(self, lefts=None):
        """The pattern of a file's names, their aliases applied, that any rule speaks of, or any of those with the left
        sides given.
        """
        leaf = "|".join(sorted(set(self.leaves.values())))
        found = []
        for rules, suffix in ((self.tensors, ""), (self.layers, f"{self.separator}{{leaf}}")):
            for left, right in rules.items():
                if right != ZEROS and (lefts is None or left in lefts):
                    text = right.name if isinstance(right, Foreign) else right
                    found.append(pattern(text if "{leaf}" in text else text + suffix, leaf).pattern)
        return re.compile("|".join(found) or r"(?!)")


@functools.cache
def pattern(template, leaf=""):
    """The regular expression of a rule's side; `leaf` that of what layers call their own weights."""
    text = re.escape(template).replace(r"\{", "{").replace(r"\}", "}").replace(r"\,", ",")

    def group(match):
        word = match[1]
        if word == "leaf":
            return f"({leaf})"
        return "(" + word.replace(",", "|") + ")" if "," in word else r"(.+)" if word == "rest" else r"(\d+)"

    return re.compile(re.sub(r"\{([^}]*)\}", group, text))


_TRANSFORMERS_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}


def transformers_numerics(act, norm_eps):
    """`numerics` of transformers' files: what the config.json beside them says, else the library's defaults for the
    class.
    """

    def numerics(given, asked):
        config = given.checkpoint.config
        config = config.get("vision_config", config)
        spelt = config.get("hidden_act")
        if spelt is not None and spelt not in _TRANSFORMERS_ACTIVATIONS:
            raise UserError(
                f"config.json beside {given.checkpoint.path} asks for the activation {spelt!r}, which kzoo's models do "
                "not have."
            )
        return {"act": _TRANSFORMERS_ACTIVATIONS.get(spelt, act), "norm_eps": config.get("layer_norm_eps", norm_eps)}

    return numerics


def transformers_activation(act):
    """What transformers calls an activation of ours."""
    names = {ours: theirs for theirs, ours in reversed(_TRANSFORMERS_ACTIVATIONS.items())}
    return (names | {"gelu_tanh": "gelu_pytorch_tanh"})[act]


def transformers_config(config, needs, **fields):
    """What the config.json of every vision transformer in transformers says, from ours; `fields` is what the class
    adds.

    needs: {field of ours: the one value that the class can express}. Raises UserError where the config has another.
    """
    for field, value in needs.items():
        if getattr(config, field) != value:
            raise UserError(
                f"{fields['architectures'][0]} needs {field}={value!r}, this model has {getattr(config, field)!r}"
            )
    return fields | {
        "hidden_size": config.embed_dim,
        "intermediate_size": int(config.embed_dim * config.mlp_ratio),
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "image_size": config.image_size if isinstance(config.image_size, int) else list(config.image_size),
        "patch_size": config.patch_size,
        "num_channels": config.in_channels,
        "hidden_act": transformers_activation(config.act),
        "layer_norm_eps": config.norm_eps,
    }


def joined(top, config, key, prefix):
    """The layout `top` of what stands on a backbone, with the backbone's own of that key, whose names there begin with
    `prefix`.

    The numerics that a file of it tells of the backbone join the options of `config`, a
    kzoo.models.backbone.OnBackbone.
    """
    network = config.network.layouts()[key]

    def prefixed(right):
        return replace(right, name=prefix + right.name) if isinstance(right, Foreign) else prefix + right

    def numerics(given, asked):
        options = network.numerics(given, asked)
        return top.numerics(given, asked) | ({"backbone_options": config.backbone_options | options} if options else {})

    layers = {config.below + left: prefixed(right) for left, right in network.layers.items()}
    return replace(top, layers=top.layers | layers, ignored=f"{top.ignored}|{network.ignored}", numerics=numerics)

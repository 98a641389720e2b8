"""Names: finding, describing and building models, and finding recipes. Listing runs no module. Standard library only."""

import ast
import dataclasses
import fnmatch
import functools
import importlib
import importlib.util
import pathlib
import types
import typing
from dataclasses import dataclass

from kzoo.errors import UsageError, require_backend, unknown
from kzoo.schema import Spec

PACKAGE = pathlib.Path(__file__).parent
_BUILDERS = {}  # module name -> builder


@dataclass(frozen=True)
class Row:
    """A model's entry as its source shows it: nothing was run."""

    name: str
    family: str
    task: str
    module: str


@dataclass(frozen=True)
class ModelInfo:
    """What `kzoo.info` tells. `params` counts weights, `gmacs` 10^9 multiply-accumulates of one picture's forward pass."""

    name: str
    family: str
    task: str
    image_size: tuple[int, int]
    params: int
    gmacs: float
    feature_info: tuple[dict, ...]
    paper: str
    recipes: tuple[str, ...]
    tags: tuple[str, ...]


def register(builder):
    """Links a family's builder, `builder(config) -> keras.Model`, to the VARIANTS table of its module. Used as a decorator."""
    _BUILDERS[builder.__module__] = builder
    return builder


def _literals(path):
    """{name: ast value} of a file's top-level assignments, and its docstring, without running it."""
    tree = ast.parse(path.read_text())
    found = {t.id: node.value for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)}
    return found, ast.get_docstring(tree) or ""


def _keys(table):
    return [key.value for key in table.keys] if isinstance(table, ast.Dict) else []


@functools.cache
def rows():
    """{name: Row} of every model, in the order of names."""
    found = {}
    for path in sorted((PACKAGE / "models").glob("*.py")):
        values, _ = _literals(path)
        task = values["TASK"].value if "TASK" in values else "classify"
        for name in _keys(values.get("VARIANTS")):
            found[name] = Row(name, path.stem, task, f"kzoo.models.{path.stem}")
    return dict(sorted(found.items()))


@functools.cache
def recipe_rows():
    """{recipe name: (file, name of its model)}: recipes lie inside the package in a wheel, beside it in a checkout."""
    folder = next((f for f in (PACKAGE / "recipes", PACKAGE.parent / "recipes") if f.is_dir()), None)
    found = {}
    for path in sorted(folder.glob("*.py")) if folder else ():
        values, _ = _literals(path)
        table = values.get("RECIPES")
        for name, call in zip(_keys(table), table.values if table else (), strict=True):
            model = next((k.value.value for k in call.keywords if k.arg == "model" and isinstance(k.value, ast.Constant)), None)
            found[name] = (path, model)
    return dict(sorted(found.items()))


def list_models(pattern="*", *, task=None, family=None, weights=None):
    """The sorted names that match a shell-style pattern; `weights=True` keeps those with published weights (none are known yet)."""
    return [
        row.name
        for row in rows().values()
        if fnmatch.fnmatchcase(row.name, pattern) and task in (None, row.task) and family in (None, row.family) and not weights
    ]


def list_recipes(pattern="*"):
    """The sorted names of the recipes that match a shell-style pattern."""
    return fnmatch.filter(recipe_rows(), pattern)


def load_module(path):
    """Runs a Python file under its stem's name and returns the module. Only for recipe files, which are code by contract."""
    spec = importlib.util.spec_from_file_location(f"kzoo_recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recipe(name):
    """The Recipe of that name. Raises UsageError with the nearest names."""
    if name not in recipe_rows():
        raise unknown("recipe", name, recipe_rows())
    return load_module(recipe_rows()[name][0]).RECIPES[name]


def find(name):
    """The Row of a model's name. Raises UsageError with the nearest names."""
    base, dot, tag = name.partition(".")
    if base not in rows():
        raise unknown("model", name, rows())
    if dot:
        raise UsageError(f"{base} has no published weights tagged {tag!r} in this version; use {base!r} with weights=PATH.")
    return rows()[base]


def toy_of(name):
    """The name of the toy row of a model's family."""
    family = find(name).family
    return next(row.name for row in rows().values() if row.family == family and row.name.endswith("_toy"))


def config_of(name, overrides=None):
    """(builder, config) of a name, the overrides checked against the family's fields. Imports the family's module, so Keras."""
    row = find(name)
    require_backend()
    module = importlib.import_module(row.module)
    config = module.VARIANTS[row.name]
    hints = typing.get_type_hints(type(config))
    for key, value in (overrides or {}).items():
        if key not in hints:
            raise unknown(f"option of {row.name}", key, hints)
        if not _fits(value, hints[key]):
            raise UsageError(f"option {key} of {row.name} takes {_spell(hints[key])}, not {value!r}.")
    config = dataclasses.replace(config, **{k: tuple(v) if isinstance(v, list) else v for k, v in (overrides or {}).items()})
    return _BUILDERS[row.module], config


def _options(hint):
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _fits(value, hint):
    kinds = tuple(typing.get_origin(option) or option for option in _options(hint))
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int)) or (tuple in kinds and isinstance(value, list))


def _spell(hint):
    return " or ".join("None" if o is type(None) else getattr(o, "__name__", str(o)) for o in _options(hint))


def get(name, weights=None, num_classes=None, image_size=None, in_channels=None, features_only=False, out_indices=None, **overrides):
    """A built Keras model by name.

    num_classes 0 gives the pooled vector (B, D); image_size is a side or (height, width) in pixels; features_only gives a list of
    maps (B, H, W, C). `overrides` are fields of the family's config; `weights` is a path (a run, .keras or .weights.h5).
    Raises UsageError for unknown names and options, naming the nearest valid ones.
    """
    common = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels, "out_indices": out_indices}
    overrides |= {k: v for k, v in common.items() if v is not None}
    overrides |= {"features_only": True} if features_only else {}
    builder, config = config_of(name, overrides)
    model = builder(config)
    preprocessing = config.preprocessing.for_channels(config.in_channels)
    shown = {k: v for k, v in overrides.items() if k != "preprocessing"}
    model.spec = Spec(name=find(name).name, overrides=shown, preprocessing=preprocessing)
    if weights is not None:
        from kzoo.weights import fit_for_get

        model.load_report = fit_for_get(model, weights, asked=overrides)
    return model


def info(name):
    """ModelInfo of a name: its counts come from building it without memory, in milliseconds to seconds."""
    from kzoo.models.count import count

    row = find(name)
    builder, config = config_of(name)
    params, macs = count(lambda: builder(config))
    recipes = tuple(r for r, (_, model) in recipe_rows().items() if model == row.name)
    paper = getattr(importlib.import_module(row.module), "PAPER", "")
    return ModelInfo(row.name, row.family, row.task, config.size, params, macs / 1e9, tuple(config.feature_info()), paper, recipes, ())

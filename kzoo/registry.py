"""Names: finding, describing and building models, ours and those of plugins, and finding recipes.

Listing runs no module. A plugin is an installed package whose entry points of the group `kzoo.models` name the modules of its
families, each built like one of kzoo/models; other parts have groups of their own. Standard library only.
"""

import ast
import dataclasses
import fnmatch
import functools
import importlib
import importlib.util
import os
import pathlib
import traceback
import types
import typing
import warnings
from dataclasses import dataclass
from importlib.machinery import PathFinder

from kzoo.errors import UsageError, UserError, require_backend, unknown
from kzoo.schema import FORMER, SETTINGS, Classify, Preprocessing, Recipe, Spec, tupled

PACKAGE = pathlib.Path(__file__).parent
PLUGINS = "kzoo.models"  # the entry-point group
TASKS = "kzoo.tasks"  # that of tasks
OURS = "kzoo"  # the distribution of our own families
_BUILDERS = {}  # module name -> builder


@dataclass(frozen=True)
class Row:
    """A model's entry as its source shows it: nothing was run. `rivals` are the rows of other modules that claim its name."""

    name: str
    family: str
    task: str
    module: str
    distribution: str
    rivals: tuple["Row", ...] = ()


@dataclass(frozen=True)
class ModelInfo:
    """What `kzoo.info` tells. `params` counts weights, `gmacs` 10^9 multiply-accumulates of one picture's forward pass.

    `tags` are those of the published weights. For a name with its tag the last four tell their licence, their address, the set of
    their class names and what else is to know.
    """

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
    num_classes: int
    preprocessing: Preprocessing
    license: str = ""
    weights: str = ""
    classes: str = ""
    note: str = ""


def register(builder):
    """Links a family's builder, `builder(config) -> keras.Model`, to the VARIANTS table of its module. Used as a decorator."""
    _BUILDERS[builder.__module__] = builder
    return builder


def _literals(path):
    """{name: ast value} of a file's top-level assignments, and its docstring, without running it."""
    tree = ast.parse(path.read_bytes())
    found = {t.id: node.value for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)}
    return found, ast.get_docstring(tree) or ""


def _keys(table):
    """The literal keys of a table's source; [] where it is no literal dictionary."""
    return [key.value for key in table.keys if isinstance(key, ast.Constant)] if isinstance(table, ast.Dict) else []


@functools.cache
def rows():
    """{name: Row} of every model, ours and the plugins', in the order of names."""
    found = {}
    for row in (*_our_rows(), *_plugin_rows()):
        first = found.get(row.name)
        found[row.name] = dataclasses.replace(first, rivals=(*first.rivals, row)) if first else row
    return dict(sorted(found.items()))


def _rows_in(path, family, module, distribution):
    values, _ = _literals(path)
    task = values["TASK"].value if "TASK" in values else "classify"
    return [Row(name, family, task, module, distribution) for name in _keys(values.get("VARIANTS"))]


def _our_rows():
    for path in sorted((PACKAGE / "models").glob("*.py")):
        yield from _rows_in(path, path.stem, f"kzoo.models.{path.stem}", OURS)


def _plugin_rows():
    """The rows of the installed plugins, a family by its entry point's name. Warns of an entry point that leads to no table of names."""
    for entry in entries(PLUGINS):
        path, found, reason = _source_of(entry.module), [], "it holds no literal VARIANTS table"
        try:
            found = _rows_in(path, entry.name, entry.module, entry.dist.name) if path else []
        except (OSError, SyntaxError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
        yield from found
        if not found:
            reason = reason if path else "it is not there"
            warnings.warn(f"no model of the plugin {entry.dist.name} is listed from its module {entry.module}: {reason}", stacklevel=2)


@functools.cache
def entries(group):
    """The entry points of the installed packages in a group, in the order of packages and modules. Nothing of a package runs."""
    from importlib.metadata import entry_points  # as costly as the rest of listing: not before it is needed

    return tuple(sorted(entry_points(group=group), key=lambda e: (e.dist.name, e.module)))


def _source_of(module):
    """The file of a module, or None: found without running it or a package that it lies in, as importlib.util.find_spec would."""
    name, *inner = module.split(".")
    spec = importlib.util.find_spec(name)
    for part in inner:
        name = f"{name}.{part}"
        spec = spec and PathFinder.find_spec(name, spec.submodule_search_locations or ())
    return pathlib.Path(spec.origin) if spec and spec.has_location else None


def _claimed_once(row):
    """The row itself. Raises UserError where another module claims its name too; all other names stay usable."""
    refuse_rivals("model", row.name, [(r.distribution, r.module) for r in (row, *row.rivals)])
    return row


def refuse_rivals(kind, name, claims):
    """Raises UserError where several (distribution, module) claim one name of a kind of things."""
    if len(claims) > 1:
        told = " and by ".join(f"{distribution} ({module})" for distribution, module in claims)
        raise UserError(f"the {kind} name {name!r} is claimed by {told}; uninstall one of them or rename its {kind}.")


def settings_class(kind):
    """The class of a task's settings, of ours or of a plugin, whose module is then imported and registers the task.

    Raises UsageError with the nearest kinds, UserError for one that two packages claim and for a plugin that fails.
    """
    plugged = entries(TASKS)
    if kind not in SETTINGS and kind not in {entry.name for entry in plugged}:
        raise unknown("task", kind, {*SETTINGS, *(entry.name for entry in plugged)})
    plugged = [entry for entry in plugged if entry.name == kind]
    ours = [(OURS, f"kzoo.tasks.{kind}")] if is_ours(SETTINGS.get(kind)) else []
    refuse_rivals("task", kind, ours + [(entry.dist.name, entry.module) for entry in plugged])
    for entry in plugged:
        imported(entry.load, f"the task {kind!r}", entry.module, entry.dist.name)
        if kind not in SETTINGS:
            raise UserError(
                f"the task {kind!r} of the plugin {entry.dist.name}: {entry.module} defines no settings whose kind is {kind!r}."
            )
    return SETTINGS[kind]


def is_ours(settings):
    """Whether a class of settings is one of kzoo's own."""
    return getattr(settings, "__module__", "") == Classify.__module__


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
    """The sorted names that match a shell-style pattern; a pattern with a dot is matched with the names of published weights, NAME.TAG.

    `weights` keeps the names with (True) or without (False) published weights. Raises UserError where two packages claim a name.
    """
    wanted = [row for row in rows().values() if task in (None, row.task) and family in (None, row.family)]
    tagged = {}
    if weights is not None or "." in pattern:
        from kzoo.published import published

        tagged = published()
        wanted = [row for row in wanted if weights in (None, row.name in tagged)]
    if "." not in pattern:
        return [_claimed_once(row).name for row in wanted if fnmatch.fnmatchcase(row.name, pattern)]
    names = [(row, tag.name) for row in wanted for tag in tagged.get(row.name, {}).values()]
    return [name for row, name in names if fnmatch.fnmatchcase(name, pattern) and _claimed_once(row)]


def list_recipes(pattern="*"):
    """The sorted names of the recipes that match a shell-style pattern."""
    return fnmatch.filter(recipe_rows(), pattern)


def load_module(path):
    """Runs a Python file under its stem's name and returns the module. Only for recipe files, which are code by contract.

    Raises UserError with the file and the line for one that fails, of the kind of its own where that is a UserError.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the path of a recipe file.")
    spec = importlib.util.spec_from_file_location(f"kzoo_recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        raise type(error)(f"{path}, line {_line_in(path, error)}: {error}") from error
    except (Exception, SystemExit) as error:
        said = error.msg if isinstance(error, SyntaxError) else f"{type(error).__name__}: {error}".strip(": ")
        if former := [key for key in FORMER if f"unexpected keyword argument '{key}'" in said]:
            said = f"{former[0]} is a field of the task now, task=Classify({former[0]}=...)"
        raise UserError(f"{path}, line {_line_in(path, error)}: {said.splitlines()[0]}; correct the recipe file.") from error
    return module


def _line_in(path, error):
    """The number of the line of a file that raised, or that could not be read as Python."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.absolute())]
    unread = isinstance(error, SyntaxError) and error.filename == str(path.absolute())
    return error.lineno if unread else lines[-1] if lines else 1


def load_recipes(path):
    """The table RECIPES of a recipe file: {name: Recipe}. Raises UserError where it has none or the file fails."""
    recipes = getattr(load_module(path), "RECIPES", None)
    if not isinstance(recipes, dict) or not recipes or not all(isinstance(r, Recipe) for r in recipes.values()):
        raise UserError(f'{path} needs a table of recipes, RECIPES = {{"NAME": Recipe(...)}}, with at least one; correct the recipe file.')
    return recipes


def recipe(name):
    """The Recipe of that name. Raises UsageError with the nearest names."""
    if name not in recipe_rows():
        raise unknown("recipe", name, recipe_rows())
    return load_recipes(recipe_rows()[name][0])[name]


def find(name):
    """The Row of a model's name, with or without a tag. Raises UsageError with the nearest names, UserError for one claimed twice."""
    return split(name)[0]


def is_name(word):
    """Whether a word is meant as a model's name, with or without a tag, rather than as a path."""
    return word.partition(".")[0] in rows()


def split(name):
    """(Row, Tag or None) of NAME or NAME.TAG. Raises as `find` does, and UsageError with the nearest tags."""
    base, dot, tag = name.partition(".")
    if base not in rows():
        raise unknown("model", base, rows())
    row = _claimed_once(rows()[base])
    if not dot:
        return row, None
    from kzoo.published import find_tag

    return row, find_tag(base, tag)


def toys(word=None):
    """The names of the toy rows: all, or those of a family or of a distribution (`kzoo`, or a plugin's)."""
    return [row.name for row in rows().values() if row.name.endswith("_toy") and word in (None, row.family, row.distribution)]


def toy_of(name):
    """The name of the toy row in the module of a model. Raises UserError where it has none."""
    module = find(name).module
    for toy in toys():
        if rows()[toy].module == module:
            return toy
    raise UserError(f"{module} has no model whose name ends in _toy, which a smoke run needs; add a small one to its VARIANTS.")


def module_of(name):
    """The module of a model's family, imported. Raises UserError, chained, where that of a plugin fails."""
    row = find(name)
    return imported(functools.partial(importlib.import_module, row.module), row.name, row.module, row.distribution)


def imported(load, name, module, distribution):
    """load(), which imports the module that `name` comes from. Raises UserError, chained, where that of a plugin fails."""
    try:
        return load()
    except Exception as error:
        if distribution == OURS or isinstance(error, UserError):
            raise
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{name} cannot be had: the module {module} of the plugin {distribution} fails when imported ({told}); "
            "repair or uninstall the plugin."
        ) from error


def config_of(name, overrides=None):
    """(builder, config) of a name, a tag's settings in it, the overrides, checked against the family's fields, over both.

    Imports the family's module, so Keras.
    """
    row, tag = split(name)
    require_backend()
    config = module_of(row.name).VARIANTS[row.name]
    if row.module not in _BUILDERS:
        raise UserError(f"{row.module} registers no builder; put @kzoo.register over its function from a config to a model.")
    hints = typing.get_type_hints(type(config))
    for key, value in (overrides or {}).items():
        if key not in hints:
            raise unknown(f"option of {row.name}", key, hints)
        if not _fits(value, hints[key]):
            raise UsageError(f"option {key} of {row.name} takes {_spell(hints[key])}, not {value!r}.")
    return _BUILDERS[row.module], dataclasses.replace(config, **(tag.options if tag else {}) | tupled(overrides or {}))


def _require_memory(name, overrides, builds):
    """Raises UserError for a model that leaves this machine no memory. Its weights are counted only where a size is far beyond the row's.

    Counting takes as long as building does, without the memory.
    """
    row, memory = config_of(name)[1], _memory()
    large = [key for key, value in overrides.items() if key != "num_classes" and _size(value) > 8 * _size(getattr(row, key))]
    if not large or not memory:
        return
    from kzoo.models.count import skeleton

    weights = skeleton(builds).count_params()
    if 4 * weights > memory / 4:  # what fills them needs room too
        sizes = ", ".join(f"{key}={overrides[key]}" for key in large)
        raise UserError(
            f"{name} with {sizes} has {weights:,} weights, {4 * weights / 1e9:,.0f} GB in float32, and this machine {memory / 1e9:,.0f} GB "
            "of memory; choose smaller sizes."
        )


def _memory():
    """Bytes of this machine's memory; 0 where the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def _size(value):
    """The largest number of an option's value; 0 where it holds none."""
    numbers = value if isinstance(value, tuple | list) else (value,)
    return max((number for number in numbers if isinstance(number, int | float)), default=0)


def _options(hint):
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _fits(value, hint):
    return any(_fits_one(value, option) for option in _options(hint))


def _fits_one(value, option):
    if typing.get_origin(option) is tuple:
        return isinstance(value, tuple | list) and all(_fits(item, typing.get_args(option)[0]) for item in value)
    return isinstance(value, (int, float) if option is float else option) and (option is bool or not isinstance(value, bool))


def _spell(hint):
    return " or ".join("None" if o is type(None) else getattr(o, "__name__", str(o)) for o in _options(hint))


def get(name, weights=None, num_classes=None, image_size=None, in_channels=None, features_only=False, out_indices=None, **overrides):
    """A built Keras model by name, NAME or NAME.TAG.

    num_classes 0 gives the pooled vector (B, D); image_size is a side or (height, width) in pixels; features_only gives a list of
    maps (B, H, W, C). `overrides` are fields of the family's config. `weights` is what `kzoo.load_weights` reads: a run, a file of
    any format, hf://org/repo[@revision][/file]. A tag gives the settings and, without `weights`, the weights published under it; what
    else is asked for stands above its settings. Raises UsageError for unknown names and options, naming the nearest valid ones, and for
    frozen parts without weights.
    """
    common = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels, "out_indices": out_indices}
    overrides |= {k: v for k, v in common.items() if v is not None}
    overrides |= {"features_only": True} if features_only else {}
    tag = split(name)[1]
    weights = _address(tag) if tag and weights is None else weights
    if weights is None:
        needs = config_of(name, overrides)[1].needs_weights()
        if needs:
            raise UsageError(f"{name} with {needs} would stay as random as it starts: give it trained weights by weights=PATH.")
        return build(name, overrides)
    from kzoo.weights import build_and_fill

    model = build_and_fill(lambda settings: build(name, settings), name, weights, overrides)
    model.spec = dataclasses.replace(model.spec, source=model.load_report.hub_source)
    return model


def build(name, overrides):
    """A model with its spec, as `get` builds it, for callers that fill in the weights themselves: frozen parts may be random."""
    builder, config = config_of(name, overrides)
    _require_memory(name, overrides, lambda: builder(config))
    model, tag = builder(config), split(name)[1]
    model.spec = _spec(name, overrides, config)
    if tag and model.classes == tag.num_classes:
        model.spec = dataclasses.replace(model.spec, class_names=tag.class_names)
    return model


def spec_of_model(model):
    """The Spec of a model that kzoo built. Raises UserError for any other."""
    spec = getattr(model, "spec", None)
    if spec is None:
        raise UserError(
            "this model carries no spec, by which kzoo knows what it is and how its pictures are prepared: take one that kzoo.get or "
            "kzoo.load built; a clone of one has it again by clone.spec = model.spec."
        )
    return spec


def config_of_model(model):
    """The family's config of a model that kzoo built. Raises UserError for any other."""
    spec = spec_of_model(model)
    return config_of(spec.name, spec.overrides)[1]


def _address(tag):
    """Where the hub has the weights of a tag. Raises UserError for those that only a browser fetches."""
    if not tag.address.startswith("hf://"):
        raise UserError(f"{tag.name} is not on the hub: download {tag.address} and name the file, kzoo.get({tag.name!r}, weights=FILE).")
    return tag.address


def _spec(name, overrides, config):
    """The Spec of a model to be built: it rebuilds without the tag."""
    row, tag = split(name)
    settings = {k: v for k, v in ((tag.options if tag else {}) | overrides).items() if k != "preprocessing"}
    published = {"tag": tag.tag, "license": tag.license} if tag else {}
    return Spec(name=row.name, overrides=settings, preprocessing=config.take.preprocessing, **published)


def info(name):
    """ModelInfo of a name, with or without a tag: its counts come from building it without memory, in milliseconds to seconds."""
    from kzoo.models.count import count
    from kzoo.published import tags

    row, tag = split(name)
    builder, config = config_of(name)
    params, macs = count(lambda: builder(config))
    published = {}
    if tag:
        published = {"license": tag.license, "weights": tag.address, "classes": tag.classes, "note": _note(tag, config)}
    return ModelInfo(
        name=name,
        family=row.family,
        task=row.task,
        image_size=config.size,
        params=params,
        gmacs=macs / 1e9,
        feature_info=tuple(config.feature_info()),
        paper=getattr(module_of(name), "PAPER", ""),
        recipes=tuple(r for r, (_, model) in recipe_rows().items() if model == row.name),
        tags=tuple(tags(row.name)),
        num_classes=config.num_classes,
        preprocessing=config.take.preprocessing,
        **published,
    )


def _note(tag, config):
    """What to know before using a tag: weights that were trained with another activation than the model's."""
    from kzoo.published import same_weights

    if not tag.act or tag.act == config.act:
        return ""
    others = " or ".join(other.name for other in same_weights(tag)) or f"act={tag.act!r}"
    return f"trained with {tag.act}; for the original results use {others}"

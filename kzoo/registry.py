"""Names: finding models, ours and those of plugins, and what builds them.

Listing runs no module. A plugin is an installed package whose entry points of the group `kzoo.models` name the modules
of its families, each built like one of kzoo/models; other parts have groups of their own. Standard library only.
"""

import ast
import dataclasses
import fnmatch
import functools
import importlib
import importlib.util
import pathlib
import typing
import warnings
from dataclasses import dataclass
from importlib.machinery import PathFinder

from kzoo.errors import UserError, require_backend, unknown
from kzoo.settings import tupled, typed
from kzoo.specs import OURS

PACKAGE = pathlib.Path(__file__).parent
PLUGINS = "kzoo.models"  # the entry-point group
_BUILDERS = {}  # module name -> builder


@dataclass(frozen=True)
class Row:
    """A model's entry as its source shows it: nothing was run. `rivals` are the rows of other modules that claim its
    name.
    """

    name: str
    family: str
    task: str
    module: str
    distribution: str
    rivals: tuple["Row", ...] = ()


def register(builder):
    """Links a family's builder, `builder(config) -> keras.Model`, to the VARIANTS table of its module. Used as a
    decorator.
    """
    _BUILDERS[builder.__module__] = builder
    return builder


def literals(path):
    """{name: ast value} of a file's top-level assignments, and its docstring, without running it."""
    tree = ast.parse(path.read_bytes())
    found = {
        t.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for t in node.targets
        if isinstance(t, ast.Name)
    }
    return found, ast.get_docstring(tree) or ""


def keys_of(table):
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
    values, _ = literals(path)
    task = values["TASK"].value if "TASK" in values else "classify"
    return [Row(name, family, task, module, distribution) for name in keys_of(values.get("VARIANTS"))]


def _our_rows():
    for path in sorted((PACKAGE / "models").glob("*.py")):
        yield from _rows_in(path, path.stem, f"kzoo.models.{path.stem}", OURS)


def _plugin_rows():
    """The rows of the installed plugins, a family by its entry point's name. Warns of an entry point that leads to no
    table of names.
    """
    from importlib.metadata import entry_points  # as costly as the rest of listing: not before it is needed

    if not entry_points(group=PLUGINS):
        return
    from kzoo.plugins import entries

    for entry in entries(PLUGINS):
        path, found, reason = _source_of(entry.module), [], "it holds no literal VARIANTS table"
        try:
            found = _rows_in(path, entry.name, entry.module, entry.dist.name) if path else []
        except (OSError, SyntaxError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
        yield from found
        if not found:
            reason = reason if path else "it is not there"
            warnings.warn(
                f"no model of the plugin {entry.dist.name} is listed from its module {entry.module}: {reason}",
                stacklevel=2,
            )


def _source_of(module):
    """The file of a module, or None: found without running it or a package that it lies in, as importlib.util.find_spec
    would.
    """
    name, *inner = module.split(".")
    spec = importlib.util.find_spec(name)
    for part in inner:
        name = f"{name}.{part}"
        spec = spec and PathFinder.find_spec(name, spec.submodule_search_locations or ())
    return pathlib.Path(spec.origin) if spec and spec.has_location else None


def _claimed_once(row):
    """The row itself. Raises UserError where another module claims its name too; all other names stay usable."""
    if row.rivals:
        from kzoo.plugins import refuse_rivals

        refuse_rivals("model", row.name, [(r.distribution, r.module) for r in (row, *row.rivals)])
    return row


def list_models(pattern="*", *, task=None, family=None, weights=None):
    """The sorted names that match a shell-style pattern; a pattern with a dot is matched with the names of published
    weights, NAME.TAG.

    `weights` keeps the names with (True) or without (False) published weights. Raises UserError where two packages
    claim a name.
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


def find(name):
    """The Row of a model's name, with or without a tag. Raises UsageError with the nearest names, UserError for one
    claimed twice.
    """
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
    return [
        row.name
        for row in rows().values()
        if row.name.endswith("_toy") and word in (None, row.family, row.distribution)
    ]


def toy_of(name):
    """The name of the toy row in the module of a model. Raises UserError where it has none."""
    module = find(name).module
    for toy in toys():
        if rows()[toy].module == module:
            return toy
    raise UserError(
        f"{module} has no model whose name ends in _toy, which a smoke run needs; add a small one to its VARIANTS."
    )


def module_of(name):
    """The module of a model's family, imported. Raises UserError, chained, where that of a plugin fails."""
    row = find(name)
    if row.distribution == OURS:
        return importlib.import_module(row.module)
    from kzoo.plugins import imported

    return imported(functools.partial(importlib.import_module, row.module), row.name, row.module, row.distribution)


def config_of(name, overrides=None):
    """(builder, config) of a name, a tag's settings in it, the overrides, checked against the family's fields, over
    both.

    Imports the family's module, so Keras.
    """
    row, tag = split(name)
    require_backend()
    config = module_of(row.name).VARIANTS[row.name]
    if row.module not in _BUILDERS:
        raise UserError(
            f"{row.module} registers no builder; put @kzoo.register over its function from a config to a model."
        )
    hints = typing.get_type_hints(type(config))
    given = {}
    for key, value in (overrides or {}).items():
        if key not in hints:
            raise unknown(f"option of {row.name}", key, hints)
        given[key] = typed(tupled(value), hints[key], f"option {key} of {row.name}")
    return _BUILDERS[row.module], dataclasses.replace(config, **(tag.options if tag else {}) | given)


def spec_of_model(model):
    """The Spec of a model that kzoo built. Raises UserError for any other."""
    spec = getattr(model, "spec", None)
    if spec is None:
        raise UserError(
            "this model carries no spec, by which kzoo knows what it is and how its pictures are prepared: take one "
            "that kzoo.get or "
            "kzoo.load built; a clone of one has it again by clone.spec = model.spec."
        )
    return spec


def config_of_model(model):
    """The family's config of a model that kzoo built. Raises UserError for any other."""
    spec = spec_of_model(model)
    return config_of(spec.name, spec.overrides)[1]

"""Imports point down only, also inside functions; listing is free, building a model loads little: by the sources and
fresh processes.
"""

import ast
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# From the ground up; a module may import those of lower floors, and of its own part (the first name after `kzoo`).
FLOORS = (
    ("errors", "files"),
    ("settings", "plugins", "figures", "system", "archives"),
    ("specs", "augments"),
    ("kinds",),
    ("schema",),
    ("published",),
    ("registry",),
    ("recipe_files",),
    ("ops", "keras_private"),
    ("layers", "preprocess"),
    ("models",),
    ("data", "weights", "explain"),
    ("heads",),
    ("zoo",),
    ("tasks",),
    ("precision",),
    ("training", "exporting"),
    ("predicting", "checking", "probing", "reporting", "sweeping"),
    ("quickstart",),
    ("commands",),
    ("cli",),
    ("__init__", "__main__"),
)
FLOOR = {part: height for height, parts in enumerate(FLOORS) for part in parts}
STANDARD_LIBRARY_ONLY = {
    *(
        "__init__",
        "__main__",
        "errors",
        "files",
        "system",
        "settings",
        "plugins",
        "specs",
        "augments",
        "kinds",
        "schema",
    ),
    *("published", "registry", "recipe_files", "zoo", "commands", "cli"),
}
BASE = {"keras", "numpy", "PIL"}
EXTRAS = {  # optional packages that a part may import at module level, in modules that it loads when they are needed
    "data": {"tensorflow", "tensorflow_datasets", "keras_cv"},
    "exporting": {"tensorflow", "tf2onnx", "onnx", "onnxruntime", "ai_edge_litert"},
}
HEAVY = {"keras", "numpy", "PIL", "tensorflow", "jax", "torch"}


def imports(tree):
    """(dotted name, is it at module level) of everything a module imports; `from a import b` gives `a.b`."""
    in_functions = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((name, id(node) not in in_functions) for name in names)


def violations(part, source):
    """What in `source`, a module of kzoo's part `part`, breaks the plan: one line each."""
    allowed = set() if part in STANDARD_LIBRARY_ONLY else BASE | EXTRAS.get(part, set())
    for name, at_module_level in imports(ast.parse(source)):
        top, _, rest = name.partition(".")
        if top != "kzoo":
            if at_module_level and top not in allowed and top not in sys.stdlib_module_names:
                yield f"{part} imports {top} at module level"
            continue
        if rest == "__version__":
            continue
        other = rest.split(".")[0] if rest.split(".")[0] in FLOOR else "__init__"
        down = other == part or FLOOR[other] < FLOOR[part]
        if not down:
            yield f"{part} imports {name}, which does not lie below it"


def loaded_after(code):
    """The names of the modules a fresh process holds after `code`, whose own output goes to stderr; under JAX, which
    starts soonest.
    """
    code = (
        "import contextlib, json, sys\nwith contextlib.redirect_stdout(sys.stderr):\n    "
        f"{code}\nprint(json.dumps(list(sys.modules)))"
    )
    command, environment = [sys.executable, "-c", code], os.environ | {"KERAS_BACKEND": "jax"}
    return json.loads(subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True).stdout)


@pytest.mark.parametrize("path", sorted((ROOT / "kzoo").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    part = path.relative_to(ROOT / "kzoo").parts[0].removesuffix(".py")
    assert part in FLOOR, f"{part} has no floor yet: give it one in FLOORS"
    assert list(violations(part, path.read_text())) == []


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("ops", "from kzoo.layers import embed"),
        ("ops", "def f():\n    import kzoo.models.vit"),
        ("data", "from kzoo import weights"),
        ("exporting", "import kzoo"),
        ("schema", "import kzoo.cli"),
        ("models", "import tensorflow as tf"),
        ("registry", "import keras"),
        ("weights", "import huggingface_hub"),
    ],
)
def test_a_breach_is_seen(part, source):
    assert len(list(violations(part, source))) == 1


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda path: path.stem)
def test_recipes_import_the_schema_only(path):
    assert {name.rpartition(".")[0] for name, _ in imports(ast.parse(path.read_text()))} == {"kzoo.schema"}


@pytest.mark.parametrize(
    "code",
    [
        "import kzoo",
        "import kzoo; assert kzoo.list_models() and kzoo.list_recipes()",
        "import kzoo; kzoo.recipe(kzoo.list_recipes()[0])",
        "from kzoo.cli import main; assert main(['list', '--json']) == 0",
        "from kzoo.cli import main; assert main(['list', '--weights']) == main(['list', 'vit_*.*']) == 0",
    ],
)
def test_listing_is_free(code):
    assert HEAVY & set(loaded_after(code)) == set()


@pytest.mark.parametrize("kind", ["classify", "masked"])
def test_a_task_is_had_without_keras(kind):
    assert not {"keras", "tensorflow", "jax", "torch"} & set(
        loaded_after(f"from kzoo import tasks; tasks.named('{kind}')")
    )


@pytest.mark.parametrize("part", ["data", "training", "exporting"])
def test_what_all_tasks_share_names_no_figure_of_one(part):
    for path in (ROOT / "kzoo" / part).glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                node.body[0] = ast.Pass()
        found = [line for line in ast.unparse(tree).splitlines() if "accuracy" in line or "logits" in line]
        assert not found, f"{path.name}: {found}"


@pytest.mark.slow
def test_building_a_vit_loads_few_of_our_modules():
    ours = [name for name in loaded_after("import kzoo; kzoo.get('vit_toy')") if name.split(".")[0] == "kzoo"]
    assert "kzoo.models.vit" in ours
    assert len(ours) <= 14, ours


def outside_tables(path):
    """[(number, line)] of a file that do not lie between `# fmt: off` and `# fmt: on`."""
    found, table = [], False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        table = "# fmt: off" in line or table and "# fmt: on" not in line
        if not table and "# fmt:" not in line:
            found.append((number, line))
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "kzoo").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_lines_narrow_tables_aside(path):
    lines = outside_tables(path)
    assert len(lines) <= 350
    assert [number for number, line in lines if len(line) > 120] == []

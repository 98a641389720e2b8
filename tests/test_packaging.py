"""Wheel, editable install and bare checkout behave alike; what is missing is named with the command that installs it.

Each kind of install is tried in a fresh environment that holds nothing else, from an empty folder: listing needs Python
alone.
"""

import ast
import email
import json
import os
import pathlib
import subprocess
import sys
import tomllib
import zipfile

import pytest

import kzoo

ROOT = pathlib.Path(__file__).parent.parent
LISTING = (
    "import json, kzoo; print(json.dumps([kzoo.list_models(), kzoo.list_recipes(), "
    "str(kzoo.recipe(kzoo.list_recipes()[0]))]))"
)


def run(*command, **options):
    """The standard output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


class Environment:
    """A fresh virtual environment without pip, and an empty folder to run in."""

    def __init__(self, folder):
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
        self.bin, self.empty = folder / "venv" / ("Scripts" if os.name == "nt" else "bin"), folder / "empty"
        self.empty.mkdir()

    def install(self, *what):
        run(sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "-q", "--no-deps", *what, cwd=ROOT)
        return self

    def run(self, *command, **variables):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        return run(self.bin / command[0], *command[1:], cwd=self.empty, env=clean | variables)

    def listing(self, **variables):
        """What the command line and the Python interface list here."""
        shown = json.loads(self.run("python", "-m", "kzoo", "list", "--json", **variables))
        return shown, json.loads(self.run("python", "-c", LISTING, **variables))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("kzoo-*.whl")
    return built


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The listing of a bare checkout, which the installs are compared with."""
    return Environment(tmp_path_factory.mktemp("checkout")).listing(PYTHONPATH=str(ROOT))


def test_the_wheel_holds_the_package_the_recipes_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "kzoo").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    recipes = {f"kzoo/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == package | recipes
    assert "kzoo/data/digits.npz" in package and recipes
    assert f"kzoo-{kzoo.__version__}.dist-info/licenses/LICENSE" in names


def test_the_metadata_says_what_the_project_says(wheel):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(f"kzoo-{kzoo.__version__}.dist-info/METADATA"))
    assert (metadata["Version"], metadata["License-Expression"], metadata["Requires-Python"]) == (
        kzoo.__version__,
        "Apache-2.0",
        ">=3.11",
    )
    assert set(metadata.get_all("Provides-Extra")) == set(project["optional-dependencies"])


def test_every_extra_that_an_error_names_exists():
    from kzoo.errors import EXTRA_OF

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRA_OF.items():
        names = [requirement.replace("-", "_").partition(">=")[0] for requirement in extras[extra]]
        names = [name.removesuffix("_skinny") for name in names]  # the same module, without a server
        assert package in names, f"{package} is said to come with kzoo[{extra}]"


def test_a_checkout_lists_its_recipes(checkout):
    nodes = [
        node
        for path in (ROOT / "recipes").glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign)
    ]
    tables = [node.value for node in nodes if getattr(node.targets[0], "id", None) == "RECIPES"]
    written = {key.value for table in tables for key in table.keys}
    _, (models, recipes, first) = checkout
    assert set(recipes) == written
    assert "vit_toy" in models and first.startswith("Recipe(")


def test_a_wheel_lists_what_a_checkout_lists(wheel, checkout, tmp_path):
    environment = Environment(tmp_path).install(wheel)
    assert environment.listing() == checkout
    assert json.loads(environment.run("kzoo", "list", "--json")) == checkout[0]


def test_an_editable_install_lists_what_a_checkout_lists(checkout, tmp_path):
    environment = Environment(tmp_path).install("-e", ROOT)
    assert environment.listing() == checkout
    assert (
        pathlib.Path(environment.run("python", "-c", "import kzoo; print(kzoo.__file__)").strip()).parent
        == ROOT / "kzoo"
    )


def without(packages, code, **variables):
    """Runs `code` in a process where `packages` cannot be imported."""
    block = "import sys; sys.modules.update(dict.fromkeys(" + repr(packages) + "))\n"
    return subprocess.run(
        [sys.executable, "-c", block + code], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("packages", "arguments", "remedy"),
    [
        (["tensorflow"], ["info", "vit_toy"], 'pip install "kzoo[tensorflow]"'),
        (
            ["tf2onnx"],
            ["export", "vit_toy", "--format", "onnx", "--random-weights", "--out", "never_written"],
            'pip install "kzoo[export]"',
        ),
        (
            ["ai_edge_litert"],
            ["export", "vit_toy", "--format", "litert", "--random-weights", "--out", "never_written"],
            'pip install "kzoo[export]"',
        ),
    ],
    ids=["backend", "onnx", "litert"],
)
def test_a_missing_package_is_one_sentence_with_its_command(packages, arguments, remedy):
    done = without(
        packages,
        f"from kzoo.cli import main; sys.exit(main({arguments}))",
        KERAS_BACKEND="tensorflow",
        TF_CPP_MIN_LOG_LEVEL="3",
    )
    said = [line for line in done.stderr.splitlines() if remedy in line]
    assert (done.returncode, len(said)) == (1, 1), done.stderr
    assert "Traceback" not in done.stderr


def test_another_installed_backend_is_offered():
    done = without(["tensorflow"], "import kzoo; kzoo.get('vit_toy')", KERAS_BACKEND="tensorflow")
    assert "MissingPackage" in done.stderr and "KERAS_BACKEND=jax" in done.stderr


def test_the_readme_and_ci_run_the_same_tests():
    assert 'pip install ".[all,test]" && bash tests/run' in (ROOT / "README.md").read_text()
    ci = (ROOT / ".ci" / "run").read_text()
    assert 'pip install -q ".[all,test]"\npython tests/second_half_hour.py\nbash tests/run\n' in ci

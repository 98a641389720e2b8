"""The README's snippets and commands run in the order they stand in; its tables are held in test_counts.py.

What they leave, later ones find: a run, an artifact, weights. Commands train for two steps and, as every recipe's step
is compiled by XLA elsewhere, without it; those of the hub and of pip are left out.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks.readme import README, RESULTS, ROWS
from kzoo import cli

ROOT = README.parent
TEXT = README.read_text()
FENCED = re.compile(r"```(\w*)\n(.*?)```\n", re.DOTALL)
BLOCKS = [(language, text) for language, text in FENCED.findall(TEXT) if "pip install " not in text.split("kzoo", 1)[0]]
SYNOPSIS = next(text for language, text in BLOCKS if "[" in text and not language)
SNIPPETS = [text for language, text in BLOCKS if language == "python" and "hf://" not in text]
PLUGIN = next(text for language, text in BLOCKS if "plugin_example" in text)
INLINE = re.findall(r"`((?:KERAS_BACKEND=\w+ )?kzoo [a-z]+ ?[^`]*)`", FENCED.sub("", TEXT))
STANDS_FOR = {"RUN": "runs/digits", "R": "vit_tiny_digits", "NAME": "vit_tiny_patch16_224"}
# recipes whose two steps are those of a smoke run
LARGE = ("vit_tiny_cifar10", "mae_tiny_cifar10", "mae_tiny_cifar10_finetune")
# names in a sentence; quickstart has a test of its own
BARE = {f"kzoo {name}" for name in ("train", "predict", "quickstart")}


def commands():
    """Every command that a reader can type, in order: those of the plain blocks, then those within sentences."""
    lines = [
        line
        for language, text in BLOCKS
        if not language and text not in (SYNOPSIS, PLUGIN)
        for line in text.splitlines()
    ]
    return [line for line in [*lines, *INLINE] if line not in BARE and "stripes" not in line]


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder of a user's, with pictures of two kinds and a copy of a recipe; the working directory of the whole
    module.
    """
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    for name in [f"pictures/{kind}/{i:02}.png" for kind in ("cat", "dog") for i in range(20)] + ["picture.jpg"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / name)
    shutil.copy(ROOT / "recipes" / "vit_tiny_digits.py", folder / "my_recipe.py")
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def names():
    """What the snippets have defined so far; a recipe file's last line starts nothing in it."""
    return {"__name__": "readme"}


def test_every_quoted_result_is_kept():
    kept = {path.stem for path in RESULTS.glob("*.json")}
    assert kept <= set(ROWS), "a result that the README does not show"
    quoted = {"startup", "infer", "step", "export", "input", "memory", "kill_resume"}
    assert quoted | {"train_vit_tiny_cifar10", "train_vit_tiny_digits"} <= kept


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_the_snippets_run(number, names):
    exec(compile(SNIPPETS[number], f"README snippet {number}", "exec"), names)
    assert set(names) > {"__name__", "__builtins__"}


@pytest.mark.slow
def test_the_snippets_leave_what_they_say(place, names, capsys):
    assert {path.name for path in (place / "exported" / "digits").iterdir()} == {
        "1",
        "card.json",
        "card.md",
        "labels.txt",
    }
    assert (
        names["logits"].shape == (8, 10) and names["maps"].shape[0] == 8 and names["fast"].precision_report.images == 8
    )
    assert len(names["RECIPES"]) == 1


@pytest.mark.parametrize("line", re.split(r"\n|  +", SYNOPSIS.strip()))
def test_the_synopsis_is_the_parsers(line):
    """Every option in brackets at once, the first of the alternatives."""
    words = shlex.split(re.sub(r"[\[\]]| \.\.\.", "", line).replace("key=value", "epochs=1"))
    options = vars(cli.parser().parse_args([word.partition("|")[0] for word in words[1:]]))
    assert callable(options["run"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [pytest.param(c, marks=[pytest.mark.cifar10] * ("cifar10.npz" in c)) for c in commands()]
)
def test_the_commands_run(line, capsys):
    words = [STANDS_FOR.get(word, word) for word in shlex.split(line, comments=True)]
    settings = dict(word.split("=", 1) for word in words[: words.index("kzoo")])
    words = words[words.index("kzoo") + 1 :]
    if words[0] == "train" and "--preview" not in words:
        words += ["--smoke"] if words[1] in LARGE else ["--set", "steps=2"]
        words += [] if settings else ["--set", "xla=off"]
    if settings:  # another backend needs another process
        done = subprocess.run(
            [sys.executable, "-m", "kzoo", *words], env=os.environ | settings | {"PYTHONPATH": str(ROOT)}, text=True
        )
        assert done.returncode == 0
    else:
        assert cli.main(words) == 0
        assert capsys.readouterr().out


@pytest.mark.slow
def test_a_family_of_ones_own(place, seen, capsys):
    """The plugin's block, its copy of the example and all, without what pip downloads; then the recipe of the snippet
    under it.
    """
    made, _, used = PLUGIN.partition("pip install -e . && ")
    family, site = place / "kzoo-stripes", place / "site"
    subprocess.run(["bash", "-ec", made.replace("../kzoo-stripes", str(family))], cwd=ROOT, check=True)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, family]
    subprocess.run(install, check=True)
    seen(site)
    recipe = next(text for text in SNIPPETS if "RECIPES" in text)
    (place / "stripes_digits.py").write_text(recipe)
    recipes = [
        line
        for language, text in BLOCKS
        if not language and "train stripes_digits.py" in text
        for line in text.splitlines()
    ]
    lines = [*used.strip().split(" && "), *recipes]
    for line in lines:
        words = shlex.split(line)[1:]
        words += ["--set", "steps=2", "xla=off"] if words[0] == "train" and "--preview" not in words else []
        assert cli.main(words) == 0, line
    assert "stripes_toy" in capsys.readouterr().out

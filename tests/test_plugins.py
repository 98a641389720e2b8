"""Plugins: listed from their sources, whatever their import does; two claims to one name are told and hinder no other
name.

Their data sources likewise, each by its entry point.
"""

import os
import pathlib
import subprocess
import sys

import pytest

import kzoo
from kzoo import registry
from kzoo.cli import main
from kzoo.data import open_source
from kzoo.models.count import count
from kzoo.schema import Data, Recipe
from tests.test_packaging import ROOT, Environment, run

EXAMPLE = ROOT / "tests" / "plugin_example"
FAMILY = """
import kzoo
from kzoo.models.vit import VitConfig, vit

VARIANTS = {{"{name}": VitConfig(image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2)}}
kzoo.register(lambda config: vit(config))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that pip installed the example into."""
    folder = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, EXAMPLE)
    return folder


def plug(folder, distribution, module, source, parent="", entry=None):
    """What pip leaves of a package with one module and its entry point, by default as a family.

    `parent` is the source of the package that the module lies in, if any.
    """
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry or f"[kzoo.models]\nfamily_of_{module.replace('.', '_')} = {module}\n")
    path = folder / (module.replace(".", "/") + ".py")
    path.parent.mkdir(exist_ok=True)
    if "." in module:
        (path.parent / "__init__.py").write_text(parent)
    path.write_text(source)


@pytest.mark.slow
def test_the_example_is_listed_and_builds_what_the_paper_says(installed, seen):
    from tests.torch_reference import import_timm

    seen(installed)
    assert (
        kzoo.list_models(family="mixer")
        == kzoo.list_models("mixer_*")
        == ["mixer_b16_224", "mixer_s16_224", "mixer_toy"]
    )
    assert kzoo.get("mixer_toy", num_classes=3).output_shape == (None, 3)
    timm = import_timm()
    for name in ("mixer_s16_224", "mixer_b16_224"):
        builder, config = registry.config_of(name)
        reference = timm.create_model(name)
        assert count(lambda builder=builder, config=config: builder(config))[0] == sum(
            p.numel() for p in reference.parameters()
        )
        assert config.preprocessing.crop_pct == reference.default_cfg["crop_pct"]


@pytest.mark.slow
def test_a_saved_model_of_a_plugin_loads_in_a_fresh_process(installed, seen, tmp_path):
    seen(installed)
    kzoo.get("mixer_toy").save(tmp_path / "m.keras")
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); import kzoo; print(kzoo.load({str(tmp_path / 'm.keras')!r}).spec.name)"
    environment = os.environ | {"KERAS_BACKEND": "jax"}  # which starts soonest
    assert run(sys.executable, "-c", code, cwd=ROOT, env=environment).strip() == "mixer_toy"


@pytest.mark.slow
def test_an_editable_install_is_listed(tmp_path):
    environment = Environment(tmp_path).install("-e", EXAMPLE)
    shown, (listed, _, _) = environment.listing(PYTHONPATH=str(ROOT))
    assert shown == listed and {"mixer_toy", "vit_toy"} <= set(listed)
    assert not list(tmp_path.rglob("kzoo_mixer.py"))


def test_listing_runs_nothing_of_a_plugin(tmp_path):
    plug(
        tmp_path,
        "plugged-deep",
        "plugged_deep.inner",
        FAMILY.format(name="plugged_toy"),
        parent="raise RuntimeError('ran')",
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import kzoo\nassert kzoo.list_models('plugged_*') == ['plugged_toy']\n"
        "assert not any(name.startswith('plugged') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("import nothing_of_this_name\n", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("raise RuntimeError('first line\\nsecond line')\n", "RuntimeError: first line"),
    ],
)
def test_a_plugin_that_fails_at_import_is_listed_and_tells_why(tmp_path, seen, capsys, broken, told):
    plug(tmp_path, "plugged-bad", "plugged_bad", broken + FAMILY.format(name="plugged_toy"))
    seen(tmp_path)
    assert "plugged_toy" in kzoo.list_models()
    with pytest.raises(kzoo.UserError, match="plugged_bad of the plugin plugged-bad") as caught:
        kzoo.get("plugged_toy")
    assert told in str(caught.value) and type(caught.value.__cause__).__name__ in told
    assert main(["info", "plugged_toy"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1 and told in err
    assert kzoo.get("vit_toy")


def test_a_module_without_a_builder_is_told(tmp_path, seen):
    plug(tmp_path, "plugged-idle", "plugged_idle", FAMILY.format(name="plugged_toy").replace("kzoo.register", "print"))
    seen(tmp_path)
    with pytest.raises(kzoo.UserError, match="plugged_idle registers no builder"):
        kzoo.get("plugged_toy")


@pytest.mark.parametrize("name", ["plugged_same", "vit_toy"])
def test_two_claims_to_one_name_are_told_and_hinder_no_other(tmp_path, seen, name):
    plug(tmp_path, "plugged-one", "plugged_one", FAMILY.format(name=name))
    plug(tmp_path, "plugged-two", "plugged_two", FAMILY.format(name="plugged_same"))
    seen(tmp_path)
    first, second = {"plugged_same": ("plugged-one", "plugged-two"), "vit_toy": ("kzoo", "plugged-one")}[name]
    for call in (lambda: kzoo.get(name), kzoo.list_models, lambda: kzoo.info(name)):
        with pytest.raises(kzoo.UserError, match=rf"'{name}' is claimed by .*{first}.* and by .*{second}.*uninstall"):
            call()
    assert "vit_tiny_patch16_224" in kzoo.list_models("vit_tiny_*")
    if name != "vit_toy":
        assert kzoo.get("vit_toy").spec.name == "vit_toy"


@pytest.mark.parametrize(
    ("source", "reason"),
    [("VARIANTS = {", "SyntaxError"), ("VARIANTS = dict(plugged_toy=1)", "no literal VARIANTS"), (None, "not there")],
)
def test_a_plugin_whose_names_cannot_be_read_is_told(tmp_path, seen, source, reason):
    plug(tmp_path, "plugged-mute", "plugged_mute", source or "")
    if source is None:
        pathlib.Path(tmp_path, "plugged_mute.py").unlink()
    seen(tmp_path)
    with pytest.warns(UserWarning, match=f"plugged-mute .*plugged_mute: .*{reason}"):
        assert "vit_toy" in kzoo.list_models()


def test_the_examples_data_source_trains_and_evaluates(installed, seen, tmp_path):
    seen(installed)
    recipe = Recipe(model="mixer_toy", data=Data(source="rings:n=10", batch_size=4), steps=2, xla="off")
    run = kzoo.train(recipe, tmp_path / "run")
    assert run.model.spec.class_names == ("thin", "middling", "thick") and run.metrics["images"] == 10
    assert kzoo.evaluate(run.workdir) == run.metrics != kzoo.evaluate(run.workdir, "rings:n=9")
    for training, evaluation in zip(
        *(open_source("rings:n=3", split).batch([0, 1, 2])[0] for split in ("train", "test")), strict=True
    ):
        assert (training != evaluation).any()
    with pytest.raises(kzoo.UserError, match="unknown option of the rings source 'm'"):
        open_source("rings:m=3", "train")


def test_a_data_source_is_imported_alone_and_when_it_is_asked_for(installed):
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "from kzoo.data import open_source\nopen_source('digits', 'train')\n"
        "assert not any(name.startswith(('kzoo_', 'keras')) for name in sys.modules)\n"
        "assert open_source('rings:size=9', 'train').read(0)[0].shape == (9, 9, 3)\n"
        "assert [name for name in sys.modules if name.startswith(('kzoo_', 'keras'))] == ['kzoo_rings']"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def plug_source(
    folder, distribution, module, name, source="def open(*arguments):\n    return arguments\n", function=":open"
):
    plug(folder, distribution, module, source, entry=f"[kzoo.sources]\n{name} = {module}{function}\n")


def test_a_data_source_is_called_as_ours_are(tmp_path, seen):
    plug_source(tmp_path, "plugged-one", "plugged_one", "plugged")
    seen(tmp_path)
    assert open_source("plugged:a:b", "val", "here") == ("plugged:a:b", "a:b", "val", "here")
    assert open_source("plugged", "train") == ("plugged", "", "train", None)
    with pytest.raises(kzoo.UserError, match="unknown data source 'pluggd'; did you mean plugged"):
        open_source("pluggd", "train")


@pytest.mark.parametrize("name", ["plugged", "digits"])
def test_two_claims_to_one_data_source_are_told_and_hinder_no_other(tmp_path, seen, name):
    plug_source(tmp_path, "plugged-one", "plugged_one", name)
    plug_source(tmp_path, "plugged-two", "plugged_two", "plugged")
    seen(tmp_path)
    first, second = {"plugged": ("plugged-one", "plugged-two"), "digits": ("kzoo", "plugged-one")}[name]
    with pytest.raises(
        kzoo.UserError, match=rf"data source name '{name}' is claimed by {first} \(.*\) and by {second} \(.*uninstall"
    ):
        open_source(name, "train")
    assert open_source("fake:n=3", "train")


@pytest.mark.parametrize(
    ("source", "function", "told"),
    [
        (
            "import nothing_of_this_name",
            ":open",
            "fails when imported .ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("", ":missing", "fails when imported .AttributeError: .*missing"),
        ("", "", "names no function; it takes plugged_bad:FUNCTION"),
    ],
)
def test_a_data_source_that_fails_is_told(tmp_path, seen, source, function, told):
    plug_source(tmp_path, "plugged-bad", "plugged_bad", "plugged", source, function)
    seen(tmp_path)
    with pytest.raises(kzoo.UserError, match=f"the data source 'plugged' .*of the plugin plugged-bad {told}"):
        open_source("plugged", "train")
    assert open_source("digits", "train")

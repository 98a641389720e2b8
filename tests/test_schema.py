"""Recipes as data: they override by typed keys, dump to text and come back; what is wrong is named with what is
right.
"""

import dataclasses

import pytest

from kzoo import schema
from kzoo.errors import UsageError
from kzoo.recipe_files import dump, parse, smoke
from kzoo.schema import Augment, BoxAugment, Classify, Data, Detect, Optim, Recipe, Schedule, TaskSettings
from kzoo.settings import flatten, override
from kzoo.specs import Preprocessing

FULL = Recipe(
    model="vit_toy",
    overrides={"image_size": (8, 16), "global_pool": "avg", "drop_rate": 0.1, "class_token": False},
    preprocessing=Preprocessing(mean=(0.1,), std=(0.2,), crop_pct=0.9),
    task=Classify(loss="binary_cross_entropy", target_threshold=0.2),
    init_from="runs/a",
    data=Data(source='npz:odd "name".npz', augment=Augment(crop_scale=(0.3, 1.0), shift=2)),
    optim=Optim(name="sgd", ema=0.9, clip_norm=None),
    schedule=Schedule(warmup_steps=3),
    steps=7,
)


BOXES = Recipe(
    model="vit_toy",
    task=Detect(canvases=((32, 64), (64, 64)), loss_giou=1),
    data=Data(augment=BoxAugment(scales=(), max_size=None)),
)


@pytest.mark.parametrize("recipe", [FULL, BOXES, Recipe(model="vit_toy")], ids=["full", "boxes", "plain"])
def test_a_dump_comes_back(recipe):
    record = {"backend": "jax", "devices": ["cpu:0"], "compiled": None}
    text = dump(recipe, record)
    assert parse(text) == (recipe, record)
    assert text.splitlines() == sorted(text.splitlines())
    assert "optim.lr = 0.001\n" in text


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("optim.lr", "3e-4", 3e-4),
        ("optim.lr", 1, 1.0),
        ("optim.clip_norm", "None", None),
        ("optim.nesterov", "true", True),
        ("data.source", "folder:/tmp/1", "folder:/tmp/1"),
        ("data.data_dir", "7", "7"),
        ("init_from", "None", None),
        ("epochs", "3", 3),
        ("data.augment.crop_scale", "(0.3, 1)", (0.3, 1.0)),
        ("data.augment.crop_scale", [0.3, 1], (0.3, 1.0)),
        ("overrides.image_size", "[8, 16]", (8, 16)),
        ("overrides.class_token", "False", False),
        ("overrides.global_pool", "avg", "avg"),
        ("preprocessing.crop_pct", "0.5", 0.5),
        ("preprocessing", "None", None),
        ("task.kind", "classify", "classify"),
        ("task.label_smoothing", "0.5", 0.5),
    ],
)
def test_overrides_are_typed(key, text, value):
    changed = flatten(override(Recipe(model="vit_toy"), {key: text}))
    assert (changed[key], type(changed[key])) == (value, type(value))


def test_overrides_take_effect_together_and_leave_the_rest():
    recipe = override(FULL, {"optim.lr": 0.01, "schedule.min_lr": 0.005, "overrides.depth": 3})
    assert (recipe.optim.lr, recipe.schedule.min_lr) == (0.01, 0.005)
    assert recipe.overrides == FULL.overrides | {"depth": 3} and "depth" not in FULL.overrides
    assert recipe.data == FULL.data


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epoch": 1}, "epochs"),
        ({"lr": 1}, "optim.lr"),
        ({"batch_size": 1}, "data.batch_size"),
        ({"optim.learnig_rate": 1}, "optim."),
        ({"optim.weight_deca": 1}, "optim.weight_decay"),
        ({"data.augment.flipp": 1}, "data.augment.flip"),
        ({"epochs.x": 1}, "epochs"),
        ({"optim": "adamw"}, "optim.name"),
        ({"optim.name": "adamv"}, "adamw"),
        ({"xla": "on"}, "required"),
        ({"precision": "bfloat16"}, "mixed_bfloat16"),
        ({"epochs": "two"}, "epochs takes int"),
        ({"epochs": "1.5"}, "epochs takes int"),
        ({"epochs": "True"}, "epochs takes int"),
        ({"epochs": 0}, "at least 1"),
        ({"optim.lr": "NaN"}, "optim.lr takes a finite number"),
        ({"optim.lr": float("inf")}, "optim.lr takes a finite number, not inf"),
        ({"data.augment.crop_ratio": "(0.5, Infinity)"}, "data.augment.crop_ratio takes a finite number"),
        ({"optim.lr_scales.head": "Infinity"}, "optim.lr_scales.head"),
        ({"overrides.preprocessing": 5}, "set preprocessing.mean"),
        ({"optim.lr": "high"}, "optim.lr takes float"),
        ({"optim.ema": 1}, r"\[0, 1\)"),
        ({"optim.momentum": 1.5}, r"optim.momentum must lie in \[0, 1\)"),
        ({"optim.clip_norm": 0}, "None leaves"),
        ({"label_smoothing": 0.1}, "did you mean task.label_smoothing"),
        ({"task": "classify"}, "for example task.kind"),
        ({"task.kind": "clasify"}, "did you mean classify"),
        ({"task.kind.x": 1}, "task.kind"),
        ({"task.loss": "bce"}, "unknown task.loss 'bce'"),
        ({"task.target_threshold": 0.1}, "task.target_threshold belongs to the binary losses"),
        ({"task.label_smoothing": 1.0}, r"task.label_smoothing must lie in \[0, 1\)"),
        ({"schedule.min_lr": 1.0}, "must not exceed optim.lr"),
        ({"seed": -1}, "seed"),
        ({"data.augment.crop_scale": (0.5, 2.0)}, "at most 1"),
        ({"preprocessing.std": (0.5, 0.0, 0.5)}, "above 0"),
        ({"task.kind": "detect", "task.canvases": "[[32, 64], [64, 32]]"}, r"add \(64, 64\) to them"),
        ({"task.kind": "detect", "task.canvases": "[[32, 64, 3]]"}, r"pairs \(height, width\)"),
        ({"task.kind": "detect", "task.canvases": "[32, 64]"}, "task.canvases takes tuple"),
        ({"task.kind": "detect", "task.max_boxes": 0}, "task.max_boxes must be at least 1"),
        ({"task.kind": "detect", "data.augment.crop_size": "[9, 8]"}, "augment.crop_size must be two whole numbers"),
        ({"task.kind": "detect", "data.augment.mixup": 0.5}, "data.augment."),
    ],
)
def test_mistakes_are_named(changes, words):
    with pytest.raises(UsageError, match=words) as error:
        override(Recipe(model="vit_toy"), changes)
    assert "\n" not in str(error.value)


def test_settings_of_another_task_take_the_place_of_the_first(monkeypatch):
    monkeypatch.setitem(schema.SETTINGS, "turn", None)  # which goes with the test

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Turn(TaskSettings):
        kind = "turn"
        quarters: int = 4

    recipe = override(FULL, {"task.quarters": "2", "task.kind": "turn"})
    assert recipe.task == Turn(quarters=2) and parse(dump(recipe))[0] == recipe
    with pytest.raises(UsageError, match="task.label_smoothing"):
        override(FULL, {"task.label_smoothing": 0.1, "task.kind": "turn"})


def test_a_smoke_of_a_detector_has_no_canvases():
    small = smoke(BOXES, "vit_toy")
    assert (small.task, small.data.source) == (Detect(loss_giou=1), "shapes")
    assert smoke(FULL, "vit_toy").task == FULL.task


def test_former_keys_of_a_record_are_read():
    lines = (
        "label_smoothing = 0.1",
        'loss = "binary_cross_entropy"',
        'model = "vit_toy"',
        "target_threshold = 0.2",
        'task = "classify"',
    )
    task = Classify(loss="binary_cross_entropy", label_smoothing=0.1, target_threshold=0.2)
    assert parse("\n".join(lines)) == (Recipe(model="vit_toy", task=task), {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs = 3\n", "names no model"),
        ('model = "vit_toy"\nepochs: 3\n', "line 2"),
        ('model = "vit_toy"\nepochs = __import__("os")\n', "line 2"),
        ('model = "vit_toy"\nepocs = 3\n', "epochs"),
    ],
)
def test_a_text_that_is_no_recipe_is_named(text, words):
    with pytest.raises(UsageError, match=words):
        parse(text)


def test_smoke_keeps_choices_and_shrinks_sizes():
    small = smoke(FULL, "vit_toy")
    assert small.overrides == {"global_pool": "avg", "drop_rate": 0.1, "class_token": False}
    assert (small.steps, small.data.source, small.init_from) == (2, "fake", None)
    assert (small.optim, small.data.augment) == (FULL.optim, FULL.data.augment)
    # or nothing would be learned
    assert smoke(override(FULL, {"optim.accumulate": 64}), "vit_toy").optim.accumulate == small.steps


def test_a_recipe_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.epochs = 2

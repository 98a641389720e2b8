"""Optimizers, rates and schedules against torch's and timm's own, in float64: every step of a small model, weight by
weight.
"""

import keras
import numpy as np
import pytest
import torch

import kzoo
from kzoo import registry
from kzoo.errors import UsageError, UserError
from kzoo.keras_private import averages
from kzoo.models.base import ModelConfig
from kzoo.schema import Classify, Optim, Recipe, Schedule
from kzoo.training.optimizer import Rate, freeze, make_optimizer, rate_scales, undecayed
from tests.test_training_parts import X, Y, tiny
from tests.torch_reference import import_timm

pytestmark = pytest.mark.backends
FALLING = Schedule(warmup_steps=2, warmup_from=0.001, min_lr=0.002)


def train_keras(optim, schedule=FALLING, smoothing=0.0, frozen=(), batches=(X, Y)):
    """(weights, averages or None) after a step on each batch, through the task and the recipe's own optimizer."""
    recipe, model = (
        Recipe(model="vit_toy", optim=optim, schedule=schedule, task=Classify(label_smoothing=smoothing)),
        tiny(),
    )
    freeze(model, frozen)
    task = kzoo.task(model, label_smoothing=smoothing)
    total = len(batches[0]) // optim.accumulate
    task.compile(
        optimizer=make_optimizer(recipe, Rate(recipe, total, total), model),
        jit_compile=keras.backend.backend() != "torch",
    )
    for x, y in zip(*batches, strict=True):
        task.train_on_batch(x, y)
    mean = averages(task.optimizer)
    convert = keras.ops.convert_to_numpy
    return model.get_weights(), None if mean is None else [convert(v) for v in mean]


def train_torch(make, peak, smoothing=0.0, clip=None, schedule=FALLING, scales=(1,) * 6, ema=0.7):
    """The same steps by `make(groups)`, one group for each weight, matrices alone with decay: (weights, averages)."""
    weights = [torch.nn.Parameter(torch.tensor(w, dtype=torch.float64)) for w in tiny().get_weights()]
    groups = [{"params": [w]} if w.ndim > 1 else {"params": [w], "weight_decay": 0.0} for w in weights]
    reference, average = make(groups), None
    for step, (x, y) in enumerate(zip(X, Y, strict=True)):
        for group, scale in zip(reference.param_groups, scales, strict=True):
            group["lr"] = scale * cosine(step, peak, 2, 5, schedule.warmup_from, schedule.min_lr)
        reference.zero_grad()
        k1, b1, gamma, beta, k2, b2 = weights
        hidden = torch.nn.functional.layer_norm(torch.tanh(torch.tensor(x).double() @ k1 + b1), (7,), gamma, beta, 1e-3)
        torch.nn.functional.cross_entropy(
            hidden @ k2 + b2, torch.tensor(y).long(), label_smoothing=smoothing
        ).backward()
        if clip:
            assert torch.nn.utils.clip_grad_norm_(weights, clip) > clip, "nothing was clipped: the test shows nothing"
        reference.step()
        now = [w.detach().numpy().copy() for w in weights]
        average = now if average is None else [ema * a + (1 - ema) * w for a, w in zip(average, now, strict=True)]
    return now, average


def cosine(step, peak, warmup, total, start=0.0, end=0.0):
    """Linear warm-up, then the cosine, by the formula."""
    if step < warmup:
        return start + (peak - start) * step / warmup
    return end + (peak - end) * 0.5 * (1 + np.cos(np.pi * (step - warmup) / (total - warmup)))


def assert_equal(ours, theirs, tolerance=2e-5):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


@pytest.mark.parametrize("clip", [None, 0.05], ids=["unclipped", "clipped"])
def test_adamw_with_everything_equals_torch(clip):
    optim = Optim(lr=0.02, weight_decay=0.3, beta_2=0.99, clip_norm=clip, ema=0.7)
    ours = train_keras(optim, smoothing=0.1)
    theirs = train_torch(lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.3), 0.02, 0.1, clip)
    assert_equal(ours[0] + ours[1], theirs[0] + theirs[1])


@pytest.mark.slow
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_torch_while_the_rate_changes(nesterov):
    ours, mean = train_keras(Optim(name="sgd", lr=0.05, weight_decay=0, nesterov=nesterov, clip_norm=None))
    theirs, _ = train_torch(lambda groups: torch.optim.SGD(groups, lr=1, momentum=0.9, nesterov=nesterov), 0.05)
    assert mean is None
    assert_equal(ours, theirs, 1e-5)


def timm_optimizer(name, **options):
    return lambda groups: getattr(import_timm("timm.optim"), name)(groups, **options)


@pytest.mark.parametrize(
    ("optim", "reference"),
    [
        (Optim(name="lion", lr=0.02, beta_2=0.99), timm_optimizer("Lion", betas=(0.9, 0.99), weight_decay=0.3)),
        (Optim(name="lamb", lr=0.02, epsilon=1e-6), timm_optimizer("Lamb", weight_decay=0.3, max_grad_norm=None)),
        (Optim(name="lars", lr=5.0), timm_optimizer("Lars", lr=1, momentum=0.9, weight_decay=0.3)),
        (
            Optim(name="lars", lr=5.0, nesterov=True),
            timm_optimizer("Lars", lr=1, momentum=0.9, weight_decay=0.3, nesterov=True),
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Optim) else "",
)
def test_layerwise_and_sign_rules_equal_timm(optim, reference):
    optim = kzoo.settings.override(optim, {"weight_decay": 0.3, "clip_norm": None})
    ours, theirs = train_keras(optim)[0], train_torch(reference, optim.lr)[0]
    moved = max(np.abs(a - b).max() for a, b in zip(theirs, tiny().get_weights(), strict=True))
    assert moved > 0.01
    assert_equal(ours, theirs)


def test_muon_equals_torch():
    """Matrices by torch.optim.Muon, in bfloat16 inside: hence the tolerance; the rest, and the head, by AdamW."""

    class Both:
        def __init__(self, groups):
            matrices = [g for g in groups if g["params"][0].ndim > 1]
            self.muon = torch.optim.Muon(
                matrices, weight_decay=0.3, momentum=0.9, nesterov=True, adjust_lr_fn="match_rms_adamw"
            )
            self.adamw = torch.optim.AdamW([g for g in groups if g["params"][0].ndim == 1], weight_decay=0.3)
            mine = {id(g["params"][0]): g for o in (self.muon, self.adamw) for g in o.param_groups}
            self.param_groups = [mine[id(g["params"][0])] for g in groups]

        def zero_grad(self):
            self.muon.zero_grad(), self.adamw.zero_grad()

        def step(self):
            self.muon.step(), self.adamw.step()

    ours = train_keras(Optim(name="muon", lr=0.02, weight_decay=0.3, nesterov=True, clip_norm=None))[0]
    theirs = train_torch(Both, 0.02)[0]
    assert_equal(ours, theirs, 4e-3)


@pytest.mark.slow
def test_rates_by_weight_scale_steps_and_decay_alike():
    optim = Optim(
        lr=0.02, weight_decay=0.3, clip_norm=0.05, lr_scales={"kernel": 0.5, "(first|last)/k": 0.5, "gamma": 0.0}
    )
    paths = [w.path for w in tiny().weights]
    scales = [0.25 if "kernel" in path else 0.0 if "gamma" in path else 1 for path in paths]
    theirs, _ = train_torch(lambda groups: torch.optim.AdamW(groups, weight_decay=0.3), 0.02, clip=0.05, scales=scales)
    assert_equal(train_keras(optim)[0], theirs)
    np.testing.assert_array_equal(train_keras(optim)[0][2], tiny().get_weights()[2])


DEPTHS = {  # of the toys' layers, by timm's rule: all of them have two blocks
    **dict.fromkeys(("patch_embed", "stem", "cls_token", "reg_token", "pos_embed", "norm_pre"), 0),
    **dict.fromkeys(("blocks_0", "stages_0_blocks_0", "layer1_blocks_0", "stage1_blocks_0", "merge1"), 1),
    **dict.fromkeys(("blocks_1", "stages_1_blocks_0", "layer2_blocks_0", "stage2_blocks_0", "norm"), 2),
    **dict.fromkeys(("fc_norm", "attn_pool", "pre_logits", "head"), 3),
    # What only pre-training needs goes with the head.
    **dict.fromkeys(("mask_token", *(f"decoder_{of}" for of in ("embed", "pos_embed", "blocks_0", "norm", "pred"))), 3),
}

# Three blocks; what merges cells lies with the block before it, as where SimMIM fine-tunes Swin
# (https://arxiv.org/abs/2111.09886).
SWIN = {"patch_embed": 0, "layers_0_blocks_0": 1, "layers_0_blocks_1": 2, "layers_1_downsample": 2}
SWIN |= {"layers_1_blocks_0": 3, "norm": 3, "head": 4}

DETECTOR = {  # three blocks, of the encoder and then of the decoder
    **dict.fromkeys(("features", "input_proj"), 0),
    **dict.fromkeys(("encoder_blocks_0", "query_embed"), 1),
    **{"decoder_blocks_0": 2, "decoder_blocks_1": 3, "decoder_norm": 3},
    **dict.fromkeys(("class_embed", "bbox_embed"), 4),
}


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        *((toy, {}) for toy in registry.toys("kzoo")),
        ("coatnet_toy", {"representation_size": None}),
        ("hybrid_toy", {"backbone": "vit_toy", "backbone_options": {}, "patch_size": 1}),
    ],
    ids=str,
)
def test_the_family_tells_how_deep_a_layer_lies(name, overrides, tmp_path):
    """A network under another lies before the blocks, whatever blocks of its own it has."""
    model = kzoo.get(name, **overrides)
    depths = model.layer_depths()
    told = {"detr_toy": DETECTOR, "swin_toy": SWIN}.get(name, DEPTHS)
    assert depths == {weight.path: told[weight.path.split("/")[0]] for weight in model.weights}
    model.save(tmp_path / "m.keras")
    assert keras.models.load_model(tmp_path / "m.keras").layer_depths() == depths


def test_depths_that_no_family_tells_are_refused(monkeypatch):
    model = kzoo.get("vit_toy")
    monkeypatch.setattr(type(model.config), "block_names", ModelConfig.block_names)
    with pytest.raises(UserError, match=r"vit_toy does not tell its blocks.*block_names\(\)"):
        model.layer_depths()


def test_layer_decay_equals_timm():
    """Against timm's own parameter groups of the same model."""
    model = kzoo.get("vit_toy", depth=3)
    scales = rate_scales(Optim(layer_decay=0.7, lr_scales={"^head": 3.0}), model)
    timm_model = import_timm().create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=32, num_heads=2
    )
    names = {id(p): name for name, p in timm_model.named_parameters()}
    groups = import_timm("timm.optim").param_groups_layer_decay(timm_model, layer_decay=0.7)
    theirs = {names[id(p)]: g["lr_scale"] for g in groups for p in g["params"]}
    pairs = {
        "cls_token/token": "cls_token",
        "pos_embed/table": "pos_embed",
        "patch_embed/proj/kernel": "patch_embed.proj.weight",
    }
    pairs |= {f"blocks_{i}/attn/qkv/kernel": f"blocks.{i}.attn.qkv.weight" for i in range(3)} | {
        "norm/gamma": "norm.weight"
    }
    for ours, name in pairs.items():
        assert scales.get(ours, 1.0) == pytest.approx(theirs[name]), ours
    assert scales["head/kernel"] == 3.0 * theirs["head.weight"]


def test_frozen_weights_stay_and_the_rest_moves():
    weights, before = train_keras(Optim(lr=0.05), frozen=("first/", "beta"))[0], tiny().get_weights()
    same = [np.array_equal(a, b) for a, b in zip(weights, before, strict=True)]
    assert same == [True, True, False, True, False, False]


def test_a_layer_frozen_whole_keeps_its_running_statistics():
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="bn"), keras.layers.Dense(3)])
    freeze(model, ("bn",))
    before = model.layers[0].get_weights()
    task = kzoo.task(model)
    task.compile(optimizer="sgd")
    task.train_on_batch(X[0], Y[0])
    for a, b in zip(model.layers[0].get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_accumulated_batches_equal_one_large_batch():
    """Warm-up, decay, clipping and averages count the steps of the optimizer, not the batches."""
    x, y = np.concatenate([X, X[:1]]), np.concatenate([Y, Y[:1]])
    optim = Optim(lr=0.02, weight_decay=0.3, clip_norm=0.05, ema=0.7)
    large = train_keras(optim, batches=(x.reshape(3, 12, 4), y.reshape(3, 12)))
    small = train_keras(kzoo.settings.override(optim, {"accumulate": 2}), batches=(x, y))
    assert_equal(small[0] + small[1], large[0] + large[1], 1e-5)


@pytest.mark.parametrize(
    ("schedule", "steps_per_epoch", "total", "warmup"),
    [
        (Schedule(), 4, 8, 0),
        (Schedule(warmup_epochs=1.5, min_lr=1e-4), 4, 20, 6),
        (Schedule(warmup_steps=3, warmup_epochs=9, warmup_from=1e-3), 4, 12, 3),
        (Schedule(warmup_epochs=5), 4, 8, 4),  # at most half of the run
        (Schedule(warmup_steps=10), 1, 1, 0),
    ],
)
def test_cosine_equals_the_formula(schedule, steps_per_epoch, total, warmup):
    expected = [cosine(step, 1.0, warmup, total, schedule.warmup_from, schedule.min_lr) for step in range(total)]
    np.testing.assert_allclose(rates(schedule, steps_per_epoch, total), expected, atol=1e-6)


def rates(schedule, steps_per_epoch, total):
    rate = Rate(Recipe(model="vit_toy", optim=Optim(lr=1), schedule=schedule), steps_per_epoch, total)
    return [float(rate(step)) for step in range(total)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(name="linear", min_lr=0.2), 1 - 0.8 * np.arange(12) / 12),
        (Schedule(name="linear", warmup_steps=4), [0, 0.25, 0.5, 0.75] + [1 - i / 8 for i in range(8)]),
        (Schedule(name="constant", warmup_epochs=1), [0, 0.25, 0.5, 0.75] + [1] * 8),
        (Schedule(name="step", drop_epochs=(1, 2.5), drop_factor=0.1), [1] * 4 + [0.1] * 6 + [0.01] * 2),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_other_schedules_equal_the_formula(schedule, expected):
    np.testing.assert_allclose(rates(schedule, 4, 12), expected, atol=1e-6)


def test_decay_leaves_out_vectors_tokens_and_tables():
    model = kzoo.get("vit_toy")
    left_out = {weight.path for weight in undecayed(model)}
    decayed = {weight.path for weight in model.trainable_weights} - left_out
    assert {"cls_token/token", "pos_embed/table"} <= left_out
    assert decayed and all(path.endswith("/kernel") for path in decayed)
    assert not any(path.endswith("/kernel") for path in left_out)


def test_patterns_that_fit_nothing_are_named():
    with pytest.raises(UserError, match="blokcs.*fits no weight"):
        freeze(tiny(), ("blokcs",))
    with pytest.raises(UserError, match="nothing to train"):
        freeze(tiny(), ("",))
    with pytest.raises(UserError, match="'nowhere' of optim.lr_scales"):
        rate_scales(Optim(lr_scales={"nowhere": 0.1}), tiny())
    with pytest.raises(UsageError, match="regular expression"):
        Optim(freeze=("(",))

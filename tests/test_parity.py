"""Numbers equal to timm's and transformers', all weights random and moved through files of the reference's own format,
both ways.
"""

import dataclasses
import json

import keras
import numpy as np
import pytest
from PIL import Image

import kzoo
from benchmarks import numbers
from benchmarks.parity import (
    TOLERANCE,
    age,
    difference,
    holding,
    merged,
    needs,
    parameters_of,
    passes,
    report,
    same_tensors,
    standing,
    summary,
    unmeasured,
)
from benchmarks.references import REFERENCES, BigVisionNpz, GoogleNpz, HfVit, Timm, TimmCoatnet
from benchmarks.references.vit import to_npz
from kzoo.cli import main
from kzoo.models import vit
from kzoo.registry import config_of
from tests.equality import CLOSE, assert_equal, pair, saved
from tests.torch_reference import import_timm

TOY = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 7, "image_size": 32}
CLIP = {"pre_norm": True, "norm_eps": 1e-5, "act": "quick_gelu"}
MAP = {"global_pool": "map", "class_token": False}
SIGLIP = {"num_classes": 0, "pre_norm": False, "norm_eps": 1e-6, "act": "gelu_tanh"}
COATNET = {
    "embed_dim": (16, 16, 24, 32),
    "depths": (1, 2, 2, 1),
    "stem_width": (8, 12),
    "head_dim": 8,
    "num_classes": 7,
    "image_size": 64,
}
CASES = {
    "plain": {},
    "non-square": {"image_size": (32, 48)},
    "average pooling": {"global_pool": "avg"},
    "average after the norm": {"global_pool": "avg", "fc_norm": False, "init_values": 0.1},
    "norm after the token": {"fc_norm": True},
    "no class token": {
        "global_pool": "avg",
        "class_token": False,
        "qkv_bias": False,
        "mlp_ratio": 3.0,
        "in_channels": 2,
    },
    "registers": {"reg_tokens": 3, "global_pool": "avg"},
    "registers without positions": {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.1},
    "no positions": {"pos_embed": "none"},
    "norm of queries and keys": {"qk_norm": True, "act": "gelu_tanh"},
    "clip": CLIP,
    "attention pooling": {"global_pool": "map", "class_token": False, "act": "gelu_tanh"},
    "attention pooling past prefix tokens": {"global_pool": "map", "reg_tokens": 2, "num_classes": 0},
}
FORMATS = {  # cases of the other references: reference, toy, overrides
    "Google's npz": ("google_npz", "vit_toy", {}),
    "Google's npz, non-square": ("google_npz", "vit_toy", {"image_size": (32, 48)}),
    "big_vision, attention pooling": ("big_vision_npz", "vit_toy", MAP),
    "big_vision, average pooling": (
        "big_vision_npz",
        "vit_toy",
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
    ),
    "transformers' ViT": ("hf_vit", "vit_toy", {}),
    "transformers' ViT, non-square, without qkv bias": (
        "hf_vit",
        "vit_toy",
        {"image_size": (32, 48), "qkv_bias": False},
    ),
    "transformers' DINOv2": ("hf_dinov2", "vit_dino_toy", {"num_classes": 0, "reg_tokens": 0, "no_embed_class": False}),
    "transformers' DINOv2, registers": ("hf_dinov2_registers", "vit_dino_toy", {"num_classes": 0}),
    "transformers' CLIP": ("hf_clip", "vit_clip_toy", CLIP | {"class_token": True, "global_pool": "token"}),
    "transformers' SigLIP": ("hf_siglip", "vit_clip_toy", MAP | SIGLIP),
}
CONVOLUTIONS = {  # cases of the convolutional families
    "resnet, non-square, one channel": (
        "timm_resnet",
        "resnet18",
        {"image_size": (64, 97), "in_channels": 1, "depths": (1, 1, 1, 1)},
    ),
    "resnet, dilated": (
        "timm_resnet",
        "resnet50",
        {"image_size": 64, "depths": (1, 1, 1, 2), "output_stride": 16, "num_classes": 7},
    ),
    "hybrid, non-square": ("timm_hybrid", "hybrid_toy", {"image_size": (32, 48), "in_channels": 2}),
    "hybrid, the stem alone": (
        "timm_hybrid",
        "vit_tiny_r_s16_p8_224",
        {"image_size": 64, "depth": 1, "num_classes": 0},
    ),
    "hybrid, Google's npz": ("google_hybrid_npz", "hybrid_toy", {}),
    "hybrid, Google's npz, the stem alone": (
        "google_hybrid_npz",
        "vit_tiny_r_s16_p8_224",
        {"image_size": 64, "depth": 1},
    ),
    "coatnet, non-square": ("timm_coatnet", "coatnet_toy", {"image_size": (48, 64), "in_channels": 1}),
    "coatnet, bias by an MLP, LayerScale": ("timm_coatnet", "coatnet_rmlp_2_rw_224", COATNET),
    "coatnet, batch norms": ("timm_coatnet", "coatnet_bn_0_rw_224", COATNET),
}
ALL = {case: ("timm", "vit_toy", TOY | overrides) for case, overrides in CASES.items()}
ALL |= {case: (key, name, TOY | overrides) for case, (key, name, overrides) in FORMATS.items()} | CONVOLUTIONS


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in FORMATS else [pytest.mark.backends]) for case in ALL]
)
def test_toys_through_files_both_ways(case, tmp_path):
    """Equal numbers from the reference's file; what kzoo saves is read strictly by the reference, and is that file
    again, bit for bit. How a further format names the weights of a ViT depends on no backend.
    """
    key, name, overrides = ALL[case]
    model, reference = pair(key, name, tmp_path / "theirs", **overrides)
    assert_equal(model, reference)
    assert parameters_of(model) == reference.parameters()
    assert set(model.load_report.loaded) == {w.path for w in model.weights}
    if reference.layout:
        path = saved(model, reference, tmp_path)
        module = reference.accepts(path)
        if reference.exact:
            assert same_tensors(model.load_report.source, path)
        images = reference.images(2)
        assert difference(reference.outputs(images, module)[-1], reference.outputs(images)[-1]) <= CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_base_patch32_siglip_256"])
def test_a_row_is_equal_to_timms(name, tmp_path):
    """Real sizes; the larger ones with fewer blocks, of which all are alike."""
    overrides = {} if name == "vit_tiny_patch16_224" else {"depth": 2}
    reference = Timm(name, overrides)
    assert_equal(kzoo.get(name, weights=reference.write(tmp_path / "theirs"), **overrides), reference)


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 16, (24, 40)], ids=str)
@pytest.mark.parametrize(
    ("key", "name", "toy"),
    [
        ("timm", "vit_toy", TOY),
        ("google_npz", "vit_toy", TOY),
        ("timm_hybrid", "hybrid_toy", {}),
        ("google_hybrid_npz", "hybrid_toy", {}),
    ],
)
def test_resized_as_timm_resizes(key, name, toy, size, tmp_path):
    """Another image_size: timm's own filter resizes torch's checkpoints, its own loader those of Google, and not
    alike.
    """
    file = REFERENCES[key](name, toy).write(tmp_path / "theirs")
    resized = REFERENCES[key](name, toy | {"image_size": size}, seed=5)
    if resized.format == "safetensors":
        vision_transformer = import_timm("timm.models.vision_transformer")
        load = import_timm("timm.models").load_checkpoint
        load(resized.module, str(file), filter_fn=vision_transformer.checkpoint_filter_fn)
    else:
        resized.module.load_pretrained(str(file))
    model = kzoo.get(name, weights=file, **toy | {"image_size": size})
    assert model.load_report.resized == ("pos_embed/table",)
    assert_equal(model, resized)


@pytest.mark.parametrize("size", [128, (64, 32), (64, 96)], ids=str)
def test_relative_tables_are_resized_bilinearly(size, tmp_path):
    """CoAtNet's tables of offsets at another image_size, by torch's bilinear interpolation; timm's own way, another, is
    not the paper's.
    """
    import torch

    square, resized = (
        TimmCoatnet("coatnet_0_224", COATNET),
        TimmCoatnet("coatnet_0_224", COATNET | {"image_size": size}, seed=5),
    )
    state, shapes = (
        square.module.state_dict(),
        {name: tensor.shape for name, tensor in resized.module.state_dict().items()},
    )
    sides = {
        f"stages.{i}.": [64 // 2 ** (i + 2)] * 2 + [side // 2 ** (i + 2) for side in resized.config.size]
        for i in (2, 3)
    }
    for name in [name for name in state if name.endswith("bias_table")]:
        old_rows, old_columns, rows, columns = (2 * side - 1 for side in sides[name[:9]])
        grid = state[name].T.reshape(1, -1, old_rows, old_columns)
        grid = torch.nn.functional.interpolate(grid, (rows, columns), mode="bilinear", antialias=True)
        state[name] = grid.reshape(shapes[name][::-1]).T
    resized.module.load_state_dict(state)
    model = kzoo.get("coatnet_0_224", weights=square.write(tmp_path / "theirs"), **COATNET | {"image_size": size})
    assert len(model.load_report.resized) == 3
    assert_equal(model, resized)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("source", [Timm, GoogleNpz])
def test_other_channels_as_timm_adapts_them(source, channels, tmp_path):
    import torch

    reference = source("vit_toy", TOY)
    file = reference.write(tmp_path / "theirs")
    adapted = source("vit_toy", TOY | {"in_channels": channels}, seed=5)
    if source is Timm:
        state = import_timm("timm.models").load_state_dict(str(file))
        adapt = import_timm("timm.models").adapt_input_conv
        adapted.module.load_state_dict(
            state | {"patch_embed.proj.weight": adapt(channels, state["patch_embed.proj.weight"])}
        )
    else:
        with torch.no_grad():
            adapted.module.load_pretrained(str(file))
    model = kzoo.get("vit_toy", weights=file, **TOY | {"in_channels": channels})
    assert model.load_report.adapted == ("patch_embed/proj/kernel",)
    assert_equal(model, adapted)


@pytest.mark.parametrize(("prefix", "stacked"), [("opt/target/", False), ("params/", True), ("params/img/", False)])
def test_spellings_of_npz_that_timm_reads(prefix, stacked, tmp_path):
    """The prefixes of Google's releases, and big_vision's scanned models, whose blocks are one array; a class token
    without a position.
    """
    original = prefix == "opt/target/"
    overrides = TOY | ({} if original else {"no_embed_class": True})
    reference = (GoogleNpz if original else BigVisionNpz)("vit_toy", overrides)
    state = {name: tensor.numpy() for name, tensor in reference.module.state_dict().items()}
    arrays = to_npz(state, TOY["num_heads"], TOY["depth"], big_vision=not original)
    if stacked:
        arrays = stack(arrays, TOY["depth"])
    np.savez(tmp_path / "model.npz", **{prefix + name: array for name, array in arrays.items()})
    model = kzoo.get("vit_toy", weights=tmp_path / "model.npz", **overrides)
    fresh = type(reference)("vit_toy", overrides, seed=5)
    fresh.module.load_pretrained(str(tmp_path / "model.npz"))
    assert_equal(model, fresh)
    assert_equal(model, reference)


def stack(arrays, depth):
    """The blocks' arrays of the same name as one, under `encoderblock`."""
    stacked = {name: array for name, array in arrays.items() if "encoderblock_" not in name}
    for name in [name for name in arrays if "encoderblock_0/" in name]:
        every = [arrays[name.replace("encoderblock_0/", f"encoderblock_{i}/")] for i in range(depth)]
        stacked[name.replace("encoderblock_0/", "encoderblock/")] = np.stack(every)
    return stacked


@pytest.mark.slow
@pytest.mark.backends
def test_gradients_are_torchs(tmp_path):
    """Of the cross entropy: one step of plain gradient descent at a large rate, read back in timm's names."""
    import torch

    rate, overrides = 64.0, TOY | {"init_values": 0.1, "reg_tokens": 1, "qk_norm": True}
    reference = Timm("vit_toy", overrides)
    model = kzoo.get("vit_toy", weights=reference.write(tmp_path / "theirs"), **overrides)
    images, labels = reference.images(4), np.array([0, 3, 3, 6])
    logits = reference.module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
    task = kzoo.task(model)
    task.compile(optimizer=keras.optimizers.SGD(rate), jit_compile=keras.backend.backend() == "jax")
    task.train_on_batch(images, labels)
    after = reference.accepts(saved(model, reference, tmp_path)).state_dict()
    gradients = {name: parameter.grad.numpy() for name, parameter in reference.module.named_parameters()}
    # the gradient of the keys' bias is zero but for rounding
    noise = 1e-6 * max(np.abs(gradient).max() for gradient in gradients.values())
    for name, parameter in reference.module.named_parameters():
        ours = (parameter.detach().numpy() - after[name].numpy()) / rate
        assert np.abs(ours - gradients[name]).max() <= TOLERANCE * np.abs(gradients[name]).max() + noise, name


def test_from_timms_file_to_transformers_and_back(tmp_path):
    """One set of weights in every layout: transformers' model of them, with timm's epsilon written to its config.json,
    is timm's.
    """
    reference = Timm("vit_toy", TOY)
    file = reference.write(tmp_path / "theirs")
    model = kzoo.get("vit_toy", weights=file, **TOY)
    kzoo.save_weights(model, tmp_path / "hf", layout="hf")
    transformers = HfVit("vit_toy", TOY)
    module = transformers.accepts(tmp_path / "hf")
    images = reference.images(2)
    assert difference(transformers.outputs(images, module)[-1], reference.outputs(images)[-1]) <= CLOSE
    kzoo.save_weights(model, tmp_path / "own.weights.h5")
    for path in (tmp_path / "hf", tmp_path / "own.weights.h5"):
        again = kzoo.get("vit_toy", weights=path, **TOY)
        kzoo.save_weights(again, tmp_path / f"{path.name}.safetensors", layout="timm")
        assert same_tensors(file, tmp_path / f"{path.name}.safetensors")


@pytest.mark.slow
def test_predictions_are_timms_top_five(tmp_path, capsys):
    """`kzoo predict` and timm, the same file and the same picture."""
    import torch

    data = import_timm("timm.data")
    reference = Timm("vit_tiny_patch16_224")
    file = reference.write(tmp_path / "theirs")
    pixels = np.random.default_rng(3).integers(0, 256, (6, 8, 3)).astype("uint8")
    Image.fromarray(pixels).resize((400, 300), Image.Resampling.BICUBIC).save(tmp_path / "picture.png")
    transform = data.create_transform(**data.resolve_data_config({}, model=reference.module))
    with torch.no_grad():
        logits = reference.module(transform(Image.open(tmp_path / "picture.png"))[None])
    wanted = torch.topk(logits.softmax(-1)[0], 5)
    command = ["predict", "vit_tiny_patch16_224", "--weights", str(file), str(tmp_path / "picture.png"), "--json"]
    assert main(command) == 0
    classes = json.loads(capsys.readouterr().out)[0]["classes"]
    assert [c["index"] for c in classes] == wanted.indices.tolist()
    np.testing.assert_allclose([c["probability"] for c in classes], wanted.values.numpy(), rtol=0.02)


NUMBERS = {"machine": {"cpu": "this"}, "rows": "vit_toy=1 vit_tiny_patch16_224=1", "digest": "now"}
CASE = {
    "outputs": "a",
    "gradients": "b",
    "timm file": "c",
    "projections": "outputs/result=1.0,2.0 gradients/head=0.5,1.0",
}
NUMBERS |= {"cases": {"vit_toy": CASE}}
TODAY = dict.fromkeys(numbers.FAMILIES, NUMBERS)


def test_the_benchmark_tells_what_is_not_equal():
    good = {
        "name": "vit_toy",
        "reference": "timm",
        "title": "timm",
        "format": "safetensors",
        "result": 1e-6,
        "blocks": 1e-6,
        "seconds": 1,
    }
    good |= {
        "parameters": 5,
        "their_parameters": 5,
        "round_trip": "bit-equal",
        "date": "2026-01-01 00:00",
        "numbers": "now",
    }
    bad = [{"result": 2e-4}, {"blocks": float("nan")}, {"their_parameters": 6}, {"round_trip": "tensors differ"}]
    assert passes(good) and not any(passes(good | change) for change in bad)
    assert summary([good, good | bad[0]], [], [], {}, TODAY)["beyond"] == [["vit_toy", "timm"]]
    text = report(
        [good, *(good | change for change in bad)], [("vit_toy", "hf_vit")], ["simple_vit_tiny_patch16_224"], {}, TODAY
    )
    assert text.count("**BEYOND**") == 4 and "**Failed**: vit_toy (hf_vit)." in text
    waiting = unmeasured([good])
    assert "vit_toy" in waiting["hf_vit"] and "vit_toy" not in waiting["timm"] and "Not measured yet: " in text
    assert difference(np.array([100.0, 0.5]), np.array([101.0, 0.0])) == pytest.approx(1 / 101)


def test_what_was_never_measured_is_told_with_its_hours_and_memory():
    large = {"name": "large", "reference": "timm", "seconds": 30, "parameters": 3e8, "peak_gib": 6.0}
    huge = {"name": "huge", "reference": "timm", "seconds": 60, "parameters": 6e8}
    told = needs([large, huge], {"hf_vit": ["large"] * 60 + ["huge"] * 30})
    assert "about 1.0 hours and up to 12 GiB of memory" in told and "huge" not in told
    own = large | {"reference": "hf_vit", "peak_gib": 1e6}
    assert "too few for huge beside hf_vit (2000000 GiB);" in needs(
        [large, huge, own], {"hf_vit": ["huge"], "timm": ["large"]}
    )
    assert "not known" in needs([], {"timm": ["vit_toy"]})


def test_records_stay_until_newer_ones_come_and_those_of_moved_numbers_are_counted_apart():
    def record(name, date, numbers, reference="timm"):
        figures = {
            "result": 0.0,
            "blocks": 0.0,
            "round_trip": "bit-equal",
            "parameters": 5,
            "their_parameters": 5,
            "seconds": 1,
        }
        return {
            "name": name,
            "reference": reference,
            "date": f"2026-01-{date} 00:00",
            "numbers": numbers,
            "title": "",
            "format": "",
        } | figures

    old = record("deit3_base_patch16_224", "03", "old")
    unjoined = record("vit_small_patch14_dinov2", "01", None)
    del unjoined["numbers"]  # from before records were joined to numbers
    before = [record("vit_toy", "02", "old"), unjoined, old]
    after = [
        record("vit_toy", "04", "now"),
        record("deit3_base_patch16_224", "02", "older"),
        record("no_such_row", "04", "now"),
    ]
    records = merged(before, after)
    assert {(r["name"], r.get("numbers")) for r in records} == {
        *{("vit_toy", "now"), ("vit_small_patch14_dinov2", None), ("deit3_base_patch16_224", "old")}
    }
    assert merged(after, before) == records
    then = {"old": NUMBERS | {"digest": "old", "cases": {"deit3_toy": CASE, "vit_toy": CASE}}, "unused": NUMBERS}
    result = summary(records, [], [], then, TODAY)
    assert result["records"] == records and result["references"]["timm"]["earlier"] == ["2026-01-01", "2026-01-03"]
    assert set(result["numbers"]) == {"old", "now"}
    told = age(result)
    assert told.startswith(
        "Records that hold for the code of today: 1 of timm (and 2 of earlier code, 2026-01-01 to 2026-01-03, do not)."
    )
    assert "bit for bit: vit (1 records)." in told and "vit_dino (1 records: no numbers were kept with it)" in told
    assert told in report(records, [], [], then, TODAY)
    assert list(holding(records, then, TODAY)) == [("vit_toy", "timm")]


@pytest.mark.parametrize(
    ("change", "machine", "verdict"),
    [
        ({}, "this", "equal"),
        ({}, "another", "equal"),
        ({"more": "d"}, "this", "equal"),  # what was not looked at then
        ({"outputs": "x"}, "this", "moved"),
        ({"outputs": "x"}, "another", "close"),
        ({"outputs": "x", "projections": "outputs/result=1.00001,2.0 gradients/head=0.5,1.0"}, "another", "close"),
        ({"outputs": "x", "projections": "outputs/result=1.0001,2.0 gradients/head=0.5,1.0"}, "another", "moved"),
        ({"gradients": "x", "projections": "outputs/result=1.0,2.0"}, "another", "moved"),
        ({"timm file": "x"}, "another", "moved"),  # moving tensors into a file rounds nothing
    ],
)
def test_numbers_are_compared_by_bits_and_elsewhere_by_closeness(change, machine, verdict):
    now = NUMBERS | {"machine": {"cpu": machine}, "digest": "another", "cases": {"vit_toy": CASE | change}}
    kind, words = numbers.compare(NUMBERS, now)
    assert kind == verdict and (kind != "moved" or f"{next(iter(change))} of vit_toy" in words)
    # the toy itself was looked at; of the other only what it sets is known
    rows = now | {"rows": "vit_toy=2 vit_tiny_patch16_224=2"}
    record = {"reference": "timm", "numbers": "now"}
    found = standing(
        [record | {"name": name} for name in ("vit_toy", "vit_tiny_patch16_224")], {"now": NUMBERS}, {"vit": rows}
    )
    assert found["vit_toy", "timm"][0] == verdict and found["vit_tiny_patch16_224", "timm"][0] == "moved"


@pytest.mark.slow
def test_a_moved_number_moves_its_family_and_no_other(monkeypatch):
    """An epsilon of the ViT's toy; whoever shares the family's code but not the row stays, and what is read of
    Google's, with theirs.
    """

    def seen():
        return {family: numbers.family_numbers(family, toys=True) for family in ("vit", "deit3")}

    before = seen()
    monkeypatch.setitem(vit.VARIANTS, "vit_toy", dataclasses.replace(vit.VARIANTS["vit_toy"], norm_eps=2e-6))
    after = seen()
    assert after["deit3"] == before["deit3"] and after["vit"]["digest"] != before["vit"]["digest"]
    kind, words = numbers.compare(before["vit"] | {"machine": 1}, after["vit"] | {"machine": 1})
    assert kind == "moved" and words.startswith("outputs, gradients, keras read, timm read, hf read of vit_toy (")


@pytest.mark.slow
def test_two_processes_see_the_same_numbers():
    """Twelve seconds: processes of their own, as the benchmark starts them, are what is tried; with convolutions, batch
    norm and attention, which CoAtNet's toys have.
    """
    one, other = (numbers.measured(("coatnet",), "--toys")["coatnet"] for _ in range(2))
    assert one["digest"] == other["digest"]
    assert numbers.compare(one, other) == ("equal", "bit for bit")


@pytest.mark.parametrize("family", numbers.FAMILIES)
def test_the_models_looked_at_have_every_switch_of_the_familys_rows(family):
    """A switch is a field of texts, or that is on, off or not given; where it is none of the looked-at models, no
    number would tell.
    """

    def switches(config):
        fields = {
            f.name: getattr(config, f.name)
            for f in dataclasses.fields(config)
            if f.name not in ("preprocessing", "backbone")
        }
        fields = {name: value if isinstance(value, str | bool | None) else "given" for name, value in fields.items()}
        return set(fields.items())

    looked_at = set().union(*(switches(config_of(*case)[1]) for case in numbers.cases(family).values()))
    for name in kzoo.list_models(family=family):
        assert switches(config_of(name)[1]) <= looked_at, name

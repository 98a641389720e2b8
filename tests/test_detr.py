"""DETR beside transformers' under the same random weights and real padding, and its parts against torch and formulas."""

import json

import keras
import numpy as np
import pytest
import torch
from keras import ops
from safetensors.torch import save_file

import kzoo
from benchmarks.numbers import drawn
from benchmarks.parity import TOLERANCE, difference, parameters_of, same_tensors
from benchmarks.references import HfVit
from kzoo.checking import outputs_of, randomise
from kzoo.errors import UsageError, UserError
from kzoo.keras_private import skeleton
from kzoo.layers.detector import FitPadding, PostNormBlock, QueryAttention, SinePositions, linear, nearest
from kzoo.models.base import computing_in
from kzoo.models.count import macs
from kzoo.models.detr import DetrDecoderBlock
from kzoo.registry import config_of
from kzoo.weights import require_trained
from kzoo.weights.backbone import start_from
from kzoo.weights.names import encode
from tests.equality import CLOSE, XLA, assert_equal, assert_trained_alike, pair, saved, with_and_without

ROWS = ("detr_resnet50", "detr_resnet50_dc5", "detr_resnet101", "detr_resnet101_dc5")
BELOW = "features/backbone/"  # where the backbone's weights lie
FROZEN = {"backbone_options": {"norm": "frozen"}}
CASES = {
    "toy": {},
    "odd sides, one channel, basic blocks": {
        "image_size": (75, 100),
        "in_channels": 1,
        "backbone_options": {"block": "basic", "width": 12},
        "num_queries": 3,
        "num_classes": 2,
    },
    "frozen norms, no encoder, another decoder": FROZEN
    | {"depth": 0, "decoder_depth": 3, "num_heads": 2, "embed_dim": 24, "mlp_ratio": 3.0},
}


def called(model, inputs):
    """{name: array} of the detector's outputs."""
    return dict(zip(sorted(model.output), outputs_of(model, inputs), strict=True))


def values(model):
    return {weight.path: np.array(ops.convert_to_numpy(weight)) for weight in model.weights}


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.backends] * (case == "toy")) for case in CASES])
def test_equal_to_transformers_both_ways(case, tmp_path):
    """The map, every block, logits and boxes, those of the decoder's earlier blocks too; what kzoo saves is the
    reference's file again, bit for bit, and is read strictly.
    """
    model, reference = pair("hf_detr", "detr_toy", tmp_path / "theirs", **CASES[case])
    assert_equal(model, reference)
    assert set(model.load_report.loaded) == {w.path for w in model.weights}
    inputs, module = reference.images(3), reference.module
    training = kzoo.get("detr_toy", weights=tmp_path / "theirs", aux_outputs=True, **CASES[case])
    assert [w.path for w in training.weights] == [w.path for w in model.weights]
    ours, alone = called(training, inputs), called(model, inputs)
    hidden = [torch.from_numpy(x) for x in reference.outputs(inputs)[-1 - model.config.decoder_depth : -1]]
    with torch.no_grad():
        theirs = module.model.decoder.layernorm(torch.stack(hidden, 1))
        logits, boxes = module.class_labels_classifier(theirs), module.bbox_predictor(theirs).sigmoid()
    assert difference(ours["aux_logits"], logits[:, :-1].numpy()) <= CLOSE
    assert difference(ours["aux_boxes"], boxes[:, :-1].numpy()) <= CLOSE
    for name in ("logits", "boxes"):
        assert difference(ours[name], alone[name]) <= 1e-6 and ours[name].dtype == np.float32
    assert_attention_is_theirs(model, reference, inputs)
    path = saved(model, reference, tmp_path)
    assert same_tensors(tmp_path / "theirs", path)
    again = reference.accepts(path)
    assert again.config.num_labels == model.config.num_classes
    assert difference(reference.outputs(inputs, again)[-1], reference.outputs(inputs)[-1]) <= 1e-6


def assert_attention_is_theirs(model, reference, inputs):
    """Of every query, and of cells of the encoder, whose places come by the pixels."""
    module, config = reference.module, model.config
    module.set_attn_implementation("eager")  # another tells no weights
    module.config.output_attentions = True
    with torch.no_grad():
        output = reference.called(module, inputs)
    module.config.output_attentions = False
    features = model.get_layer("input_proj").output
    batch, (rows, columns) = len(inputs["mask"]), features.shape[1:3]
    theirs = np.stack([weights.numpy() for weights in output.cross_attentions], axis=1)
    ours = kzoo.attention(model, inputs)
    assert ours.shape == (batch, config.decoder_depth, config.num_heads, config.num_queries, rows, columns)
    assert ours.dtype == np.float32 and np.abs(ours.reshape(theirs.shape) - theirs).max() <= 1e-5
    if not config.depth:
        return
    points = [(0.0, 0.3), (0.6, 0.999), (1.0, 1.0)]
    height, width = inputs["mask"].shape[1:]
    ours = kzoo.attention(model, inputs, points=points)
    assert ours.shape == (batch, config.depth, config.num_heads, len(points), rows, columns)
    for i, mask in enumerate(inputs["mask"]):
        filled = (~mask[:, 0]).sum(), (~mask[0]).sum()
        for k, (y, x) in enumerate(points):
            row, column = (
                int(min(point * pixels, pixels - 1e-6) * cells / side)
                for point, pixels, cells, side in zip((y, x), filled, (rows, columns), (height, width), strict=True)
            )
            for layer, weights in enumerate(output.encoder_attentions):
                wanted = weights[i, :, row * columns + column].numpy()
                assert np.abs(ours[i, layer, :, k].reshape(wanted.shape) - wanted).max() <= 1e-5, (i, k)
    assert np.allclose(ours.sum(axis=(-2, -1)), 1, atol=1e-5)


@pytest.mark.slow
def test_timms_names_and_the_dilated_last_stage(tmp_path):
    """Four stages of timm's, the last dilated: transformers' file, its config.json telling of the dilation."""
    model, reference = pair("hf_detr", "detr_resnet50_dc5", tmp_path / "theirs", image_size=(96, 130), depth=1)
    assert_equal(model, reference)
    assert model.get_layer("input_proj").output.shape == (None, 6, 9, 256)
    assert parameters_of(model) == reference.parameters()
    reference.accepts(saved(model, reference, tmp_path))
    twin = kzoo.get("detr_resnet50", weights=tmp_path / "theirs", image_size=(96, 130), depth=1)
    assert twin.spec.overrides["backbone_options"] == {"norm": "frozen", "output_stride": 16}
    with pytest.raises(UserError, match="output_stride"):
        plain = kzoo.get("detr_resnet50", depth=1, image_size=(96, 130))
        kzoo.load_weights(plain, tmp_path / "theirs")


class Weighted(keras.Model):
    """A weighted sum of all outputs, for a step of gradient descent."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def call(self, x, training=None):
        return self.network(x, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return sum(ops.sum(y_pred[name] * ops.convert_to_tensor(y[name])) for name in y)


@pytest.mark.slow
@pytest.mark.backends
@pytest.mark.parametrize("xla", XLA)
def test_gradients_are_torchs(xla, tmp_path):
    """One step of plain gradient descent, read back by transformers. Under XLA with `remat` too."""
    rate = 1.0
    model, reference = pair("hf_detr", "detr_toy", tmp_path / "theirs", remat=xla, drop_rate=0.0, **FROZEN)
    inputs, module = reference.images(4), reference.module
    y = {name: drawn(tuple((4, *model.output[name].shape[1:])), name) for name in ("logits", "boxes")}
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    output = reference.called(module, inputs)
    loss = (output.logits * torch.from_numpy(y["logits"])).sum() + (
        output.pred_boxes * torch.from_numpy(y["boxes"])
    ).sum()
    loss.backward()
    view = Weighted(model)
    view.compile(optimizer=keras.optimizers.SGD(rate), jit_compile=xla)
    view.train_on_batch(inputs, y)
    after = reference.accepts(saved(model, reference, tmp_path)).state_dict()
    gradients = {name: p.grad.numpy() for name, p in module.named_parameters()}
    noise = 1e-6 * max(np.abs(gradient).max() for gradient in gradients.values())
    given, still = dict(module.named_parameters()), 0
    for name, gradient in gradients.items():
        ours = (given[name].detach().numpy() - after[name].numpy()) / rate
        assert np.abs(ours - gradient).max() <= TOLERANCE * np.abs(gradient).max() + noise, name
        still += np.abs(gradient).max() <= noise
    assert still == sum(path.startswith(model.config.still) for path in values(model)) == 9


def official(state, body):
    """The official files' {name: tensor} of transformers' parameters and buffers; `body` renames the backbone's."""
    found, attentions = {}, {}
    parts = {"self_attn.": "self_attn.", "encoder_attn.": "multihead_attn.", "mlp.fc": "linear"}
    norms = {
        "encoder": {"self_attn_layer_norm": "norm1", "final_layer_norm": "norm2"},
        "decoder": {"self_attn_layer_norm": "norm1", "encoder_attn_layer_norm": "norm2", "final_layer_norm": "norm3"},
    }
    heads = {
        "model.decoder.layernorm": "transformer.decoder.norm",
        "class_labels_classifier": "class_embed",
        "bbox_predictor": "bbox_embed",
        "model.query_position_embeddings": "query_embed",
        "model.input_projection": "input_proj",
    }
    for name, tensor in state.items():
        which = name.split(".")[1]
        if name.startswith("model.backbone.model."):
            found["backbone.0.body." + body(name.removeprefix("model.backbone.model."))] = tensor
        elif ".layers." in name and which in norms:
            name = "transformer." + name.removeprefix("model.")
            for theirs, ours in (norms[which] | parts).items():
                name = name.replace(f".{theirs}", f".{ours}")
            head, _, leaf = name.rpartition(".")
            if head.endswith(("q_proj", "k_proj", "v_proj")):
                attentions.setdefault(f"{head[:-6]}in_proj_{leaf}", {})[head[-6]] = tensor
            else:
                found[name.replace("o_proj", "out_proj")] = tensor
        else:
            for theirs, ours in heads.items():
                name = name.replace(theirs, ours)
            found[name] = tensor
    return found | {name: torch.cat([three[letter] for letter in "qkv"]) for name, three in attentions.items()}


def timms(name):
    """timm's and torchvision's names of what transformers' own ResNet has."""
    name = name.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
    if name.startswith("encoder.stages."):
        _, _, stage, _, block, *rest = name.split(".")
        rest = ".".join(rest)
        rest = rest.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
        for k in range(3):
            rest = rest.replace(f"layer.{k}.convolution", f"conv{k + 1}").replace(
                f"layer.{k}.normalization", f"bn{k + 1}"
            )
        name = f"layer{int(stage) + 1}.{block}.{rest}"
    return name


def test_official_files_are_read_and_written(tmp_path):
    """One matrix for queries, keys and values; under the key `model`, as the official checkpoints are."""
    model, reference = pair("hf_detr", "detr_toy", tmp_path / "theirs")
    tensors = official(reference.module.state_dict(), timms)
    torch.save({"model": tensors, "epoch": 500}, tmp_path / "detr.pth")
    again = kzoo.get("detr_toy", weights=tmp_path / "detr.pth")
    assert not again.load_report.unused and again.load_report.format == "torch"
    for path, value in values(model).items():
        np.testing.assert_array_equal(values(again)[path], value, err_msg=path)
    written = encode(model, model.config.layouts()["official"], model.config)
    assert written.keys() == tensors.keys()
    assert all(np.array_equal(written[name], tensors[name].numpy()) for name in tensors)
    other = kzoo.get("detr_toy", weights=tmp_path / "detr.pth", num_classes=9)
    assert set(other.load_report.reinitialised) == {"class_embed/kernel", "class_embed/bias"}
    maps = kzoo.get("detr_toy", weights=tmp_path / "detr.pth", features_only=True)
    assert not any(path.startswith(("decoder", "class", "bbox")) for path in maps.load_report.loaded)


def test_another_number_of_queries_keeps_the_first(tmp_path):
    donor = kzoo.get("detr_toy")
    donor.save(tmp_path / "detr.keras")
    given = values(donor)
    for count in (4, 9):
        taker = kzoo.get("detr_toy", weights=tmp_path / "detr.keras", num_queries=count)
        held, kept = values(taker), min(count, 6)
        assert taker.load_report.adapted == ("query_embed/table",) and len(taker.load_report.loaded) == len(given) - 1
        np.testing.assert_array_equal(held["query_embed/table"][:kept], given["query_embed/table"][:kept])
        assert len(held["query_embed/table"]) == count and (held["query_embed/table"][kept:].std(axis=1) > 0.5).all()
        assert start_from(taker, tmp_path / "detr.keras").adapted == ("query_embed/table",)
    with pytest.raises(UserError, match=r"query_embed/table \(9, 32\).*num_queries=\) keeps the first rows"):
        kzoo.load_weights(kzoo.get("detr_toy", num_queries=9), tmp_path / "detr.keras")


def test_a_backbone_alone(tmp_path):
    """A classifier's file of timm's, with its head and counters, transformers' and one of kzoo's fill the backbone; what
    stands on it is fresh, and the receipt says so. A recipe may start from either a backbone's weights or a whole
    detector's.
    """
    donor = randomise(kzoo.get("resnet_toy"))
    layouts = donor.config.layouts()
    tensors = {name: torch.from_numpy(array) for name, array in encode(donor, layouts["timm"], donor.config).items()}
    tensors |= {"bn1.num_batches_tracked": torch.tensor(7)}
    torch.save(tensors, tmp_path / "resnet.pth")
    theirs = encode(donor, layouts["hf"], donor.config)
    save_file(
        {f"resnet.{n}".replace("resnet.class", "class"): torch.from_numpy(a) for n, a in theirs.items()},
        tmp_path / "r.safetensors",
    )
    donor.save(tmp_path / "resnet.keras")
    want = {f"{BELOW}{path}": value for path, value in values(donor).items() if not path.startswith("head")}
    for file in ("resnet.pth", "r.safetensors", "resnet.keras"):
        model = kzoo.get("detr_toy", backbone_weights=tmp_path / file, **FROZEN)
        report, held = model.load_report, values(model)
        assert set(report.loaded) == want.keys() and set(report.reinitialised) == held.keys() - want.keys(), file
        assert all(np.array_equal(held[path], value) for path, value in want.items())
        assert report.digest and not report.lacking
    started = kzoo.get("detr_toy", image_size=(64, 96))
    assert set(start_from(started, tmp_path / "resnet.keras").loaded) == want.keys()
    model.save(tmp_path / "detr.keras")
    whole = kzoo.get("detr_toy", num_classes=3, **FROZEN)
    assert set(start_from(whole, tmp_path / "detr.keras").reinitialised) == {"class_embed/kernel", "class_embed/bias"}
    grey = kzoo.get("detr_toy", backbone_weights=tmp_path / "resnet.pth", in_channels=1)
    assert grey.load_report.adapted == (f"{BELOW}stem/conv/kernel",)
    before = values(started)
    with pytest.raises(UserError, match="do not fit"):
        start_from(started, saved_other(tmp_path))
    assert all(np.array_equal(value, before[path]) for path, value in values(started).items())
    with pytest.raises(UsageError, match="not both"):
        kzoo.get("detr_toy", weights=tmp_path / "detr.keras", backbone_weights=tmp_path / "resnet.pth")
    with pytest.raises(UsageError, match="stands on no other network"):
        kzoo.get("vit_toy", backbone_weights=tmp_path / "resnet.pth")


def saved_other(folder):
    """A file of a ResNet of another width."""
    kzoo.get("resnet_toy", width=16).save(folder / "other.keras")
    return folder / "other.keras"


def test_a_backbone_of_other_numerics_is_refused(tmp_path):
    """Its file tells an activation that this backbone has not been built with."""
    on = {"backbone": "vit_toy", "backbone_options": {}}
    HfVit("vit_toy", {"act": "gelu_tanh"}).write(tmp_path / "vit")
    with pytest.raises(UserError, match="act='gelu_tanh'.*backbone_options="):
        kzoo.get("detr_toy", backbone_weights=tmp_path / "vit", **on)
    fitting = on | {"backbone_options": {"act": "gelu_tanh", "norm_eps": 1e-12}}
    model = kzoo.get("detr_toy", backbone_weights=tmp_path / "vit", **fitting)
    assert model.load_report.resized == (f"{BELOW}pos_embed/table",)  # from 32 pixels to 64


def test_counts():
    """Weights and products of the official models at 800 x 1066, the frozen stem and first stage apart and with them."""
    params = {"detr_resnet50": 41_302_368, "detr_resnet101": 60_242_272}
    gmacs = {"detr_resnet50": 81.250, "detr_resnet50_dc5": 173.250, "detr_resnet101": 144.690}
    for name in ROWS:
        info = kzoo.info(name)
        assert info.params == params[name.removesuffix("_dc5")], name
        assert (info.task, info.num_classes, info.image_size) == ("detect", 91, (800, 1066))
        if name in gmacs:
            assert info.gmacs == pytest.approx(gmacs[name], rel=2e-3), name
    builder, config = config_of("detr_resnet50", {"backbone_frozen": ()})
    whole = skeleton(lambda: builder(config))
    assert parameters_of(whole) == 41_524_768
    assert sum(np.prod(w.shape) for w in whole.non_trainable_weights) == 2 * 53_120
    assert {s["stride"] for name in ROWS[::2] for s in config_of(name)[1].feature_info()} == {32}
    assert config_of("detr_resnet50_dc5")[1].feature_info()[0] == {
        "index": 0, "name": "encoder", "stride": 16, "channels": 256,
    }  # fmt: skip


FIXED = {"backbone_frozen": ("stem", "layer1"), **FROZEN}


def test_what_is_frozen_never_learns_and_comes_back_frozen(tmp_path):
    model = randomise(kzoo.get("detr_toy", **FIXED))
    frozen = {path for path in values(model) if path.startswith((f"{BELOW}stem/", f"{BELOW}layer1"))}
    norms = {path for path in values(model) if path.startswith(BELOW) and "/conv" not in path.replace("_conv", "/conv")}
    learning = {w.path for w in model.trainable_weights}
    assert learning == values(model).keys() - frozen - norms and frozen - norms
    model.save(tmp_path / "model.keras")
    again = kzoo.load(tmp_path / "model.keras")
    assert {w.path for w in again.trainable_weights} == learning and again.spec == model.spec
    inputs = {"image": drawn((2, 64, 64, 3), "image"), "mask": np.zeros((2, 64, 64), bool)}
    for name, value in called(model, inputs).items():
        np.testing.assert_array_equal(called(again, inputs)[name], value)
    free = kzoo.get("detr_toy", backbone_options={"norm": "batch"})
    assert len(free.trainable_weights) > len(model.trainable_weights) and free.load_report is None


def test_frozen_parts_without_weights_are_built_told_and_not_used(tmp_path):
    model = kzoo.get("detr_toy", **FIXED)
    assert model.load_report.lacking == "norm='frozen' and backbone_frozen=('stem', 'layer1')"
    assert "no weights were given" in str(model.load_report) and not model.load_report.loaded
    for use in (require_trained, lambda model: kzoo.export(model, tmp_path / "out")):
        with pytest.raises(UserError, match="random as it starts: give it trained weights"):
            use(model)
    model.save_weights(tmp_path / "own.weights.h5")
    kzoo.load_weights(model, tmp_path / "own.weights.h5")
    require_trained(model)
    with pytest.raises(UsageError, match="unknown layer of resnet_toy to freeze 'layer7'"):
        kzoo.get("detr_toy", backbone_frozen=("layer7",))


@pytest.mark.backends
def test_open_sides_give_what_closed_ones_give():
    """One model of any size beside one that was built for the size, padding too."""
    model = randomise(kzoo.get("detr_toy", open_size=True))
    assert model.input["image"].shape == (None, None, None, 3) and model.take.image_size == (64, 64)
    mask = np.zeros((2, 48, 90), bool)
    mask[0, 40:], mask[1, :, 50:] = True, True
    inputs = {"image": drawn((2, 48, 90, 3), "image"), "mask": mask}
    closed = kzoo.get("detr_toy", image_size=(48, 90))
    closed.set_weights(model.get_weights())
    answer = called(closed, inputs)
    for name, value in called(model, inputs).items():
        np.testing.assert_allclose(value, answer[name], atol=1e-6, err_msg=name)


def test_open_sides_of_maps_and_of_what_lies_below(tmp_path):
    """Several sizes in turn, saved and loaded; what has a table of positions is refused."""
    maps = kzoo.get("detr_toy", open_size=True, features_only=True)
    maps.save(tmp_path / "maps.keras")
    again = kzoo.load(tmp_path / "maps.keras")
    for height, width in ((64, 64), (33, 90)):
        inputs = {"image": drawn((2, height, width, 3), "image"), "mask": np.zeros((2, height, width), bool)}
        ours, theirs = outputs_of(maps, inputs)[0], outputs_of(again, inputs)[0]
        assert ours.shape == (2, -(-height // 8), -(-width // 8), 32)
        np.testing.assert_array_equal(ours, theirs)
    classifier = randomise(kzoo.get("resnet_toy", open_size=True))
    images, fixed = drawn((2, 40, 56, 3), "images"), kzoo.get("resnet_toy", image_size=(40, 56))
    fixed.set_weights(classifier.get_weights())
    np.testing.assert_allclose(outputs_of(classifier, images)[0], outputs_of(fixed, images)[0], atol=1e-6)
    for name, options in (("vit_toy", {}), ("detr_toy", {"backbone": "vit_toy", "backbone_options": {}})):
        with pytest.raises(UsageError, match="one size of pictures"):
            kzoo.get(name, open_size=True, **options)


@pytest.mark.parametrize(
    ("backbone", "cells"),
    [
        *(("vit_toy", (8, 12)), ("coatnet_toy", (8, 12)), ("hybrid_toy", (8, 12))),
        *(("swin_toy", (8, 12)), ("cswin_toy", (8, 12))),
    ],
)
def test_any_model_with_feature_maps_can_stand_below(backbone, cells):
    """No query looks at a padded cell; what the padded cells hold changes nothing."""
    model = randomise(kzoo.get("detr_toy", backbone=backbone, backbone_options={}, image_size=(64, 96)))
    features = model.get_layer("input_proj").output
    assert features.shape == (None, *cells, 32)
    mask = np.zeros((2, 64, 96), bool)
    mask[0, 32:], mask[1, :, 32:] = True, True
    inputs = {"image": drawn((2, 64, 96, 3), "image"), "mask": mask}
    block = model.get_layer("decoder_blocks_1")
    tapped = keras.Model(model.input, block.input)(inputs)
    weights = ops.convert_to_numpy(block.attend(*tapped))
    padded = ops.convert_to_numpy(tapped[-1])
    assert padded.reshape(2, *cells)[0].all(1).tolist() == [i >= cells[0] / 2 for i in range(cells[0])]
    assert weights.shape == (2, 4, 6, cells[0] * cells[1])
    assert (weights.transpose(0, 3, 1, 2)[padded] == 0).all() and np.allclose(weights.sum(-1), 1, atol=1e-5)


@pytest.mark.backends
def test_what_padded_cells_hold_reaches_no_query():
    """Under every backend, from the map on: noise in the padded cells leaves logits and boxes as they are."""
    model = randomise(kzoo.get("detr_toy"))
    features, mask = model.get_layer("input_proj").output, model.input["mask"]
    above = keras.Model([features, mask], model.output)
    mask = np.ones((2, 64, 64), bool)
    mask[:, :40, :24] = False
    one, other = (drawn((2, 8, 8, 32), word) for word in ("one", "other"))
    other[:, :5, :3] = one[:, :5, :3]
    ours, theirs = (called(above, [x, mask]) for x in (one, other))
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)


@pytest.mark.backends
def test_masks_shrink_as_torchs():
    rng = np.random.default_rng(0)
    for given, wanted in ((1066, 34), (800, 25), (97, 13), (64, 8), (33, 32), (5, 5), (1333, 42)):
        row = torch.from_numpy(np.arange(given, dtype="float32"))
        theirs = torch.nn.functional.interpolate(row[None, None], size=wanted)[0, 0].numpy()
        np.testing.assert_array_equal(nearest(given, wanted), theirs)
        open_sides = nearest(ops.convert_to_tensor(given), ops.convert_to_tensor(wanted))
        np.testing.assert_array_equal(ops.convert_to_numpy(open_sides), theirs)
    mask, features = rng.random((2, 75, 130)) < 0.5, np.zeros((2, 3, 5, 1), "float32")
    theirs = torch.nn.functional.interpolate(torch.from_numpy(mask)[None].float(), size=(3, 5)).bool()[0]
    np.testing.assert_array_equal(ops.convert_to_numpy(FitPadding()(mask, features)), theirs)


@pytest.mark.backends
def test_positions_are_the_formula():
    """In float64, a number at a time: rows first, counted within what is not padding."""
    padded = np.zeros((2, 4, 5), bool)
    padded[0, 3:], padded[0, :, 2:] = True, True
    ours = ops.convert_to_numpy(SinePositions(16)(padded))
    for sample, (height, width) in enumerate(((3, 2), (4, 5))):
        for row in range(height):
            for column in range(width):
                for half, (place, last) in enumerate(((row + 1, height), (column + 1, width))):
                    angle = place / (last + 1e-6) * 2 * np.pi
                    for i in range(8):
                        wave = angle / 10000 ** (2 * (i // 2) / 8)
                        wanted = np.cos(wave) if i % 2 else np.sin(wave)
                        assert ours[sample, row, column, 8 * half + i] == pytest.approx(wanted, abs=2e-6)


@pytest.mark.backends
def test_attention_is_torchs():
    layer, theirs = QueryAttention(12, 3), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    q, k, v = (drawn((2, n, 12), letter) for n, letter in ((4, "q"), (7, "k"), (7, "v")))
    padded = np.zeros((2, 7), bool)
    padded[0, 3:] = True
    layer(q, k, v, padded)
    weights = {w.path.split("/")[-2] + w.name: drawn(w.shape, w.path) for w in layer.weights}
    for weight in layer.weights:
        weight.assign(weights[weight.path.split("/")[-2] + weight.name])
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.from_numpy(np.concatenate([weights[f"{x}kernel"].T for x in "qkv"])))
        theirs.in_proj_bias.copy_(torch.from_numpy(np.concatenate([weights[f"{x}bias"] for x in "qkv"])))
        theirs.out_proj.weight.copy_(torch.from_numpy(weights["projkernel"].T))
        theirs.out_proj.bias.copy_(torch.from_numpy(weights["projbias"]))
        wanted, shares = theirs(*map(torch.from_numpy, (q, k, v, padded)), average_attn_weights=False)
    ours, own = layer.attend(q, k, v, padded)
    np.testing.assert_allclose(ops.convert_to_numpy(ours), wanted, atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(own), shares, atol=1e-5)


def test_first_weights_are_the_official_ones():
    """Limits of uniform draws: Xavier in the transformer, of queries, keys and values as of one matrix; torch's default
    elsewhere, and for the biases of what is no attention. Queries from N(0, 1).
    """
    keras.utils.set_random_seed(0)
    model = kzoo.get("detr_toy", embed_dim=256, num_classes=91)
    held, hidden = values(model), 512

    def limit(path):
        return np.abs(held[path]).max()

    for part in ("encoder_blocks_0/self_attn", "decoder_blocks_1/self_attn", "decoder_blocks_1/cross_attn"):
        for name in "qkv":
            assert limit(f"{part}/{name}/kernel") == pytest.approx((6 / (256 + 768)) ** 0.5, rel=1e-2)
            assert limit(f"{part}/{name}/bias") == 0
        assert (
            limit(f"{part}/proj/kernel") == pytest.approx((6 / 512) ** 0.5, rel=1e-2)
            and limit(f"{part}/proj/bias") == 0
        )
    for block in ("encoder_blocks_0", "decoder_blocks_0"):
        for layer, inputs in (("fc1", 256), ("fc2", hidden)):
            assert limit(f"{block}/mlp/{layer}/kernel") == pytest.approx((6 / (256 + hidden)) ** 0.5, rel=1e-2)
            assert limit(f"{block}/mlp/{layer}/bias") == pytest.approx(inputs**-0.5, rel=5e-2)
    for layer, inputs in (("class_embed", 256), ("bbox_embed/layers_1", 256), ("input_proj", 64)):
        for leaf in ("kernel", "bias"):
            assert limit(f"{layer}/{leaf}") == pytest.approx(inputs**-0.5, rel=5e-2)
    assert held["query_embed/table"].std() == pytest.approx(1, abs=0.1)
    assert not np.array_equal(held["bbox_embed/layers_0/kernel"][0], held["bbox_embed/layers_0/bias"])


@pytest.mark.slow
@pytest.mark.parametrize("xla", XLA)
@pytest.mark.parametrize("which", ["encoder", pytest.param("decoder", marks=pytest.mark.backends)])
def test_blocks_train_the_same_with_remat(which, xla):
    """Dropout included; gradients reach what comes from below, cells and positions among it."""

    def build(remat):
        cells, queries, places = (keras.Input((n, 16), name=name) for n, name in ((6, "c"), (3, "q"), (3, "p")))
        padded = keras.Input((6,), dtype="bool", name="padded")
        below, beside = (keras.layers.Dense(16, name=name)(cells) for name in ("below", "beside"))
        if which == "encoder":
            y = PostNormBlock(16, 4, 24, drop_rate=0.3, remat=remat, name="block")(below, beside, padded)
            return keras.Model([cells, padded], y)
        block = DetrDecoderBlock(16, 4, 24, drop_rate=0.3, remat=remat, name="block")
        return keras.Model([queries, places, cells, padded], block(queries, places, below, beside, padded))

    padded = np.arange(6)[None] >= np.array([6, 4, 5, 2])[:, None]
    x = {"encoder": [drawn((4, 6, 16), "c"), padded]}
    x["decoder"] = [drawn((4, 3, 16), "q"), drawn((4, 3, 16), "p"), *x["encoder"]]
    y = drawn((4, 6 if which == "encoder" else 3, 16), "y")
    assert_trained_alike(with_and_without(build), x[which], y, xla)


@pytest.mark.backends
def test_in_16_bits_boxes_and_logits_stay_float32():
    inputs = {"image": drawn((2, 64, 64, 3), "image"), "mask": np.zeros((2, 64, 64), bool)}
    inputs["mask"][1, 40:] = True
    exact = randomise(kzoo.get("detr_toy", aux_outputs=True))
    for policy in ("mixed_bfloat16", "bfloat16"):
        with computing_in(policy):
            model = kzoo.get("detr_toy", aux_outputs=True)
        model.set_weights(exact.get_weights())
        for name, value in called(exact, inputs).items():
            ours = called(model, inputs)[name]
            assert ours.dtype == np.float32 and difference(ours, value) < 0.1, (policy, name)


def test_products_between_tokens_count():
    """Those of one more decoder block: two attentions, their projections, the MLP, and no more heads."""
    one, two = (macs(kzoo.get("detr_toy", decoder_depth=depth)) for depth in (1, 2))
    q, n, d, hidden = 6, 64, 32, 64
    assert (
        two - one == 2 * q * q * d + 2 * q * n * d + 4 * q * d * d + 2 * q * d * d + 2 * n * d * d + 2 * q * d * hidden
    )


def test_linear_starts_as_torchs():
    keras.utils.set_random_seed(0)
    layer = linear(64, 300, "float32", "layer")
    layer.build((None, 64))
    theirs = torch.nn.Linear(64, 300)
    for ours, weight in zip(layer.weights, (theirs.weight, theirs.bias), strict=True):
        assert np.abs(ops.convert_to_numpy(ours)).max() == pytest.approx(float(weight.detach().abs().max()), rel=3e-2)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"num_classes": 0}, "features_only=True gives the map of its encoder"),
        ({"num_queries": 0}, "at least 1"),
        ({"decoder_depth": 0}, "at least 1"),
        ({"depth": -1}, "at least 0"),
        ({"embed_dim": 30}, "divisible by 4 and by num_heads 4"),
        ({"num_heads": 5}, "num_heads 5"),
        ({"drop_rate": 1.0}, r"\[0, 1\)"),
        ({"mlp_ratio": 0.0}, "at least 1 of 32"),
        ({"backbone_index": 2}, "2 feature maps"),
        ({"backbone": "resnet5"}, "resnet50"),
        ({"backbone_options": {"norm": "layer"}}, "group"),
        ({"features_only": True, "aux_outputs": True}, "features_only=True has none"),
        ({"features_only": True, "out_indices": (1,)}, "0 to 0"),
    ],
)
def test_wrong_options_are_told(overrides, says):
    with pytest.raises(UsageError, match=says):
        kzoo.get("detr_toy", **overrides)


def test_what_transformers_cannot_hold_is_told(tmp_path):
    with pytest.raises(UserError, match="timm's backbones are .* with stem_stride=4"):
        kzoo.save_weights(kzoo.get("detr_toy", backbone_options={"stem_stride": 1}), tmp_path / "out", layout="hf")
    kzoo.save_weights(kzoo.get("detr_toy"), tmp_path / "toy", layout="hf")
    told = json.loads((tmp_path / "toy/config.json").read_text())
    assert len(told["id2label"]) == 5 and told["backbone_config"]["out_features"] == ["stage2"]

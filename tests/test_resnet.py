"""ResNets: numbers equal to timm's, batch norm live and frozen, and the layers they are made of against torch and
NumPy.
"""

import keras
import numpy as np
import pytest

import kzoo
from kzoo.errors import UsageError
from kzoo.layers.conv import BatchNorm, Conv, FrozenBatchNorm, GroupNorm, MaxPool
from kzoo.models.names.resnet import TIMM
from kzoo.models.resnet import ResNetConfig
from kzoo.registry import config_of
from kzoo.weights.names import pieces
from tests.equality import XLA, assert_equal, pair
from tests.torch_reference import import_timm


def picture(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def channels_first(x):
    import torch

    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def assert_close(ours, theirs, tolerance=1e-4):
    """Largest difference, relative to the largest value where that exceeds 1."""
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(np.asarray(ours) - theirs).max() / max(1.0, np.abs(theirs).max()) <= tolerance


CASES = {
    "basic blocks": ("resnet18", {"image_size": 64}),
    "one channel, non-square": ("resnet50", {"image_size": (64, 97), "in_channels": 1, "depths": (1, 2, 1, 1)}),
    "no head": ("resnet50", {"image_size": 64, "num_classes": 0, "depths": (1, 1, 1, 1)}),
    "dilated last stage": ("resnet50", {"image_size": (64, 96), "output_stride": 16, "depths": (1, 1, 1, 2)}),
    "dilated last stages": ("resnet34", {"image_size": 72, "output_stride": 8, "depths": (1, 1, 2, 2)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_equal_to_timm(case, tmp_path):
    """Every block's map and the output under the same random weights and statistics."""
    name, overrides = CASES[case]
    assert_equal(*pair("timm_resnet", name, tmp_path / "theirs", **overrides))


def test_rows_prepare_pictures_as_timm_does():
    timm = import_timm()
    for name in ("resnet18", "resnet34", "resnet50", "resnet101"):
        config, theirs = config_of(name)[1], timm.get_pretrained_cfg(name)
        assert (config.size, config.num_classes) == (theirs.input_size[1:], theirs.num_classes)
        for field in ("mean", "std", "crop_pct", "crop_mode", "interpolation"):
            assert getattr(config.preprocessing, field) == getattr(theirs, field), (name, field)


def test_pyramids():
    info = [(stage["stride"], stage["channels"]) for stage in kzoo.info("resnet50").feature_info]
    assert info == [(4, 256), (8, 512), (16, 1024), (32, 2048)]
    dilated = config_of("resnet101", {"output_stride": 16})[1].feature_info()
    assert [stage["stride"] for stage in dilated] == [4, 8, 16, 16]
    maps = kzoo.get("resnet18", image_size=(64, 96), features_only=True, out_indices=(1, -1))
    assert [tuple(m.shape) for m in maps.outputs] == [(None, 8, 12, 128), (None, 2, 3, 512)]


def test_layer_depths_are_timms():
    """Rates of layer-wise decay, weight by weight, as timm's optimizer gets them."""
    timm = import_timm()
    from timm.optim import param_groups_layer_decay

    reference = timm.create_model("resnet18")
    scale = {id(p): g["lr_scale"] for g in param_groups_layer_decay(reference, layer_decay=0.5) for p in g["params"]}
    theirs = {name: scale[id(parameter)] for name, parameter in reference.named_parameters()}
    model = kzoo.get("resnet18", image_size=32)
    depths = model.layer_depths()
    last = max(depths.values())
    names = {piece.path: piece.names[0] for piece in pieces(model, TIMM, config_of("resnet18")[1])[0]}
    assert {names[w.path]: 0.5 ** (last - depths[w.path]) for w in model.trainable_weights} == theirs


def values(model):
    return {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}


@pytest.mark.backends
def test_frozen_batch_norm_is_what_was_loaded_and_stays_so(tmp_path):
    """It takes the weights of a live one, gives its evaluation's outputs in training too, and no step moves it."""
    live = kzoo.get("resnet_toy")
    rng = np.random.default_rng(0)
    live.set_weights([rng.uniform(0.5, 1.5, w.shape) * (1 if "norm" in w.path else 0.1) for w in live.weights])
    live.save(tmp_path / "live.keras")
    frozen = kzoo.get("resnet_toy", weights=tmp_path / "live.keras", norm="frozen")
    images = picture(4, 32, 32, 3)
    for training in (False, True):
        ours = keras.ops.convert_to_numpy(frozen(images, training=training))
        assert_close(ours, keras.ops.convert_to_numpy(live(images, training=False)), 1e-5)
    before, learning = values(frozen), {w.path for w in frozen.trainable_weights}
    assert learning == {path for path in before if "norm" not in path}
    task = kzoo.task(frozen)
    task.compile(optimizer=keras.optimizers.SGD(0.1))
    task.train_on_batch(images, np.arange(4))
    after = values(frozen)
    assert {path for path, value in after.items() if not np.array_equal(value, before[path])} == learning
    frozen.save(tmp_path / "frozen.keras")
    again = kzoo.load(tmp_path / "frozen.keras")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(again(images)), keras.ops.convert_to_numpy(frozen(images)))


def test_frozen_without_weights_is_refused():
    with pytest.raises(UsageError, match="norm='frozen'.*weights=PATH"):
        kzoo.get("resnet50", norm="frozen")


@pytest.mark.backends
def test_live_batch_norm_moves_its_statistics_by_a_tenth():
    model = kzoo.get("resnet_toy")
    images = picture(4, 32, 32, 3)
    stem = model.get_layer("stem")
    before = keras.ops.convert_to_numpy(stem.conv(images))
    model(images, training=True)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(stem.norm.moving_mean), 0.1 * before.mean((0, 1, 2)), atol=1e-5
    )


def test_the_stem_for_small_pictures_is_timms_with_a_3x3_and_no_pooling(tmp_path):
    import torch

    import_timm()
    from safetensors.torch import load_file
    from timm.models.resnet import BasicBlock, ResNet

    ours = kzoo.get("resnet18", image_size=(32, 24), stem_stride=1, depths=(1, 1, 1, 1), num_classes=10)
    rng = np.random.default_rng(0)
    ours.set_weights([rng.uniform(0.5, 1.5, w.shape) * (1 if "norm" in w.path else 0.1) for w in ours.weights])
    kzoo.save_weights(ours, tmp_path / "ours.safetensors", layout="timm")
    theirs = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=10).eval()
    theirs.conv1, theirs.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    missing = theirs.load_state_dict(load_file(tmp_path / "ours.safetensors"), strict=False)
    assert not missing.unexpected_keys and all(key.endswith("num_batches_tracked") for key in missing.missing_keys)
    images = picture(2, 32, 24, 3)
    with torch.no_grad():
        expected = theirs(channels_first(images))
    assert_close(keras.ops.convert_to_numpy(ours(images)), expected)
    strides = [stage["stride"] for stage in ResNetConfig(stem_stride=1, depths=(1, 1, 1)).feature_info()]
    assert strides == [1, 2, 4]


def test_transformers_own_files_are_read(tmp_path):
    """The classifier of its ResNet, whose names its detectors have too."""
    import_timm()  # for torchvision, which transformers imports
    import torch
    import transformers

    from benchmarks.references.base import randomise

    sizes = {"embedding_size": 8, "hidden_sizes": [32, 64], "depths": [1, 1], "layer_type": "bottleneck"}
    theirs = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=10)).eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = kzoo.get("resnet_toy", weights=tmp_path / "theirs")
    assert set(ours.load_report.loaded) == {w.path for w in ours.weights}
    images = picture(2, 32, 32, 3)
    with torch.no_grad():
        wanted = theirs(channels_first(images)).logits
    assert_close(keras.ops.convert_to_numpy(ours(images)), wanted, 1e-5)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"block": "plain"}, "basic"),
        ({"norm": "layer"}, "group"),
        ({"padding": "valid"}, "same"),
        ({"weight_std": "torch"}, "timm"),
        ({"output_stride": 4}, "8, 16 or 32"),
        ({"stem_stride": 2}, "1 or 4"),
        ({"depths": (1, 0)}, "at least 1"),
        ({"drop_rate": 1.0}, r"\[0, 1\)"),
        ({"norm": "group"}, "divisible by its 32 groups"),
        ({"features_only": True, "out_indices": (2,)}, "0 to 1"),
    ],
)
def test_wrong_options_are_told(overrides, says):
    with pytest.raises(UsageError, match=says):
        kzoo.get("resnet_toy", **overrides)


def filled(layer, shape):
    """The layer, built for (None, *shape), every weight random and positive."""
    layer.build((None, *shape))
    for seed, weight in enumerate(layer.weights):
        weight.assign(np.abs(picture(*weight.shape, seed=seed)) + 0.1)
    return layer


def same(x, kernel, stride, dilation, value):
    """A torch (B, C, H, W) padded as TensorFlow's SAME pads, an odd pixel behind."""
    import torch

    pads = []
    for side in (x.shape[3], x.shape[2]):
        whole = max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
        pads += [whole // 2, whole - whole // 2]
    return torch.nn.functional.pad(x, pads, value=value)


@pytest.mark.backends
@pytest.mark.parametrize("size", [(14, 15), (15, 16)], ids=str)
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(7, 2, 1), (3, 2, 1), (3, 1, 2), (1, 2, 1)])
def test_convolutions_pad_as_torch_and_tensorflow_do(size, kernel, stride, dilation):
    import torch

    images = picture(2, *size, 3)
    for padding in ("symmetric", "same"):
        layer = filled(Conv(4, kernel, stride, dilation, padding), (*size, 3))
        x, weight = channels_first(images), torch.tensor(keras.ops.convert_to_numpy(layer.kernel)).permute(3, 2, 0, 1)
        reach = dilation * (kernel - 1) // 2
        x, reach = (x, reach) if padding == "symmetric" else (same(x, kernel, stride, dilation, 0.0), 0)
        theirs = torch.nn.functional.conv2d(x, weight, stride=stride, padding=reach, dilation=dilation)
        ours = keras.ops.convert_to_numpy(layer(images))
        assert ours.shape[1:] == layer.compute_output_shape((None, *size, 3))[1:]
        assert_close(ours.transpose(0, 3, 1, 2), theirs, 1e-5)


@pytest.mark.backends
@pytest.mark.parametrize("size", [(14, 15), (15, 16)], ids=str)
def test_max_pooling_pads_as_torch_and_tensorflow_do(size):
    import torch

    images = np.abs(picture(2, *size, 3))
    for padding in ("symmetric", "same"):
        x = channels_first(images)
        x, pad = (x, 1) if padding == "symmetric" else (same(x, 3, 2, 1, -np.inf), 0)
        theirs = torch.nn.functional.max_pool2d(x, 3, 2, pad)
        assert_close(keras.ops.convert_to_numpy(MaxPool(padding)(images)).transpose(0, 3, 1, 2), theirs, 0.0)


@pytest.mark.backends
@pytest.mark.parametrize("form", ["timm", "jax"])
def test_weight_standardisation_is_the_formula(form):
    """In float64, a filter at a time; the filters are small, so that the epsilons and their places show."""
    layer = Conv(5, 3, weight_std=form)
    layer.build((None, 3, 3, 4))
    kernel = 1e-4 * picture(3, 3, 4, 5).astype("float64")
    layer.kernel.assign(kernel)
    images = picture(2, 3, 3, 4)
    centre = keras.ops.convert_to_numpy(layer(images))[:, 1, 1]
    for i in range(5):
        w = kernel[..., i]
        spread = np.sqrt(w.var() + 1e-8) if form == "timm" else w.std() + 1e-5
        np.testing.assert_allclose(centre[:, i], (images * ((w - w.mean()) / spread)).sum((1, 2, 3)), atol=1e-4)


@pytest.mark.backends
@pytest.mark.parametrize("xla", XLA)
@pytest.mark.parametrize("shape", [(5, 6, 3), (7, 3)], ids=["map", "tokens"])
def test_batch_norm_trains_as_torchs(shape, xla):
    """A step of plain gradient descent through it ends in torch's weights and running statistics, those of the layer
    before it too.
    """
    import torch

    x, y = picture(4, *shape), picture(4, *shape[:-1], 5, seed=2)
    norm = BatchNorm(epsilon=1e-2, name="norm")
    maps = keras.Input(shape)
    model = keras.Model(maps, norm(keras.layers.Dense(5, use_bias=False, name="dense")(maps)))
    kernel, (gamma, beta) = picture(3, 5, seed=3), np.abs(picture(2, 5, seed=4))
    model.set_weights([kernel, gamma, beta, np.zeros(5), np.ones(5)])
    theirs = torch.nn.BatchNorm1d(5, eps=1e-2)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(gamma)), theirs.bias.copy_(torch.tensor(beta))
    dense = torch.tensor(kernel, requires_grad=True)
    ((theirs(torch.tensor(x.reshape(-1, 3)) @ dense) - torch.tensor(y.reshape(-1, 5))) ** 2).mean().backward()
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse", jit_compile=xla)
    model.train_on_batch(x, y)
    learned = [(w - w.grad).detach() for w in (dense, theirs.weight, theirs.bias)]
    for ours, wanted in zip(model.get_weights(), [*learned, theirs.running_mean, theirs.running_var], strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


@pytest.mark.backends
def test_group_norm_is_torchs():
    import torch

    layer = filled(GroupNorm(4, 1e-3), (5, 6, 12))
    x = picture(2, 5, 6, 12) + 3 * np.arange(12, dtype="float32")  # means far from 0, and different within a group
    gamma, beta = (torch.tensor(keras.ops.convert_to_numpy(w)) for w in (layer.gamma, layer.beta))
    theirs = torch.nn.functional.group_norm(channels_first(x), 4, gamma, beta, 1e-3)
    assert_close(keras.ops.convert_to_numpy(layer(x)).transpose(0, 3, 1, 2), theirs, 1e-5)


@pytest.mark.backends
def test_frozen_batch_norm_is_the_formula():
    layer = filled(FrozenBatchNorm(1e-2), (3, 3, 4))
    x = picture(2, 3, 3, 4)
    gamma, beta, mean, variance = (keras.ops.convert_to_numpy(w).astype("float64") for w in layer.weights)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(layer(x)), (x - mean) / np.sqrt(variance + 1e-2) * gamma + beta, atol=1e-5
    )

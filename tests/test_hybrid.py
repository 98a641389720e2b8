"""Hybrids: numbers equal to timm's, and any model of kzoo with feature maps under any ViT."""

import functools

import keras
import numpy as np
import pytest

import kzoo
from kzoo.checking import randomise
from kzoo.errors import UsageError
from kzoo.models.base import computing_in
from kzoo.models.count import count
from kzoo.registry import config_of
from kzoo.schema import Recipe, dump, parse
from kzoo.weights.names import encode
from tests.test_resnet import TIMM_ENDS, assert_close, channels_first, fill, picture, shaken, timm_name
from tests.torch_reference import import_timm


def timm_hybrid_name(path):
    """The name of one of our weights in timm's hybrids, whose backbone is a ResNetV2 without pre-activation, or its stem alone."""
    head, _, last = path.rpartition("/")
    if last in ("token", "table"):
        return head
    for ours, theirs in (("_blocks_", ".blocks."), ("blocks_", "blocks."), ("downsample_", "downsample.")):
        head = head.replace(ours, theirs)
    for stage in range(4):
        head = head.replace(f"layer{stage + 1}", f"stages.{stage}")
    return head.replace("/", ".") + "." + TIMM_ENDS.get(last, last)


@pytest.mark.parametrize("size", [(64, 96), 32], ids=str)
def test_the_stem_alone_is_equal_to_timms(size):
    overrides = {"image_size": size, "depth": 2, "in_channels": 1}
    reference = import_timm().create_model("vit_tiny_r_s16_p8_224", img_size=size, depth=2, in_chans=1)
    model = kzoo.get("vit_tiny_r_s16_p8_224", **overrides)
    compare(model, reference, lambda path: timm_hybrid_name(path).replace("backbone.root.", "backbone."))


def test_all_stages_are_equal_to_timms():
    """As many convolutions as R50's, but for their repetitions."""
    hybrids = import_timm("timm.models.vision_transformer_hybrid")
    vit = {"embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 7}
    embed = functools.partial(hybrids.HybridEmbed, backbone=hybrids._resnetv2((1, 2, 1, 1)))
    reference = hybrids.VisionTransformer(img_size=(96, 64), patch_size=1, embed_layer=embed, **vit)
    on = {"backbone": "resnet50_ws", "backbone_options": ("depths=(1, 2, 1, 1)",), "patch_size": 1}
    compare(kzoo.get("hybrid_toy", image_size=(96, 64), **on, **vit), reference, timm_hybrid_name)


def compare(model, reference, name_of):
    """The embedded patches, every block and the output under the same random weights."""
    import torch

    fill(model, shaken(reference), name_of)
    images, recorded = picture(2, *model.input_shape[1:]), []
    for module in (reference.patch_embed, *reference.blocks):
        module.register_forward_hook(lambda module, args, output: recorded.append(output.numpy()))
    with torch.no_grad():
        output = reference(channels_first(images)).numpy()
    names = ["patch_embed", *(f"blocks_{i}" for i in range(len(recorded) - 1))]
    taps = keras.Model(model.input, [model.get_layer(name).output for name in names])
    for ours, theirs in zip(taps(images), recorded, strict=True):
        assert_close(np.asarray(ours), theirs)
    assert_close(np.asarray(model(images)), output)


@pytest.mark.parametrize(("index", "patch_size"), [(-1, 1), (1, 2)])
def test_a_vit_on_a_resnet_is_equal_to_timms(index, patch_size):
    """timm's own way to put one on a model of its own."""
    timm = import_timm()
    from timm.layers import HybridEmbed
    from timm.models.vision_transformer import VisionTransformer

    size = (64, 96)
    backbone = timm.create_model("resnet18", features_only=True, out_indices=[index % 4 + 1])
    vit = {"embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 7, "global_pool": "avg"}
    embed = functools.partial(HybridEmbed, backbone=backbone)
    reference = VisionTransformer(img_size=size, patch_size=patch_size, embed_layer=embed, **vit)
    on = {"backbone": "resnet18", "backbone_index": index, "backbone_options": (), "patch_size": patch_size}
    model = kzoo.get("hybrid_toy", image_size=size, **on, **vit)

    def name_of(path):
        before, inside, rest = path.partition("patch_embed/backbone/")
        return f"patch_embed.backbone.{timm_name(rest)}" if inside else timm_hybrid_name(path)

    compare(model, reference, name_of)


def test_every_row_is_timms_in_size_and_preparation():
    timm = import_timm()
    import torch

    names = [name for name in kzoo.list_models(family="hybrid") if name != "hybrid_toy"]
    assert len(names) == 9
    for name in names:
        builder, config = config_of(name)
        with torch.device("meta"):
            reference = timm.create_model(name, num_classes=1000)  # timm lists one row by weights without a head
        assert count(lambda builder=builder, config=config: builder(config))[0] == sum(p.numel() for p in reference.parameters()), name
        assert config.grid == reference.patch_embed.grid_size and config.num_heads == reference.blocks[0].attn.num_heads
        theirs = timm.get_pretrained_cfg(name)
        for field in ("mean", "std", "crop_pct", "crop_mode", "interpolation"):
            assert getattr(config.preprocessing, field) == getattr(theirs, field), (name, field)


@pytest.mark.parametrize(
    ("backbone", "index", "patch_size", "stride", "channels"),
    [("resnet_toy", 0, 4, 16, 32), ("vit_toy", -1, 2, 16, 32), ("hybrid_toy", 0, 1, 8, 32)],
)
def test_any_model_with_feature_maps_can_stand_below(backbone, index, patch_size, stride, channels):
    """The patches are those of the map that the backbone alone gives."""
    on = {"backbone": backbone, "backbone_index": index, "backbone_options": (), "patch_size": patch_size}
    model = randomise(kzoo.get("hybrid_toy", image_size=(32, 64), **on))
    embed = model.get_layer("patch_embed")
    assert embed.proj.kernel.shape == (patch_size, patch_size, channels, 32)
    alone = kzoo.get(backbone, image_size=(32, 64), features_only=True, out_indices=(index,))
    alone.set_weights(embed.backbone.get_weights())
    images = picture(2, 32, 64, 3)
    (features,) = keras.tree.flatten(alone(images))
    rows, columns = 32 // stride, 64 // stride
    cut = np.asarray(features).reshape(2, rows, patch_size, columns, patch_size, channels).transpose(0, 1, 3, 2, 4, 5)
    kernel, bias = (np.asarray(w) for w in embed.proj.weights)
    wanted = cut.reshape(2, rows * columns, -1) @ kernel.reshape(-1, 32) + bias
    assert_close(np.asarray(embed(images)), wanted)
    assert kzoo.attention(model, images).shape == (2, 2, 2, rows, columns)
    maps = kzoo.get("hybrid_toy", image_size=(32, 64), features_only=True, out_indices=(0,), **on)
    assert maps.outputs[0].shape == (None, rows, columns, 32)


def test_options_reach_the_backbone_from_python_and_from_a_recipe():
    options = ("norm=group", "norm_eps=1e-6", "weight_std=jax", "depths=(1, 1)", "width=32", "output_stride=8")
    overrides = {"backbone_options": options}
    config = config_of("hybrid_toy", overrides)[1]
    assert (config.network.norm_eps, config.network.weight_std, config.network.depths) == (1e-6, "jax", (1, 1))
    assert config.grid == (2, 2)
    recipe, _ = parse(dump(Recipe(model="hybrid_toy", overrides=overrides)))
    assert config_of(recipe.model, recipe.overrides)[1] == config
    layers = kzoo.get("hybrid_toy", **overrides).get_layer("patch_embed").backbone.layers
    assert {layer.norms[0].epsilon for layer in layers if hasattr(layer, "norms")} == {1e-6}


def test_a_saved_hybrid_keeps_its_precision_and_its_names(tmp_path):
    with computing_in("mixed_bfloat16"):
        model = randomise(kzoo.get("hybrid_toy"))
    model.save(tmp_path / "m.keras")
    again = kzoo.load(tmp_path / "m.keras")
    assert [w.path for w in again.weights] == [w.path for w in model.weights]
    assert len({w.path for w in model.weights}) == len(model.weights)
    assert {layer.compute_dtype for layer in again.get_layer("patch_embed").backbone.layers[1:]} == {"bfloat16"}
    images = picture(2, 32, 32, 3)
    np.testing.assert_array_equal(again(images), model(images))


def test_weights_of_another_size_fit(tmp_path):
    donor = randomise(kzoo.get("hybrid_toy"))
    donor.save(tmp_path / "donor.keras")
    taker = kzoo.get("hybrid_toy", weights=tmp_path / "donor.keras", image_size=(32, 64))
    assert taker.load_report.resized == ("pos_embed/table",)
    assert len(taker.load_report.loaded) == len(donor.weights) - 1


@pytest.mark.parametrize(
    ("name", "overrides"), [("vit_tiny_r_s16_p8_224", {}), ("vit_small_r26_s32_224", {"backbone_options": ("depths=(1, 2, 1, 1)",)})]
)
def test_files_of_timm_and_of_google_are_read(name, overrides, tmp_path):
    """timm's own reader takes our .npz; ours takes it for what it is, with JAX's numerics."""
    from safetensors.torch import load_file

    hybrids = import_timm("timm.models.vision_transformer_hybrid")
    import torch

    overrides |= {"image_size": 64, "depth": 2}
    model = randomise(kzoo.get(name, **overrides))
    kzoo.save_weights(model, tmp_path / "timm.safetensors", layout="timm")
    config = config_of(name, overrides)[1]
    np.savez(tmp_path / "google.npz", **encode(model, config.layouts()["google"], config))
    backbone = hybrids._resnetv2(config.network.depths)
    vit = {"embed_dim": config.embed_dim, "depth": 2, "num_heads": config.num_heads, "patch_size": config.patch_size}
    images = picture(2, 64, 64, 3)
    for file in ("timm.safetensors", "google.npz"):
        embed = functools.partial(hybrids.HybridEmbed, backbone=backbone)
        reference = hybrids.VisionTransformer(img_size=64, embed_layer=embed, **vit).eval()
        if file.endswith(".npz"):
            reference.load_pretrained(tmp_path / file)
        else:
            reference.load_state_dict(load_file(tmp_path / file))
        with torch.no_grad():
            assert_close(np.asarray(model(images)), reference(channels_first(images)))
        again = kzoo.get(name, weights=tmp_path / file, **overrides | {"backbone_options": config.backbone_options, "act": "gelu"})
        assert_close(np.asarray(again(images)), np.asarray(model(images)), 0.0)
    if not config.backbone_options:
        jax = kzoo.get(name, weights=tmp_path / "google.npz", image_size=64, depth=2)
        assert jax.spec.overrides["backbone_options"] == ("norm_eps=1e-06", "weight_std=jax") and jax.spec.overrides["act"] == "gelu_tanh"
    grey = kzoo.get(name, weights=tmp_path / "timm.safetensors", in_channels=1, num_classes=3, **overrides)
    assert len(grey.load_report.adapted) == 1 and set(grey.load_report.reinitialised) == {"head/kernel", "head/bias"}


def test_the_backbone_counts_as_the_stem():
    """As in timm, layer-wise rates treat everything before the blocks as one depth."""
    depths = kzoo.get("hybrid_toy").layer_depths()
    assert {depth for path, depth in depths.items() if path.startswith("patch_embed/")} == {0}
    assert sorted(set(depths.values())) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"backbone": "resnet5"}, "resnet50"),
        ({"backbone_index": 1}, "1 feature maps"),
        ({"backbone_options": ("norm=layer",)}, "group"),
        ({"backbone_options": ("nrm=group",)}, "norm"),
        ({"backbone_options": ("norm=frozen",)}, "norm='frozen'.*weights=PATH"),
        ({"image_size": 36}, "divisible by 8"),
        ({"stem": "conv"}, "side by side"),
        ({"stride": 1}, "side by side"),
        ({"patch_size": 0}, "at least 1"),
    ],
)
def test_wrong_options_are_told(overrides, says):
    with pytest.raises(UsageError, match=says):
        kzoo.get("hybrid_toy", **overrides)

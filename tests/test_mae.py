"""Masked autoencoders beside transformers' ViTMAE and timm's encoders: random weights, through files, under the same
noise.
"""

import keras
import numpy as np
import pytest
import torch
from keras import ops
from safetensors.torch import load_file

import kzoo
from benchmarks.numbers import drawn
from benchmarks.parity import TOLERANCE, difference, parameters_of
from benchmarks.references import HfMae, Timm
from kzoo.checking import outputs_of, randomise
from kzoo.errors import UsageError, UserError
from kzoo.models.base import computing_in
from kzoo.registry import config_of
from kzoo.training.optimizer import undecayed
from kzoo.weights import fill, transfer
from kzoo.weights.hub import Resolved
from kzoo.weights.names import pieces
from tests.equality import CLOSE, XLA, assert_equal, pair, saved
from tests.torch_reference import import_timm

CASES = {
    "toy": {},
    "another ratio, one channel, no qkv bias": {
        "mask_ratio": 0.6,
        "in_channels": 1,
        "qkv_bias": False,
        "norm_eps": 1e-5,
    },
    "nothing hidden, another decoder": {
        "mask_ratio": 0.0,
        "decoder_depth": 2,
        "decoder_embed_dim": 24,
        "patch_size": 16,
    },
}
DECODER = ("mask_token", "decoder_")


def patches_of(images, size):
    """images (B, H, W, C) -> (B, N, size * size * C), pixel by pixel."""
    _, height, width, _ = images.shape
    corners = [(top, left) for top in range(0, height, size) for left in range(0, width, size)]
    return np.stack(
        [images[:, top : top + size, left : left + size].reshape(len(images), -1) for top, left in corners], axis=1
    )


def loss_of(answer, images, size, norm_pix):
    """The official loss in float64: the mean error of hidden patches, each perhaps normalised with its unbiased
    variance.
    """
    targets = patches_of(images.astype("float64"), size)
    if norm_pix:
        spread = np.sqrt(targets.var(-1, keepdims=True, ddof=1) + 1e-6)
        targets = (targets - targets.mean(-1, keepdims=True)) / spread
    return (((answer["pred"] - targets) ** 2).mean(-1) * answer["mask"]).sum() / answer["mask"].sum()


def called(model, inputs):
    """{name: array} of the autoencoder's outputs."""
    return dict(zip(sorted(model.output), outputs_of(model, inputs), strict=True))


def transformers_answer(module, inputs, norm_pix=False):
    module.config.norm_pix_loss = norm_pix
    pixels = torch.from_numpy(inputs["image"].transpose(0, 3, 1, 2).copy())
    return module(pixels, noise=torch.from_numpy(inputs["noise"]))


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.backends] * (case == "toy")) for case in CASES])
def test_equal_to_transformers_both_ways(case, tmp_path):
    """Kept patches, mask, pixels, every block and both losses; what kzoo saves is read strictly, with the same
    answers.
    """
    model, reference = pair("hf_mae", "mae_toy", tmp_path / "theirs", **CASES[case])
    assert_equal(model, reference)
    assert parameters_of(model) == reference.parameters() and set(model.load_report.loaded) == {
        w.path for w in model.weights
    }
    inputs, module = reference.images(3), reference.module
    ours = called(model, inputs)
    with torch.no_grad():
        theirs = transformers_answer(module, inputs)
        np.testing.assert_array_equal(ours["mask"], theirs.mask)
        np.testing.assert_array_equal(ours["ids_restore"], theirs.ids_restore)
        assert ours["ids_restore"].dtype == np.int32 and (ours["mask"] == 0).sum(1).tolist() == [model.config.seen] * 3
        assert difference(ours["pred"], theirs.logits.numpy()) <= CLOSE
        for norm_pix in (False, True) if ours["mask"].any() else ():
            wanted = float(transformers_answer(module, inputs, norm_pix).loss)
            assert loss_of(ours, inputs["image"], model.config.patch_size, norm_pix) == pytest.approx(wanted, rel=1e-5)
        again = reference.accepts(saved(model, reference, tmp_path))
        assert difference(transformers_answer(again, inputs).logits.numpy(), theirs.logits.numpy()) <= CLOSE


def test_both_spellings_of_the_decoders_blocks_are_read(tmp_path):
    """transformers writes one and published files have the other, which is what kzoo writes."""
    model, reference = pair("hf_mae", "mae_toy", tmp_path / "theirs")
    path = saved(model, reference, tmp_path)
    tensors = [load_file(folder / "model.safetensors") for folder in (tmp_path / "theirs", path)]
    spelt = [{name.partition(".0.")[0] for name in names if ".0." in name} for names in tensors]
    assert {"decoder.decoder_layers", "vit.encoder.layer"} == spelt[1] != spelt[0]
    again = kzoo.get("mae_toy", weights=path)
    for one, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


class Pretraining(keras.Model):
    """The plain loss, for a step of gradient descent."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def call(self, x, training=None):
        return self.network(x, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        error = ops.mean((y_pred["pred"] - ops.convert_to_tensor(y)) ** 2, axis=-1)
        return ops.sum(error * y_pred["mask"]) / ops.sum(y_pred["mask"])


@pytest.mark.backends
@pytest.mark.parametrize("xla", XLA)
def test_gradients_are_torchs(xla, tmp_path):
    """One step of plain gradient descent at a large rate, read back by transformers; the positions stay. Under XLA with
    `remat` too.

    Ten seconds, most of them XLA's: that what sorts and gathers compiles whole, and what compiles has these gradients,
    is the point.
    """
    rate = 64.0
    model, reference = pair("hf_mae", "mae_toy", tmp_path / "theirs", remat=xla)
    inputs = reference.images(4)
    transformers_answer(reference.module, inputs).loss.backward()
    view = Pretraining(model)
    view.compile(optimizer=keras.optimizers.SGD(rate), jit_compile=xla)
    view.train_on_batch(inputs, patches_of(inputs["image"], 8))
    after = reference.accepts(saved(model, reference, tmp_path)).state_dict()
    given = dict(reference.module.named_parameters())
    gradients = {name: p.grad.numpy() if p.requires_grad else np.zeros(p.shape, "float32") for name, p in given.items()}
    noise = 1e-6 * max(np.abs(gradient).max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        ours = (given[name].detach().numpy() - after[name].numpy()) / rate
        assert np.abs(ours - gradient).max() <= TOLERANCE * np.abs(gradient).max() + noise, name
    assert sum(not p.requires_grad for p in given.values()) == 2


@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_the_encoder_is_timms(pooling, tmp_path):
    """timm's encoder of the same sizes, from its file and back, called with pictures of another shape than square."""
    overrides = {"num_classes": 0, "global_pool": pooling, "image_size": (32, 48)}
    reference = Timm("vit_toy", overrides | {"fc_norm": False})
    model = kzoo.get("mae_toy", weights=reference.write(tmp_path / "theirs"), **overrides)
    assert model.output_shape == (None, 32)
    assert_equal(model, reference)
    images, module = reference.images(2), reference.accepts(saved(model, reference, tmp_path))
    assert difference(reference.outputs(images, module)[-1], outputs_of(model, images)[0]) <= CLOSE


def test_transformers_reads_the_encoder_as_a_vit(tmp_path):
    """Strictly but for the pooler, which no encoder of ours has; what has no place in either of its classes is told
    for both.
    """
    import_timm()  # for torchvision, which transformers imports
    import transformers

    model = randomise(kzoo.get("mae_toy", num_classes=0))
    kzoo.save_weights(model, tmp_path / "encoder", layout="hf")
    module, told = transformers.ViTModel.from_pretrained(
        tmp_path / "encoder", add_pooling_layer=False, output_loading_info=True
    )
    assert not any(told.values())
    images = drawn((2, 32, 32, 3), "images")
    with torch.no_grad():
        theirs = module.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).last_hidden_state[:, 0]
    assert difference(outputs_of(model, images)[0], theirs.numpy()) <= CLOSE
    with pytest.raises(UserError, match="needs square pictures.*ViTModel holds the encoder alone"):
        kzoo.save_weights(kzoo.get("mae_toy", image_size=(32, 48)), tmp_path / "whole", layout="hf")


IN_OFFICIAL = {  # parts of names, as transformers has them in memory
    **{
        "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
        "vit.embeddings.position_embeddings": "pos_embed",
    },
    **{
        "vit.embeddings.": "",
        "vit.layers.": "blocks.",
        "vit.layernorm": "norm",
        "decoder.decoder_layers.": "decoder_blocks.",
    },
    **{"decoder.": "", "layernorm_before": "norm1", "layernorm_after": "norm2"},
    **{"attention.o_proj": "attn.proj", "attention.q_proj": "attn.qkv"},
}


def official(state):
    """The official files' {name: tensor} of transformers' parameters {name: tensor}; three projections there are
    one.
    """
    found = {}
    for name, tensor in state.items():
        if ".q_proj." in name:
            tensor = torch.cat([state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"])
        for theirs, ours in IN_OFFICIAL.items():
            name = name.replace(theirs, ours)
        if "attention." not in name:
            found[name] = tensor
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{kind: path} of one autoencoder's weights, the inputs and what transformers makes of them."""
    folder = tmp_path_factory.mktemp("mae")
    reference = HfMae("mae_toy")
    names = official(reference.module.state_dict())
    paths = {
        "transformers": reference.write(folder / "hf"),
        "official": folder / "visualize.pth",
        "encoder": folder / "pretrain.pth",
    }
    torch.save({"model": names}, paths["official"])
    torch.save(
        {"model": {name: tensor for name, tensor in names.items() if not name.startswith(DECODER)}}, paths["encoder"]
    )
    model = kzoo.get("mae_toy", weights=paths["transformers"])
    for kind in ("model.keras", "model.weights.h5"):
        paths[kind] = folder / kind
        model.save(paths[kind]) if kind == "model.keras" else kzoo.save_weights(model, paths[kind])
    return paths, names, reference.images(2), reference.outputs(reference.images(2))[-1]


def test_official_files(files, tmp_path):
    """With the decoder: the same pixels, and kzoo writes those very tensors. Without it: the encoder, and a word for
    who asks for more.
    """
    paths, names, inputs, pixels = files
    model = kzoo.get("mae_toy", weights=paths["official"])
    assert difference(called(model, inputs)["pred"], pixels) <= CLOSE
    kzoo.save_weights(model, tmp_path / "ours.safetensors", layout="timm")
    written = load_file(tmp_path / "ours.safetensors")
    assert written.keys() == names.keys() and all(torch.equal(written[name], names[name]) for name in names)
    with pytest.raises(UserError, match=r"decoder_embed/kernel .* is missing.*num_classes=0\) takes the encoder alone"):
        kzoo.get("mae_toy", weights=paths["encoder"])
    whole = kzoo.get("mae_toy", weights=paths["official"], num_classes=0)
    alone = kzoo.get("mae_toy", weights=paths["encoder"], num_classes=0)
    np.testing.assert_array_equal(*(outputs_of(encoder, inputs["image"])[0] for encoder in (whole, alone)))
    assert set(whole.load_report.training_only) == {name for name in names if name.startswith(DECODER)}
    assert whole.load_report.unused == () == alone.load_report.training_only


@pytest.mark.parametrize("kind", ["transformers", "official", "model.keras", "model.weights.h5"])
def test_a_vit_starts_from_the_encoder(kind, files):
    """As `init_from` fills it: the blocks by path, positions to learn on, a fresh head; what only pre-training
    needed is named.
    """
    paths, names, inputs, _ = files
    encoder = kzoo.get("mae_toy", weights=paths["official"], num_classes=0, global_pool="none", norm_eps=1e-6)
    model = kzoo.get("vit_toy", norm_eps=1e-6)
    report = fill(model, paths[kind], asked=("image_size", "num_classes"))
    assert set(report.reinitialised) == {"head/kernel", "head/bias"} and report.resized == report.unused == ()
    assert len(report.training_only) >= 16 and f"{len(report.training_only)} left that only its training needed" in str(
        report
    )
    tokens = keras.Model(model.input, model.get_layer("norm").output)
    np.testing.assert_allclose(
        outputs_of(tokens, inputs["image"])[0], outputs_of(encoder, inputs["image"])[0], atol=1e-6
    )
    assert any(weight.path == "pos_embed/table" for weight in model.trainable_weights)
    pooled = kzoo.get("vit_toy", global_pool="avg", image_size=48, norm_eps=1e-6)  # as the official fine-tuning does it
    report = fill(pooled, paths[kind], asked=("image_size", "num_classes"))
    assert {path.partition("/")[0] for path in report.reinitialised} == {"head", "fc_norm"} and report.resized == (
        "pos_embed/table",
    )
    assert len(report.unused) == 2 and all("norm" in name for name in report.unused)


def test_the_hubs_file_has_a_tag(files, monkeypatch):
    """What the address of mae_vit_base_patch16_224.fb_in1k leads to, here of a toy's sizes, becomes the whole
    autoencoder, and a ViT's encoder.
    """
    paths, names, inputs, pixels = files
    asked = []
    monkeypatch.setattr(
        "kzoo.weights.hub.resolve",
        lambda uri: asked.append(uri) or Resolved(paths["transformers"], "hf://facebook/vit-mae-base@0/x"),
    )
    toy = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    decoder = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    model = kzoo.get("mae_vit_base_patch16_224.fb_in1k", **toy, **decoder)
    assert asked == ["hf://facebook/vit-mae-base"]
    assert (model.spec.tag, model.spec.license, model.spec.source[:27]) == ("fb_in1k", "cc-by-nc-4.0", asked[0] + "@")
    assert difference(called(model, inputs)["pred"], pixels) <= CLOSE
    assert "num_classes" not in model.spec.overrides
    report = fill(kzoo.get("vit_base_patch16_224", **toy), asked[0], asked=("num_classes",))
    assert len(report.training_only) >= 16 and set(report.reinitialised) == {"head/kernel", "head/bias"}


def test_another_pooling_is_not_taken_for_granted(files):
    """Where no new head was asked for, a norm in another place is an error as before."""
    with pytest.raises(UserError, match="fc_norm/gamma"):
        kzoo.get("vit_toy", weights=files[0]["encoder"], global_pool="avg")


def test_served_is_the_encoder_and_the_receipt_says_what_was_left(files):
    paths = files[0]
    model = kzoo.load(paths["model.keras"])
    encoder = kzoo.get("mae_toy", num_classes=0)
    report = transfer(encoder, model, resize=False, new_head=False)
    assert {name.partition("_")[0] for name in report.training_only} == {"mask", "decoder"} and report.unused == ()
    assert len(report.loaded) + len(report.training_only) == len(model.weights)
    given = {weight.path: weight for weight in model.weights}
    for weight in encoder.weights:
        np.testing.assert_array_equal(weight, given[weight.path], err_msg=weight.path)
    with pytest.raises(UserError, match="is not in the model"):
        fill(kzoo.get("vit_toy", num_classes=0, depth=1), paths["model.keras"])


def test_the_encoder_sees_all_patches_as_the_autoencoder_does(files):
    """With nothing hidden the autoencoder's encoder gives the tokens of the encoder alone, in the order of the
    noise.
    """
    paths, _, inputs, _ = files
    model = kzoo.get("mae_toy", weights=paths["official"], mask_ratio=0.0)
    tokens = outputs_of(keras.Model(model.input, model.get_layer("norm").output), inputs)[0]
    alone = outputs_of(
        kzoo.get("mae_toy", weights=paths["official"], num_classes=0, global_pool="none"), inputs["image"]
    )[0]
    for sample, order in enumerate(np.argsort(inputs["noise"], axis=1)):
        np.testing.assert_allclose(tokens[sample], alone[sample][[0, *(order + 1)]], atol=1e-5)


# the official models', trained weights
PARTS = {"base": (111655680, 85647360, 9.781), "large": (329239296, 303099904, 20.756)}


@pytest.mark.parametrize("name", kzoo.list_models("mae_*"))
def test_counts(name):
    """Trained weights as transformers counts them on no memory; of the published sizes the parts and the products
    too.
    """
    import_timm()  # for torchvision, which transformers imports
    info = kzoo.info(name)
    with torch.device("meta"):
        reference = HfMae.__new__(HfMae)
        reference.name, reference.overrides, reference.config = name, {}, config_of(name)[1]
        module = reference.build()
    assert info.params == sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert info.task == "masked" and info.num_classes is None
    size = name.split("_")[2] if name != "mae_toy" else ""
    if size in PARTS:
        from kzoo.models.count import count

        builder, config = config_of(name, {"num_classes": 0})
        assert (info.params, count(lambda: builder(config))[0]) == PARTS[size][:2]
        assert info.gmacs == pytest.approx(PARTS[size][2], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "overrides", "patches", "seen"),
    [
        ("mae_vit_base_patch16_224", {}, 196, 49),
        ("mae_vit_huge_patch14_224", {}, 256, 64),
        ("mae_vit_base_patch16_224", {"mask_ratio": 0.6}, 196, 78),
        ("mae_toy", {"image_size": (32, 48), "mask_ratio": 0.9}, 24, 2),
    ],
)
def test_how_many_patches_are_seen(name, overrides, patches, seen):
    config = config_of(name, overrides)[1]
    assert (config.patches, config.seen) == (patches, seen)


@pytest.mark.backends
def test_noise_keeps_its_bits_in_16_bit_models():
    """Noises that bfloat16 cannot tell apart hide the same patches; among equal ones the first is seen first."""
    noise = (0.5 + drawn((2, 16), "noise") * 1e-5).astype("float32")
    noise[1] = 0.5
    inputs, kept = (
        {"image": np.zeros((2, 32, 32, 3), "float32"), "noise": noise},
        np.argsort(noise, axis=1, kind="stable"),
    )
    for policy in ("float32", "mixed_bfloat16", "bfloat16"):
        with computing_in(policy):
            answer = called(kzoo.get("mae_toy"), inputs)
        np.testing.assert_array_equal(answer["ids_restore"], np.argsort(kept, axis=1))
        assert answer["pred"].dtype == answer["mask"].dtype == np.float32


@pytest.mark.backends
def test_saved_and_loaded_whole(tmp_path):
    model = randomise(kzoo.get("mae_toy", image_size=(32, 48), in_channels=2, mask_ratio=0.5))
    inputs = {"image": drawn((2, 32, 48, 2), "image"), "noise": drawn((2, 24), "noise")}
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.spec == model.spec
    before, after = called(model, inputs), called(again, inputs)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert before["pred"].shape == (2, 24, 128) and before["mask"].sum() == 24


def test_first_weights_are_the_official_ones():
    """Every matrix Xavier-uniform, the patches' and the fused projection each as the one that it is, biases 0; tokens
    normal of deviation .02, not cut; norms 1 and 0; positions the fixed table after a row of zeros.
    """
    keras.utils.set_random_seed(0)
    model = kzoo.get("mae_toy", embed_dim=256, decoder_embed_dim=192)
    for weight in model.weights:
        layer, leaf = weight.path.rsplit("/", 1)
        value = np.asarray(ops.convert_to_numpy(weight))
        if leaf == "kernel":
            matrix = value.reshape(-1, value.shape[-1])
            limit = np.sqrt(6 / sum(matrix.shape))
            assert 0.99 * limit < np.abs(value).max() <= limit, weight.path
            assert value.std() == pytest.approx(limit / np.sqrt(3), rel=0.02), weight.path
        elif leaf == "token":
            assert value.std() == pytest.approx(0.02, rel=0.15) and np.abs(value).max() > 0.045, weight.path
        elif leaf == "table":
            assert not value[0, 0].any() and value[0, 1, :8].tolist() == [0.0] * 8 and not weight.trainable
        elif layer == "patch_embed/proj":  # which the official code leaves as torch's convolution begins
            assert 0.95 * 192**-0.5 < np.abs(value).max() <= 192**-0.5
        else:
            assert (value == (leaf == "gamma")).all(), weight.path
    assert len(model.weights) == 2 + 2 + 2 + 12 * 3 + 2 * 2 + 2 * 2  # patches, tokens, tables, blocks, norms, decoder


def undecayed_in(layout, model):
    """The names that a layout has for what decay leaves alone."""
    left = {weight.path for weight in undecayed(model)}
    found = pieces(model, model.config.layouts()[layout], model.config)[0]
    return {name for piece in found if piece.path in left for name in piece.names}


def test_pre_training_decays_all_but_vectors_and_fine_tuning_spares_tokens_too():
    """As the official scripts group their parameters: pre-training by shape alone, the ViT's also by its own list."""
    model, module = kzoo.get("mae_toy"), HfMae("mae_toy").module
    learnt = official({name: p for name, p in module.named_parameters() if p.requires_grad})
    left = {name for name, p in learnt.items() if p.ndim == 1 or name.endswith(".bias")}
    assert undecayed_in("timm", model) == left and not {"cls_token", "mask_token", "pos_embed"} & left
    module = Timm("vit_toy").module
    param_groups_weight_decay = import_timm("timm.optim").param_groups_weight_decay
    spared, _ = param_groups_weight_decay(module, 0.05, no_weight_decay_list=module.no_weight_decay())
    named = {id(p): name for name, p in module.named_parameters()}
    left = {named[id(p)] for p in spared["params"]}
    assert undecayed_in("timm", kzoo.get("vit_toy")) == left > {"cls_token", "pos_embed"}


def test_attention_is_shown_of_blocks_that_see_every_patch(files):
    paths, _, inputs, _ = files
    encoder = kzoo.get("mae_toy", weights=paths["official"], num_classes=0)
    assert kzoo.attention(encoder, inputs["image"]).shape == (2, 2, 2, 4, 4)
    with pytest.raises(UserError, match="ask its encoder"):
        kzoo.attention(kzoo.get("mae_toy"), inputs, stage=0)


def test_features():
    maps = kzoo.get("mae_toy", features_only=True, out_indices=(0, -1))
    assert [m.shape for m in maps.output] == [(None, 4, 4, 32)] * 2
    assert not any(weight.path.startswith(DECODER) for weight in maps.weights)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"num_classes": 10}, "train vit_toy with init_from=.*num_classes=0 gives its encoder"),
        ({"num_classes": 10, "depth": 5}, "a vit_\\* model of its sizes with init_from="),
        ({"mask_ratio": 1.0}, r"\[0, 1\)"),
        ({"mask_ratio": 0.95}, "leaves none of 16 patches"),
        ({"image_size": 36}, "divisible by patch_size"),
        ({"decoder_embed_dim": 18}, "divisible by 4"),
        ({"decoder_num_heads": 3}, "decoder_num_heads 3"),
        ({"decoder_depth": 0}, "at least 1"),
        ({"embed_dim": 30}, "divisible by"),
        ({"global_pool": "map"}, "token"),
        ({"stem": "conv"}, "option of mae_toy"),
    ],
)
def test_wrong_options_are_told(overrides, says):
    with pytest.raises(UsageError, match=says):
        kzoo.get("mae_toy", **overrides)

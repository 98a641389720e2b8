"""Names of classes, other heads, features, and what else kzoo.get is told of a Keras model."""

import keras
import numpy as np
import pytest

import kzoo
from kzoo.errors import UsageError

X = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")


def made(classes=3, **options):
    model = kzoo.get("vit_toy", image_size=8, patch_size=2, num_classes=classes, **options)
    if classes:
        model.get_layer("head").kernel.assign(np.random.default_rng(1).normal(size=(32, classes)))
    return model


def test_two_models_of_a_family_make_one_graph(tmp_path):
    first, second, images = made(name="student"), made(name="teacher"), keras.Input((8, 8, 3))
    second.get_layer("head").bias.assign([1, 2, 3])
    both = keras.Model(images, keras.layers.Average()([first(images), second(images)]))
    expected = sum(keras.ops.convert_to_numpy(model(X)) for model in (first, second)) / 2
    both.compile(optimizer="sgd", loss="mse", jit_compile=False)
    assert float(both.train_on_batch(X, expected)) < 1e-10
    both.save(tmp_path / "both.keras")
    again = keras.models.load_model(tmp_path / "both.keras")
    for weight, other in zip(both.weights, again.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (weight, other)))
    assert [layer.name for layer in again.layers[1:3]] == ["student", "teacher"]
    first.save(tmp_path / "first.keras")
    assert kzoo.load(tmp_path / "first.keras").name == "student"
    with pytest.raises(UsageError, match="name is that of the Keras model, a text without '/', not 'a/b'"):
        made(name="a/b")


@pytest.mark.backends
def test_a_dtype_is_a_policy_and_logits_stay_float32():
    for policy, weights in (("mixed_bfloat16", "float32"), ("bfloat16", "bfloat16"), ("float32", "float32")):
        model = made(dtype=policy)
        assert model.get_layer("norm").compute_dtype == policy.removeprefix("mixed_")
        assert (model.get_layer("norm").gamma.dtype, model.output.dtype) == (weights, "float32")
    assert keras.config.dtype_policy().name == "float32"
    with pytest.raises(UsageError, match="dtype is a Keras dtype policy, such as .*, not 'float17'"):
        made(dtype="float17")


def test_classes_are_named_when_a_model_is_built_or_afterwards():
    model = kzoo.get("vit_toy", class_names=["cat", "dog"])
    assert model.output_shape == (None, 2) and model.spec.class_names == ("cat", "dog")
    assert kzoo.with_classes(model, ("Katze", "Hund")) is model and model.spec.class_names == ("Katze", "Hund")
    assert kzoo.with_classes(made(1), ["no", "yes"]).spec.class_names == ("no", "yes")
    assert kzoo.get("detr_toy", class_names=list("abcd"), num_classes=4).spec.class_names == tuple("abcd")
    for call, words in (
        (lambda: kzoo.with_classes(model, ["a", "b", "c"]), r"3 class names for the 2 classes .*with_head\(model, 3\)"),
        (lambda: kzoo.with_classes(model, ["a", "a"]), "have to differ, and 'a' comes twice"),
        (lambda: kzoo.with_classes(model, "ab"), "a list of texts, one for each class, not 'ab'"),
        (lambda: kzoo.with_classes(model, [1, 2]), "a list of texts"),
        (lambda: kzoo.with_classes(made(0), ["a"]), r"tells no classes; kzoo.with_head"),
        (lambda: kzoo.get("vit_toy", num_classes=3, class_names=["a", "b"]), "2 class names for the 3 classes"),
    ):
        with pytest.raises(UsageError, match=words):
            call()


@pytest.mark.parametrize("classes", [3, 5])
def test_another_head_keeps_everything_before_it(classes):
    model = made(dtype="mixed_bfloat16")
    model.get_layer("blocks_0").trainable = model.get_layer("head").trainable = False
    kzoo.with_classes(model, ["a", "b", "c"])
    other = kzoo.with_head(model, classes, [f"class {i}" for i in range(classes)])
    assert other is not model and other.output_shape == (None, classes) and other.spec.class_names[2] == "class 2"
    assert kzoo.with_head(model, classes).spec.class_names == ()
    theirs = {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}
    for weight in other.weights:
        value = keras.ops.convert_to_numpy(weight)
        kept = np.array_equal(value, theirs[weight.path]) and not weight.path.startswith("head/")
        assert kept or weight.path.startswith("head/") and not value.any(), weight.path
    report = other.load_report
    assert report.reinitialised == ("head/kernel", "head/bias") and len(report.loaded) == len(other.weights) - 2
    assert not other.get_layer("blocks_0").trainable and other.get_layer("head").trainable
    assert other.get_layer("norm").compute_dtype == "bfloat16"
    assert kzoo.with_head(made(0), 4).output_shape == (None, 4)
    assert kzoo.with_head(kzoo.get("detr_toy"), 7).load_report.reinitialised == (
        "class_embed/kernel",
        "class_embed/bias",
    )
    for call, words in (
        (lambda: kzoo.with_head(model, 0), "a whole number of classes, 1 or more, not 0"),
        (lambda: kzoo.with_head(model, 2, ["a"]), "1 class names for the 2 classes"),
        (lambda: kzoo.with_head(kzoo.get("vit_toy", features_only=True), 2), "gives feature maps"),
    ):
        with pytest.raises(UsageError, match=words):
            call()


@pytest.mark.backends
def test_features_are_what_the_head_is_given():
    model = made()
    for _ in range(2):
        found, head = kzoo.features(model, X), model.get_layer("head")
        kernel, bias = (keras.ops.convert_to_numpy(weight) for weight in (head.kernel, head.bias))
        assert found.shape == (4, 32) and found.dtype == np.float32
        np.testing.assert_allclose(found @ kernel + bias, model.predict(X, verbose=0), atol=1e-4)
        model.get_layer("norm").gamma.assign(np.full(32, 3.0))  # and of the weights that it has by then
    assert (
        kzoo.features(made(0), X).shape == kzoo.features(kzoo.get("resnet_toy"), np.zeros((4, 32, 32, 3)))[:, :32].shape
    )
    assert kzoo.features(kzoo.get("mae_toy", image_size=16, patch_size=4), np.zeros((2, 16, 16, 3))).shape == (2, 32)
    with pytest.raises(kzoo.UserError, match="detr_toy, as it is built here, makes boxes and classes of objects"):
        kzoo.features(kzoo.get("detr_toy"), X)


@pytest.mark.slow
@pytest.mark.parametrize(("several", "format"), [(False, "litert"), (True, "onnx"), (True, "saved_model")])
def test_a_model_that_fit_trained_exports_with_its_labels(several, format, tmp_path):
    """By sigmoid where its targets were several classes a picture."""
    model = made()
    targets = np.float32([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]) if several else np.array([0, 1, 2, 1])
    task = kzoo.task(model, loss="binary_cross_entropy" if several else "cross_entropy")
    task.compile(optimizer="sgd", jit_compile=False)
    task.fit(X, targets, verbose=0)
    kzoo.with_classes(model, ["cat", "dog", "cow"])
    from kzoo.predicting import open_target

    picture = np.random.default_rng(2).integers(0, 256, (8, 8, 3), dtype="uint8")
    logits = np.float64(model.predict(kzoo.preprocessor(model)(picture[None]), verbose=0)[0])
    expected = 1 / (1 + np.exp(-logits)) if several else np.exp(logits) / np.exp(logits).sum()
    kzoo.export(model, tmp_path / format, format=format)
    assert (tmp_path / format / "labels.txt").read_text().split() == ["cat", "dog", "cow"]
    predictor = open_target(tmp_path / format)
    np.testing.assert_allclose(predictor(picture)["probabilities"], expected, atol=1e-4)
    assert ("of which a picture may have any number" in (tmp_path / format / "card.md").read_text()) == several
    assert predictor.labels == ("cat", "dog", "cow")

"""A task saved whole: Keras' load_model gives the view that trained on, a plugin's too, from the one name that all go
by.
"""

import json
import zipfile

import keras
import numpy as np
import pytest

import kzoo
from kzoo.settings import override
from kzoo.tasks import make
from kzoo.tasks.views.classify import ClassifyView
from tests.test_plugins import installed  # noqa: F401 (a fixture)
from tests.test_tasks import BASE, TURNS, example, fresh  # noqa: F401 (a fixture)

TOY = {"image_size": 8, "patch_size": 2, "num_classes": 3}
X = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
Y = np.int32([0, 1, 2, 1])


def registered(path):
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read("config.json"))["registered_name"]


@pytest.mark.backends
@pytest.mark.parametrize("ours", [True, False], ids=["a model of kzoo", "any Keras model"])
def test_a_saved_classifiers_task_trains_on_as_it_would_have(tmp_path, ours):
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(4), keras.layers.Dense(3)]
    own = kzoo.get("vit_toy", **TOY) if ours else keras.Sequential(layers)
    own.layers[1].trainable = False
    task = kzoo.task(own, loss="binary_cross_entropy", label_smoothing=0.2, target_threshold=0.4)
    task.compile(optimizer=keras.optimizers.AdamW(0.01), jit_compile=False)
    for _ in range(2):
        task.train_on_batch(X, Y)
    task.save(tmp_path / "task.keras")
    again = keras.models.load_model(tmp_path / "task.keras")
    assert (
        registered(tmp_path / "task.keras") == "kzoo>View"
        and type(again) is ClassifyView
        and again.settings == task.settings
    )
    layers = [[layer.name for layer in each.network.layers if layer.trainable] for each in (task, again)]
    assert layers[0] == layers[1] and own.layers[1].name not in layers[1]
    assert getattr(again.network, "spec", None) == getattr(own, "spec", None)
    losses = [[float(each.train_on_batch(X, Y, return_dict=True)["loss"]) for _ in range(2)] for each in (task, again)]
    assert losses[0] == losses[1] and losses[0][1] != losses[0][0]
    for a, b in zip(task.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_plugins_saved_task_comes_back_in_a_fresh_process(example, tmp_path):  # noqa: F811
    keras.utils.set_random_seed(0)
    network = kzoo.get("vit_toy", **TOY | {"num_classes": 0})
    view = make(override(BASE, TURNS).task).view(network)
    view.hidden.trainable = False
    view.save(tmp_path / "turns.keras")
    assert registered(tmp_path / "turns.keras") == "kzoo>View"
    code = (
        "import keras, kzoo, numpy as np; keras.layers.Dense(2)\n"
        f"view = keras.models.load_model({str(tmp_path / 'turns.keras')!r})\n"
        "assert type(view).__name__ == 'RotationView' and view.settings.hidden == 8 and not view.hidden.trainable and "
        "view.head.trainable\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, view.probabilities(view.network.predict_on_batch(np.full((1, 8, 8, 3), "
        "0.5, 'float32'))))"
    )
    assert fresh(example, code)[0] == 0
    expected = view.probabilities(network.predict_on_batch(np.full((1, 8, 8, 3), 0.5, "float32")))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-6)
    assert expected.std() > 0.01


def test_a_subclass_is_not_taken_for_the_tasks_own_view(tmp_path):
    class Mine(ClassifyView):
        pass

    view = Mine(kzoo.get("vit_toy", **TOY), kzoo.task(kzoo.get("vit_toy", **TOY)).settings)
    view.save(tmp_path / "mine.keras")
    with pytest.raises(kzoo.UserError, match="saved from Mine, but the task classify trains by ClassifyView"):
        keras.models.load_model(tmp_path / "mine.keras")
    keras.saving.register_keras_serializable("mine")(Mine)
    view.save(tmp_path / "mine.keras")
    assert type(keras.models.load_model(tmp_path / "mine.keras")) is Mine

"""A task that learns from a teacher: a toy of distillation through kzoo.task, against its loss by hand in NumPy."""

import dataclasses

import keras
import numpy as np
import pytest

import kzoo
from kzoo.errors import UsageError
from kzoo.schema import Classify as Settings
from kzoo.tasks.classify import Classify
from kzoo.training import state

TOY = {"image_size": 8, "patch_size": 2, "num_classes": 3}
X = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
Y = np.int32([0, 1, 2, 1, 0, 2, 2, 1])


@pytest.fixture
def distil(apart):  # noqa: F811
    """The kind of the toy task: half the cross-entropy of the labels, half that of the teacher's probabilities."""
    from kzoo.tasks.views.classify import ClassifyView, cross_entropy

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Distil(Settings):
        kind = "distil"
        share: float = 0.5

    class Student(ClassifyView):
        def __init__(self, network, settings, teacher):
            super().__init__(network, settings)
            self.teacher = teacher
            self.given = getattr(teacher, "variables", ())
            if isinstance(teacher, keras.layers.Layer):
                teacher.trainable = False

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            own = super().compute_loss(x, y, y_pred, sample_weight, training)
            taught = keras.ops.mean(cross_entropy(y_pred, keras.ops.softmax(self.teacher(x)))) / self.replicas()
            return (1 - self.settings.share) * own + self.settings.share * taught

    @kzoo.register_task
    class Distilling(Classify):
        settings_class = Distil
        taught = True

        def view(self, network, teacher=None):
            return Student(network, self.settings, teacher)

    return Distil.kind


def log_softmax(logits):
    logits = np.float64(logits)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def made(seed):
    keras.utils.set_random_seed(seed)
    model = kzoo.get("vit_toy", **TOY)
    model.get_layer("head").kernel.assign(np.random.default_rng(seed).normal(size=(32, 3)))
    return model


@pytest.mark.backends
def test_a_student_learns_from_a_teacher_that_stays_as_it_is(distil, tmp_path):
    student, teacher = made(1), made(2)
    before = [w.copy() for w in teacher.get_weights()], [w.copy() for w in student.get_weights()]
    said, shares = log_softmax(student.predict_on_batch(X)), np.exp(log_softmax(teacher.predict_on_batch(X)))
    view = kzoo.task(student, distil, teacher=teacher, share=0.25)
    view.compile(optimizer=keras.optimizers.SGD(1e-5), jit_compile=False)
    history = view.fit(X, Y, batch_size=8, epochs=2, verbose=0).history["loss"]
    expected = -0.75 * said[np.arange(8), Y].mean() - 0.25 * (shares * said).sum(axis=1).mean()
    assert history[0] == pytest.approx(expected, rel=1e-4) and history[1] < history[0]
    assert all(np.array_equal(a, b) for a, b in zip(before[0], teacher.get_weights(), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(before[1], student.get_weights(), strict=True))
    held = {id(variable) for variable in state._groups(view).values()}
    assert held.isdisjoint(map(id, teacher.variables)) and held >= set(map(id, student.trainable_variables))
    with pytest.raises(
        kzoo.UserError, match="a teacher that it was handed as an object, which no file can name: save the model"
    ):
        view.save(tmp_path / "task.keras")
    assert list(tmp_path.iterdir()) == []


def test_anything_that_keras_can_call_teaches(distil):
    view = kzoo.task(made(1), distil, teacher=lambda x: keras.ops.mean(x, axis=(1, 2)), share=1.0)
    view.compile(optimizer="sgd", jit_compile=False)
    said, taught = log_softmax(view.network.predict_on_batch(X)), np.exp(log_softmax(X.mean(axis=(1, 2))))
    loss = view.train_on_batch(X, Y, return_dict=True)["loss"]
    assert float(loss) == pytest.approx(-(taught * said).sum(axis=1).mean(), rel=1e-4)


def test_a_task_without_a_teacher_refuses_one():
    with pytest.raises(UsageError, match="the task classify learns from no teacher; leave teacher out"):
        kzoo.task(made(1), teacher=made(2))

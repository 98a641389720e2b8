"""A task: by how many quarters was a picture turned? No labels are needed; what is left is an encoder.

"Unsupervised Representation Learning by Predicting Image Rotations", https://arxiv.org/abs/1803.07728. Loads no Keras.
"""

from dataclasses import dataclass

import numpy as np

import kzoo
from kzoo.data import prepare
from kzoo.data.batching import Array, Labels
from kzoo.errors import UserError
from kzoo.schema import TaskSettings
from kzoo.tasks.base import Task
from kzoo.tasks.classify import ClassMeter, draw_bars


@dataclass(frozen=True, kw_only=True)
class Rotate(TaskSettings):
    """The four turns of each picture, told apart by a head over the pooled vector."""

    kind = "rotation"
    hidden: int = 0  # width of a layer before the head; 0: none


class Turned(Labels):
    """Every picture in its four turns, one after another, (4 B, H, W, C); targets int32 (4 B,), the quarters."""

    def train(self, pictures, targets, keys, epoch, step):
        return turned(super().train(pictures, targets, keys, epoch, step)[0])

    def evaluate(self, pictures, targets, keys, rows):
        images, _, weights = super().evaluate(pictures, targets, keys, rows)
        return *turned(images), weights

    def signature(self, rows, *, training):
        turns = Array((4 * rows, *self.shape), np.float32), Array((4 * rows,), np.int32)
        return turns if training else (*turns, Array((rows,), np.float32))


def turned(images):
    """images (B, S, S, C) -> the four turns of each (4 B, S, S, C), their quarters (4 B,)."""
    turns = np.stack([np.rot90(images, quarters, axes=(1, 2)) for quarters in range(4)], axis=1)
    return turns.reshape(-1, *images.shape[1:]), np.tile(np.arange(4, dtype=np.int32), len(images))


@kzoo.register_task
class Rotation(Task):
    """The head lies in the view: what a run leaves is the network without it."""

    settings_class = Rotate
    targets = "picture"
    curves = ("loss", "rotation_accuracy")
    checks = ("overfits",)

    def headline(self, source):
        return "rotation_accuracy", 1

    def options(self, source):
        return super().options(source) | {"num_classes": 0}

    def accept(self, network, source):
        height, width = network.take.image_size
        if height != width or not isinstance(network.output_shape, tuple) or len(network.output_shape) != 2:
            raise UserError(
                f"{network.spec.name} must give a vector (num_classes=0) of square pictures to tell their turns apart."
            )
        return ()

    def batching(self, take, source, data, seed, engine):
        return Turned(take, source, augment=data.augment, seed=seed, engine=engine)

    def view(self, network):
        from kzoo_rotation_view import RotationView

        return RotationView(network, self.settings)

    def judged(self, view, network):
        return view.with_head(network)

    def meter(self, network, source):
        return TurnMeter()

    def predict(self, network, view, picture, take):
        """{"probabilities": (4,) float32}: that the picture was turned by so many quarters, by the run's trained
        head.
        """
        if view is None:
            raise UserError("the head that tells turns apart lies in its run alone: predict with the folder of a run.")
        vectors = network.predict_on_batch(prepare(picture, take.image_size, take.preprocessing)[None])
        return {"probabilities": view.probabilities(vectors)[0]}

    def answer(self, outputs, labels, top):
        turns = [
            {"degrees": 90 * quarters, "probability": float(share)}
            for quarters, share in enumerate(outputs["probabilities"])
        ]
        return {"turns": sorted(turns, key=lambda turn: -turn["probability"])[:top]}

    def line(self, answer):
        return ", ".join(f"{turn['degrees']} degrees {turn['probability']:.4f}" for turn in answer["turns"])

    def draw(self, path, picture, outputs, answer):
        draw_bars(path, picture, [(f"{turn['degrees']} degrees", turn["probability"]) for turn in answer["turns"]])

    def captions(self, batch, names):
        return [f"{90 * quarters} degrees" for quarters in batch[1]]


class TurnMeter(ClassMeter):
    """loss in nats and rotation_accuracy of logits (4 B, 4)."""

    def update(self, outputs, y, real):
        super().update(outputs, y, np.repeat(real, 4))

    def result(self):
        figures = super().result()
        return {"rotation_accuracy": figures["accuracy"], "loss": figures["loss"]}

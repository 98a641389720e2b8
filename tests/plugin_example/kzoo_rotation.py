"""A task: by how many quarters was a picture turned? No labels are needed; what is left is an encoder.

"Unsupervised Representation Learning by Predicting Image Rotations", https://arxiv.org/abs/1803.07728. Loads no Keras.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

import kzoo
from kzoo.data.batching import Array, Labels
from kzoo.errors import UserError
from kzoo.schema import TaskSettings
from kzoo.tasks.base import Task
from kzoo.tasks.classify import ClassMeter


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
        height, width = network.input_shape[1:3]
        if height != width or not isinstance(network.output_shape, tuple) or len(network.output_shape) != 2:
            raise UserError(f"{network.spec.name} must give a vector (num_classes=0) of square pictures to tell their turns apart.")
        return ()

    def batching(self, take, source, data, seed, engine):
        augment = data.augment and dataclasses.replace(data.augment, mixup=0.0, cutmix=0.0)  # what is mixed has two turns
        return Turned(take, source, augment=augment, seed=seed, engine=engine)

    def view(self, network):
        from kzoo_rotation_view import RotationView

        return RotationView(network, self.settings)

    def judged(self, view, network):
        return view.with_head(network)

    def meter(self, network, source):
        return TurnMeter()

    def captions(self, batch, names):
        return [f"{90 * quarters} degrees" for quarters in batch[1]]


class TurnMeter(ClassMeter):
    """loss in nats and rotation_accuracy of logits (4 B, 4)."""

    def update(self, outputs, y, real):
        super().update(outputs, y, np.repeat(real, 4))

    def result(self):
        figures = super().result()
        return {"rotation_accuracy": figures["accuracy"], "loss": figures["loss"]}

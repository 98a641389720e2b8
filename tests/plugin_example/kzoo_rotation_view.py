"""What `fit` trains: a network and, over its vector, a head that tells four turns apart."""

import keras

from kzoo.tasks.views.base import View
from kzoo.tasks.views.classify import cross_entropy, hits


class RotationView(View):
    """(4 B, S, S, C), quarters (4 B,) -> the mean cross-entropy; the head is thrown away with the view."""

    terms = ("rotation_accuracy",)

    def __init__(self, network, settings):
        super().__init__(network, settings)
        width = network.output_shape[-1]
        if settings.hidden:
            self.hidden = keras.layers.Dense(settings.hidden, activation="gelu", name="turns_hidden")
            self.hidden.build((None, width))
            width = settings.hidden
        self.head = keras.layers.Dense(4, dtype="float32", name="turns")
        self.head.build((None, width))

    def call(self, inputs, training=None):
        return self.turns(self.network(inputs, training=training))

    def turns(self, vectors):
        return self.head(self.hidden(vectors) if self.settings.hidden else vectors)

    def probabilities(self, vectors):
        """Of the four turns, NumPy (B, 4)."""
        return keras.ops.convert_to_numpy(keras.ops.softmax(self.turns(vectors)))

    def with_head(self, network):
        """images -> logits (B, 4), by this head over a network of the same width."""
        return keras.Model(network.inputs, self.turns(network.outputs[0]))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self.tell(rotation_accuracy=hits(y_pred, y))
        return sum(self.losses, start=keras.ops.mean(cross_entropy(y_pred, y))) / self.replicas()

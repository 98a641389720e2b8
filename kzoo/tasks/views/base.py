"""What every task's keras.Model has in common."""

import keras


class View(keras.Model):
    """What `fit` trains: a network, the loss (Keras' own hook compute_loss) and running figures, by a task's settings."""

    def __init__(self, network, settings):
        super().__init__()
        self.network, self.settings = network, settings
        # Else `fit` would take a batch to build with and, with a threaded PyDataset, then deliver the rest in another order.
        self.built = network.built

    def build(self, input_shape):
        self.built = True  # the network builds itself when it is first called

    def call(self, inputs, training=None):
        return self.network(inputs, training=training)

    def replicas(self):
        """How many replicas share the batch: Keras adds up what TensorFlow's return, so that each gives its part of the loss."""
        strategy = getattr(self, "distribute_strategy", None)
        return strategy.num_replicas_in_sync if strategy else 1

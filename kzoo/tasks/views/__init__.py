"""The keras.Model of each task: network, loss and running figures. Loaded by Task.view, with Keras."""

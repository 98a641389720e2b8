"""Models as artifacts that run without kzoo: SavedModel, ONNX and LiteRT, each reopened by its own runtime and compared
with Keras.
"""

from kzoo.exporting.flow import export

__all__ = ["export"]

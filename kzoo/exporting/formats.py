"""The formats of artifacts, a row each: a new one is a row, a writer and a runtime. Standard library only."""

import pkgutil
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Format:
    """What is known of a format without writing it; `writer` and `opener` are imported when they are needed."""

    payload: str  # the file or folder that the runtime opens
    packages: tuple[str, ...]  # to write it and to compare it with Keras; the last is the runtime, which alone opens it
    quantize: tuple[str, ...] = ()
    any_size: bool = False  # whether it takes pictures of any size, resizes them itself and decodes files
    writer: str  # module:function(serving, folder, quantize), which puts the payload into the folder
    opener: str  # module:class(folder, card), an Artifact
    signatures: bool = False  # whether it has several
    snippet: str  # how to run it; {height}, {width}, {channels}, {output}, {given} and {also}, of `sizes`
    also: str = ""  # how a call is given them

    @property
    def write(self):
        return pkgutil.resolve_name(self.writer)

    @property
    def open(self):
        return pkgutil.resolve_name(self.opener)


FORMATS = {
    "saved_model": Format(
        payload="1",
        packages=("tensorflow",),
        quantize=("bfloat16",),
        any_size=True,
        signatures=True,
        writer="kzoo.exporting.writers:write_saved_model",
        opener="kzoo.exporting.artifact:SavedModelArtifact",
        snippet="""import tensorflow as tf
loaded = tf.saved_model.load("1")
images = tf.zeros((2, {height}, {width}, {channels}), tf.uint8)  # any height and width
outputs = loaded.signatures["serving_default"](images=images)
print(outputs["{output}"].numpy())""",
    ),
    "onnx": Format(
        payload="model.onnx",
        packages=("tensorflow", "tf2onnx", "onnx", "onnxruntime"),
        writer="kzoo.exporting.writers:write_onnx",
        opener="kzoo.exporting.artifact:OnnxArtifact",
        snippet="""import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
images = np.zeros((2, {height}, {width}, {channels}), np.uint8){given}
outputs = session.run(["{output}"], {{"images": images{also}}})
print(outputs[0])""",
        also=', "sizes": sizes',
    ),
    "litert": Format(
        payload="model.tflite",
        packages=("tensorflow", "ai_edge_litert"),
        quantize=("fp16", "dynamic"),
        signatures=True,
        writer="kzoo.exporting.writers:write_litert",
        opener="kzoo.exporting.artifact:LiteRTArtifact",
        snippet="""import numpy as np
from ai_edge_litert.interpreter import Interpreter
run = Interpreter("model.tflite").get_signature_runner("serving_default")
images = np.zeros((2, {height}, {width}, {channels}), np.uint8){given}
print(run(images=images{also})["{output}"])""",
        also=", sizes=sizes",
    ),
}

"""One writer a format: `write(serving, folder, quantize)` puts the payload of that format into the folder."""

import errno
import os
import tempfile

import keras
import tensorflow as tf

from kzoo.errors import UserError
from kzoo.exporting.formats import FORMATS

OPSET = 18  # of ONNX: what tf2onnx writes best; onnxruntime 1.14 and later read it
ONE_FILE = 2_000_000_000  # bytes of weights that a protocol buffer and a flat buffer can hold


def write_saved_model(serving, folder, quantize=None):
    """`1/`, a version folder of TensorFlow Serving: serving_default for pictures of any size, serving_jpeg for encoded
    ones, serving_raw for what a model gives before its task reads it.
    """
    _archive(serving.model, serving.endpoints(any_size=True), folder / FORMATS["saved_model"].payload)


def write_onnx(serving, folder, quantize=None):
    """`model.onnx`: uint8 pictures of the model's own size, any batch, and `sizes` where its task asks."""
    import onnx

    from kzoo.exporting.onnx_graph import bind, simplify

    _fits_one_file(serving.model, "onnx")
    graph, weights = _converted_to_onnx(serving)
    unknown = sorted({node.op_type for node in graph.graph.node if not onnx.defs.has(node.op_type, node.domain)})
    if unknown:  # tf2onnx only logs these
        raise UserError(
            f"ONNX has no operation for {', '.join(unknown)}, which {serving.spec.name} uses; export it as saved_model."
        )
    graph.graph.name = serving.spec.name
    bind(graph, weights)
    simplify(graph)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, folder / FORMATS["onnx"].payload)


def _converted_to_onnx(serving):
    """(ModelProto, {input name: weight}): the weights are still inputs, because tf2onnx copies its graph dozens of
    times.

    With ViT-Base's weights among the constants it took 15 GB of memory and two minutes.
    """
    import tf2onnx

    variables = serving.model.weights
    names = [f"weight_{i}" for i in range(len(variables))]
    outputs, given = serving.endpoints(any_size=False)["serving_default"]
    specs = [*given, *(tf.TensorSpec(v.shape, v.dtype, name=n) for n, v in zip(names, variables, strict=True))]

    def function(*tensors):
        values = tensors[len(given) :]
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return outputs(*tensors[: len(given)])

    traced = tf.function(function, input_signature=specs, autograph=False)
    graph, _ = tf2onnx.convert.from_function(traced, specs, opset=OPSET)
    return graph, dict(zip(names, serving.model.get_weights(), strict=True))


def write_litert(serving, folder, quantize=None):
    """`model.tflite`: uint8 pictures of the model's own size, any batch after resizing the input, and `sizes` where its
    task asks; serving_raw as in a SavedModel; "fp16" or "dynamic" weights.
    """
    _fits_one_file(serving.model, "litert")
    with tempfile.TemporaryDirectory(dir=folder) as archive:
        endpoints = serving.endpoints(any_size=False)
        _archive(serving.model, endpoints, archive)
        converter = tf.lite.TFLiteConverter.from_saved_model(archive, signature_keys=list(endpoints))
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "fp16":
            converter.target_spec.supported_types = [tf.float16]
        content = _converted(converter, serving.spec.name)
    (folder / FORMATS["litert"].payload).write_bytes(content)


def _converted(converter, name):
    try:
        return converter.convert()
    except Exception as error:  # the converter's own class is not public
        reason = next((line for line in str(error).splitlines() if "op" in line.lower()), type(error).__name__)
        raise UserError(
            f"LiteRT cannot express {name} ({reason.strip()[:200]}); export it as saved_model or onnx."
        ) from error


def _archive(model, endpoints, path):
    """A SavedModel of {name: (function, its inputs)}. Keras' own ExportArchive would store every weight twice."""
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    signatures = {
        name: tf.function(function, input_signature=specs, autograph=False)
        for name, (function, specs) in endpoints.items()
    }
    try:
        tf.saved_model.save(module, str(path), signatures=signatures)
    except tf.errors.ResourceExhaustedError as error:
        if "No space left" not in str(error):  # TensorFlow's words for ENOSPC; the same class stands for memory
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def _fits_one_file(model, format):
    if 4 * model.count_params() > ONE_FILE:
        raise UserError(f"the model's weights exceed the 2 GB that one {format} file holds; export it as saved_model.")

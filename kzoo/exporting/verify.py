"""Whether an artifact, reopened by its own runtime, computes what Keras computes; and how long each takes."""

import contextlib
import dataclasses
import io
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image

from kzoo.data import decode, in_upper_left, prepare
from kzoo.data.samples import with_channels
from kzoo.errors import UserError

BATCHES = (1, 3, 8)
TOLERANCE = 1e-4  # float32: of the largest difference, in units of the largest output where that exceeds 1
ROUNDS, SECONDS = 31, 10.0  # of timing, whichever ends first


class Reference:
    """The model in Keras on pictures that NumPy prepared: shares neither the graph's preprocessing nor its decoding."""

    def __init__(self, serving):
        self.serving = serving
        self._outputs = tf.function(serving.reference, input_signature=serving.taken, autograph=False)

    def __call__(self, pictures, preprocessing, *sizes):
        """uint8 pictures (h, w, C) of any sizes, or of the model's own with what they fill of it -> ({output name:
        float32 array}, with what the task judges by; the raw outputs in the same way).
        """
        taken = self.serving.taken
        prepared = self.serving.task.prepared(pictures, self.serving.take(preprocessing), *sizes)[: len(taken)]
        prepared = keras.tree.map_structure(lambda array, spec: tf.constant(array, spec.dtype), prepared, taken)
        outputs, raw = self._outputs(*prepared)
        return tuple({name: value.numpy() for name, value in each.items()} for each in (outputs, raw))


def verify(artifact, serving, pictures, exact):
    """Compares artifact and Keras in every way the artifact can be called; returns one record a comparison.

    pictures: uint8 (h, w, c) arrays, at least one, of any sizes. Raises UserError where they disagree: any number that
    is not finite, or, if `exact`, a difference above TOLERANCE.
    """
    reference, records = Reference(serving), []
    with _full_float32():
        for signature, size, batch, expected, found in _calls(
            artifact, serving, reference, _cycled(pictures, serving.channels)
        ):
            names = serving.raw_shapes if signature == "serving_raw" else serving.shapes
            record = {"signature": signature, "batch": batch, "size": size}
            record |= compare(expected, found, serving.task, names)
            _judge(record, artifact.format, serving.task.differences(record), exact)
            records.append(record)
    return records


@contextlib.contextmanager
def _full_float32():
    """Keeps TensorFlow from rounding products to 10 bits on GPUs, which it does by default (TensorFloat-32)."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _calls(artifact, serving, reference, pictures):
    """(signature, size, batch, expected, found) of every comparison."""
    (height, width), spec = serving.image_size, serving.spec
    whole = spec.preprocessing if artifact.any_size else serving.normalisation
    sizes = [((height, width), BATCHES)]
    if artifact.any_size:
        sizes.append(((height * 3 // 2 + 1, width + 5), BATCHES[1:2]))
    for size, batches in sizes:
        given = _brought_to(size, pictures, spec.preprocessing, artifact.takes_sizes)
        for batch in batches:
            images, *filled = (array[:batch] for array in given)
            expected, raw = reference(images, whole, *filled)
            yield "serving_default", size, batch, expected, artifact.predict(images, *filled)
            if artifact.gives_raw and batch == BATCHES[1]:
                yield "serving_raw", size, batch, raw, artifact.predict_raw(images, *filled)
    if artifact.any_size and serving.decodes:
        files = [encode(picture) for picture, encode in zip(pictures, ENCODINGS, strict=True)]
        decoded = [decode(file, "a picture encoded for verification", channels=serving.channels) for file in files]
        yield "serving_jpeg", "each its own", len(files), reference(decoded, whole)[0], artifact.predict_encoded(files)


def _brought_to(size, pictures, preprocessing, upper_left):
    """[uint8 (B, H, W, C)] of that size; in its upper left, with [the heights and widths (B, 2) that they fill of it],
    of three pictures one whole, one cut narrow and one low. What lies beside them is white, to be seen if it is looked
    at.
    """
    if not upper_left:
        return [np.stack([at_size(picture, size, preprocessing) for picture in pictures])]
    cuts = (lambda p: p, lambda p: p[:, : -(-p.shape[1] // 2)], lambda p: p[: -(-p.shape[0] // 2)])
    cut = (cuts[i % 3](picture) for i, picture in enumerate(pictures))
    images, sizes = zip(*(in_upper_left(one, size, preprocessing, beside=255) for one in cut), strict=True)
    return [np.stack(images), np.array(sizes, np.int32)]


def compare(expected, found, task, names):
    """The task's agreement of what its reference and an artifact gave, dictionaries of arrays. Raises UserError where
    the artifact's are not those of the outputs' `names`, or of other shapes.
    """
    wanted, given = {name: expected[name].shape for name in names}, {name: a.shape for name, a in found.items()}
    if wanted != given:
        raise UserError(f"the artifact returned {given} where Keras returned {wanted}; report this as a bug.")
    return task.agreement(expected, found)


def _judge(record, format, differences, exact):
    for what, difference, unit in differences:
        limit = TOLERANCE * unit
        if np.isfinite(difference) and (difference <= limit or not exact):
            continue
        where = f"{record['signature']}, batch {record['batch']}"
        raise UserError(
            f"the {format} artifact disagrees with Keras by {difference:.3g}{what and f' in {what}'} where at most "
            f"{limit:.3g} is allowed ({where}), so it was not kept; try another format or report this as a bug."
        )


def latency(artifact, serving, picture):
    """Median milliseconds of one picture, in Keras (its compiled function) and in the artifact, taking turns on this
    machine.
    """
    image = at_size(with_channels(picture, serving.channels), serving.image_size, serving.spec.preprocessing)[None]
    function, specs = serving.endpoints(artifact.any_size)["serving_default"]
    keras_function = tf.function(function, input_signature=specs, autograph=False)
    given = [image] + [np.array([serving.image_size], np.int32)] * (len(specs) - 1)

    def in_keras():
        return {name: value.numpy() for name, value in keras_function(*given).items()}

    calls = {"keras": in_keras, "artifact": lambda: artifact.predict(image)}
    times = {name: [] for name in calls}
    for call in calls.values():
        call()  # the first call traces and allocates
    until = time.monotonic() + SECONDS
    while len(times["keras"]) < ROUNDS and time.monotonic() < until:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: round(statistics.median(values), 3) for name, values in times.items()} | {
        "batch": 1,
        "rounds": len(times["keras"]),
    }


def at_size(picture, size, preprocessing):
    """The whole picture, uint8 (h, w, C), resampled and cropped to `size` (height, width), as uint8."""
    zeros, ones = ((value,) * picture.shape[-1] for value in (0.0, 1.0))
    plain = dataclasses.replace(preprocessing, mean=zeros, std=ones, crop_pct=1.0)
    return np.rint(255.0 * prepare(picture, size, plain)).clip(0, 255).astype(np.uint8)


def _cycled(pictures, channels):
    """As many pictures as the largest batch needs, with the model's number of channels."""
    return [with_channels(pictures[i % len(pictures)], channels) for i in range(max(BATCHES))]


def _image(picture):
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def _palette(picture):
    return _image(picture).convert("RGB").quantize(16)


def _faint(picture):
    image = _image(picture)
    image.putalpha(128)
    return image


def _saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _exif(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


# What a decoder may do differently: one file of each goes through serving_jpeg.
ENCODINGS = (
    lambda picture: _saved(_image(picture), "PNG"),
    lambda picture: _saved(_image(picture), "JPEG", quality=95),
    lambda picture: _saved(_palette(picture), "PNG"),
    lambda picture: _saved(_palette(picture), "PNG", transparency=1),
    lambda picture: _saved(_faint(picture), "PNG"),
    lambda picture: _saved(_palette(picture), "GIF", transparency=1),
    lambda picture: _saved(_image(picture), "JPEG", quality=95, exif=_exif(6)),
    lambda picture: _saved(_image(picture), "PNG", exif=_exif(8)),
)

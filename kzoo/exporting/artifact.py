"""Opening an artifact with its own runtime. Neither Keras nor the model's code takes part, and only that runtime is
imported.
"""

import os
import pathlib
import re
import threading

import numpy as np

from kzoo.errors import UserError, require
from kzoo.exporting.formats import FORMATS
from kzoo.exporting.papers import whole_card


class Artifact:
    """An exported model: `predict` pictures; `card`, `labels`, `format`, `image_size` (height, width) and `channels`
    describe it.
    """

    takes_encoded = False  # whether it has predict_encoded, which takes pictures of several sizes in a batch

    def __init__(self, folder, card):
        self.folder, self.card, self.format = pathlib.Path(folder), card, card["format"]
        self.image_size, self.channels = tuple(card["input"]["image_size"]), card["input"]["shape"][3]
        self.labels = tuple(card["class_names"])
        row = FORMATS[self.format]
        self.any_size = row.any_size  # whether pictures of other sizes than image_size are taken
        # whether, of pictures of one size, it is told how much of it each fills; those of earlier versions are not
        self.takes_sizes = bool(card.get("sizes_input"))
        self.gives_raw = bool(card.get("raw_outputs"))  # whether what the model itself gives can be asked for
        payload, runtime = self.folder / row.payload, row.packages[-1]
        if not payload.exists():
            raise UserError(f"{self.folder} is not complete, {payload.name} is missing; export it again.")
        require(runtime, why=f"a {self.format} artifact")
        try:
            self._open(str(payload))
        except Exception as error:  # every runtime has its own classes for a file it cannot read
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{payload} cannot be opened by {runtime} ({reason}); export it again.") from error

    def predict(self, images, sizes=None):
        """uint8 (B, H, W, C), B at least 1 -> {output name: float32 array}. A SavedModel takes any height and width.

        sizes (B, 2), of an artifact that takes_sizes: the height and width that each picture fills of it, in its upper
        left; by default all. Raises UserError for pictures and sizes that do not fit.
        """
        return self._run(self._given(images, sizes))

    def predict_raw(self, images, sizes=None):
        """The same -> {name: float32 array} of what the model itself gives. Raises UserError where there is no such
        signature.
        """
        if not self.gives_raw:
            raise UserError(f"{self.folder.name} has no signature serving_raw; use predict.")
        return self._run(self._given(images, sizes), "serving_raw")

    def _given(self, images, sizes):
        """{input name: array}."""
        shape = tuple(images.shape)
        fits = len(shape) == 4 and shape[3] == self.channels and (self.any_size or shape[1:3] == self.image_size)
        if images.dtype != "uint8" or not fits or not shape[0]:
            size = "height, width" if self.any_size else ", ".join(map(str, self.image_size))
            raise UserError(
                f"{self.folder.name} takes uint8 pictures of shape (batch, {size}, {self.channels}), not "
                f"{images.dtype} {shape}."
            )
        if not self.takes_sizes:
            if sizes is None:
                return {"images": images}
            raise UserError(f"{self.folder.name} takes pictures alone; leave sizes out.")
        sizes = np.array([self.image_size] * shape[0] if sizes is None else sizes)
        if sizes.shape != (shape[0], 2) or not ((sizes >= 1) & (sizes <= self.image_size)).all() or (sizes % 1).any():
            raise UserError(
                f"sizes are the height and width that each of the {shape[0]} pictures fills, whole numbers of shape "
                f"({shape[0]}, 2) from 1 to {', '.join(map(str, self.image_size))}."
            )
        return {"images": images, "sizes": sizes.astype(np.int32)}


class SavedModelArtifact(Artifact):
    def _open(self, path):
        import tensorflow as tf

        self._loaded = tf.saved_model.load(path)  # kept: the signatures do not keep the variables alive
        self._signatures = self._loaded.signatures
        self.takes_encoded = "serving_jpeg" in self._signatures

    def _run(self, given, signature="serving_default"):
        import tensorflow as tf

        return _arrays(self._signatures[signature](**{name: tf.constant(array) for name, array in given.items()}))

    def predict_encoded(self, encoded):
        """A list of encoded pictures (bytes), of any sizes -> {output name: float32 array}.

        Raises UserError with the number of a picture that is damaged or of a kind that is not taken; none of the list
        is then answered.
        """
        import tensorflow as tf

        if not self.takes_encoded:
            raise UserError(
                f"{self.folder.name} decodes no pictures, its model takes {self.channels} channels; use predict."
            )
        signature = self._signatures["serving_jpeg"]
        try:
            return _arrays(signature(encoded=tf.constant(encoded, tf.string)))
        except tf.errors.InvalidArgumentError:
            for number, one in enumerate(encoded):
                try:
                    signature(encoded=tf.constant([one]))
                except tf.errors.InvalidArgumentError as error:
                    reason = re.search(r"assertion failed: \[(.*?)\]", error.message)
                    reason = reason[1] if reason else "it is damaged, leave it out"
                    raise UserError(f"picture {number} of {len(encoded)} cannot be decoded: {reason}.") from error
            raise


class OnnxArtifact(Artifact):
    def _open(self, path):
        import onnxruntime

        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def _run(self, given):
        return dict(zip(self._names, self._session.run(self._names, given), strict=True))


class LiteRTArtifact(Artifact):
    def _open(self, path):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(path, num_threads=os.cpu_count())
        self._runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
        self._one_at_a_time = threading.Lock()  # an interpreter used from two threads answers wrong without an error

    def _run(self, given, signature="serving_default"):
        with self._one_at_a_time:
            return self._runners[signature](**given)


def open_artifact(folder):
    """The Artifact in a folder that `kzoo.export` wrote.

    Raises UserError where it holds none, or one that is damaged or incomplete, MissingPackage without its runtime.
    """
    card = whole_card(folder)
    return FORMATS[card["format"]].open(folder, card)


def _arrays(outputs):
    return {name: value.numpy() for name, value in outputs.items()}

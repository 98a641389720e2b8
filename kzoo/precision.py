"""A model computing in another precision: for inference in bfloat16, with the accuracy that it keeps stated.

bfloat16 halves the weights and is the fast type of accelerators and of CPUs with instructions for it (AVX512_BF16,
AMX); elsewhere it is slower than float32. Norms, softmax and the head's logits stay float32, as the layers say
themselves.
"""

from dataclasses import dataclass

import keras

from kzoo.data.samples import samples, with_channels
from kzoo.errors import unknown
from kzoo.models.base import computing_in, precision_of
from kzoo.registry import spec_of_model
from kzoo.tasks import of
from kzoo.zoo import get

REDUCED = ("bfloat16",)
BATCH = 8


@dataclass(frozen=True)
class PrecisionReport:
    """What reduced precision changed: the model's outputs on `images` pictures, beside the same weights in float32."""

    dtype: str
    pictures: str  # where they are from
    images: int
    # the task's figures by name, which are attributes of the report too; None where these outputs have none
    agreement: dict
    words: str  # what the task says of them

    def __getattr__(self, name):
        if name not in vars(self).get("agreement", ()):  # which a copy asks for before it has any
            raise AttributeError(f"a report of these outputs has no figure {name!r}")
        return self.agreement[name]

    def __str__(self):
        text = (
            f"{self.dtype} on {self.images} pictures ({self.pictures}): largest difference from float32 "
            f"{self.max_abs_difference:.2g}"
        )
        return ", ".join(filter(None, (text, f"largest output {self.largest_output:.3g}", self.words)))


def reduce_precision(model, dtype="bfloat16", pictures=None, pictures_from="the caller's pictures"):
    """A twin of the model for inference with weights and products in `dtype`; its `precision_report` says what that
    changed.

    pictures: uint8 arrays (h, w, c) of any sizes to compare on; by default a few embedded digits, so that a figure for
    your own data needs your own pictures. The twin takes and gives what the model does: normalised images, float32
    logits. Do not train or save it. Raises UsageError for another dtype, UserError for a model that kzoo cannot
    rebuild.
    """
    if dtype not in REDUCED:
        raise unknown("reduced precision", dtype, REDUCED)
    pictures, pictures_from = samples(pictures, pictures_from)
    exact = model if precision_of(model) == "float32" else twin(model, "float32")
    reduced = twin(model, dtype)
    task = of(model)
    inputs, sizes = task.prepared([with_channels(picture, model.take.channels) for picture in pictures], model.take)
    outputs = (
        task.outputs(m, m.predict(inputs, batch_size=BATCH, verbose=0), sizes)
        for m in map(task.served, (exact, reduced))
    )
    found = task.agreement(*(keras.tree.map_structure(keras.ops.convert_to_numpy, each) for each in outputs))
    reduced.precision_report = PrecisionReport(
        dtype, pictures_from, len(pictures), dict.fromkeys(task.agreements) | found, task.agreed(found)
    )
    return reduced


def twin(model, policy):
    """The same model with the same weights, built under that Keras dtype policy. Raises UserError for one that carries
    no spec.
    """
    spec = spec_of_model(model)
    with computing_in(policy):
        built = get(spec.name, **spec.overrides)
    built.set_weights(model.get_weights())
    built.spec = spec
    return built

"""Where pictures come from and how they become batches: sources, one decoder, evaluation preprocessing, augmentation,
two engines.
"""

from kzoo.data.batching import Array, Batching, Labels
from kzoo.data.checkup import check
from kzoo.data.decode import decode, read_picture
from kzoo.data.given import KIND as GIVEN
from kzoo.data.given import part_for, sources_of
from kzoo.data.loader import Loader, engine_for
from kzoo.data.objects import ObjectBatching, in_upper_left
from kzoo.data.opening import open_data, tell_skipped
from kzoo.data.pack import pack
from kzoo.data.pixels import normalise, prepare, resized
from kzoo.data.sources import Source, open_source
from kzoo.specs import Take

__all__ = [
    "Array",
    "Batching",
    "GIVEN",
    "Labels",
    "Loader",
    "ObjectBatching",
    "Source",
    "Take",
    "check",
    "decode",
    "engine_for",
    "in_upper_left",
    "resized",
    "normalise",
    "open_data",
    "open_source",
    "pack",
    "part_for",
    "prepare",
    "read_picture",
    "sources_of",
    "tell_skipped",
]

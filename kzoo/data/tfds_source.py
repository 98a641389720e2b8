"""Prepared TensorFlow Datasets, for classification and detection; nothing is ever downloaded."""

import os
import sys

import numpy as np

from kzoo.data import tfds_objects
from kzoo.data.decode import Picture
from kzoo.data.sources import EVALUATION, ArraySource, Source, check_labels
from kzoo.errors import UserError, backend_name, require

IN_MEMORY = 2**30  # bytes up to which a split is read once and kept; larger ones are streamed


class EncodedSource(Source):
    """Pictures of any sizes in memory as encoded bytes, decoded when they are read."""

    def __init__(self, name, encoded, labels, feature, channels):
        check_labels(name, labels, feature.num_classes)
        self.name, self.num_classes, self.class_names, self.channels = (
            name,
            feature.num_classes,
            tuple(feature.names),
            channels,
        )
        self._encoded, self._labels = encoded, labels

    def __len__(self):
        return len(self._labels)

    def open(self, i):
        return Picture(self._encoded[i], f"{self.name}[{i}]", self.channels), int(self._labels[i])

    def all_labels(self):
        return self._labels.astype(np.int32)


class StreamSource(Source):
    """Pictures read from the files in order, epoch by epoch; open(i) is possible but slow. Batches come from
    records().
    """

    streams = True

    def __init__(self, name, records, count, feature, channels):
        self.name, self.num_classes, self.class_names, self.channels = (
            name,
            feature.num_classes,
            tuple(feature.names),
            channels,
        )
        self._records, self._count = records, count

    def __len__(self):
        return self._count

    def records(self):
        """A tf.data.Dataset of (encoded picture, label) in a fixed order."""
        return self._records

    def decode(self, encoded, labels, index):
        """(list of Picture, labels int32 (B,)) of the encoded pictures (B,) whose sample numbers are index (B,)."""
        check_labels(self.name, labels, self.num_classes, index)
        return [
            Picture(e, f"{self.name}[{i}]", self.channels) for e, i in zip(encoded, index, strict=True)
        ], labels.astype(np.int32)

    def open(self, i):
        encoded, label = next(self._records.skip(int(i)).take(1).as_numpy_iterator())
        pictures, labels = self.decode([encoded], np.array([label]), [i])
        return pictures[0], int(labels[0])


def open_tfds(spec, name, split, data_dir):
    """The split of a prepared TFDS set: in memory (decoded where all sizes are equal, else encoded) or, above
    IN_MEMORY, a stream.

    A set without a split called test answers to it with its validation split, and the other way round. One that has no
    label for each picture, but `objects`, gives those. Raises UserError for a set that is not there, an unknown split,
    a set that is for neither or a label out of range.
    """
    require("tensorflow", "tensorflow_datasets", why=f"the data source {spec}")
    _leave_accelerators_alone()
    builder = _builder(name, data_dir or os.environ.get("KZOO_DATA_DIR"))
    detects = tfds_objects.detects(builder.info.features)
    image, label = (builder.info.features["image"], None) if detects else _features(spec, builder.info.features)
    split = _split(spec, split, builder.info.splits)
    count = builder.info.splits[split].num_examples
    channels = image.shape[-1] or 3
    small = int(builder.info.dataset_size) * count <= IN_MEMORY * builder.info.splits.total_num_examples
    if detects:
        return tfds_objects.opened(spec, builder, split, count, small)
    if None not in image.shape and count * int(np.prod(image.shape)) <= IN_MEMORY:
        images, labels = _batches(_read(builder, split, decoded=True))
        return ArraySource(spec, images, labels, label.num_classes, label.names)
    records = _read(builder, split, decoded=False)
    if small:
        encoded, labels = _batches(records)
        return EncodedSource(spec, encoded, labels, label, channels)
    return StreamSource(spec, records, count, label, channels)


def _leave_accelerators_alone():
    """TensorFlow only reads here: first imported under another backend, it must not claim the memory of that backend's
    device.
    """
    if backend_name() != "tensorflow" and "tensorflow" not in sys.modules:
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")


def _builder(name, data_dir):
    import tensorflow_datasets as tfds

    how = f"prepare it once with tfds.load({name!r}, data_dir=...) and set data_dir or KZOO_DATA_DIR to that folder"
    where = data_dir or "the default TFDS folder"
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (ValueError, AssertionError) as error:  # an unknown set; an unknown version or config
        raise UserError(
            f"TFDS has no data set {name!r} in {where} ({_first_line(error)}); correct the name or {how}."
        ) from error
    if not builder.is_prepared():
        raise UserError(f"the TFDS set {name!r} is not prepared in {where}; {how}.")
    return builder


def _features(spec, features):
    """The image and label features; raises UserError where one is missing."""
    import tensorflow_datasets as tfds

    image, label = (features[key] if key in features else None for key in ("image", "label"))
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise UserError(
            f"{spec} has no pictures with class labels or objects (features: {', '.join(features)}); choose a set for "
            "classification or detection."
        )
    return image, label


def _split(spec, split, splits):
    """The name of the split, or of its synonym for evaluation; several joined by + and parts like train[:99%] are TFDS'
    own words.
    """
    for word in (split, *(EVALUATION if split in EVALUATION else ())):
        if all(part.split("[")[0] in splits for part in word.split("+")):
            return word
    raise UserError(f"{spec} has no split {split!r}; choose one of {', '.join(splits)}.")


def _read(builder, split, *, decoded):
    """A tf.data.Dataset of (picture or its encoded bytes, label) in file order."""
    import tensorflow_datasets as tfds

    skip = None if decoded else {"image": tfds.decode.SkipDecoding()}
    features = tfds.decode.PartialDecoding({"image": True, "label": True}, decoders=skip)
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    dataset = builder.as_dataset(split=split, decoders=features, read_config=config, shuffle_files=False)
    return dataset.map(lambda record: (record["image"], record["label"]))


def _batches(records):
    """Both arrays of a whole data set."""
    parts = zip(*records.batch(1024).as_numpy_iterator(), strict=True)
    return tuple(np.concatenate(part) for part in parts)


def _first_line(error):
    return str(error).splitlines()[0].rstrip(".")


def splits_of(spec, name, data_dir=None):
    """The names of a prepared set's splits."""
    require("tensorflow", "tensorflow_datasets", why=f"the data source {spec}")
    _leave_accelerators_alone()
    return list(_builder(name, data_dir or os.environ.get("KZOO_DATA_DIR")).info.splits)

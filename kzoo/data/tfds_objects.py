"""Prepared TensorFlow Datasets for detection: their `objects`, with boxes ymin, xmin, ymax, xmax in 0..1."""

import numpy as np

from kzoo.data.decode import Picture
from kzoo.data.object_sources import ObjectSource, Table, TableSource, check_boxes, in_pixels, within
from kzoo.data.sources import check_labels

_CROWD = ("is_crowd", "is_difficult")  # the names by which sets mark what is neither trained nor counted as missed


def detects(features):
    """Whether a set's features have pictures without a label of their own, but with objects that have box and label."""
    import tensorflow_datasets as tfds

    objects = getattr(features["objects"], "feature", {}) if "objects" in features and "image" in features else {}
    boxes, label = (objects[key] if key in objects else None for key in ("bbox", "label"))
    return (
        isinstance(boxes, tfds.features.BBoxFeature)
        and isinstance(label, tfds.features.ClassLabel)
        and not ("label" in features and isinstance(features["label"], tfds.features.ClassLabel))
    )


class ObjectStream(ObjectSource):
    """Pictures read from the files in order, epoch by epoch; open(i) is possible but slow. Batches come from
    records().
    """

    streams = True

    def __init__(self, name, records, count, class_names, channels):
        self.name, self.channels = name, channels
        self.class_names, self.num_classes = tuple(class_names), len(class_names)
        self._records, self._count = records, count

    def __len__(self):
        return self._count

    def records(self):
        """A tf.data.Dataset of (encoded picture, its id, its objects as bytes) in a fixed order."""
        return self._records

    def decode(self, encoded, ids, packed, index):
        """(list of Picture, list of objects) of the records (B,) whose sample numbers are index (B,)."""
        pictures = [Picture(one, f"{self.name}[{i}]", self.channels) for one, i in zip(encoded, index, strict=True)]
        found = self._objects(pictures, ids, packed, index)
        return pictures, [within(one, *picture.shape[:2]) for one, picture in zip(found, pictures, strict=True)]

    def open(self, i):
        pictures, objects = self.decode(*self._record(i), [i])
        return pictures[0], objects[0]

    def surveyed(self, most):
        return (self._annotated(i, *record) for i, record in enumerate(self._records.take(most).as_numpy_iterator()))

    def annotated(self, i):
        return self._annotated(i, *(part[0] for part in self._record(i)))

    def _annotated(self, i, encoded, number, packed):
        picture = Picture(encoded, f"{self.name}[{i}]", self.channels)
        return self._objects([picture], [number], [packed], [i])[0], picture.shape[:2]

    def _record(self, i):
        return tuple([part] for part in next(self._records.skip(int(i)).take(1).as_numpy_iterator()))

    def _objects(self, pictures, ids, packed, index):
        table = _table(self.name, ids, list(map(_unpacked, packed)), self.num_classes, index)
        sizes = (picture.shape[:2] for picture in pictures)
        return [in_pixels(table.objects(i), *size, relative=True) for i, size in enumerate(sizes)]


def opened(spec, builder, split, count, in_memory):
    """The Source of a split: as encoded pictures and a table in memory, or a stream."""
    features = builder.info.features
    channels, names = features["image"].shape[-1] or 3, features["objects"].feature["label"].names
    records = _read(builder, split)
    if not in_memory:
        return ObjectStream(spec, records, count, names, channels)
    encoded, ids, packed = zip(*records.as_numpy_iterator(), strict=True)
    table = _table(spec, ids, list(map(_unpacked, packed)), len(names), range(count))

    def picture(i):
        return Picture(encoded[i], f"{spec}[{i}]", channels)

    return TableSource(spec, table, picture, names, channels=channels, relative=True)


def _read(builder, split):
    """A tf.data.Dataset of (encoded picture, id int64, objects as bytes) in file order; no id: the sample's number."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    features = builder.info.features
    known = features["objects"].feature
    crowd = next((key for key in _CROWD if key in known), None)
    numbered = "image/id" in features and np.issubdtype(features["image/id"].np_dtype, np.integer)
    partial = {"image": True, "objects": True} | ({"image/id": True} if numbered else {})
    decoders = tfds.decode.PartialDecoding(partial, decoders={"image": tfds.decode.SkipDecoding()})
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    dataset = builder.as_dataset(split=split, decoders=decoders, read_config=config, shuffle_files=False)

    def packed(number, record):
        objects = record["objects"]
        boxes = tf.cast(objects["bbox"], tf.float64)
        size = tf.zeros(tf.shape(boxes)[0], tf.float64)

        def column(key, missing):
            return tf.cast(objects[key], tf.float64) if key in objects else size + missing

        columns = [column("label", 0), column(crowd, 0), column("area", np.nan)]
        rows = tf.concat([boxes, tf.stack(columns, axis=1)], axis=1)
        return record["image"], record["image/id"] if numbered else number, tf.io.serialize_tensor(rows)

    return dataset.enumerate().map(packed)


def _unpacked(objects):
    """float64 (n, 7) of its bytes: ymin, xmin, ymax, xmax, label, crowd, area, NaN where it is not told."""
    import tensorflow as tf

    return tf.io.parse_tensor(objects, tf.float64).numpy()


def _table(name, ids, rows, classes, index):
    """The Table of the rows (n, 7) of each picture, relative; index: the pictures' sample numbers, for errors."""
    owners = np.repeat(np.arange(len(rows)), list(map(len, rows)))
    every = np.concatenate(rows)
    boxes = every[:, [1, 0, 3, 2]]
    check_boxes(name, boxes, lambda row: f"an object of sample {index[owners[row]]}")
    check_labels(name, every[:, 4].astype(np.int64), classes, np.asarray(index)[owners])
    return Table.of_rows(ids, owners, boxes, every[:, 4], every[:, 5] > 0, every[:, 6])

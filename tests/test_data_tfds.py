"""TFDS sources on small sets that are written here, in each of the three ways they are read."""

import numpy as np
import pytest

from kzoo import data
from kzoo.data import tfds_source
from kzoo.data.object_report import survey
from kzoo.data.objects import ObjectBatching
from kzoo.errors import UserError
from kzoo.schema import Augment, BoxAugment
from kzoo.specs import Preprocessing
from tests.loaders import labels_loader

tfds = pytest.importorskip("tensorflow_datasets")
RNG = np.random.default_rng(3)
NAMES = ("ant", "bee", "cow")


def write(root, name, images, labels, features=None):
    """A prepared TFDS set `name` with a train and a validation split, every third sample in the latter; labels: numbers,
    or what a sample of such features has beside its image.
    """
    import tensorflow as tf

    shape = images[0].shape if len({image.shape for image in images}) == 1 else (None, None, 3)
    features = features or tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=NAMES),
        }
    )
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    template = tfds.core.ShardedFileTemplate(data_dir=folder, dataset_name=name, filetype_suffix="tfrecord")
    infos = []
    for split, keep in (("train", lambda i: i % 3), ("validation", lambda i: not i % 3)):
        examples = [
            {"image": image} | (label if isinstance(label, dict) else {"label": label})
            for i, (image, label) in enumerate(zip(images, labels, strict=True))
            if keep(i)
        ]
        records = [
            features.serialize_example(features.encode_example({key: example[key] for key in features}))
            for example in examples
        ]
        with tf.io.TFRecordWriter(str(folder / f"{name}-{split}.tfrecord-00000-of-00001")) as file:
            for record in records:
                file.write(record)
        size = sum(map(len, records))
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(records)],
                num_bytes=size,
                filename_template=template.replace(split=split),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=infos, filename_template=template
    )


@pytest.fixture(scope="module")
def pictures():
    return {
        "equal": [RNG.integers(0, 256, (9, 8, 3), dtype=np.uint8) for _ in range(30)],
        "varied": [RNG.integers(0, 256, (9 + i % 4, 8 + i % 3, 3), dtype=np.uint8) for i in range(30)],
    }


@pytest.fixture(scope="module")
def root(pictures, tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    for name, images in pictures.items():
        write(root, name, images, [i % 3 for i in range(30)])
    return root


@pytest.fixture(
    params=[("equal", 2**30, "ArraySource"), ("varied", 2**30, "EncodedSource"), ("varied", 0, "StreamSource")],
    ids=lambda p: p[2],
)
def made(request, root, monkeypatch):
    """(set name, function that opens a split of it) for each way of reading."""
    name, limit, kind = request.param
    monkeypatch.setattr(tfds_source, "IN_MEMORY", limit)

    def opened(split):
        source = data.open_source(f"tfds:{name}", split, data_dir=root)
        assert type(source).__name__ == kind
        return source

    return name, opened


def test_every_way_of_reading_gives_the_pictures_in_file_order(made, pictures):
    name, opened = made
    for split, numbers in (("train", [i for i in range(30) if i % 3]), ("test", range(0, 30, 3))):
        source = opened(split)  # validation answers to test
        assert (len(source), source.num_classes, source.class_names, source.channels) == (len(numbers), 3, NAMES, 3)
        for i in (0, 4, len(numbers) - 1):
            image, label = source.read(i)
            np.testing.assert_array_equal(image, pictures[name][numbers[i]])
            assert (image.dtype, label) == (np.uint8, numbers[i] % 3)
    assert len(opened("train[:25%]")) == 5


def loader(source, **options):
    return labels_loader(
        source, image_size=(8, 8), channels=3, preprocessing=Preprocessing(), batch_size=4, engine="tf", **options
    )


def listed(batches):
    return list(batches.as_numpy_iterator())


def test_splits_are_joined_and_cut_in_the_words_of_tfds(made, pictures):
    name, opened = made
    numbers = [i for i in range(30) if i % 3][:10] + [0, 3, 6, 9]
    source = opened("train[:50%]+validation[:4]")
    assert len(source) == 14
    for i in (0, 9, 10, 13):
        np.testing.assert_array_equal(source.read(i)[0], pictures[name][numbers[i]])
    with pytest.raises(UserError, match="choose one of train, validation"):
        opened("train+extra")


def test_batches_resume_bit_for_bit(made):
    _, opened = made
    made_twice = [
        loader(opened("train"), augment=Augment(crop_scale=(0.3, 1.0), flip=0.5, shift=2), seed=1) for _ in range(2)
    ]
    whole = listed(made_twice[0].epoch(1))
    assert len(whole) == made_twice[0].steps_per_epoch == 5
    for start in (0, 3, 5):
        tail = listed(made_twice[1].epoch(1, start_step=start))
        assert len(tail) == 5 - start == len(made_twice[1].epoch(1, start_step=start))
        for (images, labels), (want_images, want_labels) in zip(tail, whole[start:], strict=True):
            np.testing.assert_array_equal(images, want_images)
            np.testing.assert_array_equal(labels, want_labels)
    other = listed(made_twice[0].epoch(2))
    assert any((a[0] != b[0]).any() for a, b in zip(whole, other, strict=True))


def test_an_epoch_visits_every_picture_once_and_evaluation_pads(made, pictures):
    name, opened = made
    plain = loader(opened("train"))
    prepared = np.stack(
        [data.prepare(image, (8, 8), Preprocessing()) for i, image in enumerate(pictures[name]) if i % 3]
    )
    seen = np.concatenate([images for images, _ in listed(plain.epoch(0))])
    distance = np.abs(seen[:, None] - prepared).max(axis=(2, 3, 4))
    assert sorted(distance.argmin(axis=1)) == list(range(20)) and distance.min(axis=1).max() < 1e-4
    batches = listed(loader(opened("test")).evaluation())
    images, labels, weights = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert weights.tolist() == [1] * 10 + [0] * 2 and labels[:10].tolist() == [0] * 10
    want = [data.prepare(image, (8, 8), Preprocessing()) for image in pictures[name][::3]]
    np.testing.assert_allclose(images[:10], want, atol=1e-5)


def test_a_stream_needs_tensorflow_for_its_batches(root, monkeypatch):
    monkeypatch.setattr(tfds_source, "IN_MEMORY", 0)
    source = data.open_source("tfds:varied", "train", data_dir=root)
    with pytest.raises(UserError, match="choose the engine 'tf' or 'auto'"):
        labels_loader(
            source, image_size=(8, 8), channels=3, preprocessing=Preprocessing(), batch_size=4, engine="numpy"
        )
    with pytest.raises(UserError, match="too large to be packed"):
        data.pack("tfds:varied", root / "set.npz", data_dir=root)


@pytest.mark.parametrize("limit", [2**30, 0])
def test_a_label_out_of_range_is_named(tmp_path, pictures, monkeypatch, limit):
    monkeypatch.setattr(tfds_source, "IN_MEMORY", limit)
    write(tmp_path, "hidden", pictures["varied"], [-1 if i == 12 else 0 for i in range(30)])
    with pytest.raises(UserError, match=r"tfds:hidden: sample 4 has label -1, outside 0..2"):
        batches = loader(data.open_source("tfds:hidden", "validation", data_dir=tmp_path))
        with batches.plain_errors():
            listed(batches.evaluation())


def test_what_is_not_there_is_told_with_the_remedy(root, monkeypatch):
    monkeypatch.setenv("KZOO_DATA_DIR", str(root))
    assert len(data.open_source("tfds:equal", "train")) == 20
    for name, message in (
        ("mnist", f"'mnist' is not prepared in {root}; prepare it once with tfds.load"),
        ("no_such_set", f"no data set 'no_such_set' in {root} .*correct the name or prepare it"),
        ("equal:9.9.9", "no data set 'equal:9.9.9'"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            data.open_source(f"tfds:{name}", "train")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no split 'extra'; choose one of train, validation"):
        data.open_source("tfds:equal", "extra")


def objects_of(name):
    """(features, 30 samples beside their images, none of every fifth): as in COCO, VOC or with no more than boxes."""
    feature = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=NAMES)}
    more = {"coco": {"is_crowd": np.bool_, "area": np.int64}, "voc": {"is_difficult": np.bool_}, "plain": {}}[name]
    top = {"image": tfds.features.Image(shape=(None, None, 3), encoding_format="png")}
    top |= {"image/id": np.int64} if name == "coco" else {}
    features = tfds.features.FeaturesDict(top | {"objects": tfds.features.Sequence(feature | more)})
    samples = []
    for i in range(30):
        rows = [
            {
                "bbox": tfds.features.BBox(ymin=0.25, xmin=0.5, ymax=0.75 + k / 16, xmax=1.0),
                "label": (i + k) % 3,
                "is_crowd": k == 1,
                "is_difficult": k == 1,
                "area": 10 * i + k,
            }
            for k in range(i % 5)
        ]
        known = [{key: row[key] for key in feature | more} for row in rows]
        samples.append({"objects": known} | ({"image/id": 1000 - i} if name == "coco" else {}))
    return features, samples


@pytest.mark.parametrize("limit", [2**30, 0], ids=["memory", "stream"])
@pytest.mark.parametrize("name", ["coco", "voc", "plain"])
def test_objects_are_read_in_pixels(tmp_path, pictures, monkeypatch, name, limit):
    monkeypatch.setattr(tfds_source, "IN_MEMORY", limit)
    features, samples = objects_of(name)
    write(tmp_path, f"my_{name}", pictures["varied"], samples, features)
    source = data.open_source(f"tfds:my_{name}", "train", data_dir=tmp_path)
    assert (source.targets, source.class_names, source.streams, len(source)) == ("objects", NAMES, not limit, 20)
    numbers = [i for i in range(30) if i % 3]
    for place in (0, 3, 13):
        i, (picture, objects) = numbers[place], source.read(place)
        np.testing.assert_array_equal(picture, pictures["varied"][i])
        height, width = picture.shape[:2]
        k = np.arange(i % 5)[:, None]
        boxes = np.concatenate([0 * k + 0.5 * width, 0 * k + 0.25 * height, 0 * k + width, (0.75 + k / 16) * height], 1)
        np.testing.assert_allclose(objects["boxes"], boxes.reshape(-1, 4), rtol=1e-6)
        assert objects["labels"].tolist() == [(i + n) % 3 for n in range(i % 5)]
        assert objects["crowd"].tolist() == [n == 1 and name != "plain" for n in range(i % 5)]
        area = (
            [10 * i + n for n in range(i % 5)]
            if name == "coco"
            else (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        )
        np.testing.assert_allclose(objects["area"], area, rtol=1e-6)
        assert objects["image_id"] == (1000 - i if name == "coco" else place)
    facts = survey(source)
    assert facts["objects"] + facts["crowds"] == sum(i % 5 for i in numbers)
    assert facts["looked_at"] == 20 and facts["suspicion"] is None
    take = data.Take((8, 8), 3, Preprocessing())
    batches = data.Loader(source, ObjectBatching(take, source, max_boxes=4, augment=BoxAugment(scales=())), 4, 0, "tf")
    (x, y), *rest = listed(batches.epoch(0))
    assert len(rest) == 4 and x["image"].shape == (4, 8, 8, 3) and y["boxes"].shape == (4, 4, 4)
    ids = np.concatenate([y["image_id"][weights > 0] for _, y, weights in listed(batches.evaluation())])
    assert ids.tolist() == [source.read(place)[1]["image_id"] for place in range(20)]


def test_a_wrong_object_is_named_by_its_sample(tmp_path, pictures, monkeypatch):
    features, samples = objects_of("plain")
    samples[4]["objects"][2]["label"] = -1
    write(tmp_path, "odd", pictures["varied"], samples, features)
    with pytest.raises(UserError, match="tfds:odd: sample 2 has label -1, outside 0..2"):
        data.open_source("tfds:odd", "train", data_dir=tmp_path)


def test_a_set_without_labels_is_refused(tmp_path, pictures):
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3))})
    write(tmp_path, "unlabelled", pictures["varied"], [0] * 30, features)
    with pytest.raises(UserError, match="no pictures with class labels or objects .features: image.; choose a set"):
        data.open_source("tfds:unlabelled", "train", data_dir=tmp_path)

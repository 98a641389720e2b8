"""Sources of pictures with objects: what COCO's and VOC's files mean, what is wrong in them, packing, shapes."""

import json

import numpy as np
import pytest
from PIL import Image

from kzoo import data
from kzoo.errors import UsageError, UserError

SIZES = {30: (20, 30), 4: (24, 16), 17: (10, 10), 9: (12, 40)}  # {image id: (height, width)}
CATEGORIES = [{"id": 90, "name": "zebra"}, {"id": 3, "name": "car"}, {"id": 7, "name": "dog"}]
ANNOTATIONS = [
    {"id": 1, "image_id": 30, "category_id": 7, "bbox": [2, 3, 10.5, 4], "area": 30.5, "iscrowd": 0},
    {"id": 2, "image_id": 4, "category_id": 90, "bbox": [-2, 20, 8, 10], "iscrowd": 0, "segmentation": [[1, 2]]},
    {"id": 3, "image_id": 30, "category_id": 3, "bbox": [0, 0, 30, 20], "area": 99, "iscrowd": 1},
    {"id": 4, "image_id": 30, "category_id": 3, "bbox": [5, 5, 0, 9], "area": 0, "iscrowd": 0},  # no width
    {"id": 5, "image_id": 9, "category_id": 3, "bbox": [50, 2, 5, 5], "area": 25, "iscrowd": 0},  # beside the picture
    {"id": 6, "image_id": 9, "category_id": 3, "bbox": [1, 2, 5, 5]},
]


def coco(root, split="train", **changed):
    """Writes a set in COCO's format, its lists replaced by those given; returns the source's name for that split."""
    (root / f"{split}2017").mkdir(parents=True, exist_ok=True)
    for number, size in SIZES.items():
        Image.new("RGB", size[::-1], (number, 0, 0)).save(root / f"{split}2017" / f"{number:012}.png")
    images = [
        {"id": number, "file_name": f"{number:012}.png", "height": size[0], "width": size[1]}
        for number, size in SIZES.items()
    ]
    content = {"images": images, "annotations": ANNOTATIONS, "categories": CATEGORIES} | changed
    (root / f"instances_{split}2017.json").write_text(json.dumps(content))
    return f"coco:{root}/{{split}}2017,{root}/instances_{{split}}2017.json"


def test_coco_is_read_as_its_own_tools_and_detrs_loader_do(tmp_path):
    pycocotools = pytest.importorskip("pycocotools.coco")
    source = data.open_source(coco(tmp_path), "train")
    reference = pycocotools.COCO(tmp_path / "instances_train2017.json")
    assert source.targets == "objects" and source.class_names == ("car", "dog", "zebra")
    assert source.category_ids == tuple(sorted(reference.getCatIds())) == (3, 7, 90)
    assert len(source) == 4
    for i, number in enumerate(sorted(reference.getImgIds())):
        picture, objects = source.read(i)
        height, width = SIZES[number]
        assert picture.shape == (height, width, 3) and picture[0, 0].tolist() == [number, 0, 0]
        assert objects["image_id"] == number
        wanted = []
        for annotation in reference.loadAnns(reference.getAnnIds(number)):
            x, y, w, h = annotation["bbox"]
            x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
            if x1 > x0 and y1 > y0:
                label = source.category_ids.index(annotation["category_id"])
                wanted.append((x0, y0, x1, y1, label, annotation.get("iscrowd", 0), annotation.get("area", w * h)))
        columns = [objects[key][..., None] for key in ("labels", "crowd", "area")]
        found = np.concatenate([objects["boxes"], *columns], axis=1)
        np.testing.assert_array_equal(found, np.reshape(wanted, (-1, 7)))
    assert [len(objects["labels"]) for objects in source.batch(np.arange(4))[1]] == [1, 1, 0, 2]


def test_coco_splits_by_name_or_a_tenth_by_id(tmp_path):
    assert len(data.open_source(coco(tmp_path, "val"), "test")) == 4  # val answers to test
    with pytest.raises(UserError, match="there is no folder .*train2017"):
        data.open_source(coco(tmp_path, "val"), "train")
    whole = f"coco:{tmp_path}/val2017,{tmp_path}/instances_val2017.json"
    parts = {split: data.open_source(whole, split) for split in ("train", "test")}
    ids = {split: [source.read(i)[1]["image_id"] for i in range(len(source))] for split, source in parts.items()}
    assert sorted(ids["train"] + ids["test"]) == sorted(SIZES) and len(ids["test"]) == 1
    assert parts["test"].class_names == parts["train"].class_names
    with pytest.raises(UserError, match="no split 'extra'; choose train or test"):
        data.open_source(whole, "extra")


def test_a_picture_of_another_size_is_told_and_one_that_exif_turns_lies_as_its_boxes_do(tmp_path):
    name, path = coco(tmp_path), tmp_path / "train2017" / f"{30:012}.png"
    picture, exif = Image.new("RGB", (30, 20)), Image.Exif()  # 20 high, as the file says
    picture.paste((255, 0, 0), (0, 0, 4, 4))
    exif[0x0112] = 6  # a quarter turn
    picture.save(path, exif=exif)
    found, objects = data.open_source(name, "train").read(3)
    assert (
        found.shape == (20, 30, 3)
        and found[1, 1].tolist() == [255, 0, 0]
        and objects["boxes"][1].tolist() == [*(0, 0, 30, 20)]
    )
    content = json.loads((tmp_path / "instances_train2017.json").read_text())
    content["images"][0] |= {"height": 30, "width": 20}  # as it is seen
    (tmp_path / "instances_train2017.json").write_text(json.dumps(content))
    assert data.open_source(name, "train").read(3)[0].shape == (30, 20, 3)
    picture.resize((15, 10)).save(path)
    with pytest.raises(
        UserError, match=r"30.png is 10 x 15 \(height, width\), its annotations .* of 30 x 20: put that"
    ):
        data.open_source(name, "train").read(3)


def with_first(**changed):
    return {"annotations": [ANNOTATIONS[0] | changed, *ANNOTATIONS[1:]]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (with_first(image_id=5), "annotation 1 is of the image 5, which the file does not list"),
        (with_first(category_id=4), "annotation 1 is of the category 4, which the file does not list"),
        (with_first(id=6), "annotation 6 comes twice"),
        (with_first(bbox=[1, 2, 3]), r"annotation 1 has the bbox \[1, 2, 3\], not four numbers"),
        (with_first(bbox=[1, 2, 3, "4"]), "annotation 1 has the bbox .* not four numbers"),
        (with_first(bbox=[1, 2, 3, float("nan")]), "annotation 1 has the bbox .* not four numbers"),
        (with_first(bbox=[9, 2, -3, 4]), "annotation 1 has the bbox .* whose width or height is below 0"),
        (with_first(bbox=None), "annotation 1 has the bbox None"),
        (with_first(area="big"), "annotation 1 has the area 'big', not a number"),
        (with_first(image_id=[3]), "annotation 1 is not what COCO's format has there"),
        ({"annotations": [7]}, "annotation number 0 is not what COCO's format has there"),
        ({"annotations": {}}, "not in COCO's format, an object with the lists images, annotations, categories"),
        ({"categories": [{"id": 3}, {"id": 3}]}, "the category id 3 comes twice"),
        ({"categories": []}, "lists no categories"),
        ({"images": [{"id": 4, "file_name": "a.png"}] * 2}, "the image id 4 comes twice"),
        ({"images": [{"id": "4", "file_name": "a.png"}]}, "image number 0 has no id, a whole number"),
        ({"images": [{"id": 4, "file_name": "a.png"}]}, r"1 pictures, of which 1 are not in .*a.png \(image 4\)"),
    ],
)
def test_coco_errors_name_the_file_and_the_annotation(tmp_path, changed, message):
    name = coco(tmp_path, **changed)
    with pytest.raises(UserError, match=message) as caught:
        data.open_source(name, "train")
    assert "instances_train2017.json" in str(caught.value) and "\n" not in str(caught.value)


def test_coco_needs_both_parts_and_a_file_that_is_json(tmp_path):
    for spec, kind, message in (
        ("coco", UsageError, "needs a name or path"),
        ("coco:pictures", UsageError, "it takes coco:IMAGES,ANNOTATIONS.json"),
        (f"coco:{tmp_path},{tmp_path}/a.json", UserError, "there is no file .*a.json"),
    ):
        with pytest.raises(kind, match=message):
            data.open_source(spec, "train")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match="a.json is damaged or not what it seems"):
        data.open_source(f"coco:{tmp_path},{tmp_path}/a.json", "train")


def xml(path, objects, size=(20, 30), picture=True):
    """Writes an annotation, objects (name, difficult, (xmin, ymin, xmax, ymax)), and the picture of its name."""
    parts = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><part><bndbox><xmin>0</xmin></bndbox></part>"
        f"<bndbox><xmax>{box[2]}</xmax><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><ymax>{box[3]}</ymax></bndbox></object>"
        for name, difficult, box in objects
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    told = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    path.write_text(f"<annotation><filename>other.jpg</filename>{told}{parts}</annotation>")
    if picture:
        folder = path.parent.parent / "JPEGImages" if path.parent.name == "Annotations" else path.parent
        folder.mkdir(exist_ok=True)
        Image.new("RGB", size[::-1], (len(objects), 0, 0)).save(folder / f"{path.stem}.png")


def voc(root):
    for stem, objects in {
        "2007_a": [("dog", 0, (1, 1, 30, 20)), ("cat", 1, (4, 5, 6, 7))],
        "2007_b": [],
        "2007_c": [("emu", 0, (11, 2, 40, 9.5))],
    }.items():
        xml(root / "Annotations" / f"{stem}.xml", objects)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_c\n2007_a\n")
    (lists / "val.txt").write_text("2007_b -1\n")
    (lists / "cat_train.txt").write_text("2007_a 1\n2007_c -1\n")
    return f"voc:{root}"


def test_voc_boxes_count_from_one_and_difficult_is_crowd(tmp_path):
    train, test = (data.open_source(voc(tmp_path / word), word) for word in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog", "emu")
    assert (len(train), len(test)) == (2, 1) and test.read(0)[1]["boxes"].shape == (0, 4)
    picture, objects = train.read(1)  # in the order of the list
    assert picture.shape == (20, 30, 3) and picture[0, 0].tolist() == [2, 0, 0]
    assert objects["boxes"].tolist() == [[0, 0, 30, 20], [3, 4, 6, 7]]
    assert objects["labels"].tolist() == [1, 0] and objects["crowd"].tolist() == [False, True]
    assert objects["area"].tolist() == [600, 9]
    assert train.read(0)[1]["boxes"].tolist() == [[10, 1, 30, 9.5]]  # cut to the picture
    assert {train.read(i)[1]["image_id"] for i in range(2)} | {test.read(0)[1]["image_id"]} == {0, 1, 2}


def test_voc_beside_the_pictures(tmp_path, capsys):
    for i in range(10):
        xml(tmp_path / "own" / f"{i}.xml", [("ab"[i % 2], 0, (1, 1, 5, 5))], picture=i != 3)
    Image.new("RGB", (8, 8)).save(tmp_path / "own" / "unlabelled.png")
    with pytest.raises(UserError, match="3.xml has no picture of its name"):
        [data.open_source(f"voc:{tmp_path}/own", split) for split in ("train", "test")]
    Image.new("RGB", (8, 8)).save(tmp_path / "own" / "3.jpg")
    capsys.readouterr()
    train, test = (data.open_source(f"voc:{tmp_path}/own", split) for split in ("train", "test"))
    assert len(train) + len(test) == 10 and len(test) >= 1 and train.class_names == ("a", "b")
    assert "passed over 1 pictures without an XML file, as unlabelled" in capsys.readouterr().err
    for split, count in (("train", 3), ("valid", 2)):  # as some tools export it
        for i in range(count):
            xml(tmp_path / "split" / split / f"{i}.xml", [(split, 0, (1, 1, 5, 5))])
    train, test = (data.open_source(f"voc:{tmp_path}/split", split) for split in ("train", "test"))
    assert (len(train), len(test), train.class_names) == (3, 2, ("train", "valid")) and test.read(1)[1]["labels"] == [1]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: xml(root / "Annotations/2007_a.xml", [("dog", 0, (9, 1, 2, 5))]), "object 1 of .*a.xml has exch"),
        (lambda root: xml(root / "Annotations/2007_a.xml", [("dog", 0, ("", 1, 2, 5))]), "a.xml: object 1 has no name"),
        (lambda root: xml(root / "Annotations/2007_a.xml", [("", 0, (1, 1, 2, 5))]), "a.xml: object 1 has no name"),
        (lambda root: xml(root / "Annotations/2007_a.xml", [("a", 0, (1, 1, "nan", 5))]), "corners that are no number"),
        (lambda root: (root / "Annotations/2007_a.xml").write_text("<annotation>"), "a.xml is damaged"),
        (
            lambda root: (root / "Annotations/2007_a.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><a/>'),
            "a.xml declares a document type",
        ),
        (lambda root: (root / "ImageSets/Main/train.txt").write_text("x\n"), "picture x has no x.xml"),
        (lambda root: (root / "ImageSets/Main/train.txt").write_text("2007_a\n2007_a"), "picture 2007_a comes twice"),
        (lambda root: (root / "ImageSets/Main/train.txt").write_text("\n"), "no pictures in the split 'train'"),
        (lambda root: (root / "ImageSets/Main/train.txt").unlink(), "no split 'train', only val"),
        (lambda root: (root / "JPEGImages/2007_a.png").unlink(), "2007_a.xml has no picture of its name"),
    ],
)
def test_voc_errors_name_the_file(tmp_path, break_it, message):
    name = voc(tmp_path)
    break_it(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        data.open_source(name, "train")
    assert "\n" not in str(caught.value)


def assert_same(source, other):
    assert len(source) == len(other) and source.class_names == other.class_names
    assert source.category_ids == other.category_ids
    for i in range(len(source)):
        (picture, objects), (again, others) = source.read(i), other.read(i)
        np.testing.assert_array_equal(again, picture)
        assert set(others) == set(objects)
        for key in objects:
            np.testing.assert_array_equal(others[key], objects[key])


@pytest.mark.parametrize("kind", ["coco", "voc", "shapes:n=5"])
def test_pack_and_read_back_pictures_of_any_size(tmp_path, kind):
    made = {"coco": lambda: [coco(tmp_path / "set", split) for split in ("train", "test")][0]}
    name = made.get(kind, {"voc": lambda: voc(tmp_path / "set")}.get(kind, lambda: kind))()
    file = data.pack(name, tmp_path / "set.npz")
    for split in ("train", "test"):
        assert_same(data.open_source(name, split), data.open_source(f"npz:{file}", split))


ARRAYS = {
    "images": np.zeros((3, 8, 9, 3), np.uint8),
    "boxes": np.array([[0, 1, 4, 5], [2, 2, 9.5, 8]]),
    "labels": np.array([1, 0]),
    "counts": np.array([1, 0, 1]),
}


def test_npz_of_ones_own(tmp_path):
    np.savez(tmp_path / "a.npz", **{f"train_{key}": value for key, value in ARRAYS.items()}, class_names=["x", "y"])
    source = data.open_source(f"npz:{tmp_path}/a.npz", "train")
    assert (len(source), source.class_names, source.channels) == (3, ("x", "y"), 3)
    found = [source.read(i)[1] for i in range(3)]
    assert [one["boxes"].tolist() for one in found] == [[[0, 1, 4, 5]], [], [[2, 2, 9, 8]]]
    assert [one["labels"].tolist() for one in found] == [[1], [], [0]] and found[2]["area"].tolist() == [45]
    np.savez(tmp_path / "b.npz", **ARRAYS, ids=np.array([5, 6, 7]))
    train, test = (data.open_source(f"npz:{tmp_path}/b.npz", split) for split in ("train", "test"))
    ids = [source.read(i)[1]["image_id"] for source in (train, test) for i in range(len(source))]
    assert sorted(ids) == [5, 6, 7] and len(test) == 1 and train.num_classes == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes": ARRAYS["boxes"][:, :3]}, r"boxes must be numbers of shape \(any, 4\), not float64 \(2, 3\)"),
        ({"boxes": np.array([[0, 1, 4, 5], [4, 2, 3, 3.0]])}, r"row 1 of boxes, of sample 2, has exchanged corners"),
        ({"labels": np.array([1])}, r"labels must be whole numbers of shape \(2\)"),
        ({"labels": np.array([1, -1])}, "sample 2 has label -1"),
        ({"counts": np.array([1, 1, 1])}, "counts add up to 3, but boxes holds 2"),
        ({"counts": None}, "has boxes, but no counts"),
        ({"crowd": np.array([1, 0])}, "crowd must be truth values"),
        ({"images": np.zeros((3, 8, 9, 3))}, "images must be uint8"),
        ({"images": None}, "has boxes, but no encoded"),
    ],
)
def test_npz_errors_name_the_array(tmp_path, changed, message):
    arrays = {key: value for key, value in (ARRAYS | changed).items() if value is not None}
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError, match=message):
        data.open_source(f"npz:{tmp_path}/set.npz", "train")


def test_shapes_lie_exactly_in_their_boxes():
    source = data.open_source("shapes:n=24,size=48,max=5", "train")
    seen, empty, sizes = set(), 0, set()
    for i in range(24):
        picture, objects = source.read(i)
        np.testing.assert_array_equal(source.read(i)[0], picture)
        sizes.add(picture.shape)
        empty += not len(objects["labels"])
        for x0, y0, x1, y1 in objects["boxes"].astype(int):
            inside, times = np.unique(picture[y0:y1, x0:x1].reshape(-1, 3), axis=0, return_counts=True)
            rows, columns = np.nonzero((picture == inside[times.argmax()]).all(axis=-1))
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [x0, y0, x1, y1]
        seen.update(objects["labels"].tolist())
        assert len(objects["labels"]) <= 5
    assert seen == {0, 1, 2} and len(sizes) > 10
    other = data.open_source("shapes:n=24,size=48,max=5", "test")
    assert len(other) == 24 and (
        other.read(0)[0].shape != source.read(0)[0].shape or (other.read(0)[0] != source.read(0)[0]).any()
    )
    assert len(data.open_source("shapes:n=2000", "test")) == 200

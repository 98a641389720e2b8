"""One's own data: CSV files, what is held out, weights of classes, balanced epochs, bad pictures that are skipped."""

import collections
import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

import kzoo
from kzoo import data, schema
from kzoo.data.division import Division
from kzoo.data.npz import open_npz
from kzoo.data.randomness import REPETITION
from kzoo.data.skipping import Skipping
from kzoo.data.sources import ArraySource
from kzoo.data.weighting import balanced, class_weights
from kzoo.errors import UsageError, UserError
from kzoo.schema import Augment, Data
from kzoo.settings import override
from kzoo.specs import Preprocessing
from kzoo.training.plan import Plan
from tests.loaders import labels_loader

COLOURS = {"cat": (200, 0, 0), "dog": (0, 200, 0), "eel": (0, 0, 200)}


def paint(root, *names, size=(4, 3)):
    """Pictures of the class whose name is in their path, each with a colour of its own."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        colour = next((c for word, c in COLOURS.items() if word in name), (9, 9, 9))
        Image.new("RGB", size, tuple(np.add(colour, number % 50).tolist())).save(root / name)


def written(root, text, name="set.csv"):
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"csv:{path}"


def paths_of(source):
    return [source.where(i).split(" (")[0] for i in range(len(source))]


# ---------------------------------------------------------------------------------------------------------------- CSV


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split\na.png,cat,train\nsub/b.png,dog,train\nc.png,dog,test\n",
        "\ufefflabel,split,image\r\ncat,train,a.png\r\ndog,TRAIN,sub/b.png\r\n\r\ndog,val,c.png\r\n",
        'Filename,Class,split\n"a.png","cat",train\n"./sub/b.png", dog,training\nc.png,dog,valid',
    ],
    ids=["plain", "BOM and CRLF", "quotes"],
)
def test_a_csv_with_splits(tmp_path, text):
    paint(tmp_path, "a.png", "sub/b.png", "c.png")
    train, test = (data.open_source(written(tmp_path, text), split) for split in ("train", "test"))
    assert (train.class_names, train.multilabel, len(train), len(test)) == (("cat", "dog"), False, 2, 1)
    assert [train.read(i)[1] for i in range(2)] == train.all_labels().tolist() == [0, 1]
    assert test.read(0)[1] == 1
    np.testing.assert_array_equal(train.read(1)[0], np.asarray(Image.open(tmp_path / "sub/b.png")))
    pictures, labels = train.batch([1, 0])
    assert labels.dtype == np.int32 and labels.tolist() == [1, 0] and len(pictures) == 2


def test_a_csv_without_header_or_split_holds_out_the_tenth_of_a_folder(tmp_path):
    names = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(100)]
    paint(tmp_path, *names)
    lines = [f"{tmp_path / name if i % 2 else name},{name[:3]}" for i, name in enumerate(names)]
    spec = written(tmp_path, "\n".join(lines))
    for split in ("train", "test"):
        listed, folder = data.open_source(spec, split), data.open_source(f"folder:{tmp_path}", split)
        assert sorted(paths_of(listed)) == sorted(paths_of(folder)) and listed.class_names == folder.class_names
        assert np.bincount(listed.all_labels()).tolist() == np.bincount(folder.all_labels()).tolist()


def test_whole_numbers_as_labels_are_in_their_order(tmp_path):
    paint(tmp_path, *(f"{i}.png" for i in range(11)))
    spec = written(tmp_path, "path,label,split\n" + "".join(f"{i}.png,{i},train\n" for i in range(11)))
    assert data.open_source(spec, "train").class_names == tuple(map(str, range(11)))


@pytest.mark.parametrize(
    "text",
    [
        "path,labels,split\na.png,cat|dog,train\nb.png,,train\nc.png,dog,test\n",
        "path,labels,split\na.png,dog; cat,train\nb.png,,train\nc.png,dog,test\n",
        "path,cat,split,dog\na.png,1,train,1\nb.png,0,train,0\nc.png,0,test,1\n",
    ],
    ids=["|", ";", "columns"],
)
def test_a_csv_with_several_labels(tmp_path, text):
    paint(tmp_path, "a.png", "b.png", "c.png")
    spec = written(tmp_path, text)
    train, test = (data.open_source(spec, split) for split in ("train", "test"))
    assert train.multilabel and train.targets == "label" and train.class_names == ("cat", "dog")
    assert train.all_labels().tolist() == [[1, 1], [0, 0]] and test.all_labels().tolist() == [[0, 1]]
    assert train.read(0)[1].dtype == np.float32 and train.batch([1, 0])[1].tolist() == [[0, 0], [1, 1]]
    file = data.pack(spec, tmp_path / "set.npz")
    for split, source in (("train", train), ("test", test)):
        packed = data.open_source(f"npz:{file}", split)
        assert packed.multilabel and packed.class_names == source.class_names
        np.testing.assert_array_equal(packed.batch(np.arange(len(source)))[1], source.all_labels())
        np.testing.assert_array_equal(packed.read(0)[0], source.read(0)[0])
    np.savez(tmp_path / "odd.npz", multilabel=True, images=np.zeros((3, 2, 2), np.uint8), labels=np.full((3, 2), 2))
    with pytest.raises(UserError, match="sample 0 has labels other than 0 and 1"):
        open_npz("odd", tmp_path / "odd.npz", "train")


@pytest.mark.parametrize("engine", ["tf", "numpy"])
@pytest.mark.parametrize("augment", [None, Augment(mixup=0.8, cutmix=1.0)], ids=["plain", "mixed"])
def test_batches_of_several_labels(tmp_path, engine, augment):
    paint(tmp_path, *(f"{i}.png" for i in range(5)))
    rows = "".join(f"{i}.png,{'cat|dog' if i % 2 else 'dog|eel'},train\n" for i in range(5))
    source = data.open_source(written(tmp_path, "path,label,split\n" + rows), "train")
    options = {"image_size": (4, 4), "channels": 3, "preprocessing": Preprocessing(), "batch_size": 4}
    loader = labels_loader(source, augment=augment, engine=engine, num_classes=3, **options)
    (images, targets), *_ = [tuple(map(np.asarray, batch)) for batch in loader.epoch(0)]
    assert images.shape == (4, 4, 4, 3) and targets.shape == (4, 3) and targets.dtype == np.float32
    np.testing.assert_allclose(targets[:, 1], 1, rtol=1e-6)  # every picture has it, and every mixture
    np.testing.assert_allclose(targets.sum(axis=1), 2, rtol=1e-6)
    assert augment is not None or set(targets.ravel()) == {0, 1}
    batches = [tuple(map(np.asarray, batch)) for batch in loader.evaluation()]
    np.testing.assert_array_equal(np.concatenate([y for _, y, _ in batches])[:5], source.all_labels())
    assert np.concatenate([weights for *_, weights in batches]).tolist() == [1] * 5 + [0] * 3


HEAD = "path,label,split\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "a.png,cat,train\nb.png,dog,train\nx.png,dog,test\n", "line 4: there is no picture .*x.png; "),
        (HEAD + "y.png,cat,train\nx.png,dog,test\n", r"line 2: there is no picture .*y.png \(2 such lines\)"),
        (HEAD + "a.png,cat,train\nb.png, ,test\n", "line 3 has an empty label"),
        (HEAD + "a.png,cat||dog,train\n", "line 2 has an empty label"),
        (HEAD + ",cat,train\n", "line 2 names no picture"),
        (HEAD + "a.png,cat,tain\n", "line 2 has the split 'tain', which is none of train, training, test"),
        (
            HEAD + "a.png,cat,train\nb.png,dog,train\na.png,dog,train\n",
            "line 4 has the picture a.png of line 2 with an",
        ),
        (HEAD + "a.png,cat,train\n./a.png,cat,test\n", "line 3 has the picture a.png of line 2 with another split"),
        (HEAD + "a.png,cat\n", "line 2 has 2 columns, not 3: a header row says"),
        (HEAD + "a.png,cat,big,train\n", "line 2 has 4 columns, not 3: .*; put a field with a comma into quotes"),
        (HEAD + '"a\n.png",cat,train\nb.png,cat\n', "line 4 has 2 columns"),
        (HEAD + 'a.png,"cat,train\n', "line 2 cannot be read as CSV"),
        ((HEAD + "a.png,cat,train\n").encode() + b"b.png,caf\xe9,train\n", "line 3 is not UTF-8; save the file as"),
        (HEAD + "a.png,cat,train\nb.png,dog,test\n", "line 3: dog is no class of the training split"),
        (HEAD + "a.png,cat,train\n", "no split 'test', only train; add one"),
        ("a.png,cat,train\n", "line 1 has 3 columns .*; without a header they are two"),
        ("path;label\na.png;cat\n", "line 1 has 1 columns separated by commas"),
        ("path,split\na.png,train\n", "line 1: no column has labels"),
        ("path,label,label\na.png,cat,cat\n", "line 1: the column label comes twice"),
        ("path,cat,dog\na.png,1,\n", "line 2 has '' in the column dog, which takes 0 or 1"),
        ("path,cat,cat\na.png,1,0\n", "line 1: the columns of the classes need a name each"),
        ("path,label\n", "lists no pictures"),
        ("", "lists no pictures"),
    ],
)
def test_csv_errors_name_the_line(tmp_path, text, message):
    paint(tmp_path, "a.png", "b.png")
    with pytest.raises(UserError, match=message) as caught:
        data.open_source(written(tmp_path, text), "test")
    assert str(tmp_path / "set.csv") in str(caught.value)


def test_what_a_csv_has_beside_is_told(tmp_path, capsys):
    paint(tmp_path, "a.png", "b.png")
    spec = written(tmp_path, "path,width,label,split\na.png,4,cat,train\nb.png,4,dog,train\na.png,4,cat,train\n")
    assert len(data.open_source(spec, "train")) == 2
    told = capsys.readouterr().err
    assert "passed over the columns width" in told and "passed over 1 lines that come twice" in told
    with pytest.raises(UserError, match="cannot be read"):
        data.open_source(f"csv:{tmp_path}/none.csv", "train")
    with pytest.raises(UsageError, match="needs a name or path"):
        data.open_source("csv:", "train")


# ----------------------------------------------------------------------------------------------------------- division


def test_a_share_of_every_class_is_held_out():
    names = [f"{kind}/{i}.jpg" for kind, count in (("a", 100), ("b", 33), ("c", 2), ("d", 1)) for i in range(count)]
    classes = [name[0] for name in names]
    part = Division(holdout=0.15).held_out(names, classes)
    assert {k: int(n) for k, n in collections.Counter(np.array(classes)[part]).items()} == {"a": 15, "b": 5, "c": 1}
    whole = Division(holdout=0.15).held_out(names)
    assert whole.sum() == round(0.15 * 136) and (whole != part).any()


def test_what_is_added_elsewhere_moves_nothing():
    old = [f"a/{i}.jpg" for i in range(200)] + [f"b/{i}.jpg" for i in range(50)]
    new = [f"a0/{i}.jpg" for i in range(30)] + old + [f"b/x{i}.jpg" for i in range(10)]
    for division, moved in ((Division(holdout=0.2), 2), (Division(folds=5, fold=2), 10)):
        before, after = (
            dict(zip(n, division.held_out(n, [x.split("/")[0] for x in n]), strict=True)) for n in (old, new)
        )
        assert all(before[name] == after[name] for name in old if name[0] == "a")
        assert sum(before[name] != after[name] for name in old) <= moved  # of b, where its order is cut
        order = np.random.default_rng(0).permutation(len(old))
        again = division.held_out([old[i] for i in order], [old[i][0] for i in order])
        assert [before[old[i]] for i in order] == again.tolist()


@pytest.mark.parametrize("counts", [(40, 40), (101, 7), (3, 3, 3, 3, 3, 3, 2), (1,) * 40])
def test_every_picture_is_in_one_fold(counts):
    names = [f"{kind}/{i}" for kind, count in enumerate(counts) for i in range(count)]
    classes = [name.split("/")[0] for name in names]
    parts = np.array([Division(folds=5, fold=fold).held_out(names, classes) for fold in range(5)])
    assert (parts.sum(axis=0) == 1).all()
    for kind in set(classes):
        within = parts[:, np.array(classes) == kind].sum(axis=1)
        assert within.max() - within.min() <= 1
    assert parts.sum(axis=1).min() > 0  # small classes do not all begin with the first fold


def coco(root, count):
    paint(root, *(f"{i}.png" for i in range(count)))
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 3, "width": 4} for i in range(count)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 2, 2]} for i in range(count)],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (root / "a.json").write_text(json.dumps(content))
    return f"coco:{root},{root}/a.json"


def voc(root, count):
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
    paint(root, *(f"{i}.png" for i in range(count)))
    for i in range(count):
        text = f"<annotation><object><name>thing</name>{box}</object></annotation>"
        (root / f"{i}.xml").write_text(text)
    return f"voc:{root}"


def folder(root, count):
    paint(root, *(f"{('cat', 'dog')[i % 2]}/{i}.png" for i in range(count)))
    return f"folder:{root}"


def listed(root, count):
    paint(root, *(f"{('cat', 'dog')[i % 2]}/{i}.png" for i in range(count)))
    return written(root, "".join(f"{kind}/{i}.png,{kind}\n" for i in range(count) for kind in [("cat", "dog")[i % 2]]))


def packed(root, count):
    np.savez(
        root / "set.npz", images=np.arange(count * 4, dtype=np.uint8).reshape(-1, 2, 2), labels=np.arange(count) % 2
    )
    return f"npz:{root}/set.npz"


@pytest.mark.parametrize("make", [folder, listed, packed, coco, voc])
def test_sources_without_splits_are_divided(tmp_path, make):
    settings = Data(source=make(tmp_path, 20), holdout=0.3)
    train, test = (data.open_data(settings, split) for split in ("train", "val"))
    assert (len(train), len(test)) == (14, 6)
    both = [{source.read(i)[0].tobytes() for i in range(len(source))} for source in (train, test)]
    assert not both[0] & both[1] and len(both[0] | both[1]) == 20
    if train.targets == "label":
        assert np.bincount(test.all_labels()).tolist() == [3, 3]
    parts = [data.open_data(dataclasses.replace(settings, holdout=None, folds=4, fold=f), "test") for f in range(4)]
    assert sum(map(len, parts)) == 20 and max(map(len, parts)) - min(map(len, parts)) <= 2
    with pytest.raises(UserError, match="no split 'extra'"):
        data.open_data(settings, "extra")


def test_a_folder_and_its_list_are_divided_alike(tmp_path):
    spec = listed(tmp_path, 30)
    one, other = (data.open_data(Data(source=s, holdout=0.2), "test") for s in (spec, f"folder:{tmp_path}"))
    assert sorted(paths_of(one)) == sorted(paths_of(other))


def test_sources_with_splits_are_not_divided(tmp_path):
    paint(tmp_path, "set/train/cat/a.png", "set/test/cat/b.png", "a.png", "b.png")
    table = written(tmp_path, "path,label,split\na.png,cat,train\nb.png,cat,test\n")
    for source in (f"folder:{tmp_path}/set", table, "digits", "fake", "shapes:n=4"):
        with pytest.raises(UsageError, match="has splits of its own, which data.holdout and data.folds do not divide"):
            data.open_data(Data(source=source, holdout=0.2), "train")
    with pytest.raises(UserError, match="too few pictures for data.fold=[01] of 9: none is left for 'test'"):
        paint(tmp_path, "few/cat/a.png")
        [data.open_data(Data(source=f"folder:{tmp_path}/few", folds=9, fold=fold), "test") for fold in range(9)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"holdout": 1.0}, "data.holdout is a share between 0 and 1"),
        ({"folds": 5}, "are set together"),
        ({"fold": 1}, "are set together"),
        ({"folds": 5, "fold": 5}, "data.fold must lie in 0..4"),
        ({"folds": 5, "fold": -1}, "data.fold must lie in 0..4"),
        ({"folds": 1, "fold": 0}, "data.folds must be at least 2"),
        ({"folds": 5, "fold": 1, "holdout": 0.1}, "exclude each other"),
        ({"class_weight": "even"}, "data.class_weight is 'balanced' or a table"),
        ({"class_weight": {"cat": -1.0}}, "numbers of at least 0"),
        ({"class_weight": {0: 1.0}}, "names of classes"),
        ({"class_weight": "balanced", "sampler": "balanced"}, "both balance the classes"),
        ({"sampler": "even"}, "data.sampler"),
        ({"bad_pictures": "hide"}, "data.bad_pictures"),
    ],
)
def test_settings_are_checked(fields, message):
    with pytest.raises(UsageError, match=message):
        Data(**fields)


def test_settings_are_recorded_and_read_back():
    from kzoo.recipe_files import dump, parse

    changes = {"data.class_weight.a cat": "2", "data.class_weight.v1.5": "0.5", "data.folds": "5", "data.fold": "2"}
    recipe = override(schema.Recipe(model="vit_toy"), changes)
    assert recipe.data.class_weight == {"a cat": 2, "v1.5": 0.5} and (recipe.data.folds, recipe.data.fold) == (5, 2)
    assert parse(dump(recipe))[0] == recipe
    recipe = override(schema.Recipe(model="vit_toy"), {"data.class_weight": "balanced", "data.holdout": "0.15"})
    assert (recipe.data.class_weight, recipe.data.holdout) == ("balanced", 0.15) and parse(dump(recipe))[0] == recipe
    none = schema.Recipe(model="vit_toy", data=Data(class_weight=None))
    assert parse(dump(override(none, {})))[0].data.class_weight is None
    old = "".join(line for line in dump(schema.Recipe(model="vit_toy")).splitlines(True) if "data.augment" in line)
    assert parse('model = "vit_toy"\n' + old)[0].data == schema.Recipe(model="vit_toy").data


# ------------------------------------------------------------------------------------------------ weights and sampler


def uneven(counts=(12, 3, 5), seed=0):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.random.default_rng(1).integers(0, 256, (len(labels), 4, 4, 3), dtype=np.uint8)
    return ArraySource("uneven", images, labels, len(counts), [f"class {i}" for i in range(len(counts))])


def test_balanced_weights_are_scikit_learns():
    source = uneven()
    expected = compute_class_weight("balanced", classes=np.arange(3), y=source.labels)
    np.testing.assert_allclose(class_weights("balanced", source), expected, rtol=1e-6)
    absent = ArraySource("absent", source.images, source.labels * 2, 5)
    np.testing.assert_allclose(class_weights("balanced", absent)[[0, 2, 4]], expected, rtol=1e-6)
    assert class_weights({"class 1": 3.0}, source).tolist() == [1, 3, 1]
    with pytest.raises(UsageError, match="unknown class of uneven in data.class_weight 'class 9'; did you mean"):
        class_weights({"class 9": 1.0}, source)
    several = ArraySource("several", source.images, np.eye(3)[source.labels], 3)
    with pytest.raises(UserError, match="several gives several labels a picture"):
        class_weights("balanced", several)
    source.streams = True
    with pytest.raises(UserError, match="is a stream; give it a table of weights"):
        class_weights("balanced", source)


@pytest.mark.parametrize("engine", ["tf", "numpy"])
@pytest.mark.parametrize("augment", [None, Augment(mixup=0.8)], ids=["plain", "mixed"])
def test_training_batches_are_weighted_and_evaluation_is_not(engine, augment):
    source, options = uneven(), {"image_size": (4, 4), "channels": 3, "preprocessing": Preprocessing(), "batch_size": 6}
    weights = compute_class_weight("balanced", classes=np.arange(3), y=source.labels)
    loader = labels_loader(source, augment=augment, engine=engine, class_weight="balanced", **options)
    for _, y, w in (tuple(map(np.asarray, batch)) for batch in loader.epoch(0)):
        assert w.dtype == np.float32 and w.shape == (6,)
        np.testing.assert_allclose(w, weights[y] if y.ndim == 1 else y @ weights, rtol=1e-5)
    plain = labels_loader(source, augment=augment, engine=engine, **options)
    for one, other in zip(loader.evaluation(), plain.evaluation(), strict=True):
        for array, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("draws", [20, 18, 50])
def test_balanced_epochs(draws):
    labels = uneven().labels
    seen = collections.Counter()
    for epoch in range(12):
        order, times = balanced(labels, 3, epoch, draws)
        counts = np.bincount(labels[order], minlength=3)
        assert len(order) == draws and counts.max() - counts.min() <= 1
        assert len(set(zip(order.tolist(), times.tolist(), strict=True))) == draws
        assert [times[i] for i in range(draws)] == [list(order[:i]).count(order[i]) for i in range(draws)]
        for label in range(3):  # within a class all come equally often, as far as an epoch goes
            within = collections.Counter(order[labels[order] == label].tolist())
            assert max(within.values()) - min(within.get(i, 0) for i in np.flatnonzero(labels == label)) <= 2
        seen.update(order.tolist())
        np.testing.assert_array_equal(balanced(labels, 3, epoch, draws)[0], order)
    assert set(seen) == set(range(20))
    assert (balanced(labels, 3, 1, draws)[0] != balanced(labels, 3, 0, draws)[0]).any()
    assert (balanced(labels, 4, 0, draws)[0] != balanced(labels, 3, 0, draws)[0]).any()


def of_epoch(loader, epoch, start=0):
    return [tuple(map(np.asarray, batch)) for batch in loader.epoch(epoch, start_step=start)]


def test_a_balanced_loader_resumes_and_repeats_are_changed_anew():
    source = uneven((40, 2, 6))
    augment = Augment(flip=0.5, shift=2, repeats=2)
    take = data.Take((4, 4), 3, Preprocessing())
    loaders = [
        data.Loader(source, data.Labels(take, source, augment=augment, engine=engine), 8, 5, engine, "balanced")
        for engine in ("tf", "numpy")
    ]
    whole = of_epoch(loaders[0], 1)
    assert len(whole) == 6 and np.bincount(np.concatenate([y for _, y in whole])).tolist() == [16, 16, 16]
    for other, start in ((loaders[1], 0), (loaders[0], 2), (loaders[1], 4)):
        for one, expected in zip(of_epoch(other, 1, start), whole[start:], strict=True):
            np.testing.assert_array_equal(one[0], expected[0])
            np.testing.assert_array_equal(one[1], expected[1])
    keys = []
    labels = loaders[1].batching
    labels.train, train = lambda p, t, k, e, s: keys.extend(k) or train(p, t, k, e, s), labels.train
    of_epoch(loaders[1], 0)
    assert len(keys) == len(set(keys)) == 48 and max(keys) >= 7 * REPETITION  # two pictures are drawn 8 times
    source.streams = True
    with pytest.raises(
        UserError, match="data.sampler='balanced' needs the labels of all pictures, and uneven is a stream"
    ):
        data.Loader(source, None, 2, engine="tf", sampler="balanced")
    with pytest.raises(UserError, match="gives no label for each picture"):
        data.Loader(data.open_source("shapes:n=4", "train"), None, 2, sampler="balanced")


def test_weights_are_refused_where_no_class_is_learnt():
    with pytest.raises(UsageError, match="data.class_weight weighs classes, and the task masked has none"):
        schema.Recipe(model="mae_toy", task=schema.Masked(), data=Data(class_weight="balanced"))
    with pytest.raises(UsageError, match="the task detect has none"):
        override(schema.Recipe(model="vit_toy", data=Data(class_weight={"cat": 2.0})), {"task.kind": "detect"})


# -------------------------------------------------------------------------------------------------------- bad pictures

BAD = {"train/cat/03.png": b"", "train/dog/05.png": None, "test/dog/01.png": b"no picture"}  # None: cut in the middle


@pytest.fixture
def damaged(tmp_path):
    """A folder of 8 cats and 8 dogs to train on, 4 and 4 to evaluate on, of which some cannot be read."""
    rng = np.random.default_rng(7)
    for split, count in (("train", 8), ("test", 4)):
        for kind in ("cat", "dog"):
            for i in range(count):
                path = tmp_path / split / kind / f"{i:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    for name, content in BAD.items():
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:500] if content is None else content)
    return tmp_path


def skipping(root, split="train", **fields):
    return data.open_data(Data(source=f"folder:{root}", bad_pictures="skip", **fields), split)


def test_another_picture_of_the_class_takes_the_place_of_a_bad_one(damaged):
    source = skipping(damaged)
    assert len(source) == 16 and source.all_labels().tolist() == [0] * 8 + [1] * 8
    pictures, labels = source.batch([3, 4, 13, 14])
    assert labels.tolist() == [0, 0, 1, 1]
    shown = [picture.pixels() for picture in pictures]
    np.testing.assert_array_equal(shown[0], shown[1])  # the next of the class
    np.testing.assert_array_equal(shown[2], shown[3])
    assert source.usable(range(16)).tolist() == [i not in (3, 13) for i in range(16)]
    with pytest.raises(UserError, match="03.png cannot be decoded as a picture"):
        data.open_data(Data(source=f"folder:{damaged}"), "train").read(3)
    last = skipping(damaged)
    (damaged / "train/cat/07.png").write_bytes(b"")
    np.testing.assert_array_equal(last.read(7)[0], last.read(0)[0])  # the class goes round
    for path in (damaged / "train/cat").iterdir():
        path.write_bytes(b"")
    assert skipping(damaged).read(0)[1] == 1  # none of its class is left
    for path in (damaged / "train/dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of its 16 pictures can be read; .* cannot be decoded"):
        skipping(damaged).read(0)


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
def test_skipping_resumes_bit_for_bit_on_both_engines(damaged, sampler):
    take = data.Take((8, 8), 3, Preprocessing())

    def made(engine):
        source = skipping(damaged)
        batching = data.Labels(take, source, augment=Augment(crop_scale=(0.3, 1.0)), engine=engine)
        return data.Loader(source, batching, 5, 2, engine, sampler)

    whole = of_epoch(made("tf"), 1)
    for engine, start in (("numpy", 0), ("tf", 2), ("numpy", 1)):
        for one, expected in zip(of_epoch(made(engine), 1, start), whole[start:], strict=True):
            np.testing.assert_array_equal(one[0], expected[0])
            np.testing.assert_array_equal(one[1], expected[1])


@pytest.mark.parametrize("engine", ["tf", "numpy"])
def test_evaluation_leaves_a_bad_picture_out(damaged, engine, capsys):
    source, take = skipping(damaged, "test"), data.Take((16, 16), 3, Preprocessing())
    loader = data.Loader(source, data.Labels(take, source), 5, engine=engine)
    batches = [tuple(map(np.asarray, batch)) for batch in loader.evaluation()]
    weights = np.concatenate([weights for *_, weights in batches])
    assert weights.tolist() == [1, 1, 1, 1, 1, 0, 1, 1, 0, 0]  # in its place, and the padding
    assert np.concatenate([y for _, y, _ in batches]).tolist() == [0] * 4 + [1] * 4 + [0, 0]
    data.tell_skipped(None, source)
    told = capsys.readouterr().err
    assert told.startswith("evaluation: 1 of 8 pictures cannot be read, they are left out of its figures: ")
    assert "test/dog/01.png cannot be decoded" in told and told.count("\n") == 1
    data.tell_skipped(None, source)
    assert capsys.readouterr().err == ""  # once


def test_what_is_missing_in_a_list_is_skipped_and_streams_are_refused(tmp_path):
    paint(tmp_path, "a.png")
    spec = written(tmp_path, HEAD + "a.png,cat,train\nb.png,cat,train\n")
    source = data.open_data(Data(source=spec, bad_pictures="skip"), "train")
    assert source.usable([0, 1]).tolist() == [True, False]
    boxes = coco(tmp_path / "boxes", 30)
    (tmp_path / "boxes/7.png").unlink()
    source = data.open_data(Data(source=boxes, bad_pictures="skip"), "train")
    assert source.targets == "objects" and source.category_ids == (1,) and len(list(source.surveyed(99))) == len(source)
    pictures, objects = source.batch(range(len(source)))
    assert len(pictures) == len(objects) and (~source.usable(range(len(source)))).sum() == 1
    source.streams = True
    with pytest.raises(UserError, match="is a stream; set it to 'stop'"):
        Skipping(source)


@pytest.mark.slow
def test_a_run_of_a_fold_with_weights_and_bad_pictures(tmp_path, capsys):
    """What is learnt from is the loss with the weights, and the run is evaluated on its fold again."""
    paint(tmp_path, *(f"{'cat' if i % 5 else 'dog'}/{i}.png" for i in range(40)), size=(16, 16))
    lines = "".join(f"{k}/{i}.png,{k}\n" for i in range(40) for k in ["cat" if i % 5 else "dog"])
    settings = Data(source=written(tmp_path, lines), folds=4, fold=1, class_weight={"dog": 4.0}, batch_size=10)
    splits = [data.open_data(settings, split) for split in ("train", "test")]
    bad = [paths_of(splits[0])[3], paths_of(splits[0])[25], paths_of(splits[1])[2]]
    for path in bad:
        pathlib.Path(path).write_bytes(b"no picture")
    settings = dataclasses.replace(settings, bad_pictures="skip")
    recipe = schema.Recipe(model="vit_toy", data=settings, optim=schema.Optim(lr=0.0), steps=3, xla="off")
    run = kzoo.train(recipe, tmp_path / "run")
    told = capsys.readouterr().err.splitlines()
    assert len(splits[1]) == 10 and run.metrics["images"] == 9
    assert [line[:88] for line in told if "cannot be read" in line] == [
        f"training: 2 of 30 pictures cannot be read, others took their places: {bad[0]}"[:88],
        f"evaluation: 1 of 10 pictures cannot be read, they are left out of its figures: {bad[2]}"[:88],
    ]
    assert kzoo.evaluate(run.workdir) == {k: v for k, v in run.metrics.items() if k != "steps"}
    assert "evaluation: 1 of 10 pictures cannot be read" in capsys.readouterr().err
    losses = []
    for x, y, _ in (
        tuple(map(np.asarray, b)) for b in Plan(recipe, data.open_data(settings, "train")).loader().epoch(0)
    ):
        logits = np.asarray(run.model.predict_on_batch(x), "float64")
        own = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(10), y]
        losses.append(np.mean(own * np.where(y == 1, 4, 1)))
    assert len(losses) == 3 and run.history[-1]["loss"] == pytest.approx(np.mean(losses), rel=1e-4)

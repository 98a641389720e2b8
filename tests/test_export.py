"""Artifacts against Keras, each called through its own runtime alone; what is refused; the card."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import kzoo
from kzoo.errors import UsageError, UserError
from kzoo.exporting.artifact import open_artifact
from kzoo.predicting import ArtifactPredictor, ModelPredictor, predict
from kzoo.system import unseen

HEIGHT, WIDTH, NAMES = 32, 48, ("ant", "bee", "cat", "dog", "eel")
FORMATS = ("saved_model", "onnx", "litert")


def toy(crop_pct=0.8, class_names=NAMES, **overrides):
    """A small model whose weights all matter: the zoo's own start has zeros in its head."""
    overrides = {"image_size": (HEIGHT, WIDTH), "num_classes": 5} | overrides
    model = kzoo.get("vit_toy", **overrides)
    random = np.random.default_rng(0)
    model.set_weights([random.normal(0, 0.2, weight.shape).astype("float32") for weight in model.get_weights()])
    preprocessing = dataclasses.replace(model.spec.preprocessing, crop_pct=crop_pct, mean=(0.3,) * model.input_shape[3])
    model.spec = dataclasses.replace(model.spec, preprocessing=preprocessing, class_names=class_names)
    return model


def photos(count=8, height=70, width=60, channels=3):
    """Smooth pictures, so that resizing them means something: uint8 (h, w, C)."""
    random = np.random.default_rng(1)
    small = random.integers(0, 256, (count, 6, 5, channels), dtype=np.uint8)
    return [
        np.stack(
            [
                np.asarray(Image.fromarray(s[..., c]).resize((width, height), Image.Resampling.BICUBIC))
                for c in range(channels)
            ],
            -1,
        )
        for s in small
    ]


def in_keras(model, images):
    """Logits or features of uint8 pictures that have the model's size: normalised here, by hand."""
    mean, std = (np.float32(v) for v in (model.spec.preprocessing.mean, model.spec.preprocessing.std))
    return model.predict_on_batch((images.astype(np.float32) / np.float32(255) - mean) / std)


def through_pillow(model, image):
    """The model's input from a picture of any size, resized by Pillow in float: (1, H, W, C)."""
    pre, (height, width) = model.spec.preprocessing, model.input_shape[1:3]
    target = int(height / pre.crop_pct), int(width / pre.crop_pct)
    ratio = max(t / s for t, s in zip(target, image.shape[:2], strict=True))
    h, w = (max(int(side * ratio + 0.5), t) for side, t in zip(image.shape[:2], target, strict=True))
    planes = [
        Image.fromarray(image[..., c].astype(np.float32)).resize((w, h), Image.Resampling.BICUBIC)
        for c in range(image.shape[-1])
    ]
    top, left = (h - height) // 2, (w - width) // 2
    resized = np.stack([np.asarray(p) for p in planes], -1).clip(0, 255)[top : top + height, left : left + width]
    return ((resized / 255 - np.array(pre.mean)) / np.array(pre.std)).astype(np.float32)[None]


def softmax(logits):
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture(scope="session")
def model():
    return toy()


@pytest.fixture(scope="session")
def artifacts(model, tmp_path_factory):
    """{format: folder}, and the cards that export returned, of the one model that most tests share."""
    root = tmp_path_factory.mktemp("artifacts")
    cards = {
        format: kzoo.export(model, root / format, format=format, pictures=photos(), pictures_from="test pictures")
        for format in FORMATS
    }
    return {format: root / format for format in FORMATS}, cards


def own_size(count):
    return np.random.default_rng(count).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_onnx(model, artifacts, batch):
    import onnxruntime

    session = onnxruntime.InferenceSession(artifacts[0]["onnx"] / "model.onnx")
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [
        ("images", "tensor(uint8)", [HEIGHT, WIDTH, 3])
    ]
    images = own_size(batch)
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
    expected = in_keras(model, images)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(probabilities, softmax(expected), atol=1e-5)


def test_onnx_graph_is_lean(artifacts):
    """Shapes are constants but for the batch, and norms are single nodes: this toy has 2 blocks, 5 norms and 9 dense
    products.
    """
    import collections

    import onnx

    graph = onnx.load(artifacts[0]["onnx"] / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    counts = collections.Counter(node.op_type for node in graph.graph.node)
    assert counts["Shape"] <= 1  # of the class token's batch
    assert counts["LayerNormalization"] == 5 and counts["ReduceMean"] == 0
    # patches; in each block tokens to rows and back around two branches, heads apart and together
    assert counts["Reshape"] == 1 + 2 * 6
    assert len(graph.graph.node) <= 90


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_litert(model, artifacts, batch):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(artifacts[0]["litert"] / "model.tflite"))
    given = interpreter.get_input_details()[0]
    assert given["dtype"] == np.uint8 and given["shape_signature"].tolist() == [-1, HEIGHT, WIDTH, 3]
    interpreter.resize_tensor_input(given["index"], (batch, HEIGHT, WIDTH, 3), strict=True)
    interpreter.allocate_tensors()
    images = own_size(batch)
    interpreter.set_tensor(given["index"], images)
    interpreter.invoke()
    expected = in_keras(model, images)
    found = {out["name"]: interpreter.get_tensor(out["index"]) for out in interpreter.get_output_details()}.values()
    assert any(np.allclose(array, expected, atol=1e-4) for array in found)
    assert any(np.allclose(array, softmax(expected), atol=1e-5) for array in found)
    outputs = interpreter.get_signature_runner("serving_default")(images=images)
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-4)


# A process without kzoo: a SavedModel by TensorFlow alone, then the snippet of the artifact's card.
FRESH = """
import sys
folder, batches, out, snippet = sys.argv[1:]
if batches:
    import numpy as np, tensorflow as tf
    signatures, stored = tf.saved_model.load(folder + "/1").signatures, np.load(batches)
    outputs = {name: signatures["serving_default"](images=tf.constant(stored[name])) for name in stored.files}
    np.savez(out, **{f"{n}_{k}": v.numpy() for n, o in outputs.items() for k, v in o.items()})
exec(snippet, {"__name__": "__main__"})
assert not any(name.split(".")[0] == "kzoo" for name in sys.modules)
"""


@pytest.fixture(scope="session")
def fresh(artifacts, tmp_path_factory):
    """{format: what the card's snippet printed in a process of its own}, and the folder of in.npz and out.npz, what
    the SavedModel was given there and gave.
    """
    place, told = tmp_path_factory.mktemp("fresh"), {}
    batches = {f"{h}x{w}": np.stack(photos(3, h, w)) for h, w in ((70, 60), (HEIGHT, WIDTH), (20, 90), (41, 61))}
    np.savez(place / "in.npz", **batches)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for format, folder in artifacts[0].items():
        snippet = (folder / "card.md").read_text().split("```python\n")[1].split("```")[0]
        words = [folder, place / "in.npz" if format == "saved_model" else "", place / "out.npz", snippet]
        command = [sys.executable, "-c", FRESH, *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told[format] = done.stdout
    return told, place


@pytest.mark.slow
def test_saved_model_runs_where_only_tensorflow_is_imported(model, fresh):
    with np.load(fresh[1] / "in.npz") as batches, np.load(fresh[1] / "out.npz") as found:
        assert len(batches.files) == 4
        for name, images in batches.items():
            expected = model.predict_on_batch(np.concatenate([through_pillow(model, image) for image in images]))
            # Pillow resizes in float here, with weights rounded otherwise than ours.
            np.testing.assert_allclose(found[f"{name}_logits"], expected, atol=2e-4)
            np.testing.assert_allclose(found[f"{name}_probabilities"], softmax(expected), atol=1e-4)


def test_serving_jpeg_takes_mixed_files(model, artifacts):
    import io

    import tensorflow as tf

    signature = tf.saved_model.load(str(artifacts[0]["saved_model"] / "1")).signatures["serving_jpeg"]
    files, expected = [], []
    for kind, (height, width) in (("PNG", (70, 60)), ("JPEG", (33, 99)), ("BMP", (64, 64))):
        file = io.BytesIO()
        Image.fromarray(photos(1, height, width)[0]).save(file, kind)
        files.append(file.getvalue())
        expected.append(through_pillow(model, np.asarray(Image.open(file).convert("RGB"))))
    found = signature(encoded=tf.constant(files))["logits"].numpy()
    np.testing.assert_allclose(found, model.predict_on_batch(np.concatenate(expected)), atol=2e-4)


def test_a_picture_that_cannot_be_decoded_is_named(artifacts):
    import io

    artifact, files = open_artifact(artifacts[0]["saved_model"]), []
    for kind in ("PNG", "JPEG", "PNG"):
        file = io.BytesIO()
        Image.fromarray(photos(1)[0]).save(file, kind)
        files.append(file.getvalue())
    assert artifact.predict_encoded(files)["logits"].shape == (3, 5)
    for bad, reason in ((b"text", "it is no JPEG, PNG, WebP, GIF or BMP"), (files[1][:300], "it is damaged")):
        with pytest.raises(UserError, match=f"picture 1 of 3 cannot be decoded: {reason}, leave it out"):
            artifact.predict_encoded([files[0], bad, files[2]])


@pytest.mark.slow
def test_an_export_whose_decoder_differs_is_not_kept(model, tmp_path, monkeypatch):
    from kzoo.exporting import encoded

    monkeypatch.setattr(encoded, "_on_white", lambda rgba: rgba[..., :3])
    with pytest.raises(UserError, match=r"disagrees with Keras .*serving_jpeg"):
        kzoo.export(model, tmp_path / "a", pictures=photos())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("crop_mode", ["squash", "border"])
def test_predict_prepares_as_the_model_does(tmp_path, crop_mode):
    """An artifact of one size is given prepared pictures: by the crop mode of its model too."""
    from kzoo.predicting import open_target

    model = toy(class_names=(*NAMES[:4], "\udcff"))  # a folder whose name is no UTF-8
    model.spec = dataclasses.replace(
        model.spec, preprocessing=dataclasses.replace(model.spec.preprocessing, crop_mode=crop_mode)
    )
    card = kzoo.export(model, tmp_path / "a", format="onnx", pictures=photos())
    assert {"squash": "each side for itself", "border": "until it fits into 40 x 60"}[crop_mode] in card["input"][
        "resize"
    ]
    assert (tmp_path / "a" / "labels.txt").read_bytes().endswith(b"dog\n\xff\n")
    picture = photos(1)[0]
    expected = softmax(np.asarray(model(kzoo.preprocessor(model)(picture[None]))))[0]
    np.testing.assert_allclose(
        open_target(tmp_path / "a")(picture)["probabilities"], expected, atol=0.02
    )  # the picture is rounded to uint8


@pytest.mark.parametrize("format", FORMATS)
def test_artifacts_open_without_keras(model, artifacts, format, tmp_path):
    """What `kzoo predict` uses: the same numbers, the class names, and a clear word on a wrong picture."""
    artifact = open_artifact(artifacts[0][format])
    assert (artifact.format, artifact.image_size, artifact.channels, artifact.labels) == (
        format,
        (HEIGHT, WIDTH),
        3,
        NAMES,
    )
    images = own_size(2)
    if format == "saved_model":
        expected = model.predict_on_batch(np.concatenate([through_pillow(model, image) for image in images]))
    else:
        expected = in_keras(model, images)
    found = artifact.predict(images)
    assert set(found) == {"logits", "probabilities"}
    np.testing.assert_allclose(found["logits"], expected, atol=2e-4)
    for wrong in (images.astype("float32"), images[0], images[..., :1], images[:0]):
        with pytest.raises(UserError, match="takes uint8 pictures of shape"):
            artifact.predict(wrong)
    (tmp_path / "card.json").write_text((artifacts[0][format] / "card.json").read_text())
    with pytest.raises(UserError, match="is not complete"):
        open_artifact(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_right_from_eight_threads(artifacts, format):
    """2,000 predictions of batches of one to three, against the artifact's own answers one after another."""
    artifact, images = open_artifact(artifacts[0][format]), own_size(43)
    batches = [images[i : i + 1 + i % 3] for i in range(40)]
    expected = [artifact.predict(batch) for batch in batches]

    def wrong(thread):
        order = [(11 * thread + 7 * step) % len(batches) for step in range(250)]
        found = [(i, artifact.predict(batches[i])) for i in order]
        return sum(
            not np.allclose(outputs[name], expected[i][name], atol=1e-5) for i, outputs in found for name in outputs
        )

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(wrong, range(8))) == [0] * 8


def changed_at(content, place, new):
    return content[:place] + new + content[place + len(new) :]


DAMAGES = {
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "empty": lambda content: b"",
    "one bit": lambda content: changed_at(content, len(content) // 2, bytes([content[len(content) // 2] ^ 1])),
    "a hole": lambda content: changed_at(content, len(content) // 3, b"\0" * 200),
    "the end": lambda content: changed_at(content, len(content) - 4, b"KZOO"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("saved_model", "1/saved_model.pb"),
        ("saved_model", "1/variables/variables.data-00000-of-00001"),
        ("onnx", "model.onnx"),
        ("litert", "model.tflite"),
        ("litert", "labels.txt"),
    ],
)
def test_a_damaged_file_is_never_served(artifacts, format, name, damage, tmp_path):
    folder = shutil.copytree(artifacts[0][format], tmp_path / "a")
    (folder / name).write_bytes(DAMAGES[damage]((folder / name).read_bytes()))
    with pytest.raises(UserError, match=f"{name} is damaged, it is not what was exported; export it again"):
        open_artifact(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"is not complete, {name} is missing; export it again"):
        open_artifact(folder)


@pytest.mark.parametrize("format", FORMATS)
def test_artifacts_without_digests_open_as_before(artifacts, format, tmp_path):
    """Earlier versions wrote none; their payload is as good as its runtime finds it."""
    folder = shutil.copytree(artifacts[0][format], tmp_path / "a")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(
        json.dumps({key: value for key, value in card.items() if key not in ("files", "seal")})
    )
    assert open_artifact(folder).predict(own_size(2))["logits"].shape == (2, 5)
    payload = folder / card["payload"] / "saved_model.pb" if format == "saved_model" else folder / card["payload"]
    payload.write_bytes(payload.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"{card['payload']} cannot be opened by .*; export it again"):
        open_artifact(folder)


def changed(path, value):
    """The text of a card with the entry at `path` set, or removed where value is `...`; not sealed anew."""

    def change(card):
        *parents, last = path.split(".")
        owner = functools.reduce(lambda owner, key: owner[int(key) if isinstance(owner, list) else key], parents, card)
        owner[int(last) if isinstance(owner, list) else last] = value
        if value is ...:
            del owner[last]
        return json.dumps(card).encode()

    return change


CARDS = {
    "no input": changed("input", ...),
    "input null": changed("input", None),
    "input a list": changed("input", []),
    "no image_size": changed("input.image_size", ...),
    "image_size a number": changed("input.image_size", 32),
    "image_size nested": changed("input.image_size", [[32, 48]]),
    "image_size of texts": changed("input.image_size", ["32", "48"]),
    "image_size zero": changed("input.image_size", [0, 48]),
    "image_size huge": changed("input.image_size", [10**12, 48]),
    "image_size NaN": changed("input.image_size.0", float("nan")),
    "shape an object": changed("input.shape", {"3": 3}),
    "shape short": changed("input.shape", [None, 3]),
    "shape without channels": changed("input.shape.3", None),
    "channels true": changed("input.shape.3", True),
    "no class_names": changed("class_names", ...),
    "class_names null": changed("class_names", None),
    "class_names of numbers": changed("class_names", [1, 2, 3, 4, 5]),
    "class_names too few": changed("class_names", ["ant"]),
    "classes a text": changed("classes", "5"),
    "no preprocessing": changed("preprocessing", ...),
    "preprocessing a list": changed("preprocessing", [0.5]),
    "mean a number": changed("preprocessing.mean", 0.5),
    "mean NaN": changed("preprocessing.mean.0", float("nan")),
    "mean of one channel": changed("preprocessing.mean", [0.5]),
    "std zero": changed("preprocessing.std.0", 0),
    "crop_pct null": changed("preprocessing.crop_pct", None),
    "interpolation unknown": changed("preprocessing.interpolation", "lanczos"),
    "an unknown field": changed("preprocessing.gamma", 2.2),
    "files a list": changed("files", []),
    "no files": changed("files", ...),
    "no seal": changed("seal", ...),
    "another class name": changed("class_names.0", "wasp"),
    "another mean": changed("preprocessing.mean.0", 0.31),
    "another model": changed("model", "vit_huge"),
    "one more entry": changed("note", "mine"),
    "format null": changed("format", None),
    "format a list": changed("format", ["onnx"]),
    "kind another": changed("kind", "birthday card"),
    "a list": lambda card: b"[]",
    "null": lambda card: b"null",
    "empty": lambda card: b"",
    "cut": lambda card: json.dumps(card).encode()[:-20],
    "no UTF-8": lambda card: json.dumps(card).encode().replace(b"ant", b"\xff\xfe\xfd"),
    "no task": lambda card: json.dumps(card | {"task": []}).encode(),
    "nested deep": lambda card: b"[" * 100_000,
    "digits": lambda card: b'{"kind": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("kind", CARDS)
def test_a_damaged_card_is_refused_in_a_sentence(artifacts, kind, tmp_path):
    from kzoo.predicting import open_target

    folder = shutil.copytree(artifacts[0]["onnx"], tmp_path / "a")
    (folder / "card.json").write_bytes(CARDS[kind](json.loads((folder / "card.json").read_text())))
    for opened in (open_artifact, open_target):
        with pytest.raises(UserError, match=r"^[^\n]{20,400}\.$"):
            opened(folder)


def test_a_card_may_be_set_otherwise(artifacts, tmp_path):
    """Only what it says is sealed."""
    folder = shutil.copytree(artifacts[0]["onnx"], tmp_path / "a")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(
        json.dumps(dict(reversed(card.items())), indent=7, ensure_ascii=False), encoding="utf-8"
    )
    assert open_artifact(folder).labels == NAMES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "operation", "words"),
    [("onnx", "erfc", "ONNX has no operation for Erfc"), ("litert", "betainc", "LiteRT cannot express vit_toy")],
)
def test_an_operation_the_format_lacks_is_named(model, tmp_path, monkeypatch, format, operation, words):
    import tensorflow as tf

    from kzoo.exporting.serving import Serving

    function = {
        "erfc": tf.math.erfc,
        "betainc": lambda x: tf.math.betainc(tf.abs(x) + 1, tf.abs(x) + 2, tf.sigmoid(x)),
    }[operation]
    outputs = Serving.outputs
    monkeypatch.setattr(
        Serving, "outputs", lambda self, *x: {name: function(value) for name, value in outputs(self, *x).items()}
    )
    with pytest.raises(UserError, match=words):
        kzoo.export(model, tmp_path / "a", format=format, pictures=photos())
    assert list(tmp_path.iterdir()) == []


def test_graph_rewrites_leave_other_patterns_alone():
    """A reshape that moves the rows, and a norm over another axis, look alike but are not: the numbers stay, so do the
    nodes.
    """
    import onnx
    import onnxruntime

    from kzoo.exporting.onnx_graph import simplify

    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[b, 6, 4] x) => (float[b, 4, 6] moved, float[b, 6, 4] normed)
        <float[4, 6] kernel = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6}, float epsilon = {0.1},
         float[1, 1, 4] gamma = {1, 2, 3, 4}, float[1, 1, 4] beta = {4, 3, 2, 1}, int64[1] axes = {1},
         int64[2] flat = {-1, 4}, int64[3] shape = {-1, 4, 6}> {
            rows = Reshape (x, flat)
            product = MatMul (rows, kernel)
            moved = Reshape (product, shape)
            mean = ReduceMean (x, axes)
            centred = Sub (x, mean)
            squares = Mul (centred, centred)
            variance = ReduceMean (squares, axes)
            sum = Add (variance, epsilon)
            root = Sqrt (sum)
            inverse = Reciprocal (root)
            scale = Mul (inverse, gamma)
            scaled = Mul (x, scale)
            negative = Neg (mean)
            shifted = Mul (negative, scale)
            offset = Add (shifted, beta)
            normed = Add (scaled, offset)
        }""")
    before = model.SerializeToString()
    simplify(model)
    assert [node.op_type for node in model.graph.node] == [
        node.op_type for node in onnx.load_from_string(before).graph.node
    ]
    x = np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32")
    old, new = (onnxruntime.InferenceSession(m).run(None, {"x": x}) for m in (before, model.SerializeToString()))
    for a, b in zip(old, new, strict=True):
        np.testing.assert_array_equal(a, b)


PREDICTING = """
import json, sys
from kzoo.cli import main
status = main(["predict", *sys.argv[1:], "--json"])
print(json.dumps(sorted({"keras", "tensorflow", "jax", "torch", "onnxruntime", "ai_edge_litert"} & set(sys.modules))))
sys.exit(status)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "runtime"), [("saved_model", "tensorflow"), ("onnx", "onnxruntime"), ("litert", "ai_edge_litert")]
)
def test_the_command_predicts_by_the_runtime_alone(artifacts, tmp_path, format, runtime):
    folder, picture = str(artifacts[0][format]), str(tmp_path / "picture.png")
    Image.fromarray(photos(1)[0]).save(picture)
    done = subprocess.run([sys.executable, "-c", PREDICTING, folder, picture], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer, modules = map(json.loads, done.stdout.splitlines())
    assert modules == [runtime]
    assert answer == predict(ArtifactPredictor(open_artifact(folder)), [picture])


def test_what_is_unseen_is_there_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with unseen("colorsys", "keras"):
        import keras as still  # it was imported before

        with pytest.raises(ImportError):
            import colorsys
    import colorsys  # noqa: F811

    assert colorsys.__name__ == "colorsys" and still is keras


def test_a_picture_of_another_size_is_refused_where_nothing_resizes(artifacts):
    for format in ("onnx", "litert"):
        with pytest.raises(UserError, match=r"\(batch, 32, 48, 3\), not uint8 \(1, 48, 32, 3\)"):
            open_artifact(artifacts[0][format]).predict(np.zeros((1, 48, 32, 3), np.uint8))


@pytest.mark.parametrize("format", FORMATS)
def test_card(model, artifacts, format):
    folders, cards = artifacts
    card = json.loads((folders[format] / "card.json").read_text())
    assert card == cards[format]
    assert (folders[format] / "labels.txt").read_text().split() == list(NAMES)
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"float32{weight.shape}".encode() + weight.tobytes())
    assert card["weights_sha256"] == digest.hexdigest()
    assert card["model"] == "vit_toy" and card["overrides"] == {"image_size": [HEIGHT, WIDTH], "num_classes": 5}
    assert card["input"]["dtype"] == "uint8" and card["input"]["image_size"] == [HEIGHT, WIDTH]
    assert card["parameters"] == sum(weight.size for weight in model.get_weights())
    assert card["pictures"] == "test pictures"
    assert {record["batch"] for record in card["verified"]} >= {1, 3, 8}
    assert all(record["max_abs_difference"] <= 1e-4 and record["top1_agreement"] == 1 for record in card["verified"])
    assert card["latency_ms"]["keras"] > 0 and card["latency_ms"]["artifact"] > 0
    assert card["versions"]["keras"] == keras.__version__
    signatures = {record["signature"] for record in card["verified"]}
    assert signatures == ({"serving_default", "serving_jpeg"} if format == "saved_model" else {"serving_default"})


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_the_snippet_of_the_card_runs(fresh, format):
    assert fresh[0][format].strip().startswith("[[")


@pytest.mark.slow
def test_headless_grey_model(tmp_path):
    model = toy(num_classes=0, in_channels=1, image_size=32, crop_pct=1.0, class_names=())
    images = np.stack(photos(3, 32, 32, channels=1))
    for format in FORMATS:
        card = kzoo.export(model, tmp_path / format, format=format)  # verified on the embedded digits, which are grey
        assert list(card["outputs"]) == ["features"] and card["classes"] is None and "digits" in card["pictures"]
        assert (tmp_path / format / "labels.txt").read_text() == ""
        found = open_artifact(tmp_path / format).predict(images)
        np.testing.assert_allclose(found["features"], in_keras(model, images), atol=1e-4)


def test_one_logit_answers_a_question_of_two_classes(tmp_path):
    """By model and artifact: the logistic function of the logit, class 1 above 0."""
    model = toy(num_classes=1, class_names=(), crop_pct=1.0)
    card = kzoo.export(model, tmp_path / "onnx", "onnx")
    assert "two, by one logit" in (tmp_path / "onnx" / "card.md").read_text()
    assert (tmp_path / "onnx" / "labels.txt").read_text() == "0\n1\n" and card["classes"] == 1
    images = np.stack(photos(4, HEIGHT, WIDTH))
    wanted = 1 / (1 + np.exp(-in_keras(model, images).astype("float64")))
    artifact = open_artifact(tmp_path / "onnx")
    np.testing.assert_allclose(artifact.predict(images)["probabilities"], wanted, atol=1e-5)
    Image.fromarray(images[0]).save(tmp_path / "0.png")
    for predictor in (ModelPredictor(model), ArtifactPredictor(artifact)):
        (answer,) = predict(predictor, [tmp_path / "0.png"])
        found = {c["label"]: c["probability"] for c in answer["classes"]}
        assert found == {"0": pytest.approx(1 - wanted[0, 0], abs=1e-5), "1": pytest.approx(wanted[0, 0], abs=1e-5)}


@pytest.mark.parametrize(("quantize", "shrinks", "correlation"), [("fp16", 0.75, 0.99999), ("dynamic", 0.75, 0.99)])
def test_quantised_litert_says_what_it_costs(artifacts, model, tmp_path, quantize, shrinks, correlation):
    card = kzoo.export(model, tmp_path / "q", format="litert", quantize=quantize, pictures=photos())
    assert card["file_bytes"] < shrinks * artifacts[1]["litert"]["file_bytes"]
    images = own_size(8)
    found = open_artifact(tmp_path / "q").predict(images)["logits"]
    assert np.corrcoef(found.ravel(), in_keras(model, images).ravel())[0, 1] > correlation
    assert all(0 < record["max_abs_difference"] and record["correlation"] > correlation for record in card["verified"])


def test_other_channels_have_no_picture_decoder(tmp_path):
    model = toy(in_channels=5, image_size=16, patch_size=8, crop_pct=1.0)
    card = kzoo.export(model, tmp_path / "a", pictures=photos(channels=5))
    assert card["encoded_input"] is None
    with pytest.raises(UserError, match="decodes no pictures"):
        open_artifact(tmp_path / "a").predict_encoded([b""])


def test_reduced_precision_is_exported_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = toy()
    finally:
        keras.config.set_dtype_policy("float32")
    card = kzoo.export(model, tmp_path / "a", format="onnx", pictures=photos())
    images, twin = own_size(3), toy()
    np.testing.assert_allclose(
        open_artifact(tmp_path / "a").predict(images)["logits"], in_keras(twin, images), atol=1e-4
    )
    assert card["precision"] == "float32" and card["trained_precision"] == "mixed_bfloat16"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "onx"}, "unknown export format 'onx'; did you mean onnx"),
        ({"format": "onnx", "quantize": "fp16"}, "format onnx takes nothing but None for quantize, not 'fp16'"),
        ({"format": "litert", "quantize": "fp8"}, "format litert takes 'fp16' or 'dynamic' for quantize, not 'fp8'"),
        ({"format": "litert", "quantize": "int8"}, "quantize='int8' is not available"),
    ],
)
def test_impossible_pairs_are_refused_first(options, words, tmp_path):
    with pytest.raises(UsageError) as refusal:
        kzoo.export(None, tmp_path / "a", **options)
    assert words in str(refusal.value) and list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_served(tmp_path):
    plain = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(UserError, match="carries no spec"):
        kzoo.export(plain, tmp_path / "a")
    with pytest.raises(UserError, match="several feature maps"):
        kzoo.export(kzoo.get("vit_toy", features_only=True), tmp_path / "a")
    with pytest.raises(UserError, match="the spec names 4 classes and vit_toy returns 5 numbers"):
        kzoo.export(toy(class_names=NAMES[:4]), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_named(monkeypatch, tmp_path):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tf2onnx" else real(name, *rest)
    )
    with pytest.raises(kzoo.errors.MissingPackage, match=r'needs tf2onnx: pip install "kzoo\[export\]"'):
        kzoo.export(None, tmp_path / "a", format="onnx")

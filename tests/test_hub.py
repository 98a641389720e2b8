"""Files of a hub through huggingface_hub's own client, in fresh processes, from a hub on loopback
(tests/hub_server.py).
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import kzoo
from kzoo.errors import UsageError
from kzoo.weights.hub import Address, parse
from tests.hub_server import serving
from tests.pictures import by_timm
from tests.torch_reference import import_timm

ROOT = pathlib.Path(__file__).parent.parent
WEIGHTS = bytes(range(256)) * 40  # the hub does not look into files
RESOLVE = """
import json, sys, types
sys.modules["kzoo.weights"] = types.ModuleType("kzoo.weights")  # the package itself imports Keras, which takes seconds
sys.modules["kzoo.weights"].__path__ = ["kzoo/weights"]
from kzoo.errors import UserError
from kzoo.weights.hub import resolve
said = []
for uri in sys.argv[1:]:
    try:
        found = resolve(uri)
        beside = sorted(p.name for p in found.path.parent.iterdir())
        said.append({"path": str(found.path), "source": found.source, "revision": found.revision, "beside": beside})
    except UserError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def write(folder, files):
    """The files of a branch of a repository, {name: content}."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def hub(tmp_path):
    """A running hub with the repository org/one, and the environment in which a client meets it with an empty cache."""
    write(tmp_path / "hub/org/one/main", {"model.safetensors": WEIGHTS, "config.json": b"{}", "README.md": b"one"})
    with serving(tmp_path / "hub") as (hub, endpoint):
        hub.environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        yield hub


def python(hub, code, *arguments, before="", **variables):
    """What a fresh process prints last, as JSON."""
    environment = (
        {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | hub.environment | variables
    )
    command = [sys.executable, "-c", before + code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def resolve(hub, *uris, **variables):
    return python(hub, RESOLVE, *uris, **variables)


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("hf://org/repo", Address("org/repo")),
        ("hf://timm/vit_toy.a_b-c", Address("timm/vit_toy.a_b-c")),
        ("hf://org/repo@v1.0", Address("org/repo", "v1.0")),
        ("hf://org/repo@v1/sub/model.bin", Address("org/repo", "v1", "sub/model.bin")),
        ("hf://org/repo/sub/model.bin", Address("org/repo", None, "sub/model.bin")),
        ("hf://org/repo@refs/pr/3/model.bin", Address("org/repo", "refs/pr/3", "model.bin")),
        ("hf://org/repo@a%2Fb/model.bin", Address("org/repo", "a/b", "model.bin")),
    ],
)
def test_addresses(uri, address):
    assert parse(uri) == address == parse(str(address))


WRONG = ["hf://", "hf://org", "hf://org/", "hf://org/repo@", "hf://org/repo/", "hf://o rg/repo", "hf://a/b@c@d"]
WRONG += [
    f"hf://org/repo@{revision}"
    for revision in ("..", ".", "%2Fetc", "a%2F..%2Fb", "%0A", "a%00", "a%5Cb", "-x", "a%2F%2Fb", "a%2F")
]
WRONG += [
    f"hf://org/repo/{file}"
    for file in ("../x", "a/../x", "./x", "a//x", "/x", "a\\x", "a\nx", "a\0", "\x1b[2J", "-x", "a/-x", "x/")
]
WRONG += ["hf://../repo", "hf://org/..", "hf://-org/repo", "hf://./.", "hf://org/--."]


@pytest.mark.parametrize("uri", WRONG)
def test_a_wrong_address_is_answered_with_the_form(uri):
    with pytest.raises(UsageError, match=r"hf://org/repo\[@revision\]\[/file\]"):
        parse(uri)


def test_a_file_is_fetched_once_and_read_from_the_cache_after_that(hub):
    commit = hub.commit(hub.folder / "org/one/main")
    first, named = resolve(hub, "hf://org/one", "hf://org/one/README.md")
    assert pathlib.Path(first["path"]).read_bytes() == WEIGHTS
    assert (first["source"], first["revision"]) == (f"hf://org/one@{commit}/model.safetensors", commit)
    assert first["beside"] == ["config.json", "model.safetensors"]
    assert pathlib.Path(named["path"]).read_bytes() == b"one"
    fetched = hub.downloads()
    assert sorted(path.rpartition("/")[2] for path in fetched) == ["README.md", "config.json", "model.safetensors"]
    assert resolve(hub, "hf://org/one", first["source"]) == [first | {"beside": ["README.md", *first["beside"]]}] * 2
    assert hub.downloads() == fetched


def test_what_is_in_the_cache_needs_no_network(hub):
    (first,) = resolve(hub, "hf://org/one")
    fetched = list(hub.requests)
    offline = resolve(hub, "hf://org/one", "hf://org/one/model.safetensors", first["source"], HF_HUB_OFFLINE="1")
    assert offline == [first] * 3 and hub.requests == fetched
    nobody = resolve(hub, "hf://org/one", first["source"], HF_ENDPOINT="http://127.0.0.1:9")
    assert nobody == [first] * 2
    hub.status = 503
    assert resolve(hub, "hf://org/one") == [first]


def test_what_is_not_in_the_cache_says_why_it_cannot_be_had(hub):
    home = hub.environment["HF_HOME"]
    for said in resolve(hub, "hf://org/one", "hf://org/one/model.safetensors", HF_HUB_OFFLINE="1"):
        assert "HF_HUB_OFFLINE forbids" in said and home in said and "unset it" in said
    (said,) = resolve(hub, "hf://org/one", HF_ENDPOINT="http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached (ConnectError); connect, or" in said
    hub.status = 503
    (said,) = resolve(hub, "hf://org/one")
    assert "answers 503" in said and "try again later" in said


def test_an_interrupted_download_is_resumed(hub):
    piece = 10 * 2**20  # bytes that the client takes at a time
    large = np.random.default_rng(0).bytes(2 * piece + 2**20)
    write(hub.folder / "org/large/main", {"model.safetensors": large})
    hub.cut = 1
    _, found = resolve(hub, "hf://org/large", "hf://org/large")  # old clients resume when they are asked again
    assert pathlib.Path(found["path"]).read_bytes() == large
    assert len(hub.downloads()) == 2 and hub.ranges == [piece]


def test_a_revision_is_fetched_and_told(hub):
    write(hub.folder / "org/one/v2", {"model.safetensors": WEIGHTS[::-1]})
    newer = hub.commit(hub.folder / "org/one/v2")
    one, two, again = resolve(hub, "hf://org/one", "hf://org/one@v2", f"hf://org/one@{newer}")
    assert pathlib.Path(two["path"]).read_bytes() == WEIGHTS[::-1] and two == again
    assert two["revision"] == newer != one["revision"]


def test_a_sharded_file_comes_with_its_shards(hub):
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = json.dumps({"metadata": {}, "weight_map": names}).encode()
    shards = {names["a"]: WEIGHTS, names["b"]: WEIGHTS[:2000]}
    write(hub.folder / "org/large/main", {"model.safetensors.index.json": index, "config.json": b"{}"} | shards)
    write(hub.folder / "org/torn/main", {"model.safetensors.index.json": index, names["a"]: WEIGHTS})
    write(hub.folder / "org/odd/main", {"model.safetensors.index.json": b"[1"})
    write(hub.folder / "org/out/main", {"model.safetensors.index.json": b'{"weight_map": {"a": "../../x"}}'})
    large, torn, odd = resolve(hub, "hf://org/large", "hf://org/torn", "hf://org/odd")
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        (out,) = resolve(hub, "hf://org/out", **variables)
        assert "../../x" in out and ("lacks" in out or "is no file of the hub" in out)
    assert large["path"].endswith("model.safetensors.index.json")
    assert large["beside"] == ["config.json", *names.values(), "model.safetensors.index.json"]
    assert f"lacks {names['b']}" in torn and "is no index of shards" in odd


def test_weights_are_found_by_their_kind(hub):
    kinds = ["model.weights.h5", "model.keras", "B_16.npz", "open_clip_model.safetensors", "pytorch_model.bin"]
    for number, kind in enumerate(kinds):
        write(hub.folder / f"org/kind{number}/main", {kind: WEIGHTS, "notes.txt": b"no weights"})
    found = resolve(hub, *(f"hf://org/kind{number}" for number in range(len(kinds))))
    assert [said["source"].rpartition("/")[2] for said in found] == kinds


def test_what_does_not_exist_is_said_with_the_remedy(hub):
    write(hub.folder / "org/two/main", {"a.npz": WEIGHTS, "b.npz": WEIGHTS})
    write(hub.folder / "org/gated/main", {"model.safetensors": WEIGHTS})
    hub.gated.add("org/gated")
    uris = {
        "hf://org/none": "does not exist or is private",
        "hf://org/one@v9": "has no revision 'v9'",
        "hf://org/one/model.safetensor": "did you mean model.safetensors",
        "hf://org/one/../../x": "'../../x' is no file of the hub",
        "hf://org/two": "several weights, a.npz, b.npz; name one of them: hf://org/two/a.npz",
        "hf://org/gated": "is gated: accept its terms at",
        "hf://org/a--.": "check the address",
    }
    write(hub.folder / "org/empty/main", {"README.md": b""})
    uris["hf://org/empty"] = "holds no weights"
    for said, told in zip(resolve(hub, *uris), uris.values(), strict=True):
        assert told in said and "\n" not in said and said.endswith((".", "?")), said


def test_a_damaged_cache_is_refused_and_the_remedy_works(hub):
    (found,) = resolve(hub, "hf://org/one")
    blob = pathlib.Path(found["path"]).resolve()
    blob.chmod(0o644)
    blob.write_bytes(WEIGHTS[:-1] + b"x")
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        (said,) = resolve(hub, "hf://org/one", **variables)
        assert (
            f"is damaged, it has not the SHA-256 of hf://org/one/model.safetensors; remove {blob} and try again" in said
        )
    blob.unlink()
    assert resolve(hub, "hf://org/one") == [found] and blob.read_bytes() == WEIGHTS


def test_a_cache_that_cannot_be_written_is_said(hub):
    limited = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, "
        "signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    )
    (said,) = resolve(hub, "hf://org/one", before=limited)
    assert "could not be fetched into the cache" in said and "HF_HOME" in said and "File too large" in said


def test_a_page_that_is_no_hub_is_said(hub):
    hub.page = b"<html>sign in to this network</html>"
    (said,) = resolve(hub, "hf://org/one")
    assert "gives no hub's answer" in said and "HF_ENDPOINT" in said


def test_a_missing_client_is_named_with_its_command(hub):
    (said,) = resolve(hub, "hf://org/one", before="import sys\nsys.modules['huggingface_hub'] = None\n")
    assert 'pip install "kzoo[hub]"' in said


NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
TAGGED = """
import contextlib, json, sys
import numpy as np
import kzoo
from kzoo.cli import main
from kzoo.schema import Data, Recipe
name, folder = sys.argv[1:]
model = kzoo.get(name)
np.save(folder + "/logits.npy", model(np.load(folder + "/images.npy")))
np.save(folder + "/prepared.npy", kzoo.preprocessor(name)(np.load(folder + "/picture.npy")))
with contextlib.redirect_stdout(open(folder + "/predicted.json", "w")):
    assert main(["predict", name, folder + "/picture.png", "--json"]) == 0
    kzoo.load_weights(kzoo.get("vit_toy"), "hf://org/toy")
    assert main(["predict", "vit_toy", folder + "/picture.png", "--weights", "hf://org/toy", "--json"]) == 0
    start = Recipe(model="vit_toy", init_from="hf://org/toy", data=Data(batch_size=4), overrides={"num_classes": 10}, steps=1, xla="off")
    kzoo.train(start, folder + "/run")
print(json.dumps({"spec": vars(model.spec) | {"preprocessing": None}, "report": vars(model.load_report)}))
"""


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
    """What a fresh process gets by name and tag from a hub that holds timm's own file: (timm's model, folder of
    results, what it said).
    """
    import torch

    folder = tmp_path_factory.mktemp("tagged")
    torch.manual_seed(0)
    theirs = import_timm().create_model(NAME, pretrained=False).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # the head is zero otherwise, and biases too
            parameter.add_(torch.randn_like(parameter) * 0.02)
    import_timm("timm.models").save_for_hf(theirs, str(folder / "hub/timm" / NAME / "main"), safe_serialization=True)
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (8, 11, 3), dtype=np.uint8))
    picture = small.resize((330, 250), Image.Resampling.BICUBIC)
    picture.save(folder / "picture.png")
    np.save(folder / "picture.npy", np.asarray(picture))
    np.save(folder / "images.npy", rng.normal(size=(2, 224, 224, 3)).astype("float32"))
    kzoo.save_weights(kzoo.get("vit_toy"), folder / "hub/org/toy/main/model.safetensors", layout="timm")
    with serving(folder / "hub") as (hub, endpoint):
        hub.environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "KERAS_BACKEND": "tensorflow"}
        said = python(hub, TAGGED, NAME, str(folder))
        said["commit"] = hub.commit(folder / "hub/timm" / NAME / "main")
        said["toy"] = hub.commit(folder / "hub/org/toy/main")
    return theirs, folder, said


def timm_logits(model, images):
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))).numpy()


@pytest.mark.slow
def test_a_name_with_its_tag_computes_what_timm_computes(tagged):
    theirs, folder, said = tagged
    expected = timm_logits(theirs, np.load(folder / "images.npy"))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(np.load(folder / "logits.npy"), expected, atol=1e-4)


def test_a_name_with_its_tag_knows_its_revision_licence_and_classes(tagged):
    _, _, said = tagged
    source = f"hf://timm/{NAME}@{said['commit']}/model.safetensors"
    assert said["report"]["source"] == said["spec"]["source"] == source
    assert (said["spec"]["name"], said["spec"]["tag"], said["spec"]["license"]) == (*NAME.split("."), "apache-2.0")
    assert said["spec"]["class_names"] == import_timm("timm.data").ImageNetInfo("imagenet-1k").label_descriptions()
    assert said["report"]["unused"] == said["report"]["reinitialised"] == []


def test_a_name_with_its_tag_predicts_what_timm_predicts(tagged):
    theirs, folder, _ = tagged
    data = import_timm("timm.data")
    config = data.resolve_model_data_config(theirs)
    settings = type("Settings", (), config | {"crop_pct": config["crop_pct"]})
    prepared = by_timm(np.load(folder / "picture.npy"), (224, 224), settings).astype("float32")
    np.testing.assert_allclose(np.load(folder / "prepared.npy"), prepared, atol=1e-4)
    logits = timm_logits(theirs, prepared[None])[0].astype("float64")
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    names = data.ImageNetInfo("imagenet-1k").label_descriptions()
    (result,) = json.loads((folder / "predicted.json").read_text().splitlines()[0])
    best = np.argsort(-expected)[:5]
    assert [(c["index"], c["label"]) for c in result["classes"]] == [(i, names[i]) for i in best]
    np.testing.assert_allclose([c["probability"] for c in result["classes"]], expected[best], rtol=1e-3)


def test_a_run_that_starts_from_the_hub_records_the_revision(tagged):
    _, folder, said = tagged
    receipt = json.loads((folder / "run/init_from.json").read_text())
    assert receipt["source"] == f"hf://org/toy@{said['toy']}/model.safetensors" and receipt["unused"] == []

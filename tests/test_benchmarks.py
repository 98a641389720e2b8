"""What the benchmarks say about their measurements, on measurements made up here."""

import dataclasses
import json
import statistics

import keras
import numpy as np
import pytest
import scipy.stats

import kzoo
from benchmarks import kill_resume, odd_usage, pretraining, small_data
from benchmarks.common import interleave, quotient, spread
from benchmarks.networks import keras_network
from benchmarks.peers import Work, compare, lacks, library_of, share_of_peak, split_peaks

TOY = Work("vit_toy", "none", 2, None, 100, "PASSIVE", False)


def test_peers_take_turns_and_the_first_round_is_not_recorded():
    order = []
    values = interleave({name: lambda name=name: order.append(name) or len(order) for name in "ab"}, rounds=2)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert values == {"a": [3, 6], "b": [4, 5]} and spread({"a": [1.0, 4.0, 2.0]}) == {"a": 1.5}


def test_a_quotient_has_the_medians_ratio_and_the_rounds_quartiles():
    assert quotient([2.0, 4.0, 12.0], [1.0, 2.0, 3.0]) == {"ratio": 2.0, "quartiles": [2.0, 4.0]}


def test_the_fastest_modes_of_one_precision_are_compared():
    seconds = {
        "kzoo_graph": [2.0],
        "kzoo_xla": [1.0],
        "kzoo_bfloat16": [0.5],
        "timm_eager": [3.0],
        "timm_compiled": [1.5],
        "timm_bfloat16": [1.0],
    }
    seconds |= {"keras_hub_graph": [1.2]}
    result = {
        precision: {name: q["ratio"] for name, q in found.items()} for precision, found in compare(seconds).items()
    }
    assert result == {"float32": {"timm": 1.5, "keras_hub": 1.2}, "bfloat16": {"timm": 2.0}}
    assert library_of("keras_hub_jax_bfloat16") == "keras_hub" and library_of("torch_matmul_float32") == "torch"


def test_the_share_of_the_peak_is_of_the_same_precision():
    values = {"kzoo_graph": [0.1], "torch_matmul_float32": [1e-4], "jax_matmul_bfloat16": [2e-5]}
    seconds, peaks = split_peaks(values, TOY)
    assert seconds == {"kzoo_graph": [0.1]} and peaks == {"torch_matmul_float32": 20.0, "jax_matmul_bfloat16": 100.0}
    assert share_of_peak({"kzoo_graph": 4.0, "kzoo_bfloat16": 5.0}, 2.0, peaks) == {
        "kzoo_graph": 0.8,
        "kzoo_bfloat16": 0.2,
    }
    assert share_of_peak({"kzoo_graph": 4.0}, 2.0, {"jax_matmul_bfloat16": 100.0}) == {}


def test_who_cannot_take_part_is_named_with_the_reason(monkeypatch):
    assert lacks("kzoo", TOY) is None and lacks("timm", TOY) == "has no such model"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert lacks("kzoo", TOY) == "not installed"


def test_two_standard_errors_decide_a_claim():
    ahead, behind = [3.0, 3.2, 3.1], [1.0, 1.4, 1.2]
    difference, error, verdict = small_data.compared(ahead, behind, ">")
    t = scipy.stats.ttest_ind(ahead, behind, equal_var=False).statistic
    assert difference == pytest.approx(1.9) and difference / error == pytest.approx(t) and verdict == "holds"
    verdicts = {
        relation: [
            small_data.compared(*pair, relation)[2] for pair in ((ahead, behind), (ahead, ahead), (behind, ahead))
        ]
        for relation in (">", ">=", "~")
    }
    assert verdicts == {
        ">": ["holds", "not decided", "does not hold"],
        ">=": ["holds", "holds", "does not hold"],
        "~": ["does not hold", "holds", "does not hold"],
    }
    assert small_data.compared([3.0], behind, ">")[1:] == (None, "not decided")


def test_the_small_data_models_are_of_equal_size_and_their_training_pictures_balanced():
    from kzoo.models.count import count
    from kzoo.registry import config_of

    sizes = []
    for _, row, overrides in small_data.MODELS.values():
        builder, config = config_of(row, {"image_size": 32, "num_classes": 10} | overrides)
        sizes.append(count(lambda builder=builder, config=config: builder(config))[0])
    assert max(sizes) < 1e6 and max(sizes) / min(sizes) < 1.03
    training, _ = small_data.pictures(small_data.arguments(["--data", "digits", "--images", "200"]))
    assert len({picture.tobytes() for picture in training.images}) == 200 and set(
        statistics.multimode(training.labels)
    ) == set(range(10))
    with pytest.raises(ValueError, match="no 1000 pictures of every class"):
        small_data.pictures(small_data.arguments(["--data", "digits", "--images", "10000"]))


@pytest.mark.slow
def test_a_small_data_run_is_kept_judged_and_told(tmp_path, monkeypatch, capsys):
    """The whole command on the digits, in tiny: each run once, a second call trains nothing."""
    shrunk = {
        name: (what, row, overrides | {"depth": 1})
        for name, (what, row, overrides) in small_data.MODELS.items()
        if name in ("vit", "hybrid")
    }
    monkeypatch.setattr(small_data, "MODELS", shrunk)
    whole = small_data.recipe
    monkeypatch.setattr(small_data, "recipe", lambda *asked: dataclasses.replace(whole(*asked), xla="off"))
    monkeypatch.setattr(small_data, "RESULTS", tmp_path)
    monkeypatch.setattr(small_data, "KEPT", tmp_path / "small_data.jsonl")
    monkeypatch.setattr("benchmarks.common.RESULTS", tmp_path)
    words = ["--data", "digits", "--images", "130", "--epochs", "1", "--seeds", "1", "--workdir", str(tmp_path)]
    words += ["--models", "vit", "hybrid"]
    monkeypatch.setattr("sys.argv", ["small_data", *words, "--save"])
    small_data.main()
    records = list(small_data.kept(small_data.arguments(words)).values())
    assert [(r["model"], r["seed"]) for r in records] == [("vit", 0), ("hybrid", 0)]
    assert all(r["gap"] == pytest.approx(r["train_accuracy"] - r["test_accuracy"]) for r in records)
    text = (tmp_path / "small_data.md").read_text()
    assert "| `hybrid`: " in text and "| test accuracy | hybrid > vit | ViT, section 4.4" in text
    monkeypatch.setattr(small_data, "measure", None)
    small_data.main()
    assert '"claim": "hybrid > vit"' in capsys.readouterr().out


def test_rows_of_pre_training_are_taken_up_again_and_judged(tmp_path, monkeypatch, capsys):
    """Those that were saved and those found since; the claims by means and standard errors."""
    monkeypatch.setattr(pretraining, "RESULTS", tmp_path)
    monkeypatch.setattr(pretraining, "KEPT", tmp_path / "pretraining.jsonl")
    monkeypatch.setattr("benchmarks.common.RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["pretraining", "--save"])
    figures = {"scratch": 0.50, "finetune_75": 0.55, "random": 0.3, "pretrain_75": 0.31}

    def measured(arm, seed, options):
        named = ("test_accuracy",) if arm in ("scratch", "finetune_75") else ("knn_accuracy", "linear_accuracy")
        found = dict.fromkeys(named, figures[arm] + 0.01 * seed)
        return {"arm": arm, "seed": seed, "digest": pretraining.digest(arm, seed, options), "date": "2026"} | found

    monkeypatch.setattr(pretraining, "MEASURED", [(arm, seed) for seed in range(3) for arm in figures])
    monkeypatch.setattr(pretraining, "measure", measured)
    pretraining.main()
    result = json.loads((tmp_path / "pretraining.json").read_text())
    told = {claim["claim"]: claim for claim in result["claims"] if claim["figure"] != "linear_accuracy"}
    pays, better = told["finetune_75 > scratch by 4 points"], told["pretrain_75 > random"]
    # a standard deviation of 0.01 over three seeds each
    assert pays["difference"] == pytest.approx(0.05) and pays["standard_error"] == pytest.approx(0.01 * (2 / 3) ** 0.5)
    assert (pays["verdict"], better["verdict"]) == ("holds", "not decided")
    assert (
        "| `scratch`: trained on the labelled pictures alone | 3 | 51.0 ± 1.0 |"
        in (tmp_path / "pretraining.md").read_text()
    )
    (tmp_path / "pretraining.jsonl").unlink()
    monkeypatch.setattr(pretraining, "measure", None)
    pretraining.main()
    assert json.loads((tmp_path / "pretraining.json").read_text())["records"] == result["records"]
    assert not pretraining.kept(pretraining.arguments(["--pretrain-epochs", "11", "--epochs", "5"]))


@pytest.mark.slow
def test_odd_command_lines_end_in_a_sentence(tmp_path, monkeypatch):
    """A sample of the benchmark's, in one process; XLA is left out of the run that they are tried on."""
    train = kzoo.train
    monkeypatch.setattr(kzoo, "train", lambda *given: train(*given, {"xla": "off"}))
    found = odd_usage.measure(tmp_path, 40, seed=4, processes=())
    assert (
        found["wrong"] == [] and found["total"][odd_usage.TOLD] > 20 and found["largest_mib"] < odd_usage.MEMORY >> 20
    )


@pytest.mark.parametrize(
    ("status", "said", "options", "wanted"),
    [
        (0, "epoch 1", {}, odd_usage.DONE),
        (1, "epoch 1\nkzoo: no room.\n", {}, odd_usage.TOLD),
        (2, "usage: kzoo predict\nkzoo predict: error", {}, odd_usage.USAGE),
        (1, "", {}, odd_usage.UNTOLD),
        (1, "kzoo: no room.\nand more", {}, odd_usage.UNTOLD),
        (1, "Traceback (most recent call last):\nValueError", {}, odd_usage.TRACEBACK),
        (None, "IndexError", {"failure": IndexError()}, odd_usage.TRACEBACK),
        (0, "", {"memory": 3 << 30}, odd_usage.LARGE),
        (0, "", {"seconds": 61}, odd_usage.LONG),
    ],
)
def test_the_end_of_a_command_line_is_told_apart(status, said, options, wanted):
    assert odd_usage.outcome(status, said, **options) == wanted


def test_another_architecture_is_not_compared(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())  # keras_network sets it, for a process of its own
    model, images = keras_network("kzoo", TOY, "tensorflow", "float32")
    assert tuple(images.shape) == (2, *model.input_shape[1:])
    wider = kzoo.get("vit_toy", num_classes=11)
    monkeypatch.setattr("benchmarks.networks._kzoo", lambda work, config: wider)
    with pytest.raises(ValueError, match="not the same architecture"):
        keras_network("kzoo", TOY, "tensorflow", "float32")


def test_what_a_run_ends_with_is_compared_to_the_bit(tmp_path):
    kept = {
        "checkpoint": {"weights/head": 1.0, "task/head": 2.0, "task_average/head": 3.0},
        "best": {"weights/head": 4.0},
    }

    def digest(times=0.0, file="checkpoint", figure=0.5, **changed):
        (tmp_path / "log.csv").write_text(f"epoch,eval_ap,minutes\n1,{figure},{times}\n")
        for name, values in kept.items():
            arrays = values | (changed if name == file else {}) | {"meta": times, "kzoo_sha256": times}
            np.savez(tmp_path / f"{name}.npz", **{key: np.float32(value) for key, value in arrays.items()})
        return kill_resume.digest_of(tmp_path)

    others = [("checkpoint", key) for key in kept["checkpoint"]] + [("best", "weights/head")]
    changed = [
        digest(file=file, **{key: np.nextafter(np.float32(kept[file][key]), np.float32(9))}) for file, key in others
    ]
    assert digest() == digest(times=1.0) and len({digest(), digest(figure=0.6), *changed}) == 6

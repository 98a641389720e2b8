"""The README's first command, whole."""

import json

import pytest
from PIL import Image

from kzoo.cli import main


@pytest.mark.slow
def test_the_quickstart_keeps_its_promises(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--json"]) == 0
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {"keras", "saved_model", "onnx", "litert"}
    for name, row in rows.items():
        assert row["accuracy"] >= 0.97, name
        # logits reach some tens, export allows 1e-4 of them
        assert name == "keras" or row["max_abs_difference"] <= 2e-3, name
        assert row["file_bytes"] > 10_000 and row["latency_ms"] > 0
    for picture in ("predictions.png", "confusion_matrix.png", "run/learning_curve.png"):
        assert min(Image.open(tmp_path / "kzoo-quickstart" / picture).size) > 200

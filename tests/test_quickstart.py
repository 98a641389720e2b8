"""The README's first command, whole."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.test_packaging import ROOT


@pytest.mark.slow
def test_the_quickstart_keeps_its_promises(tmp_path):
    """In a process of its own: it trains long enough for XLA to optimise, which the suite's others are spared."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-m", "kzoo", "quickstart", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    rows = {row["model"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {"keras", "saved_model", "onnx", "litert"}
    for name, row in rows.items():
        assert row["accuracy"] >= 0.97, name
        # logits reach some tens, export allows 1e-4 of them
        assert name == "keras" or row["max_abs_difference"] <= 2e-3, name
        assert row["file_bytes"] > 10_000 and row["latency_ms"] > 0
    for picture in ("predictions.png", "confusion_matrix.png", "run/learning_curve.png"):
        assert min(Image.open(tmp_path / "kzoo-quickstart" / picture).size) > 200

"""Parameters and multiply-accumulates of rows of all families, against those of the references; the README's tables tell
the same.
"""

import csv
import functools
import pathlib

import pytest

import kzoo
from benchmarks.readme import README, render
from kzoo.models.count import count
from kzoo.registry import config_of

ROWS = list(csv.DictReader((pathlib.Path(__file__).parent / "goldens" / "params.csv").open()))
info = functools.cache(kzoo.info)  # a large row takes a second to build, and the README names the same ones


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['name']}-{row['num_classes']}")
def test_counts(row):
    if row["num_classes"] == "1000":
        params, gmacs = info(row["name"]).params, info(row["name"]).gmacs
    else:
        builder, config = config_of(row["name"], {"num_classes": int(row["num_classes"])})
        params, macs = count(lambda: builder(config))
        gmacs = macs / 1e9
    assert params == int(row["params"])
    if row["gmacs"]:
        assert gmacs == pytest.approx(float(row["gmacs"]), rel=0.01)


@pytest.mark.slow
def test_the_tables_of_the_readme_are_current(monkeypatch):
    monkeypatch.setattr(kzoo, "info", info)
    text = README.read_text()
    assert render(text) == text, "run python -m benchmarks.readme"

"""The README's tables are the ones that the models and the saved results give; its commands are the ones that CI runs."""

import pathlib

from benchmarks.readme import README, RESULTS, ROWS, render


def test_the_tables_are_current():
    text = README.read_text()
    assert render(text) == text, "run python -m benchmarks.readme"


def test_every_quoted_result_is_kept():
    kept = {path.stem for path in pathlib.Path(RESULTS).glob("*.json")}
    assert kept <= set(ROWS), "a result that the README does not show"
    quoted = {"startup", "infer", "step", "export", "input", "memory", "kill_resume"}
    assert quoted | {"train_vit_tiny_cifar10", "train_vit_tiny_digits"} <= kept

"""Every family's toy keeps every promise of the conformance list, under every backend."""

import keras
import pytest

import kzoo
from kzoo import registry
from kzoo.checking import checks_of, run_checks
from kzoo.tasks import named

pytestmark = pytest.mark.backends
TASKS = {name: named(registry.find(name).task) for name in kzoo.list_models("*_toy")}
CHECKS = [
    pytest.param(name, check, id=f"{name}-{check.__name__}")
    for name, task in TASKS.items()
    for check in checks_of(task)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "check"), CHECKS)
def test_conformance(name, check):
    not_applicable = check(name, TASKS[name])
    if keras.backend.backend() == "tensorflow":
        assert not_applicable is None
    elif not_applicable:
        pytest.skip(not_applicable)


def test_a_model_that_breaks_a_promise_is_told(monkeypatch):
    def lies(name, task):
        """Announces 10 classes, gives 11."""
        assert kzoo.get(name).output_shape == (None, 11)

    monkeypatch.setattr("kzoo.checking.checks_of", lambda task, model: (lies,))
    (result,) = run_checks("vit_toy", show=False)
    assert result["result"] == "failed" and "AssertionError" in result["reason"]

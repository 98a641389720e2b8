"""Every family's toy keeps every promise of the conformance list, under every backend."""

import keras
import pytest

import kzoo
from kzoo.checking import CHECKS, run_checks

pytestmark = pytest.mark.backends


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", kzoo.list_models("*_toy"))
def test_conformance(name, check):
    not_applicable = check(name)
    if keras.backend.backend() == "tensorflow":
        assert not_applicable is None
    elif not_applicable:
        pytest.skip(not_applicable)


def test_a_model_that_breaks_a_promise_is_told(monkeypatch):
    def lies(name):
        """Announces 10 classes, gives 11."""
        assert kzoo.get(name).output_shape == (None, 11)

    monkeypatch.setattr("kzoo.checking.CHECKS", (lies,))
    (result,) = run_checks("vit_toy", show=False)
    assert result["result"] == "failed" and "AssertionError" in result["reason"]

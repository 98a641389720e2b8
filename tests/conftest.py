"""What every test shares. Quiet backends; real data where it was prepared."""

import gc
import os
import pathlib
import shutil
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# XLA compiles a toy for seconds to run it for milliseconds: of its optimisations, the cheap ones do.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # what one process has compiled, others and later ones need not
    CACHE = tempfile.TemporaryDirectory(prefix="kzoo-compiled-")
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": CACHE.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# The files that take longest begin first, so that in the end no process waits for another that has a long one left.
LONGEST = (
    "models readme recipes training_run parity export reporting counts quickstart vit detr masked detect cli "
    "training_breadth layers coatnet hub mae best tasks claims registry cifar10 plugins"
).split()


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def pytest_collection_modifyitems(config, items):
    """Tests marked cifar10 need the prepared CIFAR-10, those marked browser Chromium: elsewhere they are skipped with
    the reason, in CI that is an error.
    """
    if not any(map(shutil.which, BROWSERS)):
        _skip(items, "browser", "the tests in a browser", f"install Chromium ({' or '.join(BROWSERS)})")
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    folder = os.environ.get("KZOO_DATA_DIR", "")
    if pathlib.Path(folder, "cifar10").is_dir() and folder:
        return
    _skip(items, "cifar10", "the CIFAR-10 tests", "set KZOO_DATA_DIR to the TFDS folder that holds cifar10")


def _skip(items, marker, what, remedy):
    marked = [item for item in items if item.get_closest_marker(marker)]
    if marked and os.environ.get("CI"):
        raise pytest.UsageError(f"CI runs {what}: {remedy}.")
    for item in marked:
        item.add_marker(pytest.mark.skip(reason=f"{what} need more: {remedy}"))


def pytest_collection_finish(session):
    """What has been imported by now stays: the garbage collector need not look through its millions of objects again
    and again.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def seen(monkeypatch):
    """Call it with a folder of installed packages: kzoo sees them during the test."""

    from kzoo import plugins, registry

    def look_again():
        registry.rows.cache_clear()
        plugins.entries.cache_clear()

    def see(folder):
        monkeypatch.syspath_prepend(folder)
        look_again()

    before = set(sys.modules)
    yield see
    look_again()
    for name in set(sys.modules) - before:  # other tests have other modules of these names
        if name.startswith(("plugged", "kzoo_stripes")):
            del sys.modules[name]


@pytest.fixture
def apart():
    """After the test the tables of tasks are as they were before it."""
    from kzoo.schema import SETTINGS
    from kzoo.tasks.base import TASKS

    tables = [(table, dict(table)) for table in (SETTINGS, TASKS)]
    yield
    for table, before in tables:
        table.clear()
        table.update(before)

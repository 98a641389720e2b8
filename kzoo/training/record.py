"""What a run's recipe.txt says beside the recipe: versions, devices, sizes."""

import importlib.metadata
import platform

import keras

from kzoo import __version__

VERSIONS = ("keras", "tensorflow", "jax", "torch", "numpy", "tensorflow-datasets")


def record_of(plan, network, **more):
    """{key: value} of what was found when a Plan's run began: how large it is, with which versions, on which devices;
    more: what is added.
    """
    versions = {f"version.{n}": importlib.metadata.version(n) for n in VERSIONS if _installed(n)}
    return (
        versions
        | {
            "version.kzoo": __version__,
            "version.python": platform.python_version(),
            "backend": keras.backend.backend(),
            "devices": devices(),
            "parameters": network.count_params(),
            "steps_per_epoch": plan.steps_per_epoch,
            "total_steps": plan.total_steps,
            "training_images": len(plan.source),
        }
        | more
    )


def devices():
    """The names of the backend's devices; none under torch."""
    return keras.distribution.list_devices() if keras.backend.backend() != "torch" else []


def _installed(distribution):
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True

"""The one training engine: recipes in, runs out."""

from kzoo.training.engine import Run, train
from kzoo.training.evaluation import evaluate
from kzoo.training.range_test import find_lr

__all__ = ["Run", "evaluate", "find_lr", "train"]

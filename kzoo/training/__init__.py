"""The one training engine: recipes in, runs out."""

from kzoo.training.engine import Run, train
from kzoo.training.evaluation import evaluate

__all__ = ["Run", "evaluate", "train"]

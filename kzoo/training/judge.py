"""By what a run is judged: the figures of its evaluations, and the best of them."""

import math

from kzoo.training.evaluation import loader_for
from kzoo.training.run import best_row


class Judge:
    """Evaluates a run's networks on the source that is held out for it.

    headline is the figure it goes by, sign 1 where more of it is better, else -1; metrics are those of the last
    evaluation. Raises UserError where the source gives less than the task needs, or does not go with that of training.
    """

    def __init__(self, plan, held_out):
        self.plan, self.task, self.held_out = plan, plan.task, held_out
        self.task.require(held_out, plan.recipe.data)
        self.task.require_both(plan.source, held_out)
        self.headline, self.sign = self.task.headline(plan.source)
        self.metrics, self.memory = {}, {}  # memory: what an evaluation leaves for the next

    def prepare(self, network):
        """Opens the evaluation for a network of the size at which the run ends. Raises UserError where the two do not
        fit.
        """
        self._network = network
        self.loader = loader_for(self.task, network, self.held_out, self.plan.recipe.data)

    def evaluate(self, view, network, between):
        """Measures the network. between() is called before every batch; where it raises, nothing has changed."""
        memory = dict(self.memory)  # ended meanwhile, the next is compared with the same one
        self.metrics = self.task.evaluate(view, network, self.loader, self._reference, between, memory)
        self.memory = memory

    @property
    def batches(self):
        """How many an evaluation takes of its pictures."""
        return -(-len(self.held_out) // self.loader.batch_size)

    def _reference(self):
        """The training split as evaluation sees pictures."""
        return loader_for(self.task, self._network, self.plan.source, self.plan.recipe.data)

    def figures(self):
        """{name: value} of the last evaluation's figures that are told of every run of the task."""
        names = dict.fromkeys((*self.task.curves, self.headline))
        return {name: self.metrics[name] for name in names if name in self.metrics}

    def told(self):
        """The same in words, the headline first."""
        figures = sorted(self.figures().items(), key=lambda item: item[0] != self.headline)
        return ", ".join(f"{name} {value:.4f}" for name, value in figures)

    def logs(self):
        """The last evaluation's figures as Keras' callbacks have them, val_... before their names."""
        return {f"val_{name}": value for name, value in self.metrics.items() if name != "images"}

    def beats(self, best):
        """Whether the last evaluation is better than that of the row `best` of a history; None: than none."""
        value = self.metrics[self.headline]
        return math.isfinite(value) and (best is None or self.sign * value > self.sign * best[f"eval_{self.headline}"])

    def best(self, history):
        """The history's row of the best evaluation, of equals the first; None before one."""
        return best_row(history, self.headline, self.sign)

    def tired(self, history):
        """Why the run ends now by its recipe's early_stop, a sentence; "" where it goes on. A function of the history
        alone, so that a run that is killed and continued ends where it would have.
        """
        limits, key = self.plan.recipe.early_stop, f"eval_{self.headline}"
        best, waited = None, 0
        for row in history:
            if key not in row:
                continue
            value, waited = self.sign * row[key], waited + 1
            if math.isfinite(value) and (best is None or value > self.sign * best[key] + limits.min_delta):
                best, waited = row, 0
        if limits.patience is None or waited < limits.patience:
            return ""
        by = f" by more than {limits.min_delta:g}" if limits.min_delta else ""
        than = f"{best[key]:.4f} of epoch {best['epoch']}" if best else "finite"
        times = "evaluation" if waited == 1 else f"{waited} evaluations"
        return f"early_stop.patience={limits.patience}: the last {times} gave no better {self.headline}{by} than {than}"

"""What a run trains at one image size: the model, its data and its compiled step."""

from kzoo.training import state
from kzoo.training.optimizer import freeze, make_optimizer, require_xla, wants_xla


class Stage:
    """network, training loader and, once compiled, view of a Plan; `side` is the image size in pixels, None for the
    model's own.
    """

    def __init__(self, plan, side=None):
        self.plan, self.side = plan, side
        self.network, self.training = plan.network(side), plan.loader(side)

    @property
    def is_last(self):
        """Whether this is the size at which the run evaluates and ends."""
        return self.side == self.plan.last_side

    def compile(self):
        """Makes the view, its optimizer built. Raises UserError where a required XLA step is not to be had."""
        recipe = self.plan.recipe
        self.view = self.plan.task.view(self.network)
        freeze(self.view, recipe.optim.freeze)
        optimizer = make_optimizer(recipe, self.plan.schedule, self.view)
        self.view.compile(optimizer=optimizer, jit_compile=wants_xla(recipe))
        require_xla(recipe, self.view)
        self.view.optimizer.build(self.view.trainable_variables)

    def follow(self, before):
        """Takes over everything an earlier stage has learnt and counted; position tables, and what belongs to them, are
        resampled.
        """
        state.carry(before.view, self.view)

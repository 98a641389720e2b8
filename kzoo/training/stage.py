"""What a run trains at one image size: the model, its data and its compiled step."""

import dataclasses

from kzoo import registry
from kzoo.errors import UserError
from kzoo.models.base import build
from kzoo.recipe_files import find_recipe
from kzoo.recipe_files import smoke as shrink
from kzoo.settings import flatten, override
from kzoo.tasks import make
from kzoo.training import state
from kzoo.training.optimizer import freeze, make_optimizer, require_xla, wants_xla
from kzoo.weights.read import spec_of
from kzoo.zoo import get


class Stage:
    """network, training loader and, once compiled, view of a recipe; `side` is the image size in pixels, None for the model's own."""

    def __init__(self, recipe, source, side=None):
        self.recipe, self.side = recipe, side
        self.network = build_network(recipe, source, side)
        self.training = training_loader(recipe, source, side)

    @property
    def is_last(self):
        """Whether this is the size at which the run evaluates and ends."""
        return self.side == side_at(self.recipe, self.recipe.epochs)

    def compile(self, schedule):
        """Makes the view, its optimizer built. Raises UserError where a required XLA step is not to be had."""
        recipe = self.recipe
        self.view = make(recipe.task).view(self.network)
        freeze(self.view, recipe.optim.freeze)
        self.view.compile(optimizer=make_optimizer(recipe, schedule, self.view), jit_compile=wants_xla(recipe))
        require_xla(recipe, self.view)
        self.view.optimizer.build(self.view.trainable_variables)

    def follow(self, before):
        """Takes over everything an earlier stage has learnt and counted; position tables, and what belongs to them, are resampled."""
        state.carry(before.view, self.view)


def model_options(recipe, source, side=None):
    """What kzoo.get is given: the task's options for this data where the recipe does not say otherwise, and what only training needs."""
    task = make(recipe.task)
    options = task.options(source) | recipe.overrides | task.building
    options |= {"image_size": side} if side is not None else {}
    options |= {"remat": True} if recipe.remat else {}
    return options if recipe.preprocessing is None else options | {"preprocessing": recipe.preprocessing}


def build_network(recipe, source, side=None):
    """The model for this data. Raises UserError where the two do not fit each other, as the task says."""
    options = model_options(recipe, source, side)
    model = build(recipe.model, options) if recipe.init_from else get(recipe.model, **options)
    task = make(recipe.task)
    names = task.accept(model, source)
    architecture = {key: value for key, value in model.spec.overrides.items() if key != "remat" and key not in task.building}
    model.spec = dataclasses.replace(model.spec, overrides=architecture, class_names=names)
    return model


def settle(source, overrides=None, smoke=False):
    """(name, Recipe) as it will run: found, shrunk for a smoke, its fields' types checked, {dotted key: value} overrides applied."""
    name, recipe = find_recipe(source)
    if smoke:
        recipe = shrink(recipe, registry.toy_of(recipe.model))
    recipe = override(recipe, flatten(recipe))  # checks the types of one written in Python
    return name, adopt(override(recipe, overrides or {}))


def adopt(recipe):
    """The recipe with the model that it starts from in the place of its own, where it is to keep that architecture.

    Its classes are not kept (they are the data's), its preprocessing is; what the recipe itself overrides comes on top.
    """
    if not recipe.keep_architecture:
        return recipe
    spec = spec_of(recipe.init_from)
    overrides = {key: value for key, value in spec.overrides.items() if key != "num_classes"} | recipe.overrides
    whole = {"model": spec.name, "overrides": overrides, "preprocessing": recipe.preprocessing or spec.preprocessing}
    return dataclasses.replace(recipe, keep_architecture=False, **whole)


def take_of(recipe, source, side=None):
    """The Take of a recipe's model, which need not be built."""
    return registry.config_of(recipe.model, model_options(recipe, source, side))[1].take


def training_loader(recipe, source, side=None, batch_size=None):
    """The augmented batches of a recipe for its model, which need not be built; batch_size None is the recipe's own."""
    take, data = take_of(recipe, source, side), recipe.data
    return make(recipe.task).loader(take, source, data, batch_size or data.batch_size, recipe.seed)


def side_at(recipe, epoch):
    """The image size of an epoch (0 is the first) by recipe.progressive; None is the model's own.

    Raises UserError where the last of the sizes is not the model's own.
    """
    if not recipe.progressive:
        return None
    own, last = registry.config_of(recipe.model, recipe.overrides)[1].size, recipe.progressive[-1]
    if own != (last, last):
        raise UserError(
            f"progressive ends at {last} pixels, but the model's pictures are {own[0]} x {own[1]}; end there, or set image_size."
        )
    return recipe.progressive[min(epoch * len(recipe.progressive) // recipe.epochs, len(recipe.progressive) - 1)]

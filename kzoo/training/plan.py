"""A recipe resolved: found and settled, then joined with its data into the one plan that training goes by."""

import dataclasses
import functools
import math

from kzoo import data as kdata
from kzoo import registry
from kzoo.data.division import of_data
from kzoo.errors import UserError
from kzoo.models.base import build
from kzoo.recipe_files import find_recipe
from kzoo.recipe_files import smoke as shrink
from kzoo.settings import flatten, override
from kzoo.tasks import make
from kzoo.training.optimizer import Rate, updates
from kzoo.weights import require_trained
from kzoo.weights.read import told_spec
from kzoo.zoo import get


def settle(source, overrides=None, smoke=False):
    """(name, Recipe) as it will run: found, shrunk for a smoke, its fields' types checked, {dotted key: value}
    overrides applied.
    """
    name, recipe = find_recipe(source)
    if smoke:
        recipe = shrink(recipe, registry.toy_of(recipe.model))
    recipe = override(recipe, flatten(recipe))  # checks the types of one written in Python
    return name, adopt(override(recipe, overrides or {}))


def take(recipe, data):
    """(the recipe with the name of the data that `train` was given, (training, evaluation) sources or None where that
    name opens both, the name of the evaluation source where it is another's).

    Raises as kzoo.data.sources_of.
    """
    if data is None or isinstance(data, str):
        return recipe if data is None else override(recipe, {"data.source": data}), None, None
    source, held_out = kdata.sources_of(data, opener(recipe.data), divide=divider(recipe.data))
    recipe = override(recipe, {"data.source": source.name})
    return recipe, (source, held_out), None if held_out.name == source.name else held_out.name


def opener(data):
    """The function of a source's name and 0 for training or 1 for evaluation that opens its split as a recipe's Data
    says.
    """
    splits = data.train_split, data.eval_split
    return lambda name, place: kdata.open_data(data, splits[place], name)


def divider(data):
    """The function of a source that was given alone that says which of its pictures a recipe's Data holds out, bool
    (N,), by their numbers, class by class; None where it says nothing.
    """
    division = of_data(data)
    if division is None:
        return None

    def held_out(source):
        classes = source.targets == "label" and not source.multilabel
        return division.held_out(range(len(source)), source.all_labels() if classes else None)

    return held_out


def adopt(recipe):
    """The recipe with the model that it starts from in the place of its own, where it is to keep that architecture.

    Its classes are not kept (they are the data's), its preprocessing is; what the recipe itself overrides comes on top.
    Files of other libraries tell of no model, and fit the recipe's own or are refused when they are read.
    """
    if not recipe.keep_architecture:
        return recipe
    spec = told_spec(recipe.init_from)
    if spec is None:
        return dataclasses.replace(recipe, keep_architecture=False)
    overrides = {key: value for key, value in spec.overrides.items() if key != "num_classes"} | recipe.overrides
    whole = {"model": spec.name, "overrides": overrides, "preprocessing": recipe.preprocessing or spec.preprocessing}
    return dataclasses.replace(recipe, keep_architecture=False, **whole)


class Plan:
    """What a settled recipe means for a source: its task, the model's options and config, sizes, steps, epochs and
    schedule.

    Nothing is built or read before it is asked for. Raises UserError where the source does not give what the task
    needs, and where the last of recipe.progressive is not the model's own size.
    """

    def __init__(self, recipe, source):
        self.recipe, self.source, self.task = recipe, source, make(recipe.task).of_data(source)
        self.task.require(source, recipe.data)
        self.options = (
            self.task.options(source)
            | recipe.overrides
            | self.task.building
            | ({"remat": True} if recipe.remat else {})
        )
        if recipe.preprocessing is not None:
            self.options["preprocessing"] = recipe.preprocessing
        self.config = registry.config_of(recipe.model, self.options)[1]
        own, last = self.config.size, recipe.progressive[-1] if recipe.progressive else None
        if last is not None and own != (last, last):
            raise UserError(
                f"progressive ends at {last} pixels, but the model's pictures are {own[0]} x {own[1]}; end there, or "
                "set image_size."
            )

    @functools.cached_property
    def steps_per_epoch(self):
        return self.loader().steps_per_epoch

    @property
    def total_steps(self):
        """Batches of the whole run."""
        return min(self.recipe.epochs * self.steps_per_epoch, self.recipe.steps or math.inf)

    @property
    def epochs(self):
        """Epochs of which the run sees a part at least."""
        return math.ceil(self.total_steps / self.steps_per_epoch)

    @property
    def updates(self):
        """Steps of the optimizer. Raises UserError where there is none."""
        return updates(self.recipe, self.total_steps)

    @functools.cached_property
    def schedule(self):
        """The Rate over the steps of the optimizer."""
        return Rate(self.recipe, self.steps_per_epoch / self.recipe.optim.accumulate, self.updates)

    def side_at(self, epoch):
        """The image size of an epoch (0 is the first) by recipe.progressive, in pixels; None is the model's own."""
        sides = self.recipe.progressive
        return sides[min(epoch * len(sides) // self.recipe.epochs, len(sides) - 1)] if sides else None

    @property
    def last_side(self):
        """The size at which the run evaluates and ends."""
        return self.side_at(self.recipe.epochs)

    def loader(self, side=None, batch_size=None):
        """The augmented batches, for pictures of that side; batch_size None is the recipe's own."""
        take, data = self.config.take, self.recipe.data
        take = take if side is None else take._replace(image_size=(side, side))
        return self.task.loader(take, self.source, data, batch_size or data.batch_size, self.recipe.seed)

    def network(self, side=None):
        """The model for this data, random. Raises UserError where the two do not fit each other, as the task says."""
        options = self.options if side is None else self.options | {"image_size": side}
        name = self.recipe.model
        model = build(name, options, filled=True) if self.recipe.init_from else get(name, **options)
        require_trained(model)
        names, trained_with = self.task.accept(model, self.source), {"remat", *self.task.building}
        architecture = {key: value for key, value in model.spec.overrides.items() if key not in trained_with}
        model.spec = dataclasses.replace(model.spec, overrides=architecture, class_names=names)
        return model

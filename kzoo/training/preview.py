"""What a recipe will show its model, and how fast it will let it learn: two pictures before any training."""

import math

import keras
import numpy as np

from kzoo import data as kdata
from kzoo.figures import new_figure, save, tiles
from kzoo.system import output_folder, printable
from kzoo.training.plan import Plan, settle

LARGEST = 32  # pictures shown; a larger batch is cut to them, and mixing finds its partners among them
COLUMNS = 8


def preview(recipe, out=None, overrides=None, *, smoke=False):
    """Writes NAME.batch.png and NAME.schedule.png of a recipe into the folder `out` (default kzoo-preview); returns
    their paths.

    recipe, overrides and smoke as in `train`; nothing is trained. The pictures are the first of the first epoch as the
    model gets them, the normalisation undone. Raises UserError for data that cannot be read, MissingPackage without the
    extra "plots".
    """
    folder = output_folder(out or "kzoo-preview", make=False)
    name, recipe = settle(recipe, overrides, smoke)
    name = printable(name)
    source = kdata.open_data(recipe.data, recipe.data.train_split)
    plan = Plan(recipe, source)
    paths = [folder / f"{name}.{kind}.png" for kind in ("batch", "schedule")]
    images, batch = first_batch(plan)
    title = printable(f"{name}: the first training pictures of {source.name}")
    captions = plan.task.captions(batch, source.class_names)
    output_folder(folder)
    draw_batch(
        paths[0],
        captions,
        lambda axis, row: plan.task.show_sample(axis, images[row], batch, row, source.class_names),
        title,
    )
    draw_schedule(paths[1], plan, name)
    return paths


def first_batch(plan):
    """(images (B, H, W, C) in 0..1, the whole batch, of arrays): the first of the first epoch, of at most LARGEST
    pictures.
    """
    loader = plan.loader(batch_size=min(plan.recipe.data.batch_size, LARGEST))
    with loader.plain_errors():
        batch = keras.tree.map_structure(np.asarray, next(iter(loader.epoch(0))))
    images, preprocessing = (
        batch[0]["image"] if isinstance(batch[0], dict) else batch[0],
        plan.config.take.preprocessing,
    )
    return np.clip(images * np.float32(preprocessing.std) + np.float32(preprocessing.mean), 0, 1), batch


def draw_batch(path, captions, draw, title):
    """Writes the pictures of a batch with their captions as PNG; draw(axis, row) shows one."""
    lines = 1 + max(caption.count("\n") for caption in captions)
    columns = min(COLUMNS, len(captions))
    rows = math.ceil(len(captions) / columns)
    figure = new_figure(max(1.5 * columns, 6), 0.4 + rows * (1.5 + 0.16 * lines))
    for row, (axis, caption) in enumerate(zip(tiles(figure, len(captions), columns), captions, strict=True)):
        draw(axis, row)
        axis.set_title(caption, fontsize=8)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def draw_schedule(path, plan, title):
    """Writes the learning rate over the run as PNG."""
    recipe, every, total = plan.recipe, plan.recipe.optim.accumulate, plan.updates
    steps = np.unique(np.linspace(0, total - 1, 2000).round())
    figure = new_figure(7, 3.6)
    axis = figure.subplots()
    rates = np.asarray(plan.schedule(steps))
    axis.plot(steps * every / plan.steps_per_epoch, rates, marker="." if len(steps) < 40 else None)
    axis.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    axis.grid(alpha=0.3)
    length = f"{total:,} steps of {every * recipe.data.batch_size:,} pictures"
    axis.set_title(
        f"{title}: {recipe.optim.name}, {recipe.schedule.name}\n{length}, peak {recipe.optim.lr:g}", fontsize=11
    )
    save(figure, path)

"""A small DETR on BCCD: red and white cells and platelets in 205 pictures of stained blood.

"End-to-End Object Detection with Transformers", https://arxiv.org/abs/2005.12872, has no run of this size: the recipe
is ours. It starts from runs/detr_shapes, a run of that recipe, whose architecture it keeps: there the boxes have
learnt to heed the picture, which takes more than a third of a run from scratch. Pictures of 480 x 640 are shown at a
third of their size, where the smallest cells are a dozen pixels wide, of 20 x 26 cells; 30 objects are the most of
any, for 40 queries.
Data: tfds:bccd, prepared once with tfds.load("bccd").
Expected: AP 0.381, AP50 0.669 on the 87 pictures of the validation split, best and last alike (AP of red cells 0.386,
white 0.670, platelets 0.086; measured 2026-11-28, JAX, two cores of an AMD EPYC). From scratch, 400 epochs at
120 x 160: AP 0.307, AP50 0.549; from detr_shapes with mirrored pictures alone AP50 0.489, the training pictures
learnt by heart.
Cost: 59 minutes there beside other work, after the 23 of detr_shapes.
Command: kzoo train detr_small_bccd
"""

from kzoo.schema import BoxAugment, Data, Detect, Optim, Recipe, Schedule, run_as_script

RECIPES = {
    "detr_small_bccd": Recipe(
        model="detr_small",
        init_from="runs/detr_shapes",
        keep_architecture=True,
        overrides={"image_size": (160, 208), "num_queries": 40},
        task=Detect(),
        data=Data(
            source="tfds:bccd",
            eval_split="validation",
            batch_size=4,
            # crops in pixels of the pictures as they are
            augment=BoxAugment(
                flip=0.5,
                flip_vertical=0.5,
                scales=(112, 128, 144, 160),
                max_size=208,
                crop=0.6,
                crop_scales=(),
                crop_size=(256, 480),
                color_jitter=0.3,
            ),
        ),
        optim=Optim(lr=2e-4, weight_decay=1e-4, clip_norm=0.1),
        schedule=Schedule(warmup_epochs=1),
        epochs=300,
        eval_every=25,
    )
}

run_as_script(__name__, RECIPES)

"""A small DETR on BCCD: red and white cells and platelets in 205 pictures of stained blood.

"End-to-End Object Detection with Transformers", https://arxiv.org/abs/2005.12872, has no run of this size: the recipe
is ours. Nothing is frozen and nothing loaded, so few pictures take many epochs. Pictures of 480 x 640 are shown at two
fifths of their size, where the smallest cells are a dozen pixels wide; 30 objects are the most of any, for 40 queries.
Data: tfds:bccd, prepared once with tfds.load("bccd").
Expected: not measured as it stands. At 120 x 160 with 15 x 20 cells and one encoder block, 400 epochs: AP 0.307, AP50
0.549 on the validation split (measured 2026-11-28, TensorFlow, two cores of an AMD EPYC), and still learning.
Cost: not measured as it stands; that run took 58 minutes beside other work.
Command: kzoo train detr_small_bccd
"""

from kzoo.schema import BoxAugment, Data, Detect, Optim, Recipe, Schedule, run_as_script

RECIPES = {
    "detr_small_bccd": Recipe(
        model="detr_small",
        overrides={
            "image_size": (192, 256),
            "num_queries": 40,
            "depth": 2,
            "drop_rate": 0.0,
            "backbone_index": -2,  # 12 x 16 cells
        },
        task=Detect(),
        data=Data(
            source="tfds:bccd",
            eval_split="validation",
            batch_size=8,
            # crops in pixels of the pictures as they are
            augment=BoxAugment(
                flip=0.5,
                scales=(144, 160, 176, 192),
                max_size=256,
                crop=0.5,
                crop_scales=(),
                crop_size=(288, 480),
                color_jitter=0.2,
            ),
        ),
        optim=Optim(lr=2.5e-4, weight_decay=1e-4, clip_norm=0.1),
        schedule=Schedule(warmup_epochs=4),
        epochs=600,
        eval_every=20,
    )
}

run_as_script(__name__, RECIPES)

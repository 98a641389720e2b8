"""A small DETR on generated shapes: boxes and classes of circles, squares and triangles.

"End-to-End Object Detection with Transformers", https://arxiv.org/abs/2005.12872, has no run of this size: the recipe
is ours.
Data: shapes, drawn as they are read.
Expected: AP 0.789, AP50 0.985 on 1,200 other pictures (measured 2026-11-28, TensorFlow, two cores of an AMD EPYC); 0.597
and 0.945 after 8 of the 20 epochs. In bfloat16 (--set precision=mixed_bfloat16) AP 0.776, AP50 0.981. For some 1,500
steps the boxes do not heed the picture yet. An evaluation takes 7.5 % of an epoch's time, every second epoch.
Cost: 23 CPU minutes there, 28 by the clock beside other work (135 to 230 pictures a second).
Command: kzoo train detr_shapes
"""

from kzoo.schema import BoxAugment, Data, Detect, Optim, Recipe, Schedule, run_as_script

RECIPES = {
    "detr_shapes": Recipe(
        model="detr_small",
        overrides={
            "image_size": 64,
            "num_queries": 12,
            "embed_dim": 96,
            "depth": 1,
            "decoder_depth": 3,
            "drop_rate": 0.0,
            # 8 x 8 cells; of 4 x 4 it had learnt nothing after 1,000 steps
            "backbone_options": {"width": 32, "output_stride": 8},
            "backbone_index": -2,
        },
        task=Detect(),
        data=Data(
            source="shapes:n=12000,size=64,max=4", batch_size=16, augment=BoxAugment(flip=0.5, crop=0.0, scales=())
        ),
        optim=Optim(lr=2.5e-4, weight_decay=1e-4, clip_norm=0.1),
        schedule=Schedule(warmup_epochs=0.5),
        epochs=20,
        eval_every=2,
    )
}

run_as_script(__name__, RECIPES)

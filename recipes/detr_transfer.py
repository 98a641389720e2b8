"""Fine-tuning a trained DETR on your own pictures: another label set, few pictures, few epochs.

"End-to-End Object Detection with Transformers", https://arxiv.org/abs/2005.12872, whose augmentation it keeps; rates
and epochs are ours. It starts from DETR-R50 as published, trained on COCO. Another start is named by init_from: of the
hub hf://facebook/detr-resnet-101 with --set model=detr_resnet101, and -50-dc5, -101-dc5 alike; or any run or .keras
file of kzoo's, whose architecture is then kept: --set init_from=runs/detr_small_bccd. The head of the classes is new
where their number is another, and learns at ten times the rate; with --set overrides.num_queries=N the first queries
are kept and any beyond them new. The run's init_from.json is the receipt.
Data: coco:IMAGES,ANNOTATIONS.json, voc:PATH, tfds:NAME or npz:FILE. Pictures are padded to the model's own size; with
--set task.canvases=[[800,1066],[1066,800],[1066,1066]] upright ones are as large as others.
Expected: it depends on your pictures (not measured here).
Cost: 86 GMACs a picture of 800 x 1066 pixels, in the paper's count.
Command: kzoo train detr_transfer --set data.source=coco:pictures,boxes.json
"""

from kzoo.schema import BoxAugment, Data, Detect, Optim, Recipe, Schedule, run_as_script

RECIPES = {
    "detr_transfer": Recipe(
        model="detr_resnet50",
        init_from="hf://facebook/detr-resnet-50",
        keep_architecture=True,
        task=Detect(),
        data=Data(source="coco:pictures,boxes.json", batch_size=4, augment=BoxAugment()),
        optim=Optim(lr=1e-5, weight_decay=1e-4, clip_norm=0.1, lr_scales={"^class_embed/": 10.0}),
        schedule=Schedule(warmup_epochs=1),
        epochs=50,
        eval_every=5,
    )
}

run_as_script(__name__, RECIPES)

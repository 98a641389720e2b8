"""DETR on COCO 2017, in the paper's settings: over ResNet-50 and ResNet-101, as they are and dilated (DC5).

"End-to-End Object Detection with Transformers", https://arxiv.org/abs/2005.12872, section 4 and A.4: AdamW, a tenth of
the rate for the backbone, 64 pictures a step, the rate dropped after 200 of 300 epochs. A batch is the 4 pictures of
one of the paper's 16 GPUs, and 16 batches make a step. DC5 takes single pictures, as the authors' does, which have
little padding, and its AP falls where it is evaluated in larger batches. Losses of boxes are divided by the objects of
their batch, where the authors divide by the mean over GPUs; biases and norms do not decay, and theirs do.
Weights: the stem, the first stage and all batch norms stay as they are loaded, so a run without weights of the backbone
is refused. init_from names those that the authors began with, torchvision's first ones, on the hub; a file does as
well, --set init_from=resnet50-0676ba61.pth (resnet101-63fe2227.pth), and so does a run of resnet50_imagenet.
Data: COCO 2017 as its archives unpack, coco/train2017, coco/val2017 and coco/annotations; of another folder --set
data.source=coco:FOLDER/{split}2017,FOLDER/annotations/instances_{split}2017.json, of TFDS --set
data.source=tfds:coco/2017 --set data.eval_split=validation. Its 80 classes are numbered 0 to 79, not by COCO's 91.
Expected: AP (AP50) on val2017 after 500 epochs, the rate dropped after 400 (--set epochs=500 --set
schedule.drop_epochs=[400]): R50 42.0 (62.4), R50-DC5 43.3 (63.1), R101 43.5 (63.8), R101-DC5 44.9 (64.7). The 300
epochs of the rows give 1.5 less, the paper says of R50 (the authors' figures; not measured here).
Cost: 86 (R50), 187 (R50-DC5), 152 (R101), 253 (R101-DC5) GMACs a picture, as the paper counts them; 300 epochs of R50
on 16 V100 3 days (the authors'; not measured here).
Command: kzoo train detr_resnet50_coco
"""

from kzoo.schema import BoxAugment, Data, Detect, Optim, Recipe, Schedule, run_as_script

PLACE = "coco:coco/{split}2017,coco/annotations/instances_{split}2017.json"
SOURCE = {"source": PLACE, "eval_split": "val", "augment": BoxAugment()}
ADAMW = {"lr": 1e-4, "weight_decay": 1e-4, "clip_norm": 0.1, "lr_scales": {"^features/": 0.1}}
# Height x width, for COCO's proportions, 4 : 3 and 3 : 2 upright and across; the largest holds any batch. A run tells
# first how much of them is padding.
OF_ONE = ((640, 853), (853, 640), (800, 1066), (1066, 800), (800, 1333), (1333, 800), (1333, 1333))
OF_FOUR = ((800, 1066), (1066, 800), (800, 1333), (1066, 1066), (1333, 1333))

FOURS = {"task": Detect(canvases=OF_FOUR), "data": Data(**SOURCE, batch_size=4), "optim": Optim(**ADAMW, accumulate=16)}
ONES = {"task": Detect(canvases=OF_ONE), "data": Data(**SOURCE, batch_size=1), "optim": Optim(**ADAMW, accumulate=64)}
RUN = {
    "overrides": {"drop_rate": 0.1},
    "schedule": Schedule(name="step", drop_epochs=(200,)),
    "epochs": 300,
    "eval_every": 10,
}
RESNET50 = {"init_from": "hf://timm/resnet50.tv_in1k", **RUN}
RESNET101 = {"init_from": "hf://timm/resnet101.tv_in1k", **RUN}

RECIPES = {
    "detr_resnet50_coco": Recipe(model="detr_resnet50", **FOURS, **RESNET50),
    "detr_resnet50_dc5_coco": Recipe(model="detr_resnet50_dc5", **ONES, **RESNET50),
    "detr_resnet101_coco": Recipe(model="detr_resnet101", **FOURS, **RESNET101),
    "detr_resnet101_dc5_coco": Recipe(model="detr_resnet101_dc5", **ONES, **RESNET101),
}

run_as_script(__name__, RECIPES)

"""Pictures to answers: who is asked (`targets`), about what (`pictures`), in batches (`many`), written as tables or
drawn.
"""

from kzoo.predicting.drawings import check_drawing, draw, draw_attention
from kzoo.predicting.many import Answer, answers, check_top, predict
from kzoo.predicting.pictures import pictures_of
from kzoo.predicting.tables import table_of
from kzoo.predicting.targets import ArtifactPredictor, ModelPredictor, open_model, open_target, run_pictures

__all__ = [
    "Answer",
    "ArtifactPredictor",
    "ModelPredictor",
    "answers",
    "check_drawing",
    "check_top",
    "draw",
    "draw_attention",
    "open_model",
    "open_target",
    "pictures_of",
    "predict",
    "run_pictures",
    "table_of",
]

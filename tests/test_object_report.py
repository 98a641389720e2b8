"""The report on a set of objects before a run: counts, and boxes that were written in another format."""

import numpy as np
import pytest
from PIL import Image

from kzoo import data
from kzoo.data.object_report import lines, survey
from tests.test_object_sources import coco


def test_a_report_counts_what_there_is(tmp_path):
    source = data.open_source(coco(tmp_path), "train")
    facts = survey(source)
    assert facts == {
        "pictures": 4,
        "looked_at": 4,
        "objects": 3,
        "crowds": 1,
        "empty": 1,
        "most": 1,
        "cut": 3,
        "gone": 2,
        "classes": {"car": 1, "dog": 1, "zebra": 1},
        "sizes": {"small": 3, "medium": 0, "large": 0},
        "suspicion": facts["suspicion"],
    }
    told = lines("set", facts)
    assert told[0] == "set: 4 pictures, 3 objects, at most 1 in one; 1 pictures without any, 1 crowds"
    facts = survey(data.open_source("shapes:size=300,n=40", "train"), most=20)
    assert (facts["pictures"], facts["looked_at"], facts["suspicion"]) == (40, 20, None)
    assert facts["sizes"]["small"] == 0 and facts["sizes"]["medium"] > 10 and facts["sizes"]["large"] > 0
    assert "40 pictures (of which 20 were looked at)" in lines("shapes", facts)[0]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (lambda x0, y0, x1, y1: [x0, y0, x1 - x0, y1 - y0], None),
        (lambda x0, y0, x1, y1: [x0, y0, x1, y1], "look like those"),
        (lambda x0, y0, x1, y1: [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], "read as centre x, centre y, width"),
        (lambda x0, y0, x1, y1: [x0 / 40, y0 / 30, (x1 - x0) / 40, (y1 - y0) / 30], "look like shares in 0..1"),
        (lambda x0, y0, x1, y1: [3 * x0, 3 * y0, 3 * (x1 - x0), 3 * (y1 - y0)], "at their size"),
    ],
)
def test_a_report_sees_boxes_of_another_format(tmp_path, written, words):
    random = np.random.default_rng(0)
    low, high = np.sort(random.uniform(0, [40, 30], (2, 60, 2)), axis=0)
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": written(*map(float, (*low[i], *high[i])))} for i in range(60)
    ]
    (tmp_path / "train2017").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "train2017" / "a.png")
    images = [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}]
    name = coco(tmp_path, images=images, annotations=annotations, categories=[{"id": 1, "name": "thing"}])
    facts = survey(data.open_source(name, "train"))
    assert facts["suspicion"] is None if words is None else words in facts["suspicion"]
    assert (words is None) == (not any("look at the boxes" in line for line in lines("set", facts)))

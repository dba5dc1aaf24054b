"""The files of a run: what becomes of a COCO file's annotations, what is marked, what is shown."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from segagent.annotation.outputs import changed_coco, mark_suspicious, new_coco, ranking, write_sheet
from segagent.annotation.suspicion import Suspicion, find_suspicious
from segagent.masks import encode_rle
from segagent.types import InitKind, Trajectory

SIZE = {"height": 4, "width": 4}
DIAGONAL = encode_rle(np.eye(4, dtype=bool))
POLYGONS = [[0, 0, 4, 0, 4, 4]]


@pytest.fixture
def coco(tmp_path):
    """Annotations 5 and 6 of one picture."""
    content = {"images": [{"id": 1, "file_name": "a.png", **SIZE}], "categories": [{"id": 1, "name": "c"}]}
    content["annotations"] = [
        {"id": number, "image_id": 1, "category_id": 1, "segmentation": POLYGONS} for number in (5, 6)
    ]
    (tmp_path / "c.json").write_text(json.dumps(content))
    return tmp_path / "c.json"


def looked_at(number=0, said=0.5):
    """Annotation 5, by its caption of that number, with a mask that was judged and left as it is."""
    facts = {"image_name": "a.png", "text": "c", "target": None, "void": None, "object_id": 5}
    given = {"init": InitKind.MASK, "init_mask": DIAGONAL, "extras": {"pred_iou": said}}
    return Trajectory(sample_id=f"5#{number}" if number else "5", **SIZE, **facts, **given)


def flagged(count):
    return find_suspicious(np.full(count, 0.5), calibration=None, bad_iou=0.75, precision=0.9, threshold=0.75)


def test_of_captions_that_are_judged_alike_the_first_one_counts(coco):
    entry, _ = changed_coco(coco, [looked_at(0), looked_at(1)], polygons=False, mode="filter")["annotations"]
    assert entry["sample_id"] == "5"


def test_a_mask_that_was_not_changed_is_written_as_it_was(coco):
    entry, _ = changed_coco(coco, [looked_at()], polygons=False, mode="refine")["annotations"]
    assert entry["segmentation"] == POLYGONS


def test_annotations_that_nobody_worked_on_stay_where_masks_are_improved_only(coco):
    for mode, left in (("annotate", [5]), ("refine", [5, 6]), ("filter", [5, 6])):
        made = changed_coco(coco, [looked_at()], polygons=False, mode=mode)["annotations"]
        assert [entry["id"] for entry in made] == left


def test_only_the_annotation_itself_is_marked():
    content = {"annotations": [{"id": 5, "sample_id": "5"}, {"id": 6, "sample_id": "5"}]}
    mark_suspicious(content, [looked_at()], flagged(1))
    assert content["annotations"][0]["suspicious"] and "suspicious" not in content["annotations"][1]
    content = {"annotations": [{"id": 1, "sample_id": "5"}]}
    mark_suspicious(content, [replace(looked_at(), object_id=None)], flagged(1))
    assert content["annotations"][0]["suspicious"], "samples of no COCO file have no id there"


def test_a_sheet_shows_as_many_as_it_is_told(tmp_path):
    made = [looked_at(number) for number in range(4)]
    blank = np.zeros((4, 4, 3), np.uint8)
    write_sheet(tmp_path / "s.html", made, flagged(4), shown=2, summary={}, load_image=lambda _: blank)
    assert (tmp_path / "s.html").read_text().count("<article>") == 2


@pytest.fixture
def half_judged():
    """(two looked at, of which the second was not judged; the second first)"""
    made = [replace(looked_at(1, said=0.5), init_iou=0.25), looked_at(2, said=None)]
    return made, Suspicion(np.array([1, 0]), np.array([False, False]), np.array([0.75, np.nan]), None, None)


def test_a_ranking_says_what_was_predicted_and_what_is_true(half_judged):
    assert ranking(*half_judged).splitlines()[1:] == ["5#2,a.png,c,,,0,", "5#1,a.png,c,0.5000,0.7500,0,0.2500"]


def test_a_sheet_shows_the_first_of_the_ranking_where_none_is_flagged(half_judged, tmp_path):
    given = {"summary": {}, "load_image": lambda _: np.zeros((4, 4, 3), np.uint8)}
    write_sheet(tmp_path / "s.html", *half_judged, shown=2, **given)
    cards = (tmp_path / "s.html").read_text().split("<article>")[1:]
    assert [re.search(r"<h3>(\d)\. c</h3>", card)[1] for card in cards] == ["1", "2"]
    assert "5#2" in cards[0] and re.findall("<p>(.*?)</p>", cards[0]) == ["not judged"]
    told = ["predicted IoU 0.500", "bad with probability 0.75", "true IoU 0.250"]
    assert "5#1" in cards[1] and re.findall("<p>(.*?)</p>", cards[1]) == told
    write_sheet(tmp_path / "s.html", *half_judged, shown=1, **given)
    assert "5#2" in (tmp_path / "s.html").read_text() and "5#1" not in (tmp_path / "s.html").read_text()


def test_a_probability_that_is_not_known_is_null(half_judged):
    content = {"annotations": [{"id": 5, "sample_id": f"5#{number}"} for number in (1, 2)]}
    mark_suspicious(content, *half_judged)
    assert [entry["bad_probability"] for entry in content["annotations"]] == [0.75, None]


def test_samples_of_one_picture_share_its_entry_in_a_new_file():
    wide = replace(looked_at(3), image_name="b.png", width=6, init_mask=encode_rle(np.eye(4, 6, dtype=bool)))
    made = new_coco([looked_at(1), looked_at(2), wide], polygons=False)
    assert [(one["id"], one["file_name"], one["height"], one["width"]) for one in made["images"]] == [
        (1, "a.png", 4, 4), (2, "b.png", 4, 6)
    ]  # fmt: skip
    facts = [(one["id"], one["image_id"], one["sample_id"], one["iscrowd"]) for one in made["annotations"]]
    assert facts == [(1, 1, "5#1", 0), (2, 1, "5#2", 0), (3, 2, "5#3", 0)]

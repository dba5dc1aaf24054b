"""Conventions of the field from one file, against sums by hand."""

import numpy as np
import pytest

from segagent.masks import encode_rle
from segagent.metrics import score
from segagent.metrics.published_rows import COLUMNS, ROWS, format_table
from segagent.metrics.side_by_side import first_of_each, format_side_by_side, format_subgroups, side_by_side, subgroups

H, W = 10, 20


def bar(length, start=0):
    mask = np.zeros((H, W), bool)
    mask[:, start : start + length] = True
    return mask


def record(target, mask, image="a.jpg", text="thing", actions=1, **facts):
    item = {"clicks": None, "used_box": None, "mask": encode_rle(mask), "outputs": "Positive point: (1, 2)"}
    made = {"img_path": image, "masks": None, "height": H, "width": W, "caption": [text], "click_id": 0}
    made |= {"gt_mask": encode_rle(target), "pred_list": [{**item, "click_id": k} for k in range(actions)]}
    return made | facts


@pytest.fixture
def records():
    return [
        record(bar(10), bar(5), object_id=1, category="cup"),  # IoU 1/2
        record(bar(10), bar(10), object_id=1, category="cup", text="the red cup"),  # 1, the same object
        record(bar(4), bar(8), object_id=2, category="dog", actions=3),  # 1/2
        record(bar(0), bar(0), image="b.jpg", text="no such thing at all here"),  # nothing, rightly
        record(bar(0), bar(2), image="b.jpg", text="nothing"),  # nothing, wrongly
    ]


def test_each_convention_is_what_its_sums_give(records):
    rows = side_by_side(score(records, bootstrap=0))
    ciou = (50 + 100 + 40) / (100 + 100 + 80 + 0 + 20)
    assert rows["expression"] == pytest.approx(
        {"n": 5, "ciou": ciou, "giou": 3 / 5, "p50": 2 / 5, "p60": 2 / 5, "p70": 2 / 5, "p80": 2 / 5, "p90": 2 / 5}
    )
    instance = rows["instance"]
    assert instance["n"] == 3 and instance["ciou"] == pytest.approx(90 / 180), "empty targets of b.jpg are one object"
    assert rows["image"] == pytest.approx({"n": 2, "giou": ((0.5 + 1 + 0.5) / 3 + 0.5) / 2})
    lisa = (50 / (100 + 1e-5) + 100 / (100 + 1e-5) + 40 / (80 + 1e-5) + 1 + 0) / 5
    assert rows["lisa"] == pytest.approx({"n": 5, "ciou": ciou, "giou": lisa}, abs=1e-12)
    assert rows["gres"] == pytest.approx(
        {"n": 5, "ciou": ciou, "giou": 3 / 5, "p70": 1 / 3, "p80": 1 / 3, "p90": 1 / 3, "n_acc": 1 / 2, "t_acc": 1}
    )
    assert rows["official"]["n"] == 5


def test_objects_without_an_id_are_told_by_their_target():
    rows = [record(bar(10), bar(10)), record(bar(10), bar(5)), record(bar(9), bar(9)), record(bar(10), bar(1), "b")]
    assert side_by_side(score(rows, bootstrap=0))["instance"]["n"] == 3
    assert first_of_each(np.array([4, 4, 0, 4, 2])).tolist() == [0, 2, 4]


def test_objects_with_an_id_are_told_by_it_and_not_by_their_target():
    alike = [record(bar(10), bar(10), object_id=number) for number in (0, 1)]
    assert side_by_side(score(alike, bootstrap=0))["instance"]["n"] == 2
    unlike = [record(bar(length), bar(5), object_id=0) for length in (9, 10)]
    assert side_by_side(score(unlike, bootstrap=0))["instance"]["n"] == 1


def test_void_pixels_count_nowhere():
    void = bar(10, 10)
    rows = side_by_side(score([record(bar(10), bar(20), void=encode_rle(void))], bootstrap=0))
    assert rows["expression"]["giou"] == 1 and rows["lisa"]["giou"] == pytest.approx(1, abs=1e-6)


def test_intervals_and_boundaries_are_there_when_asked_for(records):
    row = side_by_side(score(records, boundary=True, bootstrap=200))["instance"]
    assert row["ciou_low"] <= row["ciou"] <= row["ciou_high"] and 0 < row["boundary_iou"] < 1
    alone = side_by_side(score(records[:3], bootstrap=50))["expression"]
    assert alone["giou"] == pytest.approx(2 / 3)
    assert alone["giou_low"] is alone["giou_high"] is None, "one image says nothing of others"


def test_another_protocol_scores_another_mask(records):
    first = side_by_side(score(records, "step:0", bootstrap=0))
    assert first["expression"]["ciou"] == 0 and first["gres"]["n_acc"] == 1 and first["gres"]["t_acc"] == 0


def test_a_file_the_official_scorer_refuses_lacks_its_row(records):
    for entry in records:
        del entry["masks"]
    assert "official" not in side_by_side(score(records, bootstrap=0))


def test_subgroups_are_disjoint_and_complete(records):
    groups = subgroups(score(records))
    assert {kind: {name: row["n"] for name, row in rows.items()} for kind, rows in groups.items()} == {
        "size": {"none": 2, "small": 3},
        "category": {"cup": 2, "dog": 1},
        "words": {"1-2": 3, "3-4": 1, "5-8": 1},
        "actions": {"1": 4, "3-4": 1},
    }
    assert groups["category"]["dog"] == {"n": 1, "ciou": 0.5, "giou": 0.5, "p50": 0.0}


def test_rare_categories_are_counted_together():
    rows = [record(bar(2), bar(2), category=f"c{k}") for k in range(14)] + [record(bar(2), bar(1), category="c3")]
    groups = subgroups(score(rows))["category"]
    assert next(iter(groups)) == "c3" and groups["(others)"]["n"] == 2 and len(groups) == 13


def test_tables_show_every_row(records):
    scores = score(records)
    text = format_side_by_side(side_by_side(scores))
    assert [line.split()[0] for line in text.splitlines()][1:] == [
        *("expression", "instance", "image", "lisa", "gres", "official"),
    ]
    assert "63.33" in text and "size small" in format_subgroups(subgroups(scores))


def test_the_papers_table_ends_with_ours():
    assert all(len(row) == len(COLUMNS) for row in ROWS.values())
    last = format_table({"refcoco_val": 0.5, "refcocog_test": None}).splitlines()[-1]
    assert last.split() == ["this", "run", "50.00", *["-"] * 7]


def test_no_record_is_refused():
    with pytest.raises(ValueError, match="no record to score"):
        side_by_side(score([]))


def test_only_gres_counts_an_iou_that_is_just_reached():
    rows = side_by_side(score([record(bar(10), bar(7))], bootstrap=0))
    assert rows["gres"]["p70"] == 1 and rows["expression"]["p70"] == 0


def test_every_sample_is_in_a_group_of_words():
    groups = subgroups(score([record(bar(10), bar(7), text=""), record(bar(10), bar(7), text="a cup")], bootstrap=0))
    assert {name: row["n"] for name, row in groups["words"].items()} == {"0": 1, "1-2": 1}


def test_an_object_of_just_96_by_96_pixels_is_large():
    whole = encode_rle(np.ones((96, 96), bool))
    row = record(bar(1), bar(1)) | {"height": 96, "width": 96, "gt_mask": whole}
    row["pred_list"] = [row["pred_list"][0] | {"mask": whole}]
    assert list(subgroups(score([row], bootstrap=0))["size"]) == ["large"]


def test_boundaries_were_measured_of_one_protocol_only():
    made = score([record(bar(10), bar(5))], "final", boundary=True, bootstrap=0)
    assert "boundary_iou" in side_by_side(made, "final")["expression"]
    assert "boundary_iou" not in side_by_side(made, "oracle")["expression"]


def test_intervals_are_those_of_the_seed():
    rows = [record(bar(10), bar(1 + k), image=f"{k}.jpg") for k in range(9)]
    made = score(rows, seed=5)
    assert side_by_side(made)["expression"]["ciou_low"] == made.metrics()["ciou_low"]

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segagent.data.segagent_json import image_path_of, official_record, read_official, write_official
from segagent.masks import decode_rle, encode_rle
from segagent.types import Box, Click, InitKind

EXAMPLE = json.loads((Path(__file__).parents[1] / "fixtures" / "trace_record" / "example_record.json").read_text())


@pytest.fixture
def example(tmp_path):
    def write(change=lambda content: None):
        content = json.loads(json.dumps(EXAMPLE))
        change(content)
        (tmp_path / "official.json").write_text(json.dumps(content))
        return tmp_path / "official.json"

    return write


def test_a_released_record_is_read(example):
    trajectories = list(read_official(example()))
    assert len(trajectories) == sum(
        1 if isinstance(r["gt_ann"]["caption"], str) else len(r["gt_ann"]["caption"]) for r in EXAMPLE["data"]
    )
    first, record = trajectories[0], EXAMPLE["data"][0]
    y, x = record["clicks_list"][0]["coor"]
    assert first.steps[0].action.click == Click(x, y, True) and first.image_name == 581857
    assert [s.iou_before for s in first.steps] == [0.0, *[c["iou"] for c in record["clicks_list"][:-1]]]
    assert first.init is InitKind.EMPTY and not decode_rle(first.init_mask).any()
    assert [t.sample_id for t in trajectories][:3] == ["0", "1", "1#1"], "each caption is a sample"


def test_there_and_back_is_the_same_file(example, tmp_path):
    single = example(lambda c: [r["gt_ann"].update(caption="cup") for r in c["data"]])
    assert write_official(tmp_path / "again.json", read_official(single)) == len(EXAMPLE["data"])
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["data"] == json.loads(single.read_text())["data"] and "info" in again
    assert not list(tmp_path.glob("*.partial"))


def test_evaluation_files_have_no_clicks(example):
    (first, *_) = read_official(example(lambda c: [r.pop("clicks_list") for r in c["data"]]))
    assert first.steps == () and first.end_reason is None


def test_steps_that_were_not_kept_stay_out(example):
    (first, *_) = read_official(example())
    dropped = replace(first, steps=(first.steps[0], replace(first.steps[1], kept=False), first.steps[2]))
    assert [c["idx"] for c in official_record(dropped)["clicks_list"]] == [0, 1]


def test_what_the_layout_cannot_say_is_refused(example, tmp_path):
    (first, *_) = read_official(example())
    for changed, message in (
        (replace(first, target=None), "has no target"),
        (replace(first, init=InitKind.BOX, init_box=Box(0, 0, 2, 2)), "starts from box"),
    ):
        with pytest.raises(ValueError, match=message):
            write_official(tmp_path / "x.json", [first, changed])
        assert not list(tmp_path.glob("x.json*")), "no half file is left"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("data"), "key 'data' with a list is missing"),
        (lambda c: c["data"][1].pop("height"), "record 1: key 'height' is missing"),
        (
            lambda c: c["data"][0]["clicks_list"][1].update(coor=[99, 0]),
            r"record 0: click 1 at coor \[99, 0\] lies outside",
        ),
        (
            lambda c: c["data"][0]["clicks_list"][0].update(mask={"size": [2, 3], "counts": "6"}),
            r"record 0, clicks_list\[0\].mask: size \[2, 3\], the record says",
        ),
        (
            lambda c: c["data"][0]["clicks_list"][0]["mask"].update(counts="1"),
            r"record 0, clicks_list\[0\].mask: broken RLE",
        ),
        (
            lambda c: c["data"][0]["gt_ann"].update(segmentation=encode_rle(np.zeros((3, 3), bool))),
            r"record 0: gt_ann.segmentation has size \[3, 3\]",
        ),
        (lambda c: c["data"].insert(0, 5), "record 0: not laid out"),
        (lambda c: c["data"][0].update(height="40"), "record 0: height '40', width .*: expected whole numbers"),
        (
            lambda c: c["data"][0]["gt_ann"].update(caption=["cup", None]),
            r"record 0: gt_ann.caption is \['cup'",
        ),
    ],
)
def test_unsound_files_name_record_and_key(example, change, message):
    with pytest.raises(ValueError, match=message):
        list(read_official(example(change)))


def test_records_without_a_caption_are_told_and_an_empty_target_begins_at_one(example, caplog):
    def change(content):
        first, second = content["data"][:2]
        first["gt_ann"]["caption"] = []
        second["gt_ann"]["segmentation"] = encode_rle(np.zeros((second["height"], second["width"]), bool))

    trajectories = list(read_official(example(change)))
    assert "1 records have no caption" in caplog.text
    assert trajectories[0].sample_id == "1" and trajectories[0].init_iou == 1, "nothing to find, nothing found"


def test_image_names_mean_paths():
    assert image_path_of(581857) == "mscoco/images/train2014/COCO_train2014_000000581857.jpg"
    assert (image_path_of("dir/a.v2"), image_path_of("a"), image_path_of("a.png")) == (
        "dir/a.v2.jpg",
        "a.jpg",
        "a.png",
    )

"""Predictions files: streaming read against `json`, clear errors, and the way to a trajectory and back."""

import io
import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segagent.data import json_stream
from segagent.data.predictions import (
    empty_rle,
    prediction_record,
    read_predictions,
    trajectory_from_prediction,
    write_predictions,
)
from segagent.masks import encode_rle
from segagent.types import Action, Box, Click, EndReason, InitKind, Step, Trajectory


def square(x0, y0, x1, y1):
    mask = np.zeros((12, 16), bool)
    mask[y0:y1, x0:x1] = True
    return encode_rle(mask)


def make_trajectory(**changes):
    steps = (
        Step(
            Action(box=Box(1, 2, 9, 8), text="a box", predicted_iou=0.0, source="detector"),
            square(1, 2, 9, 8),
            0.0,
            0.5,
        ),
        Step(
            Action(click=Click(3, 4, False), text="Current IOU: 50, ...", predicted_iou=0.503, log_prob=-1.25),
            square(2, 2, 9, 8),
            0.5,
            0.75,
            kept=False,
        ),
    )
    facts = {
        "sample_id": "val/7",
        "image_name": "a/b.jpg",
        "height": 12,
        "width": 16,
        "text": 'the "left" one, ü',
        "target": square(2, 2, 8, 8),
        "void": square(0, 0, 2, 2),
        "init": InitKind.RANDOM_POINTS,
        "init_mask": square(0, 0, 3, 3),
        "init_clicks": (Click(1, 2, True),),
        "init_iou": 0.0,
        "steps": steps,
        "end_reason": EndReason.FINISHED,
        "end_text": "Finish",
        "object_id": 12,
        "category": "cup",
        "extras": {"pred_iou": 0.8, "candidates": [[0.1, 0.2]], "rank": 3},
    }
    return Trajectory(**{**facts, **changes})


def same(first, second):
    for field in fields(Trajectory):
        left, right = getattr(first, field.name), getattr(second, field.name)
        if field.name == "steps":
            left = [[getattr(step, f.name) for f in fields(Step)] for step in left]
            right = [[getattr(step, f.name) for f in fields(Step)] for step in right]
        assert left == right, field.name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"steps": (), "end_reason": EndReason.UNPARSABLE, "end_text": "What?", "init_mask": empty_rle(12, 16)},
        {"target": None, "void": None, "init": InitKind.EMPTY, "init_clicks": (), "init_iou": None, "extras": {}},
        {"image_name": 581857, "init": InitKind.BOX, "init_box": Box(0, 0, 3, 3), "seconds": 0.25},
        {"end_reason": None, "end_text": None, "category": None, "object_id": None, "image_name": ""},
    ],
)
def test_a_trajectory_survives_the_way_through_the_file(tmp_path, changes):
    trajectory = make_trajectory(**changes)
    write_predictions(tmp_path / "p.json", [trajectory])
    (record,) = read_predictions(tmp_path / "p.json")
    same(trajectory_from_prediction(record), trajectory)


def test_steps_whose_ious_do_not_follow_each_other_survive():
    trajectory = make_trajectory()
    odd = replace(trajectory.steps[1], iou_before=0.4)
    trajectory = replace(trajectory, steps=(trajectory.steps[0], odd))
    same(trajectory_from_prediction(json.loads(json.dumps(prediction_record(trajectory)))), trajectory)


def test_official_keys_and_conventions():
    record = prediction_record(make_trajectory())
    official = ["img_path", "masks", "height", "width", "qas", "caption", "coor", "relative_coor", "is_positive"]
    assert list(record)[:13] == [*official, "click_id", "gt_mask", "pred_list", "outputs"]
    assert record["masks"] is record["coor"] is record["relative_coor"] is record["is_positive"] is None
    assert (record["qas"], record["click_id"], record["caption"]) == ([], 0, ['the "left" one, ü'])
    boxed, clicked = record["pred_list"]
    assert (boxed["clicks"], boxed["used_box"], boxed["click_id"]) == (None, [1, 2, 9, 8], 0)
    assert clicked["clicks"] == {"is_positive": False, "coords": [4, 3]} and clicked["used_box"] is None
    assert record["outputs"] == clicked["outputs"] == "Current IOU: 50, ..."
    assert boxed["pred_iou"] == 0.503, "an announcement is of the mask before the click that it comes with"
    assert (record["init"]["pred_iou"], record["pred_iou"], record["iou"]) == (0.0, 0.8, 0.75)
    assert "seconds" not in record and record["end_reason"] == "finished" and record["extras"] == {"rank": 3}
    json.dumps(record, allow_nan=False)


def test_an_official_record_survives_the_way_there_and_back(fixtures_of):
    for case in fixtures_of("eval_result_iou"):
        for record in case["predictions"]:
            if isinstance(record["gt_mask"], list) or isinstance((record["gt_mask"] or {}).get("counts"), list):
                continue
            again = prediction_record(trajectory_from_prediction(record))
            for item, mine in zip(record["pred_list"], again["pred_list"], strict=True):
                assert item.items() <= mine.items()
            expected = {key: record[key] for key in record if key not in ("pred_list", "outputs")}
            assert expected.items() <= again.items()
            assert trajectory_from_prediction(record).end_reason is None


@pytest.fixture
def fixtures_of(request):
    root = request.config.rootpath / "tests" / "fixtures"
    return lambda name: [json.loads(path.read_text()) for path in sorted((root / name).glob("*.json"))]


def test_a_foreign_record_with_click_and_box_keeps_both():
    record = prediction_record(make_trajectory())
    record["pred_list"][1]["used_box"] = [0, 0, 0, 0]
    again = prediction_record(trajectory_from_prediction(record))
    assert again["pred_list"][1]["used_box"] == [0, 0, 0, 0] and again["pred_list"][1]["clicks"]["coords"] == [4, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.pop("caption"), "'caption' is missing"),
        (lambda record: record["pred_list"][0].pop("mask"), "'mask' is missing"),
        (lambda record: record["gt_mask"].update(counts="abc"), "key 'gt_mask': broken RLE"),
        (lambda record: record["pred_list"][1].update(mask=encode_rle(np.ones((3, 3), bool))), r"pred_list\[1\].mask"),
        (lambda record: record["pred_list"][0].update(used_box=None), "neither clicks nor used_box"),
        (lambda record: record.update(pred_list=None), "not a prediction record"),
    ],
)
def test_a_broken_record_names_the_key(change, words):
    record = json.loads(json.dumps(prediction_record(make_trajectory())))
    change(record)
    with pytest.raises(ValueError, match=words):
        trajectory_from_prediction(record)


def test_written_bytes_are_equal_one_record_a_line_and_plain_json(tmp_path):
    trajectories = [make_trajectory(), make_trajectory(sample_id="\ud83d lone surrogate")]
    assert write_predictions(tmp_path / "new" / "a.json", iter(trajectories)) == 2
    write_predictions(tmp_path / "b.json", trajectories)
    text = (tmp_path / "new" / "a.json").read_bytes()
    assert text == (tmp_path / "b.json").read_bytes()
    lines = text.decode().split("\n")
    assert (lines[0], lines[-2], lines[-1], len(lines)) == ("[", "]", "", 5)
    assert json.loads(text) == [prediction_record(trajectory) for trajectory in trajectories]
    write_predictions(tmp_path / "none.json", [])
    assert (tmp_path / "none.json").read_text() == "[\n]\n" and list(read_predictions(tmp_path / "none.json")) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "p.json"
    path.write_text("old")

    def failing():
        yield make_trajectory()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_predictions(path, failing())
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["p.json"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just('\\"{[,]}\ud83d'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
layouts = st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=5), values, max_size=4), max_size=5), layouts, st.integers(1, 40))
def test_streaming_reads_what_json_reads_wherever_the_window_cuts(records, layout, chunk):
    text = json.dumps(records, **layout)
    window = json_stream._Window(io.StringIO(text), "memory", chunk)
    assert list(json_stream._objects(window)) == json.loads(text)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=5), values, min_size=1, max_size=3), min_size=1), st.data())
def test_every_cut_off_file_is_refused_after_its_whole_records(records, data):
    text = json.dumps(records)
    cut = text[: data.draw(st.integers(1, len(text) - 1))]
    read = []
    with pytest.raises(ValueError, match=r"memory, record \d+, character") as caught:
        for record in json_stream._objects(json_stream._Window(io.StringIO(cut), "memory", 7)):
            read.append(record)
    assert read == records[: len(read)] and f"record {len(read)}" in str(caught.value)


def test_constants_byte_order_mark_and_lines_without_brackets(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('\ufeff[{"a": NaN, "b": -Infinity}]', encoding="utf-8")
    (record,) = read_predictions(path)
    assert record["a"] != record["a"] and record["b"] == float("-inf")
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert list(read_predictions(path)) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"a": 1}, {"b" 2}, {"c": 3}]', r"record 1, character 16: malformed JSON .*found '2}, .*repair"),
        ('[{"a": 1}, {"b": tru', r"record 1, character 17: malformed JSON .*found 'tru'"),
        ('[{"a": 1}, {"b": "x', r"record 1, .*Unterminated string.*cut off"),
        ('[{"a": 1}', r"record 1, character 9: expected , or \], found the end of the file; the file is cut off"),
        ('[{"a": 1},', r"record 1, character 10: expected {, found the end of the file; the file is cut off"),
        (
            '[{"a": 1},]',
            r"record 1, character 10: expected {, found '\]'; a predictions file is a JSON list of objects",
        ),
        ("[3]", r"record 0, character 1: expected {, found '3\]'"),
        ('[{"a": 1}] x', r"record 1, character 11: text after the closing \]"),
        ("", r"record 0, character 0: expected \[, found the end of the file"),
        ('"text"', r"record 0, character 0: expected \["),
    ],
)
def test_malformed_files_name_file_record_place_and_remedy(tmp_path, text, words):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        list(read_predictions(path))
    assert str(caught.value).startswith(str(path))


def test_an_error_early_in_a_long_file_is_found_without_reading_it_all(tmp_path, monkeypatch):
    path = tmp_path / "p.json"
    path.write_text('[{"a" 1}, ' + '{"b": 2}, ' * 300_000)
    read = []
    original = json_stream._Window.more
    monkeypatch.setattr(json_stream._Window, "more", lambda self: read.append(1) or original(self))
    with pytest.raises(ValueError, match="record 0, character 6"):
        list(read_predictions(path))
    assert len(read) == 1


def test_a_missing_quote_does_not_pull_in_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_LONGEST_RECORD", 5000)
    path = tmp_path / "p.json"
    path.write_text('[{"a": "' + "x" * 100_000)
    with pytest.raises(ValueError, match="longer than 5000 characters"):
        list(json_stream.read_records(path, chunk=1000))


def test_other_bytes_and_deep_nesting_are_refused_by_name(tmp_path):
    path = tmp_path / "p.json"
    path.write_bytes(b'[{"a": "\xff\xfe"}]')
    with pytest.raises(ValueError, match="not UTF-8 text"):
        list(read_predictions(path))
    path.write_text('[{"a": ' + "[" * 100_000)
    with pytest.raises(ValueError, match="record 0"):
        list(read_predictions(path))


def test_a_long_record_is_not_scanned_again_for_every_chunk(tmp_path, monkeypatch):
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"a": "x" * 100_000}]))
    read = []
    original = json_stream._Window.more
    monkeypatch.setattr(json_stream._Window, "more", lambda self: read.append(1) or original(self))
    assert len(list(json_stream.read_records(path, chunk=100))) == 1 and len(read) < 20

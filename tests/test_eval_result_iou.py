"""The command: files and numbers of the released one, honest numbers beside them, one clear line when it cannot."""

import csv
import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from segagent.data.predictions import trajectory_from_prediction, write_predictions
from segagent.masks import encode_rle

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = sorted((Path(__file__).parent / "fixtures" / "eval_result_iou").glob("*.json"))
_spec = importlib.util.spec_from_file_location("eval_result_iou", ROOT / "eval_result_iou.py")
command = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(command)


def case_of(name):
    return json.loads(next(path for path in FIXTURES if path.stem == name).read_text())


@pytest.fixture
def predictions(tmp_path):
    def write(name="basic_multi_image", file="pred.json", change=None):
        records = case_of(name)["predictions"]
        if change:
            change(records)
        (tmp_path / file).write_text(json.dumps(records))
        return tmp_path / file

    return write


def run(path, *options):
    return command.main(["--input_json", str(path), *map(str, options)])


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_official_writes_the_recorded_files(path, tmp_path, capsys):
    case = json.loads(path.read_text())
    for expected in case["results"]:
        folder = tmp_path / str(expected["click_id"])
        folder.mkdir()
        (folder / "pred.json").write_text(json.dumps(case["predictions"]))
        # Left over from an older run: the released scorer would skip.
        (folder / expected["files"][0]).write_text("old")
        options = [] if expected["click_id"] is None else [f"--click_id={expected['click_id']}"]
        status = run(folder / "pred.json", "--protocol", "official", *options)
        assert sorted(entry.name for entry in folder.iterdir()) == sorted(["pred.json", *expected["files"]])
        with open(folder / expected["files"][0], newline="") as file:
            text = file.read()
        assert list(csv.reader(text.splitlines())) == expected["csv_rows"] and text.endswith("\r\n")
        error = capsys.readouterr().err
        if "error" in expected:
            assert status == 2 and error.startswith("eval_result_iou: ") and error.count("\n") == 1
        else:
            assert status == 0 and not error
            assert (folder / expected["files"][1]).read_text() == expected["txt"]


SCORED = [path for path in FIXTURES if any("error" not in result for result in json.loads(path.read_text())["results"])]


@pytest.mark.parametrize("path", SCORED, ids=lambda path: path.stem)
def test_the_recorded_numbers_come_out_of_our_files_too(path, tmp_path):
    """Released predictions -> trajectories -> a file of ours: the scorer's rows and text are those recorded."""
    case = json.loads(path.read_text())
    sound = [result for result in case["results"] if "error" not in result]
    write_predictions(tmp_path / "pred.json", map(trajectory_from_prediction, case["predictions"]))
    for expected in sound:
        options = [] if expected["click_id"] is None else [f"--click_id={expected['click_id']}"]
        assert run(tmp_path / "pred.json", "--protocol", "official", *options) == 0
        with open(tmp_path / expected["files"][0], newline="") as file:
            assert list(csv.reader(file)) == expected["csv_rows"]
        assert (tmp_path / expected["files"][1]).read_text() == expected["txt"]


def test_a_failed_official_run_leaves_no_old_numbers(predictions, tmp_path):
    path = predictions("click_id_out_of_range")
    assert run(path, "--protocol", "official", "--click_id", 1) == 0
    path.write_text(json.dumps(case_of("empty_pred_list_click_id")["predictions"]))
    assert run(path, "--protocol", "official", "--click_id", 1) == 2
    assert not (tmp_path / "pred_clicknew21_click1.txt").exists()
    assert (tmp_path / "pred_clicknew21.csv").read_text().splitlines() == ["image_name,mask_idx,iou,caption"]


def test_the_default_is_the_last_mask_with_the_official_number_and_the_reason_beside_it(predictions, tmp_path, capsys):
    path = predictions("empty_pred_list")
    assert run(path, "--out", tmp_path / "new" / "m.json") == 0
    metrics = json.loads((tmp_path / "new" / "m.json").read_text())
    assert metrics["protocol"] == "final" and metrics["n"] == 5 and metrics["n_unparsable"] == 3
    out = capsys.readouterr().out
    assert f"cIoU          {100 * metrics['ciou']:6.2f}   95% interval" in out
    assert "official       cIoU  84.75  gIoU  84.29   (it drops 3 samples and scores another mask in 1 of 5)" in out


def test_click_id_is_a_step_in_honest_protocols(predictions, tmp_path):
    path, out = predictions(), tmp_path / "m.json"
    found = {}
    for step in (0, 1, 99):
        assert run(path, "--click_id", step, "--out", out) == 0
        found[step] = json.loads(out.read_text())
    assert [found[step]["protocol"] for step in found] == ["step:0", "step:1", "step:99"]
    assert found[0]["ciou"] == 0 and found[1]["ciou"] == pytest.approx(0.7681159, abs=1e-6)
    assert found[99]["ciou"] == found[0]["ciou_by_step"][-1]


def test_masks_that_nobody_judged_are_told_of(predictions, capsys):
    def predict(records):
        for record in records:
            for entry in record["pred_list"]:
                entry["pred_iou"] = 0.5

    assert run(predictions(change=predict), "--protocol", "best_predicted") == 0
    assert "nobody judged the masks after the last clicks" in capsys.readouterr().out
    assert run(predictions(change=predict)) == 0
    assert "nobody judged" not in capsys.readouterr().out


def test_clicks_needed_are_of_the_limit_that_the_run_had(predictions, tmp_path, capsys):
    path, out = predictions(), tmp_path / "m.json"

    def limit(*options):
        assert run(path, "--out", out, *options) == 0
        return json.loads(out.read_text())["click_limit"]

    most = max(len(record["pred_list"]) for record in json.loads(path.read_text()))
    assert limit() == most, "nothing is known of the run"
    (tmp_path / "pred.config.yaml").write_text("rollout:\n  max_clicks: 11\n")
    assert limit() == 11 and limit("--click_limit", 4) == 4
    (tmp_path / "pred.config.yaml").write_text("out: x\n")
    assert limit() == most
    (tmp_path / "pred.config.yaml").write_text("rollout: [")
    assert run(path) == 2 and "pred.config.yaml: no settings of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--click_id", "-1"], "only --protocol official counts from the end"),
        (["--click_id", "1", "--protocol", "oracle"], "both say which mask is scored"),
        (["--protocol", "first"], "protocol 'first' is none"),
        (["--bootstrap", "-3"], "bootstrap -3: give the number of resamples"),
        (["--protocol", "official", "--side_by_side"], "two numbers only: leave it out"),
        (["--protocol", "official", "--subgroups"], "two numbers only: leave it out"),
        (["--eval_all_splits"], "replaces 'refcoco+_val' in the file name"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(predictions, capsys, options, words):
    assert run(predictions(), *options) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r[1]["pred_list"][0]["mask"].update(counts="abc"), "record 1, key 'pred_list[0].mask': broken RLE"),
        (lambda r: r[2]["gt_mask"].update(size=[30, 24]), "record 2, key 'gt_mask': mask size [30, 24] but"),
        (lambda r: r[0].pop("height"), "record 0: key 'height' is missing"),
        (lambda r: r.clear(), "the list of predictions is empty"),
    ],
)
def test_bad_records_are_one_line_and_status_two(predictions, capsys, change, words):
    assert run(predictions(change=change)) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_bad_files_are_one_line_and_status_two(tmp_path, capsys):
    (tmp_path / "cut.json").write_text('[{"img_path": "a')
    for name, words in (("none.json", "No such file"), (".", "is a folder"), ("cut.json", "record 0, character 14")):
        assert run(tmp_path / name) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1 and str(tmp_path) in error
    assert run(tmp_path / "none.json", "--protocol", "official") == 2 and not list(tmp_path.glob("*.csv"))


def test_all_splits_go_in_the_released_order_and_missing_ones_are_named(predictions, tmp_path, capsys):
    path = predictions(file="pred_refcoco+_val.json")
    predictions("none_outputs", file="pred_refcocog_test.json")
    predictions("image_not_contiguous", file="pred_refcocog_val.json")
    assert run(path, "--eval_all_splits", "--out", tmp_path / "m.json") == 0
    assert list(json.loads((tmp_path / "m.json").read_text())) == ["refcocog_val", "refcoco+_val", "refcocog_test"]
    out = capsys.readouterr().out
    assert out.count("missing: ") == 5 and f"missing: {tmp_path / 'pred_refcoco_testB.json'}" in out
    assert run(path, "--eval_all_splits", "--protocol", "official") == 0
    assert len(list(tmp_path.glob("*_clicknew2None_clickNone.txt"))) == 3


def test_pictures_show_target_and_scored_mask_worst_first(predictions, tmp_path):
    photo = np.full((24, 30, 3), 10, np.uint8)
    (tmp_path / "a").mkdir()
    cv2.imwrite(str(tmp_path / "a" / "1.jpg"), photo)
    target, mask = np.zeros((2, 24, 30), bool)
    target[5:15, 5:15] = mask[5:15, 5:25] = True

    def change(records):
        records[0]["gt_mask"] = encode_rle(target)
        records[0]["pred_list"][-1]["mask"] = encode_rle(mask)

    path = predictions(change=change)
    folder = tmp_path / "pred_visualize"
    folder.mkdir()
    (folder / "0009_000009_iou099.00.png").write_bytes(b"from an older run")
    assert run(path, "--visualize", "--visualize_limit", 2) == 0
    names = sorted(entry.name for entry in folder.iterdir())
    assert names == ["0000_000000_iou050.00.png", "0001_000003_iou081.32.png"]
    picture = cv2.imread(str(folder / names[0]))[:, :, ::-1].astype(int)
    assert picture.shape == (24, 60, 3)
    green, red, plain = picture[10, 10], picture[10, 30 + 20], picture[2, 2]
    assert green[1] > green[0] + 50 and red[0] > red[1] + 50, "target left, scored mask right"
    assert (picture[10, 20] == plain).all() and plain.max() < 20, "on the photo"
    grey = cv2.imread(str(folder / names[1]))
    assert (grey[0, 0] == 128).all(), "no photo: on grey"


def test_official_pictures_show_the_mask_that_was_scored(predictions, tmp_path):
    path = predictions("argmax_first_middle_last")
    assert run(path, "--protocol", "official", "--visualize", "--click_id", 0) == 0
    names = sorted(entry.name for entry in (tmp_path / "pred_visualize").iterdir())
    assert len(names) == 5 and names[0].endswith("000004_iou068.86.png")


def test_cuda_device_and_boundary_are_accepted(predictions, tmp_path, capsys):
    assert run(predictions(), "--cuda_device", "3", "--boundary", "--out", tmp_path / "m.json") == 0
    assert "boundary IoU" in capsys.readouterr().out
    assert 0 < json.loads((tmp_path / "m.json").read_text())["boundary_iou"] < 1


def test_conventions_and_subgroups_go_to_terminal_and_file(predictions, tmp_path, capsys):
    assert run(predictions(), "--side_by_side", "--subgroups", "--out", tmp_path / "m.json") == 0
    out, written = capsys.readouterr().out, json.loads((tmp_path / "m.json").read_text())
    assert "N-acc" in out and "words 1-2" in out
    assert written["side_by_side"]["expression"]["ciou"] == written["ciou"] and "size" in written["subgroups"]


def test_all_splits_end_with_the_papers_table(predictions, capsys):
    assert run(predictions(file="pred_refcoco+_val.json"), "--eval_all_splits") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "SegAgent-Qwen + SClick     79.69" in lines[-2] and lines[-1].startswith("this run")


def test_the_predictions_are_not_written_over(predictions, capsys):
    path = predictions()
    before = path.read_bytes()
    assert run(path, "--out", path) == 2
    assert "is a predictions file that is read" in capsys.readouterr().err and path.read_bytes() == before


def test_pictures_that_are_named_by_their_number_are_found(predictions, tmp_path):
    def change(records):
        records[0]["image_name"] = 7
        size = records[0]["height"], records[0]["width"], 3
        file = tmp_path / "mscoco/images/train2014/COCO_train2014_000000000007.jpg"
        file.parent.mkdir(parents=True)
        cv2.imwrite(str(file), np.full(size, 10, np.uint8))

    assert run(predictions(change=change), "--visualize") == 0
    pictures = [cv2.imread(str(path)) for path in sorted((tmp_path / "pred_visualize").iterdir())]
    assert sum(int(picture.min()) < 20 for picture in pictures) == 1, "one on its photo, the others on grey"


def test_a_search_is_scored_by_what_it_returned(predictions, tmp_path):
    path, out = predictions(), tmp_path / "m.json"
    records = json.loads(path.read_text())
    for record in records:
        record["extras"] = {"returned": 1}
    path.write_text(json.dumps(records))
    assert run(path, "--out", out) == 0
    assert json.loads(out.read_text())["protocol"] == "best_predicted"
    assert run(path, "--out", out, "--protocol", "final") == 0
    assert json.loads(out.read_text())["protocol"] == "final"
    assert run(path, "--out", out, "--click_id", "1") == 0
    assert json.loads(out.read_text())["protocol"] == "step:1"

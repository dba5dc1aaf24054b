"""evaltools/compare.py: differences that are there are found, by the right side, and drawn."""

import base64
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from segagent.configuration import compose_config
from segagent.masks import encode_rle
from segagent.metrics import score
from segagent.metrics.paired import biggest_changes, compare, differences, pair, sign_test

ROOT = Path(__file__).resolve().parents[2]
H, W = 10, 20


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare", ROOT / "evaltools" / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bar(length):
    mask = np.zeros((H, W), bool)
    mask[:, :length] = True
    return mask


def record(index, length, target=10, image=None, **facts):
    item = {"click_id": 0, "clicks": None, "mask": encode_rle(bar(length)), "outputs": "x"}
    made = {"img_path": image or f"{index}.jpg", "height": H, "width": W, "caption": [f"thing {index}"]}
    return made | {"gt_mask": encode_rle(bar(target)), "pred_list": [item], "sample_id": f"s{index}"} | facts


def run_of(lengths, **facts):
    return [record(index, length, **facts) for index, length in enumerate(lengths)]


def pairs_of(a, b):
    records = run_of(a), run_of(b)
    keys = tuple([entry["sample_id"] for entry in run] for run in records)
    return pair(tuple(score(run, bootstrap=0) for run in records), keys)


def test_differences_are_b_minus_a_and_paired():
    result = compare(pairs_of([5, 5, 8, 10], [10, 5, 4, 10]), margin=0.01, resamples=500, seed=0)
    assert (result["wins"], result["losses"], result["ties"], result["n"]) == (1, 1, 2, 4)
    assert result["giou_a"] == pytest.approx((0.5 + 0.5 + 0.8 + 1) / 4) and result["giou_diff"] == pytest.approx(0.025)
    assert result["ciou_b"] == pytest.approx(290 / 400)
    assert result["ciou_low"] <= result["ciou_diff"] <= result["ciou_high"]


def test_a_clear_gain_is_told_from_none():
    random = np.random.default_rng(1)
    before = random.integers(2, 8, 60)
    better = compare(pairs_of(before, before + 1), margin=0.01, resamples=1000, seed=0)
    assert better["giou_low"] > 0 and better["giou_p"] < 0.01 and better["sign_p"] < 1e-10
    noise = compare(pairs_of(before, random.permutation(before)), margin=0.01, resamples=1000, seed=0)
    assert noise["giou_low"] < 0 < noise["giou_high"] and noise["giou_p"] > 0.05
    assert better["giou_p"] == 2 / 1001, "not zero: none of 1000 is no proof"
    same = compare(pairs_of(before, before), margin=0.01, resamples=200, seed=0)
    assert same["giou_low"] == same["giou_high"] == 0 and same["giou_p"] == 1 == same["sign_p"]


def test_pairing_narrows_the_interval_and_the_seed_repeats_it():
    before = np.random.default_rng(2).integers(1, 9, 80)
    pairs = pairs_of(before, before + 1)
    drawn = differences(pairs, 400, 3)
    assert drawn.shape == (400, 3) and (drawn == differences(pairs, 400, 3)).all()
    unpaired = np.std(before / 10) * np.sqrt(2 / 80)
    assert drawn[:, 1].std() < unpaired / 5


def test_the_sign_test_is_exact():
    assert sign_test(5, 0) == pytest.approx(2 * 0.5**5) and sign_test(0, 0) == 1 and sign_test(3, 3) == 1


def test_biggest_changes_are_gains_then_losses():
    pairs = pairs_of([5, 5, 5, 5, 5], [9, 1, 5, 6, 4])
    assert biggest_changes(pairs, 4).tolist() == [0, 3, 1, 4] and biggest_changes(pairs, 1).tolist() == [0]


def write(path, records):
    path.write_text(json.dumps(records))
    return path


def test_a_page_shows_target_and_both_masks(script, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "0.jpg"), np.full((H, W, 3), 10, np.uint8))
    a, b = write(tmp_path / "a.json", run_of([2, 5, 5])), write(tmp_path / "b.json", run_of([10, 5, 3, 7]))
    config = compose_config("compare", [f"a={a}", f"b={b}", f"out={tmp_path / 'ab.json'}", "resamples=100"])
    assert script.main(config) == 0
    told = capsys.readouterr()
    assert "B wins 1, loses 1, ties 1" in told.out and "1 samples are in B only" in told.err
    written = json.loads((tmp_path / "ab.json").read_text())
    assert written["n_only_b"] == 1 and written["wins"] == 1
    page = (tmp_path / "ab.html").read_text()
    assert "B wins 1, loses 1, ties 1" in page, "the numbers stand above the pictures"
    assert page.index("s0: thing 0") < page.index("s2: thing 2") and "+80.0 (20.0 to 100.0)" in page
    data = base64.b64decode(re.search(r"base64,([^']+)", page)[1])
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)
    assert picture.shape == (160, 3 * 320 + 2 * 8, 3)
    green, red, blue, plain = picture[80, 80], picture[80, 340], picture[80, 700], picture[80, 520]
    assert green[1] > green[0] + 50 and red[0] > red[2] + 50 and blue[2] > blue[0] + 50 and plain.max() < 30
    with pytest.raises(ValueError, match="is there already"):
        script.main(config)


def test_foreign_files_are_matched_by_image_and_caption(script, tmp_path):
    runs = [run_of([5, 5]), run_of([6, 6])[::-1]]
    for run in runs:
        for entry in run:
            del entry["sample_id"]
    a, b = (write(tmp_path / f"{name}.json", run) for name, run in zip("ab", runs, strict=True))
    script.main(compose_config("compare", [f"a={a}", f"b={b}", f"out={tmp_path / 'ab.json'}", "pictures=0"]))
    assert json.loads((tmp_path / "ab.json").read_text())["wins"] == 2 and not (tmp_path / "ab.html").exists()


def test_equal_captions_on_one_picture_are_matched_in_their_order(script, tmp_path):
    runs = [[record(0, 5), record(0, 5, target=8)], [record(0, 6), record(0, 2, target=8)]]
    for entry in (*runs[0], *runs[1]):
        del entry["sample_id"]
    a, b = (write(tmp_path / f"{name}.json", run) for name, run in zip("ab", runs, strict=True))
    script.main(compose_config("compare", [f"a={a}", f"b={b}", f"out={tmp_path / 'ab.json'}", "pictures=0"]))
    written = json.loads((tmp_path / "ab.json").read_text())
    assert (written["n"], written["wins"], written["losses"], written["n_images"]) == (2, 1, 1, 1)
    assert written["giou_low"] is written["giou_p"] is None, "one image says nothing of others"


def test_what_cannot_be_compared_is_refused(script, tmp_path):
    a = write(tmp_path / "a.json", run_of([5, 5]))
    for other, message in (
        (run_of([5, 5], target=9), "sample 's0': the files have targets of different areas"),
        ([record(7, 5)], "no sample is in both files"),
        ([record(0, 5), record(0, 5)], "b: sample 's0' is there twice"),
        ([], "no record to compare"),
    ):
        b = write(tmp_path / "b.json", other)
        with pytest.raises(ValueError, match=message):
            script.main(compose_config("compare", [f"a={a}", f"b={b}", f"out={tmp_path / 'ab.json'}"]))
    with pytest.raises(ValueError, match="resamples=-1: give 0 or more"):
        script.main(compose_config("compare", [f"a={a}", f"b={a}", "resamples=-1"]))
    with pytest.raises(ValueError, match="images=nowhere: no such folder"):
        script.main(compose_config("compare", [f"a={a}", f"b={a}", "images=nowhere", f"out={tmp_path / 'c.json'}"]))
    with pytest.raises(ValueError, match="two predictions files"):
        script.main(compose_config("compare", [f"a={a}"]))
    with pytest.raises(ValueError, match="protocol=official drops samples"):
        script.main(compose_config("compare", [f"a={a}", f"b={a}", "protocol=official"]))


def test_the_two_files_stand_first_on_the_command_line(tmp_path):
    a, b = write(tmp_path / "a.json", run_of([5])), write(tmp_path / "b.json", run_of([6]))
    call = [sys.executable, str(ROOT / "evaltools" / "compare.py"), str(a), str(b), f"out={tmp_path / 'ab.json'}"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "B wins 1" in done.stdout, done.stderr


def test_other_pictures_and_unreadable_texts(script, tmp_path):
    a, b = run_of([5, 5]), run_of([10, 5])
    for entry in b:
        entry["height"], entry["width"] = W, H
        entry["gt_mask"] = encode_rle(bar(10).T)
        entry["pred_list"][0]["mask"] = encode_rle(bar(5).T)
    with pytest.raises(ValueError, match="the files have pictures of different sizes"):
        pair(tuple(score(run, bootstrap=0) for run in (a, b)), (["s0", "s1"], ["s0", "s1"]))
    odd = run_of([5, 5], caption=["a \ud83d cup"]), run_of([10, 5], caption=["a \ud83d cup"])
    for name, records in zip("ab", odd, strict=True):
        (tmp_path / f"{name}=1.json").write_text(json.dumps(records))
    given = script.positional([str(tmp_path / "a=1.json"), str(tmp_path / "b=1.json"), f"out={tmp_path / 'ab.json'}"])
    config = compose_config("compare", given)
    assert script.main(config) == 0 and (tmp_path / "ab.html").is_file() and (tmp_path / "ab.json").is_file()


def test_a_picture_that_is_named_by_its_number_is_found(script, tmp_path):
    file = tmp_path / "mscoco/images/train2014/COCO_train2014_000000000007.jpg"
    file.parent.mkdir(parents=True)
    cv2.imwrite(str(file), np.full((H, W, 3), 40, np.uint8))
    photo = script.photo_of(record(0, 5, image_name=7), [tmp_path])
    assert photo.shape == (H, W, 3) and abs(int(photo.mean()) - 40) < 3
    assert (script.photo_of(record(0, 5, image_name=8), [tmp_path]) == 128).all()


def test_what_is_compared_is_never_written_over(script, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps(run_of([5, 8])))
    (tmp_path / "r.html").write_text("the report of another run")

    def asked(*settings):
        return compose_config("compare", [f"a={tmp_path}/a.json", f"b={tmp_path}/b.json", *settings])

    for out, reason in (("a.json", "is one of the files that are compared"), ("r.json", "r.html: is there already")):
        with pytest.raises(ValueError, match=reason):
            script.main(asked(f"out={tmp_path}/{out}", *(["overwrite=true"] if out == "a.json" else [])))
    assert json.loads((tmp_path / "a.json").read_text()) == run_of([5, 8])
    lacking = [{key: value for key, value in entry.items() if key != "height"} for entry in run_of([5, 8])]
    (tmp_path / "b.json").write_text(json.dumps(lacking))
    with pytest.raises(ValueError, match="key 'height' is missing"):
        script.main(asked(f"out={tmp_path}/new.json"))


def test_each_run_is_scored_as_it_was_meant(script, tmp_path):
    plain, searched = run_of([5, 5]), run_of([10, 10])
    worse = {"click_id": 1, "clicks": None, "mask": encode_rle(bar(1)), "outputs": "x", "pred_iou": 0.1}
    for entry in searched:
        entry["pred_list"] = [entry["pred_list"][0] | {"pred_iou": 0.9}, worse]
        entry["extras"] = {"returned": 1}
    for name, records in (("a", plain), ("b", searched)):
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    given = [f"a={tmp_path}/a.json", f"b={tmp_path}/b.json", "pictures=0"]
    assert script.main(compose_config("compare", [*given, f"out={tmp_path}/c.json"])) == 0
    made = json.loads((tmp_path / "c.json").read_text())
    assert (made["protocol_a"], made["protocol_b"]) == ("final", "best_predicted")
    assert (made["giou_a"], made["giou_b"]) == (0.5, 1)
    assert script.main(compose_config("compare", [*given, f"out={tmp_path}/d.json", "protocol=final"])) == 0
    assert json.loads((tmp_path / "d.json").read_text())["giou_b"] == pytest.approx(0.1)


@pytest.mark.parametrize("caption", [5, True, {"a": 1}])
def test_a_caption_that_is_none_is_refused_by_name(script, tmp_path, caption):
    (tmp_path / "a.json").write_text(json.dumps(run_of([5, 5])))
    (tmp_path / "b.json").write_text(json.dumps(run_of([5, 5], caption=caption, sample_id=None)))
    with pytest.raises(ValueError, match=r"b.json, record 0.*, key 'caption': .* is no list of texts"):
        script.main(
            compose_config("compare", [f"a={tmp_path}/a.json", f"b={tmp_path}/b.json", f"out={tmp_path}/c.json"])
        )

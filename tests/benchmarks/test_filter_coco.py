"""Which masks are corrupted, and what is counted of the flagged ones."""

import argparse
import json

import pytest

from segagent.data.coco import segmentation_to_mask
from segagent.data.refshapes import RefShapes
from segagent.masks import iou


@pytest.fixture
def filter_coco(benchmark_file):
    return benchmark_file("filter_coco")


def ious(folder):
    masks = []
    for name in ("true", "given"):
        entries = json.loads((folder / f"{name}.json").read_text())["annotations"]
        masks.append([segmentation_to_mask(entry["segmentation"], 128, 128, name) for entry in entries])
    return [iou(true, given) for true, given in zip(*masks, strict=True)]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_so_many_masks_are_wrong_and_enough_so(filter_coco, tmp_path, share):
    shapes = RefShapes(split="val", size=128, limit=8)
    given = argparse.Namespace(share=share, worst=0.6, seed=0)
    pictures = filter_coco.write_coco(shapes, tmp_path / "coco", given)
    made = ious(tmp_path / "coco")
    assert len(made) == len(pictures) == 8 and all(one <= 0.6 if share else one == 1 for one in made)
    assert not share or (0 in made and any(made))  # other things' masks, and spoilt ones
    assert {path.name for path in (tmp_path / "coco" / "images").iterdir()} == set(pictures.values())


def test_what_cannot_be_spoilt_so_far_is_named(filter_coco, tmp_path):
    with pytest.raises(ValueError, match=r"--worst -1: no such mask of refshapes/val"):
        filter_coco.write_coco(
            RefShapes(split="val", size=128, limit=8), tmp_path / "c", argparse.Namespace(share=1, worst=-1, seed=0)
        )


def test_found_and_flagged_are_counted(filter_coco):
    rows = [
        {"sample_id": str(number), "true_iou": str(true), "suspicious": flag}
        for number, (true, flag) in enumerate([(0.1, "1"), (0.9, "1"), (0.2, "1"), (0.8, "0"), (0.3, "0"), (1.0, "0")])
    ]
    figures = filter_coco.measured(rows, {str(number): f"{number}.png" for number in range(6)}, 0.75)
    assert (figures["n"], figures["n_bad"], figures["n_flagged"]) == (6, 3, 3)
    assert figures["precision"] == figures["recall"] == pytest.approx(2 / 3)
    assert figures["precision_at_recall_90"] == pytest.approx(3 / 5)  # the third bad mask is the fifth in the ranking
    low, high = figures["recall_interval"]
    assert 0 <= low < 2 / 3 < high <= 1
    nothing = filter_coco.measured([rows[3], rows[5]], {"3": "a", "5": "b"}, 0.75)
    assert nothing["precision"] is nothing["recall_interval"] is None and "precision_at_recall_90" not in nothing


@pytest.mark.parametrize("reward", ["expected_iou", "second_opinion"])
def test_the_filter_is_calibrated_whatever_the_reward(filter_coco, tmp_path, monkeypatch, capsys, reward):
    from segagent.mllm.testing import write_nano

    write_nano(tmp_path / "nano")
    own = ["reward.attempts=2", "reward.clicks=1"] if reward == "second_opinion" else []
    words = [f"mllm={tmp_path / 'nano'}", f"reward={reward}", *own, "proposer.max_new_tokens=4", "data.size=128"]
    counts = ["--samples", "4", "--calibration", "5", "--share", "0.5", "--out", str(tmp_path / "f.json")]
    kept, words = ["--calibration-out", str(tmp_path / "c.json")], [*words, "segmenter=graphcut", "device=cpu"]
    monkeypatch.setattr("sys.argv", ["filter_coco.py", *counts, *kept, *words])
    filter_coco.main()
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["n"] == 4 and figures["asked"]["calibration_seed"] == 5
    # Told once: of the run that the calibration is fitted to.
    assert capsys.readouterr().err.count("masks are ranked and none is flagged") == 1
    words += [f"reward.calibration={tmp_path / 'c.json'}", "--out", str(tmp_path / "again.json")]
    monkeypatch.setattr("sys.argv", ["filter_coco.py", *counts, *kept, *words])
    with pytest.raises(SystemExit):
        filter_coco.main()
    assert "--calibration-out: nothing is fitted" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["filter_coco.py", *counts, *words])
    filter_coco.main()
    assert "none is flagged" not in capsys.readouterr().err, "nothing was fitted"
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["recall"] == figures["recall"] and "calibration" not in again["asked"]

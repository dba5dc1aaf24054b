"""evaltools/filtering.py: the test set, its figures and the calibration that comes of it."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from segagent.configuration import compose_config
from segagent.data.trajectories import read_trajectories
from segagent.policies.calibration import Calibration

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("filtering", ROOT / "evaltools" / "filtering.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def composed(out, *overrides):
    settings = ["policy@proposer=noisy_oracle", "reward=true_iou", "segmenter.max_pixels=4000", "data.limit=6"]
    config = compose_config("filtering", [f"out={out}", *settings, *overrides])
    OmegaConf.resolve(config)
    return config


def test_the_true_iou_as_reward_makes_no_mistake(script, tmp_path, capsys):
    out = tmp_path / "f.json"
    assert script.main(composed(out)) == 0
    figures = json.loads(out.read_text())
    assert figures["n"] == 6 and figures["n_unjudged"] == 0 and figures["mae"] == figures["mse"] == 0
    assert figures["pearson"] == pytest.approx(1) and figures["spearman"] == pytest.approx(1)
    assert sum(figures["reliability_n"]) == 6 and figures["search_clicks"] == 0 and figures["search_rewards"] == 6
    assert {path.name for path in tmp_path.iterdir()} == {
        "f.json", "f.png", "f.config.yaml", "f.trajectories.jsonl"
    }  # fmt: skip
    assert "precision" in capsys.readouterr().out


def test_a_calibration_is_fitted_to_what_is_told(script, tmp_path, monkeypatch, capsys):
    """An annotator tells no IoU; here it tells the square of the true one, which the calibration undoes."""

    def squared(self, states, replies):
        return [state.iou**2 for state in states]

    monkeypatch.setattr("segagent.policies.reward_model.PredictedIou.score", squared)
    monkeypatch.setattr("segagent.policies.simulated.NoisyOracle.announces_iou", True)
    given = ("reward=predicted_iou", f"calibration_out={tmp_path}")
    assert script.main(composed(tmp_path / "f.json", *given)) == 0
    calibration = Calibration.load(tmp_path)
    assert calibration.number == "greedy" and "fitted to 6 masks; thresholds" in capsys.readouterr().err
    for one in read_trajectories(tmp_path / "f.trajectories.jsonl"):
        assert calibration(one.extras["pred_iou"]) == pytest.approx(one.init_iou)


def test_a_second_opinion_is_calibrated_in_a_file_of_its_own(script, tmp_path, monkeypatch):
    monkeypatch.setattr("segagent.policies.simulated.NoisyOracle.announces_iou", True)
    given = ("reward=second_opinion", "reward.number=greedy", "reward.masks=any", f"calibration_out={tmp_path}")
    assert script.main(composed(tmp_path / "f.json", *given)) == 0
    calibration = Calibration.load(tmp_path, "second_opinion_calibration.json")
    assert calibration.number == "greedy second-opinion any 16x2" and not (tmp_path / "iou_calibration.json").exists()
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["n_unjudged"] == 0 and figures["opinion_states_seen"] >= 6


def test_the_masks_are_made_of_random_points_in_the_box(script, tmp_path):
    script.main(composed(tmp_path / "f.json", "max_points=3"))
    trajectories = list(read_trajectories(tmp_path / "f.trajectories.jsonl"))
    assert all(1 <= len(one.init_clicks) <= 3 and not one.steps for one in trajectories)
    assert len({round(one.init_iou, 6) for one in trajectories}) > 3, "of varying quality"


def test_figures_by_hand(script):
    predicted, true = np.array([0.5, 0.8, 1.0]), np.array([0.6, 0.8, 0.7])
    figures = script.quality(predicted, true, np.arange(3), resamples=20)
    assert figures["mae"] == pytest.approx(40 / 3) and figures["mse"] == pytest.approx(1000 / 3)
    assert figures["pearson"] == pytest.approx(np.corrcoef(predicted, true)[0, 1])
    assert figures["spearman"] == pytest.approx(0.5)
    assert figures["mae_low"] <= figures["mae"] <= figures["mae_high"]
    hits = script.found(predicted, true, 0.75)
    assert hits["n_bad"] == 2 and hits["n_flagged"] == 1
    assert hits["flagged_precision"] == 1 and hits["flagged_recall"] == 0.5
    assert script.found(predicted, true, 0.1)["flagged_precision"] is None


def test_masks_of_one_picture_are_drawn_together(script):
    random = np.random.default_rng(0)
    true = np.repeat(random.random(10), 20)
    predicted = np.clip(true + np.repeat(random.normal(0, 0.2, 10), 20), 0, 1)
    grouped = script.quality(predicted, true, np.repeat(np.arange(10), 20), resamples=200)
    apart = script.quality(predicted, true, np.arange(200), resamples=200)
    assert grouped["mae_high"] - grouped["mae_low"] > 2 * (apart["mae_high"] - apart["mae_low"])


def test_a_reward_that_says_nothing_is_refused(script, tmp_path):
    with pytest.raises(ValueError, match="no mask has a predicted IoU"):
        script.main(composed(tmp_path / "f.json", "reward=segmenter_score", "data.limit=2"))


def test_a_finished_run_is_gone_on_with_to_the_same_and_a_calibration_is_of_plain_numbers(script, tmp_path):
    out = tmp_path / "f.json"
    assert script.main(composed(out, "data.limit=2")) == 0
    before = json.loads(out.read_text())
    assert script.main(composed(out, "data.limit=2", "resume=true")) == 0
    counts = {key for key in before if key.startswith("search_")}
    assert json.loads(out.read_text()) == {key: before[key] for key in before.keys() - counts} and counts
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "iou_calibration.json").write_text("somebody's")
    given = (f"calibration_out={tmp_path / 'c'}", "reward=predicted_iou")
    for changes, reason in (
        (("reward=true_iou",), "calibration_out: is of the IoU that a model tells"),
        ((f"reward.calibration={tmp_path / 'c'}",), "calibration_out: is fitted to numbers as they are announced"),
        (("reward.statistic=mean",), r"reward\.statistic=mean: is of one reply with search\.k=1"),
        ((), r"iou_calibration.json: is there already; say overwrite=true"),
        ((f"calibration_out={tmp_path / 'none' / 'c.json'}",), "there is no folder .*none; make it first"),
        ((f"calibration_out={tmp_path / 'd'}",), r"d: no such folder; make it first, or name a file, .*d.json"),
        (("bins=0",), "bins=0: at least 1"),
    ):
        words = [word for word in given if word.split("=")[0] not in [change.split("=")[0] for change in changes]]
        with pytest.raises(ValueError, match=reason):
            script.main(composed(tmp_path / "g.json", *words, *changes))
    assert not (tmp_path / "g.trajectories.jsonl").exists()


def test_a_single_picture_has_no_interval(script):
    random = np.random.default_rng(0)
    figures = script.quality(random.random(8), random.random(8), np.zeros(8, int), resamples=20)
    assert set(figures) == {"mae", "mse", "pearson", "spearman"}
    rest = {"n": 8, "n_unjudged": 0, "n_bad": 1, "bad_iou": 0.5, "n_flagged": 0}
    told = script.format_figures(figures | rest | {"flagged_precision": None, "flagged_recall": 0.0})
    assert told.count("no interval: a single picture") == 4 and "nan" not in told

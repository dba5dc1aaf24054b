"""Rewards of masks: what each reads, what it says where nothing is known, calibration on the way."""

from types import SimpleNamespace

import pytest

from segagent.environment import Environment
from segagent.policies.calibration import Calibration
from segagent.policies.reward_model import PredictedIou, SegmenterScore, TrueIou
from segagent.types import Action, Click


def said(*ious):
    return [Action(click=Click(0, 0), text="...", predicted_iou=iou) for iou in ious]


def test_the_announced_iou_is_that_of_the_first_reply_or_the_mean_of_all():
    replies = [said(0.5, 0.7, 0.9), said(None, 0.4), said(None)]
    assert PredictedIou().score([None] * 3, replies) == [0.5, None, None]
    assert PredictedIou(statistic="mean").score([None] * 3, replies) == [pytest.approx(0.7), 0.4, None]


def test_calibration_changes_the_number_and_nothing_that_is_missing(tmp_path):
    Calibration([0.0, 1.0], [0.2, 0.6]).save(tmp_path / "iou_calibration.json")
    reward = PredictedIou(calibration=tmp_path)
    assert reward.score([None] * 2, [said(0.5), said(None)]) == [pytest.approx(0.4), None]


def test_a_judge_is_asked_instead_of_the_proposer():
    class Judge:
        calls = 0

        def propose(self, states, num_candidates=1):
            self.calls += 1
            return [said(state / 10) for state in states]

    judge = Judge()
    reward = PredictedIou(judge=judge)
    assert not reward.reads_replies and reward.score([3, 4], None) == [0.3, 0.4] and judge.calls == 1


def test_the_segmenters_score_is_bounded_and_none_where_it_says_nothing():
    scores = [SimpleNamespace(score=value) for value in (0.8, 1.02, -0.1, float("nan"))]
    states = [SimpleNamespace(memory=memory) for memory in (*scores, None, "probabilities")]
    assert SegmenterScore().score(states) == [0.8, 1.0, 0.0, None, None, None]


def test_the_true_iou_needs_a_target(discs, sample_of):
    environment = Environment(segmenter=discs)
    known, unknown = sample_of(0), sample_of(1, target=None)
    assert TrueIou().score([environment.start(known)]) == [0.0]
    with pytest.raises(ValueError, match="'s1' has no target mask: reward=true_iou needs one"):
        TrueIou().score([environment.start(unknown)])


def test_an_unknown_statistic_is_refused():
    with pytest.raises(ValueError, match="choose first or mean"):
        PredictedIou(statistic="median")

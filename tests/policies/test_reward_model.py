"""Rewards of masks: what each reads, what it says where nothing is known, calibration on the way."""

from types import SimpleNamespace

import pytest

from segagent.environment import Environment
from segagent.mllm.base import Completion
from segagent.policies.agent import Agent
from segagent.policies.calibration import Calibration
from segagent.policies.first_action import FirstAction, SampleBox
from segagent.policies.reward_model import PredictedIou, SegmenterScore, TrueIou
from segagent.policies.search import Beam
from segagent.policies.simulated import NoisyOracle, Oracle
from segagent.rollout import finish
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
    states = [SimpleNamespace(memory=memory, steps=("a click",)) for memory in scores]
    states += [SimpleNamespace(memory=memory, steps=()) for memory in (None, "probabilities")]
    assert SegmenterScore().score(states) == [0.8, 1.0, 0.0, None, None, None]
    with pytest.raises(ValueError, match="this segmenter tells no score of its masks"):
        SegmenterScore().score([SimpleNamespace(memory="probabilities", steps=("a click",))])


def test_the_true_iou_needs_a_target(discs, sample_of):
    environment = Environment(segmenter=discs)
    known, unknown = sample_of(0), sample_of(1, target=None)
    assert TrueIou().score([environment.start(known)]) == [0.0]
    with pytest.raises(ValueError, match="'s1' has no target mask: reward=true_iou needs one"):
        TrueIou().score([environment.start(unknown)])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"statistic": "median"}, "choose first or mean"),
        ({"number": "sampled"}, "choose greedy or expected"),
        ({"number": "expected", "statistic": "mean"}, "all candidates say the same"),
        ({"number": "expected", "judge": Oracle()}, "the judge Oracle tells no probabilities"),
    ],
)
def test_unsound_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PredictedIou(**settings)


class Weighing:
    """An MLLM that says 90 and thinks 40 or 60; remembers what it was asked for."""

    dialogue = "nano"

    def __init__(self):
        self.asked = []

    def generate(self, observations, *, num_samples=1, choices=None, **_):
        self.asked.append(choices)
        weights = None
        if choices is not None:
            weights = tuple({"Current IOU: 40,": 0.25, "Current IOU: 60,": 0.75}.get(choice, 0.0) for choice in choices)
        text = "Current IOU: 90, Positive point: (500, 500)"
        return [[Completion(text, -1.0, weights=weights)] * num_samples for _ in observations]


@pytest.mark.parametrize("judged", [False, True])
def test_the_expected_number_is_asked_for_in_the_call_that_proposes(discs, dataset_of, judged):
    environment, model = Environment(segmenter=discs, max_clicks=2), Weighing()
    agent = Agent(mllm=model)
    reward = PredictedIou(number="expected", judge=agent if judged else None)
    search = Beam(proposer=NoisyOracle() if judged else agent, reward=reward, k=1)
    found = finish(environment.start_batch(dataset_of(2)), search, environment)
    assert [state.extras["pred_iou"] for state in found] == [0.55, 0.55]
    assert len(model.asked) == 3 and all(len(choices) == 101 for choices in model.asked)
    model.asked.clear()
    greedy = Beam(proposer=Agent(mllm=model), reward=PredictedIou(), k=1)
    found = finish(environment.start_batch(dataset_of(2)), greedy, environment)
    assert [state.extras["pred_iou"] for state in found] == [0.9, 0.9] and model.asked == [None] * 3


def test_a_proposer_without_probabilities_is_refused_for_the_expected_number():
    class Guesser:
        """Announces an IoU, and no probabilities."""

        def propose(self, states, num_candidates=1):
            raise AssertionError("is refused before it is asked")

    with pytest.raises(ValueError, match=r"Guesser tells no probabilities; say reward.number=greedy"):
        Beam(proposer=Guesser(), reward=PredictedIou(number="expected"))
    agent = Agent(mllm=Weighing())
    Beam(proposer=FirstAction(first=agent, then=agent), reward=PredictedIou(number="expected"))
    with pytest.raises(ValueError, match="FirstAction tells no probabilities"):
        Beam(proposer=FirstAction(first=SampleBox(), then=agent), reward=PredictedIou(number="expected"))


def test_a_calibration_is_used_for_the_number_that_it_was_fitted_on(tmp_path):
    Calibration.fit([0.1, 0.9], [0.2, 0.8], "expected").save(tmp_path / "c.json")
    assert PredictedIou(number="expected", calibration=tmp_path / "c.json").calibration.number == "expected"
    for settings, said in (({}, "greedy"), ({"statistic": "mean"}, "mean")):
        with pytest.raises(ValueError, match=f"fitted on the expected number, .* gives the {said} one"):
            PredictedIou(calibration=tmp_path / "c.json", **settings)

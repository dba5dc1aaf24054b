"""Search: which states are tried and gone on from, what is returned, and how many calls that takes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from segagent.data.predictions import prediction_record
from segagent.data.trajectories import trajectory_from_json, trajectory_to_json
from segagent.dialogue import Dialogue
from segagent.environment import Environment
from segagent.metrics import score
from segagent.mllm.base import Completion
from segagent.policies.agent import Agent
from segagent.policies.first_action import FirstAction, SampleBox
from segagent.policies.mcts import Mcts, priors
from segagent.policies.reward_model import PredictedIou, TrueIou
from segagent.policies.search import Beam
from segagent.policies.simulated import Center, NoisyOracle, Oracle
from segagent.rollout import finish, rollout
from segagent.types import Action, Box, Click, EndReason

NOISY = {"misplace": 0.2, "flip": 0.1, "radius": 12}


class Recorded:
    """A policy that answers by a function of a state; remembers how many states each call had."""

    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def propose(self, states, num_candidates=1):
        self.calls.append(len(states))
        return [self.answer(state)[:num_candidates] for state in states]


class Steps:
    """A segmenter of 8x8 pictures with which the true IoU is what a test says: `table[columns clicked]`, in 1/64."""

    accepts_boxes, waives_click_points = True, "stand-in"

    def __init__(self, table):
        self.table, self.calls = table, []

    def embed(self, images):
        return [None] * len(images)

    def predict(self, embeddings, clicks, memory, boxes=None):
        self.calls.append(len(clicks))
        masks = [np.arange(64).reshape(8, 8) < self.table[tuple(c.x for c in points)] for points in clicks]
        # Not every test wants masks of equal IoU to coincide: the clicks are what a state remembers.
        return masks, [tuple(points) for points in clicks]


def at(*columns, iou=None):
    return [Action(click=Click(x, 0), predicted_iou=iou) for x in columns]


def world(sample_of, table, **rules):
    segmenter = Steps(table)
    environment = Environment(segmenter=segmenter, **rules)
    sample = sample_of(0, size=(8, 8), target=np.ones((8, 8), bool))
    return segmenter, environment, environment.start(sample)


def columns(state):
    return [step.action.click.x for step in state.steps]


@pytest.mark.parametrize("init", ["empty", "box", "random_points"])
def test_one_candidate_clicks_as_the_policy_alone_and_returns_its_best_mask(discs, dataset_of, init):
    dataset = dataset_of(12)
    environment = Environment(segmenter=discs, max_clicks=6)
    states = environment.start_batch(dataset, init)
    alone = finish(states, NoisyOracle(**NOISY), environment)
    search = Beam(proposer=NoisyOracle(**NOISY), reward=TrueIou(), k=1)
    for plain, found in zip(alone, finish(states, search, environment), strict=True):
        assert [s.action.click for s in found.steps] == [s.action.click for s in plain.steps]
        assert [s.mask for s in found.steps] == [s.mask for s in plain.steps]
        assert found.end_reason is plain.end_reason
        ious = [plain.init_iou, *(step.iou_after for step in plain.steps)]
        assert ious[found.extras["returned"]] == max(ious) and found.extras["pred_iou"] == ious[-1]


def test_greedy_goes_on_from_the_best_candidate_also_when_it_is_worse(sample_of):
    table = {(0,): 10, (1,): 40, (1, 0): 20, (1, 1): 30, (1, 1, 0): 5, (1, 1, 1): 35}
    _, environment, start = world(sample_of, table, max_clicks=3)
    (found,) = finish([start], Beam(proposer=Recorded(lambda _: at(0, 1)), reward=TrueIou(), k=2), environment)
    assert columns(found) == [1, 1, 1] and found.end_reason is EndReason.OUT_OF_CLICKS
    assert found.extras["returned"] == 1 and found.extras["pred_iou"] == 35 / 64
    assert [step.action.predicted_iou for step in found.steps] == [0.0, 40 / 64, 30 / 64]


def test_the_start_is_returned_when_every_click_makes_it_worse(sample_of):
    _, environment, start = world(sample_of, {(0,): 10, (0, 0): 12}, max_clicks=2)
    start = start.replace(iou=0.9, init_iou=0.9)
    (found,) = finish([start], Beam(proposer=Recorded(lambda _: at(0)), reward=TrueIou(), k=1), environment)
    assert found.extras["returned"] == 0 and len(found.steps) == 2


def test_a_beam_survives_a_click_that_greedy_cannot_undo(sample_of):
    table = {(0,): 30, (1,): 20, (0, 0): 31, (0, 1): 32, (1, 0): 60, (1, 1): 10}
    found = {}
    for width in (1, 2):
        _, environment, start = world(sample_of, table, max_clicks=2)
        search = Beam(proposer=Recorded(lambda _: at(0, 1)), reward=TrueIou(), k=2, width=width)
        (found[width],) = finish([start], search, environment)
    assert columns(found[1]) == [0, 1] and columns(found[2]) == [1, 0]
    assert found[2].extras["returned"] == 2 and found[2].extras["pred_iou"] == 60 / 64


def test_tree_search_goes_back_to_where_it_was_better(sample_of):
    table = {(0,): 30, (1,): 20, (0, 0): 5, (0, 1): 6, (1, 0): 60, (1, 1): 10}
    segmenter, environment, start = world(sample_of, table, max_clicks=2)
    search = Mcts(proposer=Recorded(lambda _: at(0, 1)), reward=TrueIou(), k=2, budget=6)
    (found,) = finish([start], search, environment)
    assert columns(found) == [1, 0] and sum(segmenter.calls) == 6
    assert found.end_reason is EndReason.OUT_OF_CLICKS
    small = Mcts(proposer=Recorded(lambda _: at(0, 1)), reward=TrueIou(), k=2, budget=2)
    assert columns(finish([start], small, environment)[0]) == [0]


def test_a_tree_that_has_nothing_left_to_try_ends_before_its_budget(sample_of):
    table = {(0,): 30, (1,): 20, (0, 0): 5, (0, 1): 6, (1, 0): 60, (1, 1): 10}
    segmenter, environment, start = world(sample_of, table, max_clicks=2)
    search = Mcts(proposer=Recorded(lambda _: at(0, 1)), reward=TrueIou(), k=2, budget=100)
    (found,) = finish([start], search, environment)
    assert columns(found) == [1, 0] and sum(segmenter.calls) == len(table)


def test_priors_are_the_policys_probabilities():
    candidates = [Action(click=Click(x, 0), log_prob=log) for x, log in enumerate((-1.0, -1.0 - np.log(3)))]
    np.testing.assert_allclose(priors(candidates), [0.75, 0.25])
    assert priors([*candidates, Action(click=Click(5, 0))]) == [1 / 3] * 3


@pytest.mark.parametrize("search_type, settings", [(Beam, {}), (Beam, {"width": 2}), (Mcts, {"budget": 9})])
@pytest.mark.parametrize("count, sizes", [(7, (1, 3, 7))])
def test_the_batch_size_changes_nothing(discs, dataset_of, search_type, settings, count, sizes):
    written = set()
    for size in sizes:
        environment = Environment(segmenter=discs, max_clicks=4)
        search = search_type(proposer=NoisyOracle(**NOISY), reward=TrueIou(), **settings)
        batches = rollout(dataset_of(count), policy=search, environment=environment, batch_size=size)
        lines = [json.dumps(trajectory_to_json(trajectory)) for batch in batches for trajectory in batch]
        assert [trajectory_to_json(trajectory_from_json(json.loads(line))) for line in lines] == [
            json.loads(line) for line in lines
        ]
        written.add("\n".join(lines))
    assert len(written) == 1


# --- calls ----------------------------------------------------------------------------------------------------------


class Talker:
    """An MLLM whose k-th sample points at its own column of the grid, and announces more the more is green."""

    dialogue = "nano"

    def __init__(self):
        self.rows, self.asked = [], []

    def generate(self, observations, *, prefixes=None, num_samples=1, temperature=0.0, seeds=None, max_new_tokens=64,
                 greedy_first=False):  # fmt: skip
        self.rows.append(len(observations))
        self.asked.append((num_samples, temperature, greedy_first))
        replies = []
        for observation in observations:
            green = int((observation.image[..., 1] > 160).mean() * 100)
            texts = [f"Current IOU: {green}, Positive point: ({100 * k + 100}, 500)" for k in range(num_samples)]
            replies.append([Completion(text, -1.0 - k) for k, text in enumerate(texts)])
        return replies


def test_one_call_judges_new_states_and_proposes_their_next_clicks(discs, dataset_of):
    talker, clicks, samples = Talker(), 3, 4
    environment = Environment(segmenter=discs, max_clicks=clicks)
    agent = Agent(mllm=talker, temperature=1.0, greedy_first=True)
    search = Beam(proposer=agent, reward=PredictedIou(), k=3)
    found = finish(environment.start_batch(dataset_of(samples)), search, environment)
    assert discs.calls == [3 * samples] * clicks, "the candidates of all samples are one segmenter call"
    assert len(talker.rows) == clicks + 1, "judging the new states is proposing their next clicks"
    assert talker.asked[:-1] == [(3, 1.0, True)] * clicks
    assert talker.asked[-1] == (1, 0.0, False), "of states that have ended the greedy reply says all"
    counts = search.statistics()
    assert counts["search_states_seen"] == counts["search_rewards"] == sum(talker.rows)
    assert counts["search_policy_calls"] == len(talker.rows)
    assert counts["search_states_seen"] == samples + sum(discs.calls) - counts["search_coinciding"]
    assert counts["search_clicks"] == sum(discs.calls) and counts["search_segmenter_calls"] == len(discs.calls)
    assert all(state.extras["pred_iou"] is not None for state in found)


@pytest.mark.parametrize("search_type, settings", [(Beam, {}), (Beam, {"width": 2}), (Mcts, {"budget": 5})])
@pytest.mark.parametrize("statistic", ["first", "mean"])
def test_what_the_model_announces_does_not_depend_on_who_else_is_asked(
    discs, dataset_of, search_type, settings, statistic
):
    written = set()
    for size in (1, 3, 8):
        agent = Agent(mllm=Talker(), temperature=1.0, greedy_first=True)
        search = search_type(proposer=agent, reward=PredictedIou(statistic=statistic), **settings)
        environment = Environment(segmenter=discs, max_clicks=4, tau_stop=0.3)
        batches = rollout(dataset_of(8), policy=search, environment=environment, batch_size=size)
        lines = [json.dumps(trajectory_to_json(trajectory)) for batch in batches for trajectory in batch]
        written.add(("\n".join(lines), search.counts["states_seen"], search.counts["coinciding"]))
    assert len(written) == 1


def test_new_samples_are_judged_in_the_call_that_serves_the_old_ones(discs, dataset_of):
    talker, clicks, samples = Talker(), 3, 8
    environment = Environment(segmenter=discs, max_clicks=clicks)
    agent = Agent(mllm=talker, temperature=1.0, greedy_first=True)
    search = Beam(proposer=agent, reward=PredictedIou(), k=1)
    list(rollout(dataset_of(samples), policy=search, environment=environment, batch_size=2))
    assert talker.rows == [2] * (samples // 2) * (clicks + 1)
    search, lengths = Beam(proposer=Recorded(short), reward=TrueIou(), k=1), [0, 3, 1, 2, 0, 0, 1]
    list(rollout(dataset_of(len(lengths)), policy=search, environment=environment, batch_size=2))
    assert search.proposer.calls[:-1] == [2] * (len(search.proposer.calls) - 1), "no place is empty before the last"


def short(state):
    """As many clicks as the number of the sample says, in a way."""
    if len(state.steps) == (0, 3, 1, 2, 0, 0, 1)[int(state.sample.sample_id[1:])]:
        return [Action(end=EndReason.FINISHED)]
    return at(7 * len(state.steps))


def test_one_greedy_candidate_is_the_agent_alone_with_one_more_look(discs, dataset_of):
    talker, dataset = Talker(), dataset_of(3)
    environment = Environment(segmenter=discs, max_clicks=3)
    states = environment.start_batch(dataset)
    alone = finish(states, Agent(mllm=talker), environment)
    plain_rows = sum(talker.rows)
    talker.rows.clear()
    agent = Agent(mllm=talker, temperature=1.0, greedy_first=True)
    found = finish(states, Beam(proposer=agent, reward=PredictedIou(), k=1), environment)
    said, plain = ([[step.action.text for step in one.steps] for one in ones] for ones in (found, alone))
    assert said == plain
    assert sum(talker.rows) == plain_rows + 3 and set(talker.asked) == {(1, 0.0, False)}


def test_a_reward_that_needs_no_reply_leaves_the_losers_unasked(discs, dataset_of):
    proposer = Recorded(lambda state: [Action(click=Click(5 + 20 * k, 5 + 3 * len(state.steps))) for k in range(3)])
    environment = Environment(segmenter=discs, max_clicks=4)
    finish(environment.start_batch(dataset_of(2)), Beam(proposer=proposer, reward=TrueIou(), k=3), environment)
    assert proposer.calls == [2, 2, 2, 2] and discs.calls == [6] * 4


def test_what_coincides_is_tried_once(sample_of):
    table = {(0,): 10, (1,): 40, (2,): 40, (1, 0): 1, (1, 1): 2, (1, 2): 3}
    segmenter, environment, start = world(sample_of, table, max_clicks=1)
    search = Beam(proposer=Recorded(lambda _: at(0, 1, 0, 2, 1)), reward=TrueIou(), k=5)
    (found,) = finish([start], search, environment)
    counts = search.statistics()
    assert segmenter.calls == [3], "two candidates are repetitions"
    assert counts["search_rewards"] == 1 + 2, "two of three outcomes are the same mask"
    assert counts["search_coinciding"] == 3 and columns(found) == [1]


def test_candidates_that_nobody_could_read_are_counted(sample_of):
    unread = Action(end=EndReason.UNPARSABLE, text="?")
    _, environment, start = world(sample_of, {(0,): 10, (0, 0): 20}, max_clicks=2)
    search = Beam(proposer=Recorded(lambda _: [unread, *at(0), unread]), reward=TrueIou(), k=3)
    (found,) = finish([start], search, environment)
    assert len(found.steps) == 2 and search.statistics()["search_unparsable"] == 2 * 2
    alone = Beam(proposer=Recorded(lambda _: [unread] * 3), reward=TrueIou(), k=3)
    (found,) = finish([start], alone, environment)
    assert found.end_reason is EndReason.UNPARSABLE and alone.statistics()["search_unparsable"] == 0


def test_the_oracles_first_click_does_not_cost_a_call_when_nothing_is_wrong(discs, dataset_of):
    dataset = dataset_of(3)
    environment = Environment(segmenter=discs, max_clicks=4)
    states = [environment.start(sample, init=sample.target) for sample in dataset]
    found = finish(states, Beam(proposer=Oracle(), reward=TrueIou()), environment)
    assert not discs.calls and all(one.end_reason is EndReason.FINISHED and not one.steps for one in found)


# --- ends -----------------------------------------------------------------------------------------------------------

RISING = {(0,): 10, (0, 0): 30, (0, 0, 0): 30, (0, 0, 0, 0): 30, (0, 0, 0, 0, 0): 50}


@pytest.mark.parametrize(
    "limits, steps, reason",
    [
        ({}, 5, EndReason.OUT_OF_CLICKS),
        ({"stop_reward": 0.4}, 2, EndReason.FINISHED),
        ({"patience": 2}, 4, EndReason.NO_GAIN),
        ({"patience": 3}, 5, EndReason.OUT_OF_CLICKS),
        ({"budget": 3}, 3, EndReason.OUT_OF_CLICKS),
        ({"budget": 0}, 0, EndReason.OUT_OF_CLICKS),
    ],
)
def test_stop_rules(sample_of, limits, steps, reason):
    _, environment, start = world(sample_of, RISING, max_clicks=5)
    search = Beam(proposer=Recorded(lambda _: at(0)), reward=TrueIou(), k=1, **limits)
    (found,) = finish([start], search, environment)
    assert len(found.steps) == steps and found.end_reason is reason


def test_a_budget_is_spent_on_the_most_promising_and_never_exceeded(discs, dataset_of):
    for search_type, settings in ((Beam, {}), (Beam, {"width": 3}), (Mcts, {})):
        for budget in (1, 4, 8):
            environment = Environment(segmenter=discs, max_clicks=6)
            discs.calls.clear()
            search = search_type(proposer=NoisyOracle(**NOISY), reward=TrueIou(), budget=budget, **settings)
            finish(environment.start_batch(dataset_of(5)), search, environment)
            assert 0 < sum(discs.calls) <= 5 * budget


def test_finishing_is_the_outcome_that_the_mask_stays(sample_of):
    end = Action(end=EndReason.FINISHED, text="Finish")
    answers = {0: [end, *at(0)], 1: [*at(0), end]}
    _, environment, start = world(sample_of, {(0,): 10, (0, 0): 5}, max_clicks=4)
    proposer = Recorded(lambda state: answers[len(state.steps)])
    (found,) = finish([start], Beam(proposer=proposer, reward=TrueIou(), k=2), environment)
    assert columns(found) == [0] and found.end_reason is EndReason.FINISHED and found.end_text == "Finish"
    assert found.extras["returned"] == 1


def test_an_unreadable_reply_counts_only_where_there_is_no_other(sample_of):
    prose = Action(end=EndReason.UNPARSABLE, text="well")
    _, environment, start = world(sample_of, {(0,): 10}, max_clicks=4)
    proposer = Recorded(lambda state: [prose] if state.steps else [prose, *at(0)])
    (found,) = finish([start], Beam(proposer=proposer, reward=TrueIou(), k=2), environment)
    assert columns(found) == [0] and found.end_reason is EndReason.UNPARSABLE and found.end_text == "well"


# --- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search_type, settings", [(Beam, {}), (Beam, {"width": 3}), (Mcts, {"budget": 10})])
def test_the_best_predicted_mask_of_the_file_is_the_one_returned(discs, dataset_of, search_type, settings):
    environment = Environment(segmenter=discs, max_clicks=5)
    search = search_type(proposer=NoisyOracle(**NOISY), reward=TrueIou(), **settings)
    (trajectories,) = rollout(dataset_of(9), policy=search, environment=environment, batch_size=9)
    scores = score(map(prediction_record, trajectories), "best_predicted", bootstrap=0)
    assert scores.chosen().tolist() == [trajectory.extras["returned"] for trajectory in trajectories]
    np.testing.assert_allclose(scores.ious(), scores.ious("oracle"), atol=1e-12)


def test_what_was_tried_is_kept_unless_told_otherwise(sample_of):
    table = {(0,): 10, (1,): 40}
    kept = {}
    for keep in (True, False):
        _, environment, start = world(sample_of, table, max_clicks=1)
        proposer = Recorded(lambda _: [*at(0, 1), Action(end=EndReason.FINISHED)])
        search = Beam(proposer=proposer, reward=TrueIou(), keep_candidates=keep)
        kept[keep] = finish([start], search, environment)[0].extras
    first, second, end = kept[True]["candidates"]
    click = {"is_positive": True, "coords": [0, 0]}
    assert first == {"path": [0, 1], "clicks": click, "pred_iou": 10 / 64, "iou": 10 / 64}
    assert second["pred_iou"] == 40 / 64
    assert end == {"path": [0, 3], "end_reason": "finished", "pred_iou": 0.0, "iou": 0.0}
    assert "candidates" not in kept[False]


def test_search_over_a_clumsy_annotator_is_better_than_following_it(discs, dataset_of):
    dataset, environment = dataset_of(40), Environment(segmenter=discs, max_clicks=6)
    states = environment.start_batch(dataset)
    best = {}
    for name, search in {
        "alone": Beam(proposer=NoisyOracle(**NOISY), reward=TrueIou(), k=1),
        "greedy": Beam(proposer=NoisyOracle(**NOISY), reward=TrueIou(), k=3),
        "beam": Beam(proposer=NoisyOracle(**NOISY), reward=TrueIou(), k=3, width=3),
    }.items():
        best[name] = np.array([one.best_iou for one in finish(states, search, environment)])
    assert best["greedy"].mean() > best["alone"].mean() + 0.02
    assert best["beam"].mean() >= best["greedy"].mean()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"k": 0}, "search.k=0"),
        ({"width": 0}, "search.width=0"),
        ({"budget": -1}, "budget=-1"),
        ({"stop_reward": 90}, "stop_reward=90"),
        ({"patience": 0}, "patience=0"),
        ({"proposer": "noisy_oracle"}, "is no policy; name one, e.g. proposer=noisy_oracle"),
        ({"reward": "best"}, "is no reward model"),
    ],
)
def test_unsound_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Beam(**{"proposer": Oracle(), "reward": TrueIou(), **settings})


def wordless_agent(monkeypatch):
    monkeypatch.setattr(
        "segagent.policies.agent.load_dialogue", lambda name: Dialogue(system="", prompt="{description}")
    )
    return Agent(mllm=SimpleNamespace(dialogue="wordless"))


@pytest.mark.parametrize(
    "silent",
    [
        lambda _: Oracle(),
        lambda _: NoisyOracle(),
        lambda _: Center(),
        lambda _: FirstAction(first=SampleBox()),
        wordless_agent,
        lambda patch: FirstAction(first=SampleBox(), then=wordless_agent(patch)),
    ],
)
def test_a_proposer_that_announces_nothing_is_refused_as_a_reward(monkeypatch, silent):
    with pytest.raises(ValueError, match=r"announces no IoU .*; name another reward"):
        Beam(proposer=silent(monkeypatch), reward=PredictedIou())
    with pytest.raises(ValueError, match=r"reward.judge: .* announces no IoU"):
        PredictedIou(judge=silent(monkeypatch))


def test_of_a_silent_first_action_there_is_no_reward_whoever_is_in_the_batch(discs, sample_of):
    samples = [sample_of(0), *(sample_of(k, box=Box(5, 5, 20, 20)) for k in (1, 2))]
    told = {}
    for batch_size in (1, 3):
        agent = Recorded(lambda state: at(3, iou=0.4))
        search = Beam(proposer=FirstAction(first=SampleBox(), then=agent), reward=PredictedIou(), k=1)
        batches = rollout(
            samples, policy=search, environment=Environment(segmenter=discs, max_clicks=2), batch_size=batch_size
        )
        told[batch_size] = [trajectory_to_json(one) for batch in batches for one in batch]
    assert told[1] == told[3]
    assert [one["extras"].get("pred_iou") for one in told[1]] == [None, 0.4, 0.4]


def test_a_best_mask_that_ended_itself_keeps_its_own_end(sample_of):
    """The beam goes on with the other branch, whose last reply nobody can read."""
    end = Action(end=EndReason.FINISHED, text="Finish")
    answers = {(): at(0, 1), (0,): [end, *at(1)], (1,): [end, *at(1)]}
    garbage = [Action(end=EndReason.UNPARSABLE, text="?")]
    table = {(0,): 50, (1,): 10, (0, 1): 30, (1, 1): 20}
    _, environment, start = world(sample_of, table, max_clicks=3)
    proposer = Recorded(lambda state: answers.get(tuple(columns(state)), garbage))
    (found,) = finish([start], Beam(proposer=proposer, reward=TrueIou(), k=2, width=2), environment)
    assert columns(found) == [0] and found.extras["returned"] == 1
    assert (found.end_reason, found.end_text) == (EndReason.FINISHED, "Finish")


def test_the_mean_over_all_replies_is_of_all_of_them_at_the_last_mask_too(sample_of):
    replies = [Action(click=Click(0, 0), predicted_iou=iou, text="") for iou in (0.2, 0.4)]
    _, environment, start = world(sample_of, {(0,): 10}, max_clicks=1)
    search = Beam(proposer=Recorded(lambda _: replies), reward=PredictedIou(statistic="mean"), k=2)
    (found,) = finish([start], search, environment)
    assert found.steps[0].action.predicted_iou == found.extras["pred_iou"] == pytest.approx(0.3)


def test_an_end_in_another_branch_is_not_that_of_the_best_mask(sample_of):
    garbage = [Action(end=EndReason.UNPARSABLE, text="?")]
    answers = {(): at(0, 1), (0,): at(2), (0, 2): at(3)}
    last = []
    for patience in range(1, 6):
        _, environment, start = world(sample_of, {(0,): 50, (1,): 40, (0, 2): 30, (0, 2, 3): 20}, max_clicks=3)
        proposer = Recorded(lambda state: answers.get(tuple(columns(state)), garbage))
        search = Mcts(proposer=proposer, reward=TrueIou(), k=2, patience=patience)
        (found,) = finish([start], search, environment)
        assert columns(found) == [0] and found.end_reason is not EndReason.UNPARSABLE and found.end_text is None
        last.append(found.extras["candidates"][-1].get("end_reason"))
    assert "unparsable" in last, "in one of them it was what the search tried last"


def puct(rewards, priors, *, budget, exploration, depth):
    """PUCT from its definition (Silver et al. 2017, methods), edge by edge: the nodes in the order in which they are
    tried. rewards: columns clicked -> reward; priors: of the two candidates of any node."""
    tried, visits, value = [], {(): 1}, {(): rewards[()]}

    def closed(node):
        return len(node) == depth or all((*node, x) in visits and closed((*node, x)) for x in range(len(priors)))

    while len(tried) < budget and not closed(()):
        node = ()
        while True:
            scores = {}
            for x, prior in enumerate(priors):
                child = (*node, x)
                bonus = exploration * prior * np.sqrt(visits[node])
                if child not in visits:
                    scores[child] = rewards[node] + bonus
                elif not closed(child):
                    scores[child] = value[child] + bonus / (1 + visits[child])
            node = max(scores, key=scores.get)
            if node not in visits:
                break
        tried.append(node)
        visits[node], value[node] = 1, rewards[node]
        for length in range(len(node)):
            visits[node[:length]] += 1
            value[node[:length]] = max(value[node[:length]], rewards[node])
    return tried


def recorded_clicks(segmenter):
    """The columns clicked of every state that the segmenter sees from now on."""
    asked, predict = [], segmenter.predict

    def recording(embeddings, clicks, memory, boxes=None):
        asked.extend(tuple(click.x for click in points) for points in clicks)
        return predict(embeddings, clicks, memory, boxes)

    segmenter.predict = recording
    return asked


@pytest.mark.parametrize("exploration", [0.0, 0.2, 1.5])
@pytest.mark.parametrize("budget", [None, 9])
def test_tree_search_tries_what_puct_says(sample_of, exploration, budget):
    random, depth, logs = np.random.default_rng(0), 4, (-0.3, -1.6)
    chances = np.exp(logs) / np.exp(logs).sum()
    nodes = [tuple(map(int, np.binary_repr(k, n))) for n in range(1, depth + 1) for k in range(2**n)]
    orders = []
    for _ in range(6):
        table = {node: int(random.integers(1, 64)) for node in nodes}
        segmenter, environment, start = world(sample_of, table, max_clicks=depth)
        asked = recorded_clicks(segmenter)
        actions = [Action(click=Click(x, 0), log_prob=log) for x, log in enumerate(logs)]
        search = Mcts(
            proposer=Recorded(lambda _, actions=actions: actions),
            reward=TrueIou(), k=2, budget=budget, exploration=exploration,
        )  # fmt: skip
        finish([start], search, environment)
        rewards = {(): 0.0} | {node: pixels / 64 for node, pixels in table.items()}
        expected = puct(rewards, chances, budget=budget or 14, exploration=exploration, depth=depth)
        assert asked == expected
        orders.append(expected)
    assert len({tuple(order) for order in orders}) > 1


def test_candidates_of_different_boxes_are_different(sample_of, discs):
    boxes = [Box(0, 0, 8, 8), Box(2, 2, 30, 20), Box(2, 2, 30, 20)]
    proposer = Recorded(lambda _: [Action(box=box) for box in boxes])
    environment = Environment(segmenter=discs, max_clicks=1)
    (found,) = finish([environment.start(sample_of())], Beam(proposer=proposer, reward=TrueIou(), k=3), environment)
    assert [one["used_box"] for one in found.extras["candidates"]] == [[0, 0, 8, 8], [2, 2, 30, 20]]


def test_a_candidate_is_told_as_in_a_predictions_file(sample_of, discs):
    proposer = Recorded(lambda _: [Action(click=Click(7, 3, False), log_prob=-0.5)])
    environment = Environment(segmenter=discs, max_clicks=1)
    (found,) = finish([environment.start(sample_of())], Beam(proposer=proposer, reward=TrueIou(), k=1), environment)
    (told,) = found.extras["candidates"]
    assert told["clicks"] == {"is_positive": False, "coords": [3, 7]} and told["log_prob"] == -0.5


def test_a_reward_that_is_reached_exactly_stops(sample_of):
    table = {(0,): 32, (0, 0): 60}
    _, environment, start = world(sample_of, table, max_clicks=2)
    search = Beam(proposer=Recorded(lambda _: at(0)), reward=TrueIou(), k=1, stop_reward=0.5)
    (found,) = finish([start], search, environment)
    assert columns(found) == [0] and found.end_reason is EndReason.FINISHED


def test_prose_among_clicks_ends_nothing(sample_of):
    prose = Action(end=EndReason.UNPARSABLE, text="well")
    _, environment, start = world(sample_of, {(0,): 20, (0, 0): 10}, max_clicks=2)
    search = Beam(proposer=Recorded(lambda _: [prose, *at(0)]), reward=TrueIou(), k=2)
    (found,) = finish([start], search, environment)
    assert columns(found) == [0, 0] and found.end_reason is EndReason.OUT_OF_CLICKS, "though the click hurts"


def test_an_end_costs_no_call_and_is_tried_when_the_budget_is_spent(sample_of):
    _, environment, start = world(sample_of, {(0,): 10}, max_clicks=3)
    proposer = Recorded(lambda _: [*at(0, 1), Action(end=EndReason.FINISHED)])
    search = Beam(proposer=proposer, reward=TrueIou(), k=3, budget=1)
    (found,) = finish([start], search, environment)
    assert [one.get("end_reason") for one in found.extras["candidates"]] == [None, "finished"]
    assert search.statistics()["search_clicks"] == 1


def test_a_tree_ends_as_its_best_mask_did(sample_of):
    table = {(0,): 64, (1,): 10, (1, 0): 9, (1, 1): 8, (0, 0): 1, (0, 1): 1}
    _, environment, start = world(sample_of, table, max_clicks=2, tau_stop=1.0)
    search = Mcts(proposer=Recorded(lambda _: at(0, 1)), reward=TrueIou(), k=2, budget=3)
    (found,) = finish([start], search, environment)
    assert columns(found) == [0] and found.end_reason is EndReason.FINISHED, "whatever is tried last, elsewhere"


def test_a_reward_that_is_reached_with_the_last_click_is_why_it_ended(sample_of):
    _, environment, start = world(sample_of, {(0,): 32}, max_clicks=1)
    search = Beam(proposer=Recorded(lambda _: at(0)), reward=TrueIou(), k=1, stop_reward=0.5)
    assert finish([start], search, environment)[0].end_reason is EndReason.FINISHED

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from segagent.data.trajectories import trajectory_to_json
from segagent.environment import Environment
from segagent.policies.mcts import Mcts
from segagent.policies.reward_model import PredictedIou, TrueIou
from segagent.policies.search import Beam
from segagent.policies.simulated import Center, NoisyOracle, Oracle
from segagent.rollout import rollout
from segagent.types import Action, Click, EndReason, RefusedError


def rolled(dataset, discs, policy=None, **settings):
    environment = Environment(segmenter=discs, max_clicks=6, tau_stop=0.95)
    batches = list(rollout(dataset, policy=policy or NoisyOracle(), environment=environment, **settings))
    return [json.dumps(trajectory_to_json(trajectory)) for batch in batches for trajectory in batch], batches


@pytest.mark.parametrize("init", ["empty", "box", "random_points"])
def test_the_batch_size_changes_nothing_but_the_number_of_calls(discs, dataset_of, init):
    dataset = dataset_of(11)
    alone, _ = rolled(dataset, discs, init=init, batch_size=1)
    calls_alone = len(discs.calls)
    discs.calls.clear()
    together, _ = rolled(dataset, discs, init=init, batch_size=4)
    assert together == alone
    assert len(discs.calls) < calls_alone / 2 and max(discs.calls) == 4


def test_every_trajectory_ends_for_a_reason_and_in_order(discs, dataset_of):
    _, batches = rolled(dataset_of(9), discs, Oracle(), batch_size=4)
    trajectories = [trajectory for batch in batches for trajectory in batch]
    assert [t.sample_id for t in trajectories] == [f"s{k}" for k in range(9)]
    assert {t.end_reason for t in trajectories} <= {EndReason.FINISHED, EndReason.OUT_OF_CLICKS}
    assert all(t.steps[0].iou_after > 0 for t in trajectories)


def test_a_short_policy_ends_before_the_others(discs, dataset_of):
    _, batches = rolled(dataset_of(3), discs, Center(), batch_size=3)
    assert [len(t.steps) for t in batches[0]] == [1, 1, 1]


class Lengths:
    """A policy that clicks the center `lengths[sample]` times and then ends; remembers whom each call was for."""

    def __init__(self, lengths):
        self.lengths, self.calls = lengths, []

    def propose(self, states, num_candidates=1):
        self.calls.append([int(state.sample.sample_id[1:]) for state in states])
        return [[self.act(state)] for state in states]

    def act(self, state):
        if len(state.steps) == self.lengths[int(state.sample.sample_id[1:])]:
            return Action(end=EndReason.FINISHED)
        return Action(click=Click(30, 20, len(state.steps) % 2 == 0))


def test_a_sample_that_ends_leaves_its_place_to_the_next_at_once(discs, dataset_of):
    lengths = [5, 0, 1, 0, 2, 3, 1, 1, 0, 4, 2, 1]
    policy, environment = Lengths(lengths), Environment(segmenter=discs, max_clicks=9)
    batches = list(rollout(dataset_of(len(lengths)), policy=policy, environment=environment, batch_size=3))
    assert policy.calls[:3] == [[0, 1, 2], [0, 2, 3], [0, 4, 5]]
    idle = [k for k, call in enumerate(policy.calls) if len(call) < 3]
    assert policy.calls[idle[0] - 1 :][0][-1] == 11, "a place was empty while there were samples left"
    made = [trajectory for batch in batches for trajectory in batch]
    assert [len(trajectory.steps) for trajectory in made] == lengths, "written in the order of the samples"
    assert [trajectory.sample_id for trajectory in batches[0]] == [f"s{k}" for k in range(6)], "as soon as s0 is there"


def test_ends_of_all_kinds_leave_at_once_and_change_nothing(discs, dataset_of):
    random = np.random.default_rng(0)
    lengths = random.integers(0, 8, 40).tolist()
    written = {tuple(rolled(dataset_of(40), discs, Lengths(lengths), batch_size=size)[0]) for size in (1, 2, 7, 40, 64)}
    assert len(written) == 1


def test_no_more_samples_are_under_way_than_the_batch_size(discs, dataset_of):
    lengths, loaded = [9, *[0, 1] * 15], []

    def samples():
        for sample in dataset_of(len(lengths)):
            loaded.append(sample.sample_id)
            assert len(loaded) - len(ended) <= 4
            yield sample

    class Counted(Lengths):
        def act(self, state):
            action = super().act(state)
            if action.end is not None:
                ended.append(state.sample.sample_id)
            return action

    ended: list[str] = []
    environment = Environment(segmenter=discs, max_clicks=20)
    list(rollout(samples(), policy=Counted(lengths), environment=environment, batch_size=4))
    assert len(ended) == len(lengths)


def test_what_is_under_way_is_finished_when_a_sample_cannot_be_loaded(discs, dataset_of):
    def samples():
        yield from dataset_of(5)
        raise ValueError("photo.jpg: broken image")

    made, policy = [], Lengths([3, 0, 2, 0, 5])
    with pytest.raises(ValueError, match=r"photo.jpg"):
        for batch in rollout(samples(), policy=policy, environment=Environment(segmenter=discs), batch_size=4):
            made += batch
    assert [len(trajectory.steps) for trajectory in made] == [3, 0, 2, 0, 5]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_or_when_it_has_nothing_to_begin_with(discs, dataset_of, batch_size):
    sound = dataset_of(6)
    dataset = [replace(sample, target=None) if number in (2, 3) else sample for number, sample in enumerate(sound)]
    given = {"policy": Lengths([2, 0, 0, 0, 3, 1]), "environment": Environment(segmenter=discs), "init": "box"}
    made = []
    with pytest.raises(ValueError, match="sample 's2' has neither a box nor a target"):
        for batch in rollout(dataset, batch_size=batch_size, **given):
            made += batch
    assert [len(trajectory.steps) for trajectory in made] == [2, 0]
    told = []
    batches = rollout(dataset, batch_size=batch_size, on_unsound=told.append, **given)
    assert [(one.sample_id, len(one.steps)) for batch in batches for one in batch] == [
        ("s0", 2), ("s1", 0), ("s4", 3), ("s5", 1)
    ]  # fmt: skip
    assert [reason.split("'")[1] for reason in told] == ["s2", "s3"]


def test_a_picture_is_embedded_once_for_all_its_descriptions(discs, dataset_of):
    dataset = dataset_of(10, image_key="one picture")
    same = dataset[0].image
    assert not np.array_equal(same, dataset[1].image)  # the stand-in does not look at pixels, only at the key
    rolled(dataset, discs, batch_size=3)
    assert discs.embedded == 1


def test_the_pictures_of_the_last_samples_are_remembered_and_no_more(discs, dataset_of):
    keys = ["a", "b", "a", "c", "c", "b", "d", "a"]
    dataset = [replace(sample, image_key=key) for sample, key in zip(dataset_of(len(keys)), keys, strict=True)]
    rolled(dataset, discs, Center(), batch_size=1)
    assert discs.embedded == 7
    discs.embedded = 0
    rolled(dataset, discs, Center(), batch_size=2)
    assert discs.embedded == 6, "a, b; c; b; d, a"


def test_seconds_are_recorded_only_when_asked_for(discs, dataset_of):
    assert all(t.seconds is None for t in rolled(dataset_of(2), discs)[1][0])
    began = time.perf_counter()
    _, batches = rolled(dataset_of(4), discs, Lengths([0, 3, 1, 5]), batch_size=2, record_seconds=True)
    seconds = [trajectory.seconds for batch in batches for trajectory in batch]
    assert min(seconds) > 0 and sum(seconds) < time.perf_counter() - began


def test_a_batch_needs_a_sample(discs, dataset_of):
    with pytest.raises(ValueError, match="batch_size=0"):
        rolled(dataset_of(2), discs, batch_size=0)


def test_a_whole_dataset_is_streamed(discs, dataset_of):
    """The first batch is there before the second one is loaded."""
    loaded = []

    def samples():
        for sample in dataset_of(6):
            loaded.append(sample.sample_id)
            yield sample

    batches = rollout(samples(), policy=Oracle(), environment=Environment(segmenter=discs), batch_size=2)
    next(batches)
    assert loaded == ["s0", "s1"]


class Picky(Lengths):
    """Refuses states of some samples, as a model does a text that is too long for it."""

    def __init__(self, lengths, refused):
        super().__init__(lengths)
        self.refused = refused

    def propose(self, states, k=1):
        for state in states:
            if (state.sample.sample_id, len(state.steps)) in self.refused:
                raise RefusedError("too long")
        return super().propose(states, k)


class Announcing:
    """What another policy does, with an IoU in each reply: a reward that is read off the replies."""

    def __init__(self, policy):
        self.policy = policy

    def propose(self, states, k=1):
        said = [0.1 * len(state.steps) for state in states]
        rows = self.policy.propose(states, k)
        return [[replace(action, predicted_iou=iou) for action in row] for row, iou in zip(rows, said, strict=True)]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda policy: policy,
        lambda policy: Beam(proposer=policy, reward=TrueIou(), k=1),
        lambda policy: Beam(proposer=Announcing(policy), reward=PredictedIou(), k=1),
        lambda policy: Mcts(proposer=Announcing(policy), reward=PredictedIou(), k=1, budget=6),
    ],
    ids=["alone", "beam", "beam that reads replies", "mcts that reads replies"],
)
def test_a_sample_that_the_policy_refuses_is_left_out_and_the_others_go_on(discs, dataset_of, wrapped):
    lengths, environment = [2, 3, 1, 2, 4, 1], Environment(segmenter=discs, max_clicks=9)

    def made(policy, **given):
        return [
            t
            for batch in rollout(dataset_of(6), policy=wrapped(policy), environment=environment, **given)
            for t in batch
        ]

    whole, told = made(Lengths(lengths), batch_size=3), []
    left = made(Picky(lengths, {("s1", 0), ("s4", 2)}), batch_size=3, on_unsound=told.append)
    assert [t.sample_id for t in left] == ["s0", "s2", "s3", "s5"] and told == [
        "sample 's1': too long",
        "sample 's4': too long",
    ]
    wanted = [json.dumps(trajectory_to_json(t)) for t in whole if t.sample_id not in ("s1", "s4")]
    assert [json.dumps(trajectory_to_json(t)) for t in left] == wanted
    last = made(Picky([0, 0, 0, 5, 0, 0], {("s3", 4)}), batch_size=4, on_unsound=told.append)
    assert [t.sample_id for t in last] == ["s0", "s1", "s2", "s4", "s5"], "those that waited for it too"
    with pytest.raises(RefusedError, match="too long"):
        made(Picky(lengths, {("s1", 0)}), batch_size=3)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 8])
def test_where_a_refusal_ends_the_run_those_before_it_are_done(discs, dataset_of, batch_size):
    policy, made = Picky([2, 3, 1, 4, 0, 9], {("s3", 2), ("s4", 0)}), []
    with pytest.raises(RefusedError, match="sample 's3': too long"):
        for batch in rollout(
            dataset_of(6), policy=policy, environment=Environment(segmenter=discs), batch_size=batch_size
        ):
            made += batch
    assert [(one.sample_id, len(one.steps)) for one in made] == [("s0", 2), ("s1", 3), ("s2", 1)]


def test_a_judge_that_refuses_is_a_refusal_too(discs, dataset_of):
    lengths, environment, told = [2, 3, 1, 2], Environment(segmenter=discs, max_clicks=9), []

    def made(refused, **given):
        judge = Announcing(Picky([9] * 4, refused))
        search = Beam(proposer=Lengths(lengths), reward=PredictedIou(judge=judge), k=1)
        batches = rollout(dataset_of(4), policy=search, environment=environment, batch_size=3, **given)
        return {one.sample_id: json.dumps(trajectory_to_json(one)) for batch in batches for one in batch}

    whole = made(set())
    left = made({("s0", 0), ("s2", 1)}, on_unsound=told.append)
    assert told == ["sample 's0': too long", "sample 's2': too long"]
    assert left == {name: line for name, line in whole.items() if name in ("s1", "s3")}


def test_the_others_are_not_asked_again(discs, dataset_of):
    replies = []

    class Counted(Picky):
        def propose(self, states, k=1):
            rows = super().propose(states, k)
            replies.extend(states)
            return rows

    policy = Counted([0] * 8, {("s5", 0)})
    given = {"policy": policy, "environment": Environment(segmenter=discs), "batch_size": 8}
    made = [one for batch in rollout(dataset_of(8), on_unsound=lambda reason: None, **given) for one in batch]
    assert len(made) == 7 and len(replies) == 7

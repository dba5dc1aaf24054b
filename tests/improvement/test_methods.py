"""What StaR, StaR+ and DAgger learn of rollouts, judged against F_sim itself."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segagent.data.trajectories import TrajectoryWriter
from segagent.dialogue import load_dialogue
from segagent.environment import Environment
from segagent.improvement.methods import Dagger, Star, StarPlus, rewards_of
from segagent.improvement.relabelling import relabel
from segagent.improvement.selection import counts_of, select
from segagent.masks import decode_rle, encode_rle, iou, next_click
from segagent.policies.reward_model import TrueIou
from segagent.policies.search import Beam
from segagent.policies.simulated import NoisyOracle
from segagent.rollout import rollout
from segagent.training.examples import Examples, TaskMix
from segagent.training.trajectory_index import read_states
from segagent.types import EndReason, InitKind


class Samples(list):
    def sample_id(self, index):
        return self[index].sample_id


@pytest.fixture
def dataset(sample_of):
    return Samples(sample_of(index) for index in range(8))


@pytest.fixture
def rolled_out(dataset, discs):
    """8 trajectories of 4 clicks, many of them wrong."""
    policy = NoisyOracle(misplace=0.5, flip=0.3, seed=1)
    environment = Environment(segmenter=discs, max_clicks=4)
    return [made for batch in rollout(dataset, policy=policy, environment=environment, batch_size=4) for made in batch]


def masks(trajectory):
    return [decode_rle(trajectory.init_mask), *(decode_rle(step.mask) for step in trajectory.steps)]


def annotators_click(trajectory, state):
    """F_sim in a visited state, worked out here from masks and clicks alone."""
    clicked = [(step.action.click.x, step.action.click.y) for step in trajectory.steps[:state]]
    return next_click(decode_rle(trajectory.target), masks(trajectory)[state], clicked)


def test_star_plus_keeps_what_helped_and_replaces_the_rest_by_the_annotators_click(rolled_out):
    kept, replaced = 0, 0
    for before in rolled_out:
        after = StarPlus(tau_stop=None).select(before)
        target = decode_rle(before.target)
        ious = [iou(mask, target) for mask in masks(before)]
        assert [step.mask for step in after.steps] == [step.mask for step in before.steps], "as they were visited"
        for state, (old, new) in enumerate(zip(before.steps, after.steps, strict=True)):
            if ious[state + 1] > ious[state]:
                assert new is old
                kept += 1
            else:
                assert new.action.click == annotators_click(before, state) and new.kept
                assert (new.action.source, new.action.text) == ("relabelled", None)
                replaced += 1
        assert after.end_reason is before.end_reason is EndReason.OUT_OF_CLICKS
    assert kept > 5 and replaced > 5


def test_a_gain_must_be_larger_than_min_gain(rolled_out):
    gains = [step.iou_after - step.iou_before for made in rolled_out for step in made.steps]
    bound = float(np.median([gain for gain in gains if gain > 0]))
    learnt = [StarPlus(min_gain=bound, tau_stop=None).select(made) for made in rolled_out]
    kept = sum(step.action.source != "relabelled" for made in learnt for step in made.steps)
    assert kept == sum(gain > bound for gain in gains) > 0


@pytest.mark.parametrize("end", [EndReason.UNPARSABLE, EndReason.FINISHED])
def test_a_reply_that_is_no_click_is_answered_by_the_annotators(rolled_out, end):
    before = replace(rolled_out[0], end_reason=end, end_text="what?")
    after = StarPlus(tau_stop=None).select(before)
    added = after.steps[-1]
    assert len(after.steps) == len(before.steps) + 1 and added.action.click == annotators_click(before, 4)
    assert added.mask == before.steps[-1].mask and added.iou_before == added.iou_after == before.final_iou
    assert after.end_reason is None and after.end_text is None, "so that nobody learns that this is the end"
    satisfied = StarPlus(tau_stop=before.final_iou).select(before)
    assert satisfied.end_reason is end and len(satisfied.steps) == 4, "here F_sim stops too"


def test_where_the_annotator_would_stop_a_click_that_hurt_is_left_out(rolled_out):
    wrong = [
        (made, k) for made in rolled_out for k, step in enumerate(made.steps) if 0 < step.iou_before >= step.iou_after
    ]
    assert wrong
    for made, k in wrong:
        after = StarPlus(tau_stop=made.steps[k].iou_before).select(made)
        assert not after.steps[k].kept and after.steps[k].action == made.steps[k].action


def test_dagger_labels_every_visited_state(rolled_out):
    for before in rolled_out:
        after = Dagger(tau_stop=None).select(before)
        clicks = [step.action.click for step in after.steps]
        assert clicks == [annotators_click(before, state) for state in range(5)]
        assert {step.action.source for step in after.steps} == {"relabelled"}


def test_star_keeps_what_ends_well_as_it_is(rolled_out):
    bound = float(np.median([made.final_iou for made in rolled_out]))
    for made in rolled_out:
        assert Star(min_reward=bound).select(made) is (made if made.final_iou >= bound else None)
    assert Star(min_reward=0).select(replace(rolled_out[0], steps=())) is None, "no click, nothing to learn"


def test_rewards_of_a_search_judge_where_they_are_asked_for(dataset, discs, rolled_out):
    search = Beam(proposer=NoisyOracle(misplace=0.5, flip=0.3, seed=1), reward=TrueIou(), k=1)
    environment = Environment(segmenter=discs, max_clicks=4)
    for (judged,), plain in zip(rollout(dataset, policy=search, environment=environment), rolled_out, strict=True):
        assert rewards_of(judged, "search") == rewards_of(plain, "true_iou")
        assert [s.action.click for s in StarPlus(reward="search").select(judged).steps] == [
            s.action.click for s in StarPlus().select(plain).steps
        ]
    silent = replace(judged, extras={"returned": 0})
    assert rewards_of(silent, "search")[-1] is None and Star(reward="search", min_reward=0).select(silent) is None
    assert StarPlus(reward="search", tau_stop=None).select(silent).steps[-1].action.source == "relabelled"
    with pytest.raises(ValueError, match=r"no search judged its masks; roll out with policy=greedy search.k=1"):
        Star(reward="search").select(rolled_out[0])


def test_what_s0_is_trained_on():
    start, rounds = [Path("d0")], [Path("d1"), Path("d2")]
    assert Star().files(start, rounds) == [Path("d2")]
    assert StarPlus().files(start, rounds) == [Path("d0"), Path("d2")]
    assert Dagger().files(start, rounds) == [Path("d0"), Path("d1"), Path("d2")]


def test_selection_counts_every_click_and_what_it_writes_is_learnt(dataset, rolled_out, tmp_path):
    ended = [*rolled_out[:-1], replace(rolled_out[-1], end_reason=EndReason.UNPARSABLE)]
    with TrajectoryWriter(tmp_path / "rollouts.jsonl") as writer:
        writer.write(ended)
    method = StarPlus(tau_stop=None)
    total = sum((counts_of(made, method.select(made)) for made in ended), start=Counter())
    assert total["clicks"] == 32 == total["kept"] + total["relabelled"] and total["added"] == 1
    select(tmp_path / "rollouts.jsonl", method, tmp_path / "selected.jsonl", tmp_path / "selection.json")
    assert not list(tmp_path.glob("*.partial"))
    dialogue, paths = load_dialogue("nano"), [tmp_path / "selected.jsonl"]
    states = read_states(paths, dataset, dialogue, tasks=["click"])
    tasks = TaskMix(click=1, iou_click=0, iou=0, perturbed=0)
    examples = Examples(states=states, paths=paths, dataset=dataset, dialogue=dialogue, tasks=tasks)
    assert len(examples) == 33
    for row in range(33):
        made, state = ended[int(states.trajectory[row])], int(states.state[row])
        example = examples.example(row, row, np.random.default_rng(0))
        right = state < 4 and made.steps[state].iou_after > made.steps[state].iou_before
        click = made.steps[state].action.click if right else annotators_click(made, state)
        assert np.array_equal(example.mask, masks(made)[state])
        assert example.answer == dialogue.format_point(click, width=made.width, height=made.height)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Star(min_reward=80), r"method.min_reward=80: an IoU in \[0, 1\]"),
        (lambda: StarPlus(min_gain=-1), "method.min_gain=-1"),
        (lambda: Dagger(tau_stop=9), "method.tau_stop=9"),
        (lambda: StarPlus(reward="prm"), "method.reward='prm': choose true_iou or search"),
    ],
)
def test_settings_without_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_sample_without_a_target_is_named(rolled_out):
    blind = replace(rolled_out[0], target=None, init_iou=None)
    for method in (Star(), StarPlus(), Dagger()):
        with pytest.raises(ValueError, match="sample 's0' has no target mask"):
            method.select(blind)


def test_a_click_that_was_never_carried_out_is_no_second_state(dataset, rolled_out, tmp_path):
    path = tmp_path / "selected.jsonl"
    with TrajectoryWriter(path) as writer:
        made = [Dagger().select(trajectory) for trajectory in rolled_out]
        writer.write(made)
    states = read_states([path], dataset, load_dialogue("nano"), tasks=("perturbed",))
    added = [len(after.steps) - len(before.steps) for after, before in zip(made, rolled_out, strict=True)]
    assert any(added)
    visited = [len(trajectory.steps) + 1 for trajectory in rolled_out]
    counted = np.bincount(states.trajectory)
    assert counted.tolist() == visited, "each mask once"


def test_a_score_that_knows_no_start_judges_the_first_click_too(dataset, discs):
    """SAM's own predicted IoU is of masks that it made; the empty start is worth nothing."""

    class OfMadeMasks:
        reads_replies = False

        def score(self, states, replies=None):
            return [state.iou if state.steps else None for state in states]

    search = Beam(proposer=NoisyOracle(misplace=0.5, flip=0.3, seed=1), reward=OfMadeMasks(), k=1)
    environment = Environment(segmenter=discs, max_clicks=3)
    rolled_out = [made for batch in rollout(dataset, policy=search, environment=environment) for made in batch]
    for trajectory in rolled_out:
        said = rewards_of(trajectory, "search")
        assert said[0] == 0.0 and said[1:] == pytest.approx(rewards_of(trajectory, "true_iou")[1:])
        judged = [StarPlus(tau_stop=None, reward=reward).select(trajectory) for reward in ("search", "true_iou")]
        assert [step.action for step in judged[0].steps] == [step.action for step in judged[1].steps]
    given, nothing = replace(rolled_out[0], init=InitKind.MASK), replace(rolled_out[0], init_iou=1.0)
    assert rewards_of(given, "search")[0] is None, "of a mask that was given nothing is known"
    assert rewards_of(nothing, "search")[0] is None, "an empty target: no click is right"


@pytest.mark.parametrize("make", [lambda: Star(min_reward=None), lambda: StarPlus(min_gain=None)])
def test_a_bound_that_is_needed_is_not_null(make):
    with pytest.raises(ValueError, match=r"method.min_\w+=null: an IoU in \[0, 1\]"):
        make()


def test_what_was_said_of_the_last_mask_does_not_outlive_the_end(rolled_out):
    one = replace(rolled_out[0], extras={"pred_iou": 0.4, "returned": 1}, end_reason=EndReason.FINISHED)
    assert relabel(one, [0], None).extras == one.extras
    assert relabel(one, [len(one.steps)], None).extras == {"returned": 1}


def test_a_reward_that_is_just_enough_is_enough(rolled_out):
    assert Star(min_reward=rolled_out[0].final_iou).select(rolled_out[0]) is rolled_out[0]


def test_f_sim_clicks_no_void_pixel(rolled_out):
    before = rolled_out[0]
    target = decode_rle(before.target)
    void = target.copy()
    void[int(np.argwhere(target)[:, 0].mean()) :] = False
    after = Dagger(tau_stop=None).select(replace(before, void=encode_rle(void)))
    click = after.steps[0].action.click
    assert click == next_click(target, decode_rle(before.init_mask), (), void) and not void[click.y, click.x]


def test_a_click_that_is_replaced_is_learnt_though_the_old_one_was_not(rolled_out):
    dropped = replace(rolled_out[0], steps=tuple(replace(step, kept=False) for step in rolled_out[0].steps))
    assert all(step.kept for step in relabel(dropped, range(4), None).steps)


def test_clicks_that_are_left_out_are_counted(rolled_out):
    made = rolled_out[0]
    left = replace(made, steps=(replace(made.steps[0], kept=False), *made.steps[1:]))
    assert counts_of(made, left) == {"trajectories": 1, "selected": 1, "clicks": 4, "left_out": 1, "kept": 3}
    assert counts_of(made, None)["left_out"] == 4

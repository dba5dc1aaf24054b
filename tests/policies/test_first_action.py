"""A first action of another policy: a box alone, a box before clicks, a box before a search."""

from dataclasses import replace

import pytest

from segagent.environment import Environment
from segagent.masks import bounding_box
from segagent.policies.first_action import FirstAction, SampleBox
from segagent.policies.reward_model import TrueIou
from segagent.policies.search import Beam
from segagent.policies.simulated import NoisyOracle, Oracle
from segagent.rollout import finish
from segagent.types import EndReason


@pytest.fixture
def boxed(dataset_of):
    return list(dataset_of(4))


def with_boxes(samples):
    return [replace(sample, box=bounding_box(sample.target)) for sample in samples]


def test_box_and_segmenter_alone_is_one_action(discs, boxed):
    environment = Environment(segmenter=discs)
    found = finish(environment.start_batch(with_boxes(boxed)), FirstAction(first=SampleBox()), environment)
    assert discs.calls == [4], "one segmenter call for all"
    for state in found:
        assert len(state.steps) == 1 and state.end_reason is EndReason.FINISHED and state.iou == 1.0
        assert state.steps[0].action.box == state.sample.box and state.steps[0].action.source == "sample_box"


def test_a_sample_without_a_box_ends_unparsable_and_the_others_go_on(discs, boxed):
    environment = Environment(segmenter=discs)
    samples = [boxed[0], *with_boxes(boxed[1:])]
    first, *others = finish(environment.start_batch(samples), FirstAction(first=SampleBox()), environment)
    assert first.end_reason is EndReason.UNPARSABLE and first.end_text == "the sample has no box"
    assert all(state.iou == 1.0 for state in others)


def test_a_click_instead_of_a_box_is_no_box(discs, boxed):
    environment = Environment(segmenter=discs)
    states = environment.start_batch(with_boxes(boxed))
    for state in finish(states, FirstAction(first=Oracle(), box_only=True), environment):
        assert state.end_reason is EndReason.UNPARSABLE and not state.steps
    for state in finish(states, FirstAction(first=SampleBox(), box_only=True), environment):
        assert state.end_reason is EndReason.FINISHED and state.iou == 1.0
    assert all(len(state.steps) == 1 for state in finish(states, FirstAction(first=Oracle()), environment))


def test_clicks_come_after_the_box_also_in_a_search(discs, boxed):
    environment = Environment(segmenter=discs, max_clicks=4)
    states = environment.start_batch(with_boxes(boxed))
    policy = FirstAction(first=SampleBox(), then=NoisyOracle(misplace=0.5, flip=0.0, radius=9))
    for search in (policy, Beam(proposer=policy, reward=TrueIou(), k=3)):
        for state in finish(states, search, environment):
            assert state.steps[0].action.box is not None
            assert all(step.action.click is not None for step in state.steps[1:])


def test_each_policy_is_called_once_for_its_own_states(discs, boxed):
    class Counted(Oracle):
        calls = ()

        def propose(self, states, num_candidates=1):
            self.calls = (*self.calls, len(states))
            return super().propose(states, num_candidates)

    environment = Environment(segmenter=discs, max_clicks=3)
    fresh = environment.start_batch(boxed)
    moved = environment.step_batch(fresh[:2], [row[0] for row in Oracle().propose(fresh[:2])])
    first, then = Counted(), Counted()
    FirstAction(first=first, then=then).propose([moved[0], fresh[2], moved[1], fresh[3]])
    assert first.calls == (2,) and then.calls == (2,)


def test_what_is_asked_for_reaches_both(discs, boxed):
    asked = []

    class Asked(Oracle):
        expects_iou = True

        def propose(self, states, num_candidates=1, expected_iou=False):
            asked.append((num_candidates, expected_iou))
            return super().propose(states, num_candidates)

    fresh = Environment(segmenter=discs).start_batch(boxed[:2])
    moved = Environment(segmenter=discs).step_batch(fresh[:1], [Oracle().propose(fresh[:1])[0][0]])
    both = FirstAction(first=Asked(), then=Asked())
    rows = both.propose([*moved, fresh[1]], 3, expected_iou=True)
    assert asked == [(3, True)] * 2 and [len(row) for row in rows] == [3, 3]
    assert both.expects_iou and not FirstAction(first=SampleBox(), then=Asked()).expects_iou

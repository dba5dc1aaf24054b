"""The judge that draws for itself: what it says, what it costs, where it refuses."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from segagent.environment import Environment
from segagent.policies.calibration import Calibration
from segagent.policies.search import Beam
from segagent.policies.second_opinion import SecondOpinion
from segagent.rollout import finish, rollout
from segagent.types import Action, Click, EndReason, InitKind


class Clicker:
    """Announces `said` of every mask, clicks at the target's middle, ends after `most` clicks; counts what it saw."""

    expects_iou = True

    def __init__(self, said=0.4, most=9, place=None):
        self.said, self.most, self.place, self.seen = said, most, place, []

    def propose(self, states, num_candidates=1, expected_iou=False):
        self.seen.append(len(states))
        return [[self._reply(state)] * num_candidates for state in states]

    def _reply(self, state):
        if len(state.steps) >= self.most:
            return Action(end=EndReason.FINISHED, text="Finish", predicted_iou=self.said)
        ys, xs = np.nonzero(state.sample.target)
        x, y = self.place or (int(np.median(xs)), int(np.median(ys)))
        return Action(click=Click(x, y), text="...", predicted_iou=self.said)


def judged(environment, states, clicker, **settings):
    reward = SecondOpinion(**settings)
    search = Beam(proposer=clicker, reward=reward, k=1, budget=0)
    return [state.extras.get("pred_iou") for state in finish(states, search, environment)], search


def given(environment, samples, mask_of):
    return [environment.start(sample, mask_of(sample)) for sample in samples]


def own_mask(environment, sample, clicks=1):
    """What `Clicker` draws from nothing."""
    ys, xs = np.nonzero(sample.target)
    state = environment.start(sample)
    for _ in range(clicks):
        state = environment.step(state, Action(click=Click(int(np.median(xs)), int(np.median(ys)))))
    return state.mask


def test_the_higher_of_both_testimonies_counts(discs, dataset_of):
    environment, samples = Environment(segmenter=discs), list(dataset_of(3))
    same = given(environment, samples, lambda sample: own_mask(environment, sample))
    assert judged(environment, same, Clicker(said=0.4), clicks=1)[0] == [1.0] * 3
    other = given(environment, samples, lambda sample: ~own_mask(environment, sample))
    assert judged(environment, other, Clicker(said=0.4), clicks=1)[0] == [0.4] * 3


def test_half_of_its_own_mask_is_worth_what_it_covers(discs, dataset_of):
    environment, (sample,) = Environment(segmenter=discs), list(dataset_of(1))
    own = own_mask(environment, sample)
    half = own & (np.arange(own.shape[1]) < np.flatnonzero(own.any(0)).mean())
    (value,), _ = judged(environment, given(environment, [sample], lambda _: half), Clicker(said=0.0), clicks=1)
    assert 0 < value < 1 and value == half.sum() / own.sum()


class Elsewhere(Clicker):
    """Each of its clicks lies in a new place."""

    def _reply(self, state):
        said = super()._reply(state)
        return said if said.end else replace(said, click=Click(3 + 12 * len(state.steps), 4))


def test_the_attempt_takes_its_own_number_of_clicks_and_all_samples_go_together(discs, dataset_of):
    environment, samples = Environment(segmenter=discs, max_clicks=1), list(dataset_of(4))
    clicker = Elsewhere(most=2)
    values, search = judged(environment, given(environment, samples, lambda s: s.target), clicker, clicks=3)
    # one look at the given masks, then three at each state of the attempt: the third reply is the end
    assert clicker.seen == [4, 4, 4, 4] and len(values) == 4
    counts = search.statistics()
    assert counts["opinion_states_seen"] == 12 and counts["opinion_clicks"] == 8
    assert counts["search_states_seen"] == 4
    # the second click draws the same once more: that attempt is at its end
    clicker = Clicker(most=2)
    judged(environment, given(environment, samples, lambda s: s.target), clicker, clicks=3)
    assert clicker.seen == [4, 4, 4]


class Wandering(Clicker):
    """Its candidates lie apart: the middle of the target, that once more, the upper left corner, an end."""

    def propose(self, states, num_candidates=1, expected_iou=False):
        first = [row[0] for row in super().propose(states)]
        corner = Action(click=Click(0, 0), text="...", predicted_iou=self.said)
        end = Action(end=EndReason.FINISHED, text="Finish", predicted_iou=self.said)
        return [[one, one, corner, end][:num_candidates] for one in first]


def test_the_attempt_that_agrees_best_counts_at_its_best_step(discs, dataset_of):
    environment, samples = Environment(segmenter=discs), list(dataset_of(2))
    corner = [environment.step(environment.start(one), Action(click=Click(0, 0))).mask for one in samples]
    states = [environment.start(one, mask) for one, mask in zip(samples, corner, strict=True)]
    alone, _ = judged(environment, states, Wandering(said=0.1), attempts=2, clicks=2)
    several, search = judged(environment, states, Wandering(said=0.1), attempts=4, clicks=2)
    assert max(alone) < 1 and several == [1.0, 1.0], "the second click at the target's middle does not undo the first"
    counts = search.statistics()
    assert counts["opinion_clicks"] == 8 and counts["opinion_states_seen"] == 6, "candidates that are alike count once"


def test_two_masks_of_one_sample_share_its_attempts(discs, dataset_of):
    environment, (sample,) = Environment(segmenter=discs), list(dataset_of(1))
    own = own_mask(environment, sample)
    states = [environment.start(sample, mask) for mask in (own, ~own)]
    values, search = judged(environment, states, Clicker(said=0.2), clicks=1)
    assert values == [1.0, 0.2] and search.statistics()["opinion_states_seen"] == 1


def test_without_an_own_mask_what_is_announced_counts(discs, dataset_of):
    environment, samples = Environment(segmenter=discs), list(dataset_of(2))
    empty = given(environment, samples, lambda s: np.zeros_like(s.target))
    assert judged(environment, empty, Clicker(said=0.3, most=0))[0] == [0.3, 0.3]
    targets = given(environment, samples, lambda s: s.target)
    assert judged(environment, targets, Clicker(said=None, most=0))[0] == [None, None]
    assert None not in judged(environment, targets, Clicker(said=None, most=1))[0]


def test_it_is_calibrated_as_a_whole_and_by_nothing_that_was_fitted_to_another_number(discs, dataset_of, tmp_path):
    environment, samples = Environment(segmenter=discs), list(dataset_of(2))
    named = SecondOpinion(clicks=1).named
    Calibration([0.0, 1.0], [0.0, 0.5], number=named).save(tmp_path / SecondOpinion.calibration_file)
    same = given(environment, samples, lambda sample: own_mask(environment, sample))
    assert judged(environment, same, Clicker(), clicks=1, calibration=tmp_path)[0] == [0.5, 0.5]
    with pytest.raises(ValueError, match=r"agreement-16x1 number, .* gives the expected-or-agreement-16x2 one"):
        SecondOpinion(clicks=2, calibration=tmp_path)


def test_of_its_own_masks_there_is_no_second_opinion(discs, dataset_of):
    environment, samples = Environment(segmenter=discs), list(dataset_of(2))
    with pytest.raises(ValueError, match="sample 's0': reward=second_opinion judges masks that are given"):
        judged(environment, environment.start_batch(samples), Clicker())
    search = Beam(proposer=Clicker(), reward=SecondOpinion(), k=1)
    with pytest.raises(ValueError, match="what the model itself makes is like its second opinion"):
        finish(given(environment, samples, lambda s: ~s.target), search, environment)


def test_it_needs_a_search():
    state = SimpleNamespace(steps=(), init=InitKind.MASK, sample="s", embedding=None)
    with pytest.raises(RuntimeError, match="only a search can ask"):
        SecondOpinion().score([state], [[Action(click=Click(0, 0), predicted_iou=0.5)]])


def test_batches_change_nothing(discs, dataset_of):
    def run(size):
        environment = Environment(segmenter=discs, seed=1)
        search = Beam(proposer=Clicker(most=1), reward=SecondOpinion(clicks=2), k=1, budget=0)
        found = rollout(
            dataset_of(5), policy=search, environment=environment, init=InitKind.RANDOM_POINTS, batch_size=size
        )
        return [one.extras for batch in found for one in batch]

    assert run(1) == run(2) == run(5) and len(run(5)) == 5


@pytest.mark.parametrize("name", ["attempts", "clicks"])
def test_unsound_settings_are_refused(name):
    with pytest.raises(ValueError, match=rf"reward.{name}=0: at least 1"):
        SecondOpinion(**{name: 0})

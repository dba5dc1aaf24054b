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


def opinion(**settings):
    weights = {"constant": -2.0, "highest": 3.0, "mean": -1.0, "agreeing": 4.0, "different": 0.5}
    return SecondOpinion(**{"masks": "any", "weights": weights} | settings)


def judged(environment, states, clicker, **settings):
    reward = opinion(**settings)
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


def test_of_masks_of_any_quality_it_is_the_mean_of_both_testimonies(discs, dataset_of):
    environment, samples = Environment(segmenter=discs), list(dataset_of(3))
    same = given(environment, samples, lambda sample: own_mask(environment, sample))
    assert judged(environment, same, Clicker(said=0.4), clicks=1)[0] == [pytest.approx(0.7)] * 3
    other = given(environment, samples, lambda sample: ~own_mask(environment, sample))
    assert judged(environment, other, Clicker(said=0.4), clicks=1)[0] == [pytest.approx(0.2)] * 3


def test_half_of_its_own_mask_is_worth_what_it_covers(discs, dataset_of):
    environment, (sample,) = Environment(segmenter=discs), list(dataset_of(1))
    own = own_mask(environment, sample)
    half = own & (np.arange(own.shape[1]) < np.flatnonzero(own.any(0)).mean())
    (value,), _ = judged(environment, given(environment, [sample], lambda _: half), Clicker(said=0.0), clicks=1)
    assert 0 < value < 0.5 and value == half.sum() / own.sum() / 2


class Spread(Clicker):
    """First clicks: three candidates in the middle of the target, one in the upper left corner, one unreadable."""

    def propose(self, states, num_candidates=1, expected_iou=False):
        middle = [row[0] for row in super().propose(states)]
        corner = Action(click=Click(0, 0), text="...", predicted_iou=self.said)
        lost = Action(end=EndReason.UNPARSABLE, text="?", predicted_iou=self.said)
        return [[one, one, corner, one, lost][:num_candidates] for one in middle]


def test_evidence_is_that_of_all_attempts_and_its_weights_make_a_probability(discs, dataset_of):
    environment, (sample,) = Environment(segmenter=discs), list(dataset_of(1))
    own = own_mask(environment, sample)
    corner = environment.step(environment.start(sample), Action(click=Click(0, 0))).mask
    assert not (own & corner).any()
    clicker, reward = Spread(said=0.3), opinion(masks="annotations", attempts=5, clicks=1)
    reward.enter(environment, clicker)
    states = [environment.start(sample, mask) for mask in (own, corner, ~(own | corner))]
    replies = clicker.propose(states)
    of_own, of_corner, of_rest = reward.evidence(states, replies)
    assert of_own == (0.3, 1.0, pytest.approx(0.75), pytest.approx(0.75), 0.2)
    assert of_corner == (0.3, 1.0, pytest.approx(0.25), pytest.approx(0.25), 0.2)
    assert of_rest == (0.3, 0.3, 0.0, 0.0, 0.2)
    odds = -2 + 3 * 1 - 1 * 0.75 + 4 * 0.75 + 0.5 * 0.2
    assert reward.score(states, replies)[0] == pytest.approx(1 / (1 + np.exp(-odds)))


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


class Turning(Spread):
    """From the corner its second click goes to the middle of the target."""

    def propose(self, states, num_candidates=1, expected_iou=False):
        replies = super().propose(states, num_candidates)
        return [row[:1] if state.steps else row for row, state in zip(replies, states, strict=True)]


def test_an_attempt_counts_at_its_best_step_and_alike_ones_go_on_once(discs, dataset_of):
    environment, samples = Environment(segmenter=discs), list(dataset_of(2))
    both = []
    for one in samples:
        state = environment.step(environment.start(one), Action(click=Click(0, 0)))
        middle = Turning().propose([state])[0][0]
        both.append(environment.step(state, middle).mask)
    states = [environment.start(one, mask) for one, mask in zip(samples, both, strict=True)]
    reward = opinion(attempts=4, clicks=2)
    reward.enter(environment, Turning(said=0.0))
    found = reward.evidence(states, Turning(said=0.0).propose(states))
    # Three candidates in the middle (part of what is asked for), one in the corner that has it all after its second.
    assert all(one.highest == 1.0 and 0.25 < one.mean < 1 for one in found)
    # First clicks: two different ones a sample; second ones: of both drawings.
    assert reward.statistics() == {"opinion_states_seen": 2 + 4, "opinion_clicks": 4 + 4}


def test_two_masks_of_one_sample_share_its_attempts(discs, dataset_of):
    environment, (sample,) = Environment(segmenter=discs), list(dataset_of(1))
    own = own_mask(environment, sample)
    states = [environment.start(sample, mask) for mask in (own, ~own)]
    values, search = judged(environment, states, Clicker(said=0.2), clicks=1)
    assert values == pytest.approx([0.6, 0.1]) and search.statistics()["opinion_states_seen"] == 1


def test_without_an_own_mask_what_is_announced_counts(discs, dataset_of):
    environment, samples = Environment(segmenter=discs), list(dataset_of(2))
    empty = given(environment, samples, lambda s: np.zeros_like(s.target))
    assert judged(environment, empty, Clicker(said=0.3, most=0))[0] == [0.3, 0.3]
    targets = given(environment, samples, lambda s: s.target)
    assert judged(environment, targets, Clicker(said=None, most=0))[0] == [None, None]
    assert None not in judged(environment, targets, Clicker(said=None, most=1))[0]


def test_it_is_calibrated_as_a_whole_and_by_nothing_that_was_fitted_to_another_number(discs, dataset_of, tmp_path):
    environment, samples = Environment(segmenter=discs), list(dataset_of(2))
    named = opinion(clicks=1).named
    Calibration([0.0, 1.0], [0.0, 0.5], number=named).save(tmp_path / SecondOpinion.calibration_file)
    same = given(environment, samples, lambda sample: own_mask(environment, sample))
    assert judged(environment, same, Clicker(said=1.0), clicks=1, calibration=tmp_path)[0] == [0.5, 0.5]
    with pytest.raises(
        ValueError, match=r"second-opinion any 16x1 number, .* gives the expected second-opinion any 16x2"
    ):
        opinion(clicks=2, calibration=tmp_path)
    with pytest.raises(ValueError, match=r"gives the expected second-opinion annotations 16x1 -2 3 -1 4 0.5 one"):
        opinion(clicks=1, masks="annotations", calibration=tmp_path)


def test_of_its_own_masks_there_is_no_second_opinion(discs, dataset_of):
    environment, samples = Environment(segmenter=discs), list(dataset_of(2))
    with pytest.raises(ValueError, match="sample 's0': reward=second_opinion judges masks that are given"):
        judged(environment, environment.start_batch(samples), Clicker())
    search = Beam(proposer=Clicker(), reward=opinion(), k=1)
    with pytest.raises(ValueError, match="what the model itself makes is like its second opinion"):
        finish(given(environment, samples, lambda s: ~s.target), search, environment)


def test_it_needs_a_search():
    state = SimpleNamespace(steps=(), init=InitKind.MASK, sample="s", embedding=None)
    with pytest.raises(RuntimeError, match="only a search can ask"):
        opinion().score([state], [[Action(click=Click(0, 0), predicted_iou=0.5)]])


def test_batches_change_nothing(discs, dataset_of):
    def run(size):
        environment = Environment(segmenter=discs, seed=1)
        search = Beam(proposer=Clicker(most=1), reward=opinion(clicks=2), k=1, budget=0)
        found = rollout(
            dataset_of(5), policy=search, environment=environment, init=InitKind.RANDOM_POINTS, batch_size=size
        )
        return [one.extras for batch in found for one in batch]

    assert run(1) == run(2) == run(5) and len(run(5)) == 5


@pytest.mark.parametrize("name", ["attempts", "clicks"])
def test_unsound_settings_are_refused(name):
    with pytest.raises(ValueError, match=rf"reward.{name}=0: at least 1"):
        opinion(**{name: 0})


def test_what_is_judged_and_how_it_is_weighed_are_named():
    with pytest.raises(ValueError, match=r"reward.masks='all': choose annotations or any"):
        opinion(masks="all")
    with pytest.raises(ValueError, match=r"reward.weights=None: give constant, highest, mean, agreeing, different"):
        opinion(weights=None)
    with pytest.raises(ValueError, match=r"reward.weights=\{'constant': 1\}: give"):
        opinion(weights={"constant": 1})

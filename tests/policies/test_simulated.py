from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from segagent.environment import Environment
from segagent.masks import next_click
from segagent.policies.simulated import Center, NoisyOracle, Oracle, Random
from segagent.types import Action, Click, EndReason


def started(discs, sample, *actions):
    environment = Environment(segmenter=discs, max_clicks=50)
    state = environment.start(sample)
    for action in actions:
        state = environment.step(state, action)
    return state


def test_the_oracle_is_f_sim(discs, sample_of):
    state = started(discs, sample_of())
    ((action,),) = Oracle().propose([state])
    assert action.click == next_click(state.sample.target, state.mask) and action.source == "oracle"


def test_the_oracle_never_clicks_a_pixel_twice_and_ranks_its_candidates(discs, sample_of):
    state = started(discs, sample_of())
    (candidates,) = Oracle().propose([state], 5)
    places = [(a.click.x, a.click.y) for a in candidates]
    assert len(set(places)) == 5 and candidates[0] == Oracle().propose([state])[0][0]
    after = started(discs, sample_of(), Action(click=Click(*places[0], False)))
    assert Oracle().propose([after])[0][0].click != candidates[0].click


def test_the_oracle_ends_when_nothing_is_wrong(discs, sample_of):
    sample = sample_of()
    state = Environment(segmenter=discs).start(sample, sample.target)
    assert Oracle().propose([state])[0][0].end is EndReason.FINISHED


def test_the_simulated_annotator_needs_a_target(discs, sample_of):
    with pytest.raises(ValueError, match="'s0' has no target mask"):
        Oracle().propose([started(discs, sample_of(target=None))])


def test_noise_has_the_given_rates_and_bounds(discs, sample_of):
    states = [started(discs, sample_of(k)) for k in range(400)]
    right = [next_click(s.sample.target, s.mask) for s in states]
    clicks = [c[0].click for c in NoisyOracle(misplace=0.4, flip=0.2, radius=5).propose(states)]
    flipped = sum(a.is_positive != b.is_positive for a, b in zip(clicks, right, strict=True)) / 400
    moved = sum((a.x, a.y) != (b.x, b.y) for a, b in zip(clicks, right, strict=True)) / 400
    assert 0.14 < flipped < 0.26 and 0.32 < moved < 0.48
    assert max(abs(a.x - b.x) for a, b in zip(clicks, right, strict=True)) == 5


def test_without_noise_it_is_the_oracle(discs, sample_of):
    states = [started(discs, sample_of(k)) for k in range(20)]
    quiet = NoisyOracle(misplace=0, flip=0).propose(states)
    assert [c[0].click for c in quiet] == [c[0].click for c in Oracle().propose(states)]


@pytest.mark.parametrize("policy", [NoisyOracle(seed=1), Random(seed=1)], ids=["noisy_oracle", "random"])
def test_chance_depends_on_sample_clicks_and_seed_not_on_the_batch(policy, discs, sample_of):
    states = [started(discs, sample_of(k)) for k in range(6)]
    together = policy.propose(states, 3)
    assert [policy.propose([state], 3)[0] for state in states] == together
    assert len({a.click for a in together[0]}) > 1, "candidates are drawn anew"
    other = type(policy)(seed=2).propose(states, 3)
    assert other != together


@pytest.mark.parametrize("wrong", [{"misplace": 1.5}, {"flip": -0.1}, {"radius": 0}])
def test_unsound_noise_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NoisyOracle(**wrong)


def test_center_clicks_once_and_ends(discs, sample_of):
    state = started(discs, sample_of())
    action = Center().propose([state])[0][0]
    assert action.click == Click(30, 20)
    assert Center().propose([started(discs, sample_of(), action)])[0][0].end is EndReason.FINISHED


def test_random_covers_the_picture_and_begins_positive(discs, sample_of):
    states = [started(discs, sample_of(k)) for k in range(300)]
    clicks = [c[0].click for c in Random().propose(states)]
    assert all(click.is_positive for click in clicks)
    cells = Counter((click.x // 15, click.y // 10) for click in clicks)
    assert len(cells) == 16 and max(cells.values()) < 45
    later = [
        c[0].click
        for c in Random().propose([started(discs, sample_of(k), Action(click=Click(9, 9))) for k in range(100)])
    ]
    assert 30 < np.sum([click.is_positive for click in later]) < 70


def test_void_pixels_are_nothing_to_click(discs, sample_of):
    sample = sample_of()
    void = sample.target.copy()
    void[:, : int(np.flatnonzero(sample.target.any(0)).mean())] = False
    state = started(discs, replace(sample, void=void))
    for policy in (Oracle(), NoisyOracle(misplace=0, flip=0)):
        click = policy.propose([state])[0][0].click
        assert click == next_click(sample.target, state.mask, (), void) != next_click(sample.target, state.mask)


def test_noise_too_leaves_out_what_was_clicked(discs, sample_of):
    first = next_click(sample_of().target, np.zeros((40, 60), bool))
    after = started(discs, sample_of(), Action(click=Click(first.x, first.y, False)))
    (again,) = NoisyOracle(misplace=0, flip=0).propose([after])[0]
    assert (again.click.x, again.click.y) != (first.x, first.y)


def test_noise_reaches_the_whole_square(discs, sample_of):
    states = [started(discs, sample_of(k)) for k in range(300)]
    right = [next_click(s.sample.target, s.mask) for s in states]
    clicks = [c[0].click for c in NoisyOracle(misplace=1, flip=0, radius=2).propose(states)]
    moved = [(a.x - b.x, a.y - b.y) for a, b in zip(clicks, right, strict=True)]
    assert {dx for dx, _ in moved} == {dy for _, dy in moved} == {-2, -1, 0, 1, 2}


def test_random_clicks_on_a_mask_that_is_given_have_either_sign(discs, sample_of):
    environment = Environment(segmenter=discs)
    states = [environment.start(sample_of(k), sample_of(k).target) for k in range(60)]
    signs = [c[0].click.is_positive for c in Random().propose(states)]
    assert 15 < sum(signs) < 45

"""Policies without a model: the simulated annotator, its clumsy colleague, and two that look at nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segagent.environment import stable_generator
from segagent.masks import next_click
from segagent.types import Action, Click, EndReason, State


def _annotate(state: State, excluded: tuple[tuple[int, int], ...]) -> Click | None:
    sample = state.sample
    if sample.target is None:
        raise ValueError(f"sample {sample.sample_id!r} has no target mask: the simulated annotator needs one")
    return next_click(sample.target, state.mask, excluded, sample.void)


def _positions(state: State) -> tuple[tuple[int, int], ...]:
    return tuple((click.x, click.y) for click in state.clicks)


class Oracle:
    """F_sim: clicks the deepest point of the deeper error region; finishes when nothing is wrong (paper, Alg. 3).

    Further candidates are the next-deepest points: F_sim with the earlier candidates excluded.
    """

    announces_iou = False

    def propose(self, states: Sequence[State], num_candidates: int = 1) -> list[list[Action]]:
        return [self._propose(state, num_candidates) for state in states]

    def _propose(self, state: State, num_candidates: int) -> list[Action]:
        excluded, actions = _positions(state), []
        while len(actions) < num_candidates:
            click = _annotate(state, excluded)
            if click is None:
                break
            actions.append(Action(click=click, source="oracle"))
            excluded = (*excluded, (click.x, click.y))
        return actions or [Action(end=EndReason.FINISHED, source="oracle")]


class NoisyOracle:
    """F_sim whose clicks go wrong with given probabilities: the test bench for search.

    misplace: probability that a click lands on a uniformly random pixel within `radius` pixels (square window, cut to
    the image) of where it should. flip: probability that its sign is turned. Each candidate draws anew.
    """

    announces_iou = False

    def __init__(self, *, misplace: float = 0.3, flip: float = 0.1, radius: int = 40, seed: int = 0) -> None:
        for name, value in (("misplace", misplace), ("flip", flip)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: a probability in [0, 1]")
        if radius < 1:
            raise ValueError(f"radius={radius}: at least 1 pixel")
        self.misplace, self.flip, self.radius, self.seed = misplace, flip, radius, seed

    def propose(self, states: Sequence[State], num_candidates: int = 1) -> list[list[Action]]:
        return [self._propose(state, num_candidates) for state in states]

    def _propose(self, state: State, num_candidates: int) -> list[Action]:
        click = _annotate(state, _positions(state))
        if click is None:
            return [Action(end=EndReason.FINISHED, source="noisy_oracle")]
        random = stable_generator("noisy_oracle", self.seed, state.sample.sample_id, state.clicks)
        return [Action(click=self._disturb(click, state, random), source="noisy_oracle") for _ in range(num_candidates)]

    def _disturb(self, click: Click, state: State, random: np.random.Generator) -> Click:
        misplaced, flipped = random.random() < self.misplace, random.random() < self.flip
        dx, dy = (int(offset) for offset in random.integers(-self.radius, self.radius + 1, 2))
        x, y = (click.x + dx, click.y + dy) if misplaced else (click.x, click.y)
        x, y = min(max(x, 0), state.sample.width - 1), min(max(y, 0), state.sample.height - 1)
        return Click(x, y, click.is_positive != flipped)


class Center:
    """One positive click in the middle of the picture, then the end: what a policy that sees nothing is worth."""

    announces_iou = False

    def propose(self, states: Sequence[State], num_candidates: int = 1) -> list[list[Action]]:
        return [[self._act(state)] for state in states]

    def _act(self, state: State) -> Action:
        if state.clicks:
            return Action(end=EndReason.FINISHED, source="center")
        return Action(click=Click(state.sample.width // 2, state.sample.height // 2), source="center")


class Random:
    """Uniformly random pixels and signs (the first click of an empty mask is positive)."""

    announces_iou = False

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def propose(self, states: Sequence[State], num_candidates: int = 1) -> list[list[Action]]:
        return [self._propose(state, num_candidates) for state in states]

    def _propose(self, state: State, num_candidates: int) -> list[Action]:
        random = stable_generator("random", self.seed, state.sample.sample_id, state.clicks)
        actions = []
        for _ in range(num_candidates):
            x, y = int(random.integers(state.sample.width)), int(random.integers(state.sample.height))
            is_positive = bool(random.random() < 0.5) or not (state.clicks or state.mask.any())
            actions.append(Action(click=Click(x, y, is_positive), source="random"))
        return actions

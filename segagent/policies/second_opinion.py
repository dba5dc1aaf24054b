"""A judge of masks that somebody else made: it looks at each, and draws the object itself to compare.

In: states of given masks. Out: the highest of several testimonies, the IoU that the model announces of the mask and its
IoU with every mask on the way of the model's own attempts from nothing. Each mostly errs by saying too little: a model
that misreads a picture with a mask painted on it, an attempt that went to another thing or too far. That all of them do
so at once is rarer. It costs at most 1 + `attempts` * (`clicks` - 1) looks a mask; of attempts that draw the same only
one is gone on with. Ours; not in the paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segagent.environment import Environment
from segagent.masks import iou
from segagent.policies.base import Policy
from segagent.policies.reward_model import PredictedIou
from segagent.types import Action, InitKind, Sample, State

_ALIKE = 0.9  # IoU from which two masks are one thing


class SecondOpinion(PredictedIou):
    """attempts: how many own ones at most; they begin with so many candidates of the search's proposer, those that are
    alike once, and go on with its first ones. clicks: of each, at most; one that has drawn what was drawn before is at
    its end. Others: see `PredictedIou`."""

    calibration_file = "second_opinion_calibration.json"

    def __init__(
        self,
        *,
        attempts: int = 16,
        clicks: int = 2,
        statistic: str = "first",
        number: str = "expected",
        judge: Policy | None = None,
        calibration: str | Path | None = None,
    ) -> None:
        for name, value in (("attempts", attempts), ("clicks", clicks)):
            if value < 1:
                raise ValueError(f"reward.{name}={value}: at least 1")
        self.attempts, self.clicks = attempts, clicks
        super().__init__(statistic=statistic, number=number, judge=judge, calibration=calibration)
        self._proposer: Policy | None = None
        self._environment: Environment | None = None
        self.counts: Counter[str] = Counter()

    @property
    def named(self) -> str:
        return f"{super().named}-or-agreement-{self.attempts}x{self.clicks}"

    def enter(self, environment: Environment, proposer: Policy) -> None:
        """Where and by whom the attempts are to be made; a search says so before its first turn."""
        self._environment = Environment(segmenter=environment.segmenter, max_clicks=self.clicks)
        self._proposer = proposer

    def statistics(self) -> dict[str, int]:
        """Counts since this object was made: `opinion_states_seen`, states shown to the model for its own attempts;
        `opinion_clicks`, states through the segmenter."""
        return {f"opinion_{name}": self.counts[name] for name in ("states_seen", "clicks")}

    def score(self, states: Sequence[State], replies: Sequence[Sequence[Action]] | None) -> list[float | None]:
        """Raises `ValueError` for a mask that the search has made itself: it would be like one of the attempts."""
        for state in states:
            if state.steps or state.init is InitKind.EMPTY:
                raise ValueError(
                    f"sample {state.sample.sample_id!r}: reward=second_opinion judges masks that are given, as "
                    "mode=filter does; what the model itself makes is like its second opinion, choose "
                    "reward=expected_iou"
                )
        announced = self.announced(states, replies)
        drawn = self._draw({state.sample: state.embedding for state in states})
        agreed = [[iou(state.mask, own) for own in drawn[state.sample]] for state in states]
        told = [([] if said is None else [said]) + own for said, own in zip(announced, agreed, strict=True)]
        return self.calibrated([max(values, default=None) for values in told])

    def _draw(self, embeddings: Mapping[Sample, Any]) -> dict[Sample, list[np.ndarray]]:
        """Masks of the attempts at samples whose embeddings are given; empty ones testify nothing and are left out."""
        if self._environment is None or self._proposer is None:
            raise RuntimeError("SecondOpinion.enter was not called: only a search can ask for a second opinion")
        drawn: dict[Sample, list[np.ndarray]] = {sample: [] for sample in embeddings}
        running = self._environment.begin(list(embeddings), list(embeddings.values()), InitKind.EMPTY)
        candidates = self.attempts
        while running:
            replies = self._proposer.propose(running, candidates)
            self.counts.update(states_seen=len(running))
            distinct = {
                (id(state), action.click, action.box): (state, action)
                for state, actions in zip(running, replies, strict=True)
                for action in actions
                if action.end is None
            }
            moves = list(distinct.values())
            self.counts.update(clicks=len(moves))
            after = self._environment.step_batch([state for state, _ in moves], [action for _, action in moves])
            running, candidates = [], 1
            for state in after:
                others = drawn[state.sample]
                new_one = state.mask.any() and all(iou(state.mask, other) < _ALIKE for other in others)
                if new_one and state.end_reason is None:
                    running.append(state)
                if state.mask.any():
                    others.append(state.mask)
        return drawn

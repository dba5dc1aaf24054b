"""A judge of masks that somebody else made: it looks at each, and draws the object itself to compare.

In: states of given masks. Out: the higher of two testimonies, the IoU that the model announces of the mask and the IoU
of the mask with its own attempt from nothing. Each mostly errs by saying too little: a model that misreads a picture
with a mask painted on it, an attempt that went to the wrong thing. That both happen to a good mask is rarer. It costs
`clicks` more looks a sample, however many of its masks are judged. Ours; not in the paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from segagent.environment import Environment
from segagent.masks import iou
from segagent.policies.base import Policy
from segagent.policies.reward_model import PredictedIou
from segagent.types import Action, InitKind, Sample, State


class SecondOpinion(PredictedIou):
    """clicks: of the model's own attempt, which the search's proposer makes with its first candidates. Others: see
    `PredictedIou`."""

    calibration_file = "second_opinion_calibration.json"

    def __init__(
        self,
        *,
        clicks: int = 2,
        statistic: str = "first",
        number: str = "expected",
        judge: Policy | None = None,
        calibration: str | Path | None = None,
    ) -> None:
        if clicks < 1:
            raise ValueError(f"reward.clicks={clicks}: at least 1")
        self.clicks = clicks
        super().__init__(statistic=statistic, number=number, judge=judge, calibration=calibration)
        self._proposer: Policy | None = None
        self._environment: Environment | None = None
        self._attempts: WeakKeyDictionary[Sample, np.ndarray] = WeakKeyDictionary()
        self.counts: Counter[str] = Counter()

    @property
    def named(self) -> str:
        return f"{super().named}-or-agreement-{self.clicks}"

    def enter(self, environment: Environment, proposer: Policy) -> None:
        """Where and by whom the attempts are to be made; a search says so before its first turn."""
        if self._environment is None or self._environment.segmenter is not environment.segmenter:
            self._environment = Environment(segmenter=environment.segmenter, max_clicks=self.clicks)
            self._attempts.clear()
        self._proposer = proposer

    def statistics(self) -> dict[str, int]:
        """Counts since this object was made: `opinion_states_seen`, states shown to the model for its own attempts;
        `opinion_clicks`, states through the segmenter."""
        return {f"opinion_{name}": self.counts[name] for name in ("states_seen", "clicks")}

    def score(self, states: Sequence[State], replies: Sequence[Sequence[Action]] | None) -> list[float | None]:
        """Raises `ValueError` for a state that began with nothing: of the search's own masks, one is the attempt."""
        for state in states:
            if state.init is InitKind.EMPTY:
                raise ValueError(
                    f"sample {state.sample.sample_id!r} begins with nothing: reward=second_opinion judges masks that "
                    "are given (filter, refine); of its own the model has no second one, choose reward=expected_iou"
                )
        announced = self.announced(states, replies)
        self._attempt(states)
        own = [self._attempts[state.sample] for state in states]
        agreed = [iou(state.mask, mask) if mask.any() else None for state, mask in zip(states, own, strict=True)]
        pairs = [[value for value in pair if value is not None] for pair in zip(announced, agreed, strict=True)]
        return self.calibrated([max(pair, default=None) for pair in pairs])

    def _attempt(self, states: Sequence[State]) -> None:
        """Draws what is still to be drawn, all samples together; empty where the model saw nothing to click."""
        if self._environment is None or self._proposer is None:
            raise RuntimeError("SecondOpinion.enter was not called: only a search can ask for a second opinion")
        new = {s.sample: s.embedding for s in states if s.sample not in self._attempts}
        if not new:
            return
        drawn = self._environment.begin(list(new), list(new.values()), InitKind.EMPTY)
        while running := [place for place, state in enumerate(drawn) if state.end_reason is None]:
            shown = [drawn[place] for place in running]
            actions = [candidates[0] for candidates in self._proposer.propose(shown)]
            self.counts.update(states_seen=len(shown), clicks=sum(action.end is None for action in actions))
            for place, state in zip(running, self._environment.step_batch(shown, actions), strict=True):
                drawn[place] = state
        self._attempts.update((state.sample, state.mask) for state in drawn)

"""A judge of masks that somebody else made: it looks at each, and draws the object itself to compare.

In: states of given masks. Out: one number in [0, 1] of each, from the IoU that the model announces of it and from its
IoU with what the model draws itself, several times from nothing. All of the evidence mostly errs by saying too little:
a model misreads a picture with a mask painted on it, an attempt goes to another thing. How it is weighed depends on
what is judged, see `SecondOpinion`. It costs at most 1 + `attempts` * (`clicks` - 1) looks a mask; of attempts that
draw the same only one is gone on with. Ours; not in the paper.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segagent.environment import Environment
from segagent.masks import iou
from segagent.policies.base import Policy
from segagent.policies.reward_model import PredictedIou
from segagent.types import Action, InitKind, Sample, State

_ALIKE = 0.9  # IoU from which two masks are one thing
_AGREES = 0.75  # IoU from which a drawing speaks for a mask


class Evidence(NamedTuple):
    """What speaks for a mask. announced: its IoU as the model tells it, None where it does not. The others are of
    the attempts, of each its best IoU on the way: highest: the best of all and of `announced`. mean: over attempts,
    None where nothing was drawn. agreeing: share of attempts that agree with the mask. different: how many other things
    were drawn than one, by the number of attempts; a model that draws many knows little."""

    announced: float | None
    highest: float
    mean: float | None
    agreeing: float
    different: float


WEIGHED = ("highest", "mean", "agreeing", "different")


@dataclass(slots=True)
class _Drawing:
    """What alike attempts drew: masks on the way, and how many attempts they are."""

    masks: list[np.ndarray] = field(default_factory=list)
    attempts: int = 0


class SecondOpinion(PredictedIou):
    """masks: what is judged. `annotations`, of which most are right: the number is how likely this one is, a logistic
    regression of the evidence with `weights` (`constant` and the names in `WEIGHED`; benchmarks/second_opinion.py fits
    them), which a calibration makes an IoU. `any`, masks of any quality: the number is an IoU, the mean of the one
    announced and of the mean IoU with the drawings. attempts: how many own ones at most; they begin with so many
    candidates of the search's proposer, those that are alike once, and go on with its first ones. clicks: of each, at
    most; one that has drawn what was drawn before is at its end. Others: see `PredictedIou`."""

    calibration_file = "second_opinion_calibration.json"

    def __init__(
        self,
        *,
        masks: str,
        weights: Mapping[str, float],
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
        if masks not in ("annotations", "any"):
            raise ValueError(f"reward.masks={masks!r}: choose annotations or any")
        if set(weights or ()) != {"constant", *WEIGHED}:
            raise ValueError(f"reward.weights={weights}: give constant, {', '.join(WEIGHED)}")
        self.masks, self.weights = masks, {name: float(value) for name, value in weights.items()}
        self.attempts, self.clicks = attempts, clicks
        super().__init__(statistic=statistic, number=number, judge=judge, calibration=calibration)
        self._proposer: Policy | None = None
        self._environment: Environment | None = None
        self.counts: Counter[str] = Counter()

    @property
    def named(self) -> str:
        parts = [super().named, "second-opinion", self.masks, f"{self.attempts}x{self.clicks}"]
        if self.masks == "annotations":
            parts += [f"{self.weights[name]:g}" for name in ("constant", *WEIGHED)]
        return " ".join(parts)

    def enter(self, environment: Environment, proposer: Policy) -> None:
        """Where and by whom the attempts are to be made; a search says so before its first turn."""
        self._environment = Environment(segmenter=environment.segmenter, max_clicks=self.clicks)
        self._proposer = proposer

    def statistics(self) -> dict[str, int]:
        """Counts since this object was made: `opinion_states_seen`, states shown to the model for its own attempts;
        `opinion_clicks`, states through the segmenter."""
        return {f"opinion_{name}": self.counts[name] for name in ("states_seen", "clicks")}

    def score(self, states: Sequence[State], replies: Sequence[Sequence[Action]] | None) -> list[float | None]:
        """None where the model neither announces nor draws anything. Raises as `evidence`."""
        return self.calibrated([self._told(one) for one in self.evidence(states, replies)])

    def evidence(self, states: Sequence[State], replies: Sequence[Sequence[Action]] | None) -> list[Evidence]:
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
        return [
            self._compared(state.mask, said, drawn[state.sample]) for state, said in zip(states, announced, strict=True)
        ]

    def _compared(self, mask: np.ndarray, announced: float | None, drawings: Sequence[_Drawing]) -> Evidence:
        agreed = [max(iou(mask, own) for own in drawing.masks) for drawing in drawings]
        shares = np.array([drawing.attempts for drawing in drawings], float)
        shares /= max(shares.sum(), 1)
        return Evidence(
            announced=announced,
            highest=max([announced or 0.0, *agreed]),
            mean=float(shares @ agreed) if agreed else None,
            agreeing=float(sum(share for share, value in zip(shares, agreed, strict=True) if value >= _AGREES)),
            different=max(len(drawings) - 1, 0) / self.attempts,
        )

    def _told(self, evidence: Evidence) -> float | None:
        said = [value for value in (evidence.announced, evidence.mean) if value is not None]
        if not said:
            return None
        if self.masks == "any":
            return sum(said) / len(said)
        values = evidence._replace(mean=evidence.mean or 0.0)._asdict()
        odds = self.weights["constant"] + sum(self.weights[name] * values[name] for name in WEIGHED)
        return 0.5 + 0.5 * math.tanh(odds / 2)  # the logistic function, without overflow

    def _draw(self, embeddings: Mapping[Sample, Any]) -> dict[Sample, list[_Drawing]]:
        """The model's own attempts at samples whose embeddings are given; empty masks testify nothing and are left out.
        Those of a sample that came to the same are one drawing."""
        if self._environment is None or self._proposer is None:
            raise RuntimeError("SecondOpinion.enter was not called: only a search can ask for a second opinion")
        drawn: dict[Sample, list[_Drawing]] = {sample: [] for sample in embeddings}
        starts = self._environment.begin(list(embeddings), list(embeddings.values()), InitKind.EMPTY)
        running: list[tuple[State, _Drawing]] = []
        for _, attempts, state in self._moved(starts, self.attempts):
            others = drawn[state.sample]
            drawing = _alike(state.mask, others)
            if drawing is None:
                if not state.mask.any():
                    continue
                drawing = _Drawing()
                others.append(drawing)
                if state.end_reason is None:
                    running.append((state, drawing))
            drawing.masks.append(state.mask)
            drawing.attempts += attempts
        while running:
            following = []
            for place, _, state in self._moved([state for state, _ in running], 1):
                drawing = running[place][1]
                if not state.mask.any():
                    continue
                if state.end_reason is None and _alike(state.mask, drawn[state.sample]) is None:
                    following.append((state, drawing))
                drawing.masks.append(state.mask)
            running = following
        return drawn

    def _moved(self, states: Sequence[State], candidates: int) -> list[tuple[int, int, State]]:
        """Each different move from each state: place of the state, how many candidates made it, the state after it."""
        replies = self._proposer.propose(states, candidates)
        moves = {
            (place, action.click, action.box): action
            for place, actions in enumerate(replies)
            for action in actions
            if action.end is None
        }
        made = Counter((place, action.click, action.box) for place, actions in enumerate(replies) for action in actions)
        after = self._environment.step_batch([states[place] for place, *_ in moves], list(moves.values()))
        self.counts.update(states_seen=len(states), clicks=len(moves))
        return [(move[0], made[move], state) for move, state in zip(moves, after, strict=True)]


def _alike(mask: np.ndarray, drawings: Sequence[_Drawing]) -> _Drawing | None:
    """The first drawing that shows the same on its way."""
    return next((one for one in drawings if any(iou(mask, own) >= _ALIKE for own in one.masks)), None)

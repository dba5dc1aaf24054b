"""Rewards of a search: states -> what each mask is thought to be worth, in [0, 1]; None where nothing is known.

One interface for all: the model's own predicted IoU (the process reward model), the segmenter's, the true one. A new
one is a class with `reads_replies` and `score`, and a `configs/reward/NAME.yaml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from segagent.policies.base import Policy
from segagent.policies.calibration import FILE_NAME, Calibration
from segagent.types import Action, State


class RewardModel(Protocol):
    """reads_replies: whether `score` wants what the proposer said of each state; if so, one call of the proposer serves
    reward and next actions. reads_all_replies: whether the first one of a state is not enough; may be missing.
    expected_iou: whether it wants the IoU that these replies announce as an expectation over
    the model's probabilities (`Agent.propose`); may be missing. enter(environment, proposer): is told where the search
    goes on, before its first turn; may be missing, as may statistics(), what it counted. calibration_file: of one that
    has a setting `calibration`, see `PredictedIou`."""

    reads_replies: bool

    def score(self, states: Sequence[State], replies: Sequence[Sequence[Action]] | None) -> list[float | None]:
        """One reward per state. replies: the proposer's actions in each state, None unless `reads_replies`."""


class PredictedIou:
    """The IoU that the model announces of the mask it is shown: the process reward model of the paper.

    statistic: which number of a reply: `first`, as the first candidate says it (the greedy reply, where the proposer
    begins with it); `mean`, over all candidates of the state: with samples an estimate of the expected IoU. number:
    `greedy`, as it is written; `expected`, the mean of all numbers that could be, weighed by the model's probabilities,
    for which `statistic` says nothing. judge: a policy that is asked in a call of its own, None: the proposer, whose
    replies are there anyway. calibration: file of `Calibration`, or the folder of the checkpoint that holds it, fitted
    on the same number; None: as announced.
    """

    calibration_file = FILE_NAME  # its name in the folder of a checkpoint

    def __init__(
        self,
        *,
        statistic: str = "first",
        number: str = "greedy",
        judge: Policy | None = None,
        calibration: str | Path | None = None,
    ) -> None:
        if statistic not in ("first", "mean"):
            raise ValueError(f"reward.statistic={statistic!r}: choose first or mean")
        if number not in ("greedy", "expected"):
            raise ValueError(f"reward.number={number!r}: choose greedy or expected")
        if number == "expected" and statistic == "mean":
            raise ValueError("reward.statistic=mean: of number=expected all candidates say the same; leave it out")
        if number == "expected" and judge is not None and not getattr(judge, "expects_iou", False):
            raise ValueError(f"reward.number=expected: the judge {type(judge).__name__} tells no probabilities")
        if judge is not None and not getattr(judge, "announces_iou", True):
            raise ValueError(f"reward.judge: {type(judge).__name__} announces no IoU; name an agent")
        self.statistic, self.number, self.judge = statistic, number, judge
        self.reads_replies = judge is None
        self.reads_all_replies = statistic == "mean"
        self.expected_iou = number == "expected"
        self.calibration = None if calibration is None else Calibration.load(calibration, self.calibration_file)
        fitted = self.calibration.number if self.calibration else None
        if fitted not in (None, self.named):
            raise ValueError(
                f"{calibration}: fitted on the {fitted} number, reward.number={number} statistic={statistic} gives the "
                f"{self.named} one; choose the same, or fit it anew (evaltools/filtering.py)"
            )

    @property
    def named(self) -> str:
        """Which number this is, for `Calibration.number`: greedy, mean or expected."""
        return "mean" if self.statistic == "mean" else self.number

    def score(self, states: Sequence[State], replies: Sequence[Sequence[Action]] | None) -> list[float | None]:
        return self.calibrated(self.announced(states, replies))

    def announced(self, states: Sequence[State], replies: Sequence[Sequence[Action]] | None) -> list[float | None]:
        """The IoU that is told of each state, as it is told."""
        if self.judge is not None:
            replies = self.judge.propose(states, **({"expected_iou": True} if self.expected_iou else {}))
        return [self._value(actions) for actions in replies]

    def calibrated(self, values: Sequence[float | None]) -> list[float | None]:
        if self.calibration is None:
            return list(values)
        return [None if value is None else self.calibration(value) for value in values]

    def _value(self, actions: Sequence[Action]) -> float | None:
        said = [action.predicted_iou for action in actions]
        said = [value for value in (said if self.statistic == "mean" else said[:1]) if value is not None]
        return sum(said) / len(said) if said else None


class SegmenterScore:
    """What the segmenter itself predicts for its mask (SAM's IoU head): `memory.score`.

    It speaks of how sound an outline is, not of whether it is the object that was asked for. None for a start. Raises
    `ValueError` for a mask of a segmenter that has no such head.
    """

    reads_replies = False

    def score(self, states: Sequence[State], replies: Sequence[Sequence[Action]] | None = None) -> list[float | None]:
        if any(state.steps and not hasattr(state.memory, "score") for state in states):
            raise ValueError(
                "reward=segmenter_score: this segmenter tells no score of its masks; take one of SAM's kind "
                "(segmenter=sam), or another reward"
            )
        return [_bounded(getattr(state.memory, "score", None)) for state in states]


def _bounded(score: float | None) -> float | None:
    """SAM's head is unbounded, and says NaN of a mask that was given to it."""
    return None if score is None or score != score else min(max(score, 0.0), 1.0)


class TrueIou:
    """The true IoU: an oracle, which shows what a search is worth whatever the reward model."""

    reads_replies = False

    def score(self, states: Sequence[State], replies: Sequence[Sequence[Action]] | None = None) -> list[float | None]:
        for state in states:
            if state.iou is None:
                raise ValueError(f"sample {state.sample.sample_id!r} has no target mask: reward=true_iou needs one")
        return [state.iou for state in states]

"""What a round learns: which rolled-out trajectories, which of their clicks, and with which other data.

All of them train S_0, never S_{n-1} (paper, Alg. 1 and 4). A new one is a class with what `Method` asks for and a
`configs/method/NAME.yaml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from segagent.improvement.relabelling import relabel
from segagent.types import EndReason, InitKind, Trajectory

REWARDS = ("true_iou", "search")


class Method(Protocol):
    """needs_start: whether it learns from D_0, the trajectories that S_0 was trained on, too. needs_search: whether it
    reads rewards that only a search leaves in its trajectories. hint: what to change when nothing is selected."""

    needs_start: bool
    needs_search: bool
    hint: str

    def select(self, trajectory: Trajectory) -> Trajectory | None:
        """What is learnt of a rollout, None for nothing. Raises `ValueError` when it lacks what is judged by."""

    def files(self, start: Sequence[Path], selected: Sequence[Path]) -> list[Path]:
        """What S_0 is trained on. start: files of D_0. selected: files of D_1 to D_n, one a round."""


def rewards_of(trajectory: Trajectory, reward: str) -> list[float | None]:
    """One reward per mask, the initial one first.

    reward: `true_iou`, or `search`, what the reward model of a search said of each (`reward=predicted_iou`: the process
    reward model; None where it said nothing, but 0 of an empty start that is not right: a segmenter's score speaks only
    of masks that it made). Raises `ValueError` when the trajectory does not hold it.
    """
    if reward == "true_iou":
        values = [trajectory.init_iou, *(step.iou_after for step in trajectory.steps)]
        if None in values:
            raise ValueError(f"sample {trajectory.sample_id!r} has no target mask, so no true IoU to judge by")
        return values
    if "returned" not in trajectory.extras:
        raise ValueError(
            f"sample {trajectory.sample_id!r}: method.reward=search, but no search judged its masks; roll out with "
            "policy=greedy search.k=1"
        )
    said = [*(step.action.predicted_iou for step in trajectory.steps), trajectory.extras.get("pred_iou")]
    if said[0] is None and trajectory.init is InitKind.EMPTY and trajectory.init_iou != 1:
        said[0] = 0.0
    return said


def _check(reward: str, **ious: float | None) -> None:
    if reward not in REWARDS:
        raise ValueError(f"method.reward={reward!r}: choose {' or '.join(REWARDS)}")
    for name, value in ious.items():
        if value is None and name != "tau_stop":
            raise ValueError(f"method.{name}=null: an IoU in [0, 1]")
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"method.{name}={value}: an IoU in [0, 1]")


class Star:
    """StaR (paper, Alg. 4): trajectories that end well, as they are; S_0 is trained on those of the round alone.

    min_reward: that the last mask must reach. reward: see `rewards_of`.
    """

    needs_start = False

    def __init__(self, *, min_reward: float = 0.8, reward: str = "true_iou") -> None:
        _check(reward, min_reward=min_reward)
        self.min_reward, self.reward, self.needs_search = min_reward, reward, reward == "search"
        self.hint = f"lower method.min_reward={min_reward}, or allow more clicks (rollout.max_clicks)"

    def select(self, trajectory: Trajectory) -> Trajectory | None:
        last = rewards_of(trajectory, self.reward)[-1]
        return trajectory if trajectory.steps and last is not None and last >= self.min_reward else None

    def files(self, start: Sequence[Path], selected: Sequence[Path]) -> list[Path]:
        return [selected[-1]]


class StarPlus:
    """StaR+ (paper, Alg. 1): every click is judged; one that did not raise the reward is replaced by F_sim's.

    S_0 is trained on D_0 and the round's data. A reply that could not be read, and an end that came too early, raise
    nothing and are replaced too. min_gain: a click is kept when it raised the reward by more than this. tau_stop: from
    this true IoU on F_sim stops, and there is nothing to replace a click with (None: never). reward: see `rewards_of`.
    """

    needs_start = True
    hint = "raise method.tau_stop, or roll out on samples that are not right before the first click"

    def __init__(self, *, min_gain: float = 0.0, tau_stop: float | None = 0.9, reward: str = "true_iou") -> None:
        _check(reward, min_gain=min_gain, tau_stop=tau_stop)
        self.min_gain, self.tau_stop = min_gain, tau_stop
        self.reward, self.needs_search = reward, reward == "search"

    def select(self, trajectory: Trajectory) -> Trajectory | None:
        rewards = rewards_of(trajectory, self.reward)
        wrong = {k for k in range(len(trajectory.steps)) if not self._rose(rewards[k], rewards[k + 1])}
        if trajectory.end_reason in (EndReason.FINISHED, EndReason.UNPARSABLE):
            wrong.add(len(trajectory.steps))
        return _learnt(relabel(trajectory, wrong, self.tau_stop))

    def _rose(self, before: float | None, after: float | None) -> bool:
        return before is not None and after is not None and after - before > self.min_gain

    def files(self, start: Sequence[Path], selected: Sequence[Path]) -> list[Path]:
        return [*start, selected[-1]]


class Dagger:
    """DAgger (Ross et al., 2011): F_sim's click in every state that was visited, the last mask included.

    S_0 is trained on D_0 and the data of all rounds so far. tau_stop: see `StarPlus`.
    """

    needs_start, needs_search = True, False
    hint = StarPlus.hint

    def __init__(self, *, tau_stop: float | None = 0.9) -> None:
        _check("true_iou", tau_stop=tau_stop)
        self.tau_stop = tau_stop

    def select(self, trajectory: Trajectory) -> Trajectory | None:
        return _learnt(relabel(trajectory, range(len(trajectory.steps) + 1), self.tau_stop))

    def files(self, start: Sequence[Path], selected: Sequence[Path]) -> list[Path]:
        return [*start, *selected]


def _learnt(trajectory: Trajectory) -> Trajectory | None:
    return trajectory if any(step.kept for step in trajectory.steps) else None

"""One pass over trajectories: IoU statistics of all, and the best, the worst and some random ones kept whole."""

from __future__ import annotations

import heapq
import random
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from segagent.types import Trajectory

Kept = tuple[int, Trajectory]  # (place in the source, the trajectory)


@dataclass
class Gathered:
    """What a report says about all trajectories.

    count: all of them. endings: how many ended for which reason. best, worst, sampled: kept whole and disjoint; best
    first, worst first, sampled in the order of the source. Trajectories without a known IoU can only be in `sampled`.
    """

    count: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    best: list[Kept] = field(default_factory=list)
    worst: list[Kept] = field(default_factory=list)
    sampled: list[Kept] = field(default_factory=list)
    _ious: array = field(default_factory=lambda: array("f"))  # of all states, trajectory after trajectory
    _lengths: array = field(default_factory=lambda: array("l"))
    _returned: array = field(default_factory=lambda: array("f"))  # IoU of the mask that each trajectory returns

    def note(self, trajectory: Trajectory) -> None:
        self.count += 1
        reason = trajectory.end_reason
        self.endings["still running" if reason is None else reason.value] += 1
        ious = [trajectory.init_iou, *(step.iou_after for step in trajectory.steps)]
        if None not in ious[1:] and ious[-1] is not None:
            # A start without an IoU (official files do not record it) counts as the empty mask's.
            self._ious.extend(iou if iou is not None else 0.0 for iou in ious)
            self._lengths.append(len(ious))
            returned = trajectory.returned_iou
            self._returned.append(0.0 if returned is None else returned)

    def returned(self) -> np.ndarray:
        """IoU of the mask that is the answer, `[N]` float32, of the trajectories of `by_step`."""
        return np.asarray(self._returned, np.float32)

    def by_step(self) -> tuple[np.ndarray, np.ndarray]:
        """(IoU after each step `[N, S]` float32, number of steps `[N]`) of the trajectories whose IoU is known.

        Column 0 is the start; a trajectory that has ended keeps its last IoU.
        """
        lengths = np.asarray(self._lengths, np.int64)
        ious = np.asarray(self._ious, np.float32)
        if not lengths.size:
            return np.zeros((0, 1), np.float32), lengths
        starts = np.cumsum(lengths) - lengths
        columns = np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)
        return ious[starts[:, None] + columns], lengths - 1


def gather(trajectories: Iterable[Trajectory], *, extremes: int, sampled: int, seed: int) -> Gathered:
    """Reads the source once and keeps at most `2 * extremes` best and worst and `2 * extremes + sampled` random ones.

    Equal IoUs: the earlier trajectory is the better of two good ones and the worse of two bad ones.
    """
    gathered = Gathered()
    best: list[tuple[float, int, Trajectory]] = []
    worst: list[tuple[float, int, Trajectory]] = []
    reservoir: list[Kept] = []
    spare = sampled + 2 * extremes  # so that enough are left when the extremes are taken out
    generator = random.Random(seed)
    for place, trajectory in enumerate(trajectories):
        gathered.note(trajectory)
        if trajectory.returned_iou is not None:
            _keep(best, (trajectory.returned_iou, -place, trajectory), extremes)
            _keep(worst, (-trajectory.returned_iou, -place, trajectory), extremes)
        if len(reservoir) < spare:
            reservoir.append((place, trajectory))
        elif (slot := generator.randrange(place + 1)) < spare:
            reservoir[slot] = (place, trajectory)
    _choose(gathered, best, worst, reservoir, sampled, generator)
    return gathered


def _keep(heap: list, entry: tuple, size: int) -> None:
    """Keeps the `size` largest entries; places differ, so trajectories are never compared."""
    if len(heap) < size:
        heapq.heappush(heap, entry)
    elif size:
        heapq.heappushpop(heap, entry)


def _choose(
    gathered: Gathered, best: list, worst: list, reservoir: list[Kept], sampled: int, generator: random.Random
) -> None:
    known = len(gathered._lengths)
    worst_first = [(-place, trajectory) for _, place, trajectory in sorted(worst, reverse=True)]
    best_first = [(-place, trajectory) for _, place, trajectory in sorted(best, reverse=True)]
    # Of few trajectories the better half is shown as best, so that none stands in both rows.
    gathered.best = best_first[: (known + 1) // 2]
    taken = {place for place, _ in gathered.best}
    gathered.worst = [kept for kept in worst_first if kept[0] not in taken]
    taken |= {place for place, _ in gathered.worst}
    rest = [kept for kept in reservoir if kept[0] not in taken]
    gathered.sampled = sorted(generator.sample(rest, min(sampled, len(rest))), key=lambda kept: kept[0])

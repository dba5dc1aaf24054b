"""A network under training -> clicks needed, by the predictor, the rules and the annotator of every evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segagent.environment import Environment
from segagent.metrics.noc import LEVELS, clicks_needed, iou_curves
from segagent.policies.simulated import Oracle
from segagent.rollout import rollout
from segagent.segmenters.simpleclick import SimpleClick
from segagent.segmenters.simpleclick_vit import SimpleClickNet
from segagent.types import Sample


@dataclass(frozen=True)
class ValidationFigures:
    """noc: mean clicks until an IoU of 80, 85 and 90%, the limit where it is not reached. iou_by_click: mean IoU after
    1, 2, ... clicks; a sample that reached 90% is not clicked further and keeps its IoU."""

    noc: dict[int, float]
    iou_by_click: tuple[float, ...]

    @property
    def score(self) -> float:
        """What checkpoints are compared by, less is better: NoC@85, and where that stays at its limit, lack of IoU."""
        return self.noc[85] + 1e-3 * (1 - self.iou_by_click[-1])


def figures_of(curves: np.ndarray) -> ValidationFigures:
    """curves: `[N, limit]` IoU in [0, 1] after 1, 2, ... clicks. A level counts as reached at its first click there."""
    noc = {level: float(clicks_needed(curves, level)[0].mean()) for level in LEVELS}
    return ValidationFigures(noc, tuple(float(value) for value in curves.mean(0)))


class SegmenterValidation:
    """samples: with targets. max_clicks: limit of NoC. batch_size: samples clicked at once. predictor: options of
    `SimpleClick`, the same that the network will be used with."""

    def __init__(
        self, *, samples: Sequence[Sample], max_clicks: int = 20, batch_size: int = 16, predictor: dict[str, Any]
    ) -> None:
        for sample in samples:
            if sample.target is None:
                raise ValueError(f"sample {sample.sample_id!r} has no target mask: NoC needs one")
        if not samples:
            raise ValueError("no samples to validate on; raise validation.limit or give more data")
        self.samples, self.max_clicks, self.batch_size = list(samples), max_clicks, batch_size
        self.predictor = predictor

    def curves(self, network: SimpleClickNet, share: tuple[int, int] = (0, 1)) -> np.ndarray:
        """`[N, max_clicks]` IoU after each click. Leaves the network in eval mode.

        share: (rank, count) of a training process: it takes every count-th sample, from the rank-th on.
        """
        rank, count = share
        segmenter = SimpleClick(network=network, device=str(network.mean.device), **self.predictor)
        environment = Environment(segmenter=segmenter, max_clicks=self.max_clicks, tau_stop=max(LEVELS) / 100)
        finished = [
            trajectory
            for batch in rollout(
                self.samples[rank::count], policy=Oracle(), environment=environment, batch_size=self.batch_size
            )
            for trajectory in batch
        ]
        # An empty target is right before the first click; it needs none.
        ious = [[step.iou_after for step in made.steps] or [made.init_iou] for made in finished]
        return iou_curves(ious, self.max_clicks)

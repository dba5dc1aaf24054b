"""What the visual tokens of a state are asked (`cell_needs.py`, `click_gaze.py`), and the right answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from segagent.training.cell_points import deepest_points, region_depths
from segagent.training.cell_shares import cell_needs, click_cells
from segagent.types import Click


@dataclass(frozen=True, eq=False)
class CellTargets:
    """needs: `[4, T]` shares, see `cell_needs`. points: `[2, T, 3]`, see `deepest_points`, of what is missing and of
    what is surplus. places: `[2, T]`, see `click_cells`. Arrays of a state, or tensors of a batch, then with the states
    in front; float32."""

    needs: np.ndarray | Tensor
    points: np.ndarray | Tensor
    places: np.ndarray | Tensor

    @classmethod
    def of(
        cls, target: np.ndarray, mask: np.ndarray, click: Click | None, grid: int, void: np.ndarray | None = None
    ) -> Self:
        """target, mask: `[H, W]` bool. click: the one to be made. grid: cells a side. void: `[H, W]` bool, pixels that
        need nothing."""
        if void is not None:
            target, mask = target & ~void, mask & ~void
        return cls(
            needs=cell_needs(target, mask, grid),
            points=deepest_points(np.stack([region_depths(target & ~mask), region_depths(mask & ~target)]), grid),
            places=click_cells(click, mask.shape, grid),
        )

    @classmethod
    def stacked(cls, states: Sequence[Self]) -> Self:
        return cls(*(torch.from_numpy(np.stack(arrays)) for arrays in zip(*map(cls._parts, states), strict=True)))

    def to(self, device: torch.device) -> Self:
        return type(self)(*(part.to(device) for part in self._parts()))

    def _parts(self) -> tuple[np.ndarray | Tensor, ...]:
        return self.needs, self.points, self.places

"""Maps of a picture -> shares of the cells that the visual tokens are of."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


def cell_shares(maps: np.ndarray, grid: int) -> np.ndarray:
    """Share of each cell that is True: `[N, H, W]` bool -> `[N, grid, grid]` float32."""
    planes = torch.from_numpy(np.ascontiguousarray(maps)).float()[None]
    return F.adaptive_avg_pool2d(planes, grid)[0].numpy()


def cell_needs(target: np.ndarray, mask: np.ndarray, grid: int) -> np.ndarray:
    """Shares of each cell that are missing, surplus, right, and neither: `[4, grid * grid]` float32, summing to 1.

    target, mask: `[H, W]` bool.
    """
    parts = np.stack([target & ~mask, mask & ~target, target & mask, ~target & ~mask])
    return cell_shares(parts, grid).reshape(4, -1)

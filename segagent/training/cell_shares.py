"""Maps and clicks of a picture -> shares of the cells that the visual tokens are of."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from segagent.types import Click


def cell_shares(maps: np.ndarray, grid: int) -> np.ndarray:
    """Share of each cell that is True: `[N, H, W]` bool -> `[N, grid, grid]` float32."""
    planes = torch.from_numpy(np.ascontiguousarray(maps)).float()[None]
    return F.adaptive_avg_pool2d(planes, grid)[0].numpy()


def cell_needs(target: np.ndarray, mask: np.ndarray, grid: int) -> np.ndarray:
    """Shares of each cell that are missing, surplus, right, and neither: `[4, grid * grid]` float32, summing to 1.
    target, mask: `[H, W]` bool."""
    shares = cell_shares(np.stack([target & ~mask, mask & ~target, target & mask, ~target & ~mask]), grid)
    return shares.reshape(4, -1)


def click_cells(click: Click | None, shape: tuple[int, int], grid: int) -> np.ndarray:
    """The cell that holds a click: `[2, grid * grid]` float32, 1 at it in the first map when it is positive, else in
    the second; zeros for None. shape: height and width of the picture."""
    cells = np.zeros((2, grid, grid), np.float32)
    if click is not None:
        cells[int(not click.is_positive), click.y * grid // shape[0], click.x * grid // shape[1]] = 1
    return cells.reshape(2, -1)

"""Maps and clicks of a picture -> shares of the cells that the visual tokens are of."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from segagent.types import Click

PARTS = 4  # of a cell along a side, where it is asked finer than a cell is wide


def cell_shares(maps: np.ndarray, grid: int) -> np.ndarray:
    """Share of each cell that is True: `[N, H, W]` bool -> `[N, grid, grid]` float32."""
    planes = torch.from_numpy(np.ascontiguousarray(maps)).float()[None]
    return F.adaptive_avg_pool2d(planes, grid)[0].numpy()


def click_cells(click: Click | None, shape: tuple[int, int], grid: int) -> np.ndarray:
    """Share of each of the (at most four) cells whose centres lie around a click, as in bilinear interpolation:
    `[grid * grid]` float32 of sum 1; zeros for None. shape: height and width of the picture."""
    cells = np.zeros((grid, grid), np.float32)
    if click is not None:
        rows, columns = (_around(at, size, grid) for at, size in zip((click.y, click.x), shape, strict=True))
        for row, high in rows:
            for column, wide in columns:
                cells[row, column] += high * wide
    return cells.reshape(-1)


def _around(at: int, size: int, grid: int) -> list[tuple[int, float]]:
    """(cell, weight) of the two cells whose centres a pixel lies between."""
    place = min(max((at + 0.5) / size * grid - 0.5, 0.0), grid - 1.0)
    low = int(place)
    return [(low, 1 - (place - low)), (min(low + 1, grid - 1), place - low)]


def part_shares(maps: np.ndarray, grid: int) -> np.ndarray:
    """Share of each part of each cell that is True: `[N, H, W]` bool -> `[N, grid * grid, PARTS^2]` float32."""
    fine = cell_shares(maps, grid * PARTS).reshape(-1, grid, PARTS, grid, PARTS)
    return fine.swapaxes(2, 3).reshape(-1, grid**2, PARTS**2)


def cell_needs(target: np.ndarray, mask: np.ndarray, grid: int) -> np.ndarray:
    """Shares that are missing, surplus, right, and neither, of each part of each cell: `[4, grid * grid, PARTS^2]`
    float32, summing to 1. target, mask: `[H, W]` bool."""
    return part_shares(np.stack([target & ~mask, mask & ~target, target & mask, ~target & ~mask]), grid)

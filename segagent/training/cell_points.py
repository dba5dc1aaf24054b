"""Where in a cell a click would go: regions of a picture -> the deepest point of each cell, and the loss for it.

The first digit of a coordinate is a cell, and attention finds cells; the digits behind it are a place within one, which
has to be known to the cell itself before an answer can read it there. A wrong one is a click beside the thing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segagent.depth import distances
from segagent.masks import bounding_box

BINS = 10  # of a cell along a side: with ten cells a side, the second digit of a coordinate
_SPREAD = 0.8  # bins; standard deviation of what is taught around the right one


def region_depths(region: np.ndarray) -> np.ndarray:
    """Depth of every pixel of a region as in `masks.next_click`: distance to the nearest pixel outside the region or
    the picture, 0 outside. `[H, W]` bool -> float32 of that shape, in pixels."""
    depths = np.zeros(region.shape, np.float32)
    box = bounding_box(region)
    if box is not None:
        crop = (slice(box.y0, box.y1), slice(box.x0, box.x1))
        depths[crop] = distances(np.pad(region[crop].view(np.uint8), 1))[1:-1, 1:-1]
    return depths


def deepest_points(depths: np.ndarray, grid: int) -> np.ndarray:
    """Where in each cell a click on a region would go: the pixel of the region in it that lies deepest.

    depths: `[N, H, W]` float32, see `region_depths`. Returns `[N, grid * grid, 3]` float32: across and down, which of
    the `BINS` of the cell's side the pixel is in, and its depth in sides of a cell (the smaller side, where they
    differ); zeros where the cell holds nothing of the region. Of equally deep pixels it is the first in row-major
    order, as in `masks.next_click`.
    """
    count, height, width = depths.shape
    rows, columns = (_starts(size, grid) for size in (height, width))
    order = np.arange(height * width)[::-1].reshape(height, width)
    keys = np.rint(depths.astype(np.float64) ** 2).astype(np.int64) * (height * width) + order
    best = np.maximum.reduceat(np.maximum.reduceat(keys, rows, 1), columns, 2)
    squared, place = np.divmod(best, height * width)
    down, across = np.divmod(height * width - 1 - place, width)
    points = np.zeros((count, grid, grid, 3), np.float32)
    for axis, (at, size) in enumerate(((across, width), (down, height))):
        within = at * grid / size % 1 * BINS + 0.05  # rounded as a coordinate is that has a digit more
        points[..., axis] = np.where(squared > 0, np.minimum(within.astype(np.int64), BINS - 1), 0)
    points[..., 2] = np.sqrt(squared) * grid / min(height, width)
    return points.reshape(count, grid**2, 3)


def _starts(size: int, grid: int) -> np.ndarray:
    """The first pixel of each cell along a side: the first `p` with `p * grid // size == cell`."""
    return -(-np.arange(grid) * size // grid)


def bin_losses(logits: Tensor, points: Tensor) -> Tensor:
    """Cross-entropy of the bins across and down, summed over both. logits: `[..., 2 * BINS]`. points: `[..., 3]`, see
    `deepest_points`. Returns `[...]` float32. A bin near the right one is less wrong than a far one: what is taught is
    a bell of a bin's width around it."""
    offsets = torch.arange(BINS, device=points.device) - points[..., :2, None]
    wanted = torch.softmax(-0.5 * (offsets / _SPREAD) ** 2, -1)
    return -(wanted * F.log_softmax(logits.float().unflatten(-1, (2, BINS)), -1)).sum((-2, -1))

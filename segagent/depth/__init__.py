"""The deepest pixel of bool regions: exact Euclidean depth, found without a distance transform of the whole picture.

In: a stack of regions with a margin of False. Out: squared depth, region, row and column of the winner.

Depth of a pixel = Euclidean distance to the nearest pixel outside its region. Three ways, all exact, chosen by size:
small pictures get the exact transform (`transform`), deep regions bounds on a block grid (`blocks`), shallow ones
erosion of packed strips (`strips`).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from segagent.depth.blocks import BLOCK, CORNER, block_distances, deepest_of_thick, full_blocks
from segagent.depth.strips import MAX_REACH, deepest_of_thin
from segagent.depth.transform import NOTHING, Deepest, deepest_by_transform, distances, rank

__all__ = ["Deepest", "deepest", "distances", "padded_shape"]

_SMALL_AREA = 96 * 96  # below it a distance transform costs less than the detours
_THIN = 34  # regions with a smaller bound on their depth are eroded at once
_MANY = 150  # blocks of a region that is better eroded than searched


def padded_shape(height: int, width: int) -> tuple[int, int]:
    """Sides of a stack for regions of this size: multiples of `BLOCK` with at least one pixel of margin all around."""
    return -(-(height + 2) // BLOCK) * BLOCK, -(-(width + 2) // BLOCK) * BLOCK


def deepest(stack: np.ndarray, excluded: Collection[tuple[int, int]] = ()) -> Deepest:
    """The deepest pixel of all regions of a stack.

    stack: `[R, H, W]` bool, R = 1 or 2, contiguous, H and W from `padded_shape`; the first and last row and column are
    False. excluded: `(row, column)` that are never chosen but stay part of their region. Of equal depths the *last*
    region wins, and in it the first pixel in row-major order. Squares are compared, not float32 roots: these differ
    wherever squares below 2048^2 do, so regions must be less than 4094 pixels on their short side.
    """
    _, height, width = stack.shape
    stack = stack.view(np.uint8)
    if height * width <= _SMALL_AREA:
        return max((deepest_by_transform(region, index, excluded) for index, region in enumerate(stack)), key=rank)
    grids = [block_distances(blocks) for blocks in full_blocks(stack)]
    bounds = [BLOCK * float(grid.max()) + CORNER for grid in grids]  # see `_candidates`
    best = NOTHING
    for index in sorted(range(len(stack)), key=lambda index: -bounds[index]):
        if bounds[index] > _THIN:
            many = _MANY if bounds[index] < MAX_REACH else None
            best, bounds[index] = deepest_of_thick(stack[index], grids[index], excluded, index, best, many)
    left = [index for index, bound in enumerate(bounds) if bound >= best.squared**0.5]
    if left:
        reach = int(max(bounds[index] for index in left)) + 1
        thin = deepest_of_thin(stack[left[0] : left[-1] + 1], excluded, reach, best.squared)
        best = max(best, thin._replace(region=thin.region + left[0]), key=rank)
    return best

"""Deep regions: the deepest pixel from bounds on a grid of 8x8 blocks, then distances to the rim.

All-true blocks and the distance transform *of the block grid* bound every depth from both sides; the few blocks that
can win are settled by distances to the outside pixels along the region's rim.
"""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np

from segagent.depth.transform import NOTHING, Deepest, distances, rank

BLOCK = 8
# Between the farthest two pixels of a block, and from its pixel (4, 4) to the farthest; both with more to spare than
# float32 roots are rounded.
CORNER, HALF_CORNER = 7 * 2**0.5 + 1e-3, 4 * 2**0.5 + 1e-3
_MAX_CUTS = 40
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def full_blocks(stack: np.ndarray) -> np.ndarray:
    """`[R, H / 8, W / 8]` uint8: 1 where all 64 pixels of a block are true. Eight pixels are compared as one word."""
    regions, height, width = stack.shape
    words = stack.view(np.uint64).reshape(regions, height // BLOCK, BLOCK, width // BLOCK)
    return (np.bitwise_and.reduce(words, axis=2) == 0x0101010101010101).view(np.uint8)


def block_distances(full: np.ndarray) -> np.ndarray:
    """`[h, w]` uint8 of full blocks -> distance of each to the nearest that is not full, in blocks, float32."""
    # Without a 5x5 square of full blocks no distance exceeds sqrt(8): the coarse bound does, and costs nothing.
    if not cv2.hasNonZero(cv2.erode(full, np.ones((5, 5), np.uint8))):
        return full * np.float32(8**0.5)
    return distances(full)


def _candidates(grid: np.ndarray, excluded: Collection[tuple[int, int]]) -> np.ndarray:
    """`[P, 2]` (row, column) of the blocks that may hold the deepest free pixel of the full blocks, best bound first.

    grid: distance of every block to the nearest that is not full, in blocks. If that one lies (a, b) blocks away, the
    pixel (4, 4) of a block is at least 8a - 4 and 8b - 4 from all its pixels, so its depth >= 8 * grid - 4 * sqrt(2);
    every pixel is at most 8a + 7 and 8b + 7 from its outside pixel, so depth <= 8 * grid + 7 * sqrt(2).
    """
    reachable = grid
    if excluded:
        reachable = grid.copy()  # the lower bound speaks of the pixel (4, 4): it must be free to be chosen
        for row, column in excluded:
            reachable[row // BLOCK, column // BLOCK] = 0
    enough = float(reachable.max()) - (HALF_CORNER + CORNER) / BLOCK
    rows, columns = np.divmod(np.flatnonzero((grid >= enough) & (grid > 0)), grid.shape[1])
    return np.stack([rows, columns], 1)[np.argsort(-grid[rows, columns], kind="stable")]


def deepest_of_thick(
    region: np.ndarray,
    grid: np.ndarray,
    excluded: Collection[tuple[int, int]],
    index: int,
    best: Deepest,
    many: int | None,
) -> tuple[Deepest, float]:
    """The deeper of `best` and the deepest pixel in the full blocks of one region, searched tile by tile.

    many: the search is given up when more blocks remain after a tile; None for never. Second, a bound on the depth of
    what was not searched: blocks that are not full, where it is `CORNER`, and those given up.
    """
    blocks = _candidates(grid, excluded)
    upper = BLOCK * grid[blocks[:, 0], blocks[:, 1]] + CORNER
    while len(blocks) and upper[0] >= best.squared**0.5:
        near = np.abs(blocks - blocks[0]).max(1) <= max(4, upper[0] / (2 * BLOCK))
        found = _search_blocks(region, blocks[near] * BLOCK, int(upper[0]) + 2, excluded, best.squared)
        best = max(best, found._replace(region=index), key=rank)
        keep = ~near & (upper >= best.squared**0.5)
        blocks, upper = blocks[keep], upper[keep]
        if many is not None and len(blocks) > many:
            return best, float(upper[0])
    return best, CORNER


class _Rim:
    """The outside pixels that touch a region by an edge, and exact squared distances to them.

    The outside pixel nearest to an inside one is among them: one step from it towards the inside pixel is nearer, so
    that step lands inside.
    """

    def __init__(self, window: np.ndarray) -> None:
        rim = cv2.dilate(window, _CROSS, borderType=cv2.BORDER_REPLICATE) > window
        self.row, self.column = (axis.astype(np.float64) for axis in np.divmod(np.flatnonzero(rim), window.shape[1]))
        # |p - q|^2 - |p|^2 as one matrix product; all values are integers far below 2^53, hence exact.
        self.form = np.stack([-2 * self.row, -2 * self.column, self.row**2 + self.column**2])

    def nearest(self, row: np.ndarray, column: np.ndarray, among: np.ndarray | slice = slice(None)) -> tuple:
        """(squared distance, index within `among`) of the nearest rim pixel of every pixel; float64, int."""
        part = np.stack([row, column, np.ones_like(row)], 1) @ self.form[:, among]
        index = part.argmin(1)
        return part[np.arange(len(row)), index] + row * row + column * column, index

    def around(self, index: int) -> np.ndarray:
        """Indices of the rim pixels near one of them, itself included."""
        row, column = self.row[index], self.column[index]
        return np.flatnonzero((np.abs(self.row - row) <= BLOCK) & (np.abs(self.column - column) <= BLOCK))


def _search_blocks(
    region: np.ndarray, corners: np.ndarray, reach: int, excluded: Collection[tuple[int, int]], floor: int
) -> Deepest:
    """The deepest free pixel in the 8x8 blocks at `corners`, `[P, 2]` (row, column), or `NOTHING` if below `floor`.

    reach: no pixel of these blocks is deeper, so a window that much larger holds all outside pixels that matter.
    """
    top, left = np.maximum(corners.min(0) - reach, 0).tolist()
    bottom, right = (corners.max(0) + BLOCK + reach).tolist()
    window = region[top:bottom, left:right]
    rim = _Rim(window)
    free = np.ones((BLOCK, BLOCK, len(corners)), bool)
    row, column = np.indices((BLOCK, BLOCK), np.float64)[..., None]
    row, column = row + (corners[:, 0] - top), column + (corners[:, 1] - left)
    for y, x in excluded:
        free &= (row != y - top) | (column != x - left)
    depth, nearest = rim.nearest(row[4, 4], column[4, 4])
    floor = max(1, floor, int(depth[free[4, 4]].max(initial=0)))
    # Depth changes by at most the distance walked, and no pixel of a block is farther than (4, 4) from its centre.
    alive = np.sqrt(depth) + HALF_CORNER >= floor**0.5
    free = free[:, :, alive].ravel()
    row, column = row[:, :, alive].ravel()[free], column[:, :, alive].ravel()[free]
    if not len(row):
        return NOTHING
    bound, _ = rim.nearest(row, column, nearest[alive])
    squared, row, column = _cut(window, rim, row, column, bound, floor)
    return Deepest(squared, 0, row + top, column + left) if squared else NOTHING


def _cut(
    window: np.ndarray, rim: _Rim, row: np.ndarray, column: np.ndarray, bound: np.ndarray, floor: int
) -> tuple[int, int, int]:
    """(squared depth, row, column) of the first deepest of some pixels, (0, 0, 0) if below `floor`: cutting planes.

    bound: squared distances to *some* rim pixels, so never too small. Its first maximum, once exact, is the answer: no
    pixel is deeper, no earlier one as deep. Until then the rim pixel it missed is added, and its neighbours with it.
    Long ridges of equal depth would need many cuts: they get the exact transform.
    """
    order = np.argsort(row * window.shape[1] + column)
    for _ in range(_MAX_CUTS):
        order = order[bound[order] >= floor]
        if not len(order):
            return 0, 0, 0
        first = order[bound[order].argmax()]
        exact, nearest = rim.nearest(row[first : first + 1], column[first : first + 1])
        if exact[0] >= bound[first]:
            return int(exact[0]), int(row[first]), int(column[first])
        floor = max(floor, int(exact[0]))
        bound[order] = np.minimum(bound[order], rim.nearest(row[order], column[order], rim.around(nearest[0]))[0])
    row, column = row[order].astype(int), column[order].astype(int)
    exact = np.rint(distances(window)[row, column].astype(np.float64) ** 2)
    first = int(exact.argmax())
    return int(exact[first]), int(row[first]), int(column[first])

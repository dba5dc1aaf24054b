"""The 8-connected grid of a picture: (Lab colours) -> edges; (seeds) -> geodesic distances; (preferences) -> min-cut.

In: float arrays over the grid. Out: the same, and bool masks. Knows nothing of clicks or colour models.
"""

from __future__ import annotations

from dataclasses import dataclass

import maxflow
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

# (rows down, columns right) of the four neighbours that make each undirected edge of an 8-connected grid once.
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
# Where nothing is near: larger than any geodesic distance inside a picture, yet finite, so that ratios stay defined.
FAR = 1e6
# One grid edge costs at least this share of its weight to cut, so that the cut never follows noise for free.
_CUT_FLOOR = 0.05
# Length of a crossing of the whole picture (its diagonal) on even colour, in geodesic units.
_DIAGONAL_LENGTH = 1.5
# Lab difference that costs one geodesic unit to step over.
_COLOR_STEP = 10.0


@dataclass(frozen=True, eq=False)
class PixelGrid:
    """Edges of an `[height, width]` grid; pixels are numbered row by row.

    tails, heads: `[E]` int64, the pixels each undirected edge joins. cut_costs: `[E]` float64, dimensionless, in
    (0, 1]. steps: `[height * width]` squared sparse float64, the geodesic length of each edge, both ways.
    """

    height: int
    width: int
    tails: np.ndarray
    heads: np.ndarray
    cut_costs: np.ndarray
    steps: csr_array

    def distances(self, seeds: np.ndarray) -> np.ndarray:
        """Geodesic distance of every pixel to the nearest seed, `[height, width]` float64; `FAR` without seeds.

        seeds: `[height, width]` bool.
        """
        indices = np.flatnonzero(seeds)
        if not indices.size:
            return np.full((self.height, self.width), FAR)
        return dijkstra(self.steps, indices=indices, min_only=True).reshape(self.height, self.width)

    def minimum_cut(self, preference: np.ndarray, smoothness: float) -> np.ndarray:
        """The mask of least energy, `[height, width]` bool (Boykov & Jolly, ICCV 2001).

        Energy = sum over pixels labelled against `preference` (`[height, width]` float, positive: object) of its
        magnitude + `smoothness` x the sum of the cut edges' `cut_costs`.
        """
        count = self.height * self.width
        graph = maxflow.GraphFloat(count, self.tails.size)
        nodes = graph.add_grid_nodes((self.height, self.width))
        costs = self.cut_costs * smoothness
        graph.add_edges(self.tails, self.heads, costs, costs)
        graph.add_grid_tedges(nodes, np.maximum(preference, 0), np.maximum(-preference, 0))
        graph.maxflow()
        return ~graph.get_grid_segments(nodes)


def _neighbour_slices(down: int, right: int, height: int, width: int) -> tuple[tuple, tuple]:
    """Index of the pixels that have this neighbour, and index of those neighbours."""
    here = (slice(0, max(0, height - down)), slice(max(0, -right), max(0, width - max(0, right))))
    there = (slice(down, height), slice(max(0, right), max(0, width + min(0, right))))
    return here, there


def make_pixel_grid(lab: np.ndarray) -> PixelGrid:
    """The grid of an `[height, width, 3]` float32 CIE Lab picture.

    Cut costs fall with the contrast relative to the picture's mean: exp(-d^2 / (2 mean d^2)) / length (Rother et al.,
    GrabCut, 2004). A geodesic step costs its colour difference plus a little for its length, so that a click reaches
    over even ground and stops at edges (Bai & Sapiro, ICCV 2007).
    """
    height, width = lab.shape[:2]
    numbers = np.arange(height * width).reshape(height, width)
    tails, heads, contrasts, lengths = [], [], [], []
    for down, right in _NEIGHBOURS:
        here, there = _neighbour_slices(down, right, height, width)
        tails.append(numbers[here].ravel())
        heads.append(numbers[there].ravel())
        contrasts.append(((lab[here] - lab[there]) ** 2).sum(-1, dtype=np.float64).ravel())
        lengths.append(np.full(tails[-1].size, np.hypot(down, right)))
    tail, head, contrast, length = map(np.concatenate, (tails, heads, contrasts, lengths))
    mean = max(float((contrast / length).mean()), 1e-6) if contrast.size else 1.0
    cut_costs = (_CUT_FLOOR + (1 - _CUT_FLOOR) * np.exp(-contrast / length / (2 * mean))) / length
    steps = np.sqrt(contrast) / _COLOR_STEP + length * _DIAGONAL_LENGTH / np.hypot(height, width)
    both_ways = (np.concatenate([tail, head]), np.concatenate([head, tail]))
    sparse = csr_array((np.concatenate([steps, steps]), both_ways), shape=(height * width, height * width))
    return PixelGrid(height, width, tail, head, cut_costs, sparse)

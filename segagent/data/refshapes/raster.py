"""Polygons -> coverage, in integers only, so that every machine draws the same pixels.

Library drawing and resampling (OpenCV, Pillow, BLAS-backed NumPy) may round differently with the CPU's vector unit or
the version; here positions are fixed-point integers (256 to a pixel), edges are cut by exact integer division, and
coverage is a count. Rows are sampled 4 times per pixel, columns are exact to 1/256 pixel, so edges are anti-aliased.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segagent.data.refshapes.outline import SINE_BITS, Outline, cosine, sine

SUBPIXEL = 256  # fixed-point units per pixel
FULL = 1024  # coverage of a pixel that is wholly inside: 4 rows of 256
_ROWS = 4
_ROW_STEP = SUBPIXEL // _ROWS


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an outline goes. x, y: center; half_width, half_height: what 1000 local units become; all in 1/256 pixel.

    angle: in 1/1024 turns, clockwise. mirrored: left and right swapped before turning.
    """

    x: int
    y: int
    half_width: int
    half_height: int
    angle: int = 0
    mirrored: bool = False

    def shifted(self, dx: int, dy: int) -> Placement:
        """The same, moved by 1/256 pixels."""
        return Placement(self.x + dx, self.y + dy, self.half_width, self.half_height, self.angle, self.mirrored)


@dataclass(frozen=True, eq=False)
class Ink:
    """Coverage in a window of the picture. cover: `[h, w]` int32 in `0..FULL`; x, y: the window's first pixel.

    total: number of pixels at least half covered, those beyond the picture included.
    """

    x: int
    y: int
    cover: np.ndarray
    total: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of the window in an `[H, W]` picture."""
        height, width = self.cover.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)

    @property
    def mask(self) -> np.ndarray:
        """`[h, w]` bool: pixels at least half covered."""
        return self.cover >= FULL // 2


def _edges(outline: Outline, placement: Placement) -> np.ndarray:
    """Edges `[n, 5]` int64: x0, y0, x1, y1 in 1/256 pixel and the winding that the edge adds to its right."""
    points = np.array([point for loop in outline for point in loop.points], np.int64)
    x = points[:, 0] * (-placement.half_width if placement.mirrored else placement.half_width)
    y = points[:, 1] * placement.half_height
    cos, sin = cosine(placement.angle), sine(placement.angle)
    # |local| < 2**12, size < 2**20, sine <= 2**14: below 2**47.
    placed_x = placement.x + (x * cos - y * sin) // (1000 << SINE_BITS)
    placed_y = placement.y + (x * sin + y * cos) // (1000 << SINE_BITS)
    lengths = np.array([len(loop.points) for loop in outline])
    ends = np.cumsum(lengths)
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = ends - lengths
    next_x, next_y = placed_x[following], placed_y[following]
    area = np.add.reduceat(placed_x * next_y - next_x * placed_y, ends - lengths)
    # Seen with y down, a loop of positive area goes up along its left side; it shall add there.
    signs = np.where(area > 0, -1, 1) * np.array([loop.sign for loop in outline])
    return np.stack([placed_x, placed_y, next_x, next_y, np.repeat(signs, lengths)], 1)


def draw(outline: Outline, placement: Placement, size: int) -> Ink:
    """The coverage of a placed outline in a `[size, size]` picture; the window is cut at its borders."""
    edges = _edges(outline, placement)
    low = edges[:, :2].min(0) // SUBPIXEL
    high = edges[:, :2].max(0) // SUBPIXEL + 1
    width, height = (int(side) for side in high - low)
    edges[:, 0:4:2] -= low[0] * SUBPIXEL
    edges[:, 1:4:2] -= low[1] * SUBPIXEL
    cover = _fill(edges, height, width)
    total = int(np.count_nonzero(cover >= FULL // 2))
    x, y = int(low[0]), int(low[1])
    cut = cover[max(0, -y) : max(0, size - y), max(0, -x) : max(0, size - x)]
    return Ink(max(0, x), max(0, y), cut, total)


def _fill(edges: np.ndarray, height: int, width: int) -> np.ndarray:
    """Edges that lie inside the window -> `[height, width]` int32 coverage in `0..FULL`.

    Each crossing of an edge with a sampled row adds its winding from there to the right: the part of its pixel that
    lies to the right at once, the rest by the running sum along the row.
    """
    x0, y0, x1, y1, winding = edges.T
    down = y1 > y0
    top, bottom = np.where(down, y0, y1), np.where(down, y1, y0)
    # Row k is sampled at its middle; an edge owns the rows in [top, bottom), so that shared corners count once.
    first = -((_ROW_STEP // 2 - top) // _ROW_STEP)
    counts = -((_ROW_STEP // 2 - bottom) // _ROW_STEP) - first
    which = np.repeat(np.arange(len(edges)), counts)
    row = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts) + first[which]
    rise = (y1 - y0)[which]
    x = x0[which] + ((row * _ROW_STEP + _ROW_STEP // 2 - y0[which]) * (x1 - x0)[which]) // rise
    weight = np.where(down, winding, -winding)[which]
    column, part = x // SUBPIXEL, x % SUBPIXEL
    place = (row // _ROWS) * (width + 2) + column
    total = np.zeros(height * (width + 2), np.int64)
    np.add.at(total, place, weight * (SUBPIXEL - part))
    np.add.at(total, place + 1, weight * part)
    cover = np.cumsum(total.reshape(height, width + 2), axis=1)[:, :width]
    return np.clip(cover, 0, FULL).astype(np.int32)


def _blur(cover: np.ndarray, radius: int) -> np.ndarray:
    """Mean over a `(2 radius + 1)` square, `[h, w]` int32 -> `[h, w]` int32; zero outside."""
    for _ in range(2):
        sums = np.cumsum(np.pad(cover, ((0, 0), (radius + 1, radius))), axis=1)
        cover = ((sums[:, 2 * radius + 1 :] - sums[:, : -2 * radius - 1]) // (2 * radius + 1)).T
    return cover.astype(np.int32)


def darken(canvas: np.ndarray, ink: Ink, radius: int, strength: int) -> None:
    """Cast a soft shadow of the ink's form on `canvas` (`[H, W, 3]` int32, changed in place).

    radius: of the blur, in pixels. strength: what the middle of the shadow loses, of 1024.
    """
    height, width = ink.cover.shape
    top, left = max(0, ink.y - 2 * radius), max(0, ink.x - 2 * radius)
    under = canvas[top : ink.y + height + 2 * radius, left : ink.x + width + 2 * radius]
    cover = np.zeros(under.shape[:2], np.int32)
    cover[ink.y - top : ink.y - top + height, ink.x - left : ink.x - left + width] = ink.cover
    under -= under * (_blur(cover, radius) * strength >> 10)[:, :, None] >> 10


def paint(canvas: np.ndarray, ink: Ink, color: np.ndarray) -> None:
    """Lay color over `canvas` (`[H, W, 3]` int32, changed in place) where there is ink.

    color: int32, `[3]` or `[h, w, 3]` like the ink's window.
    """
    under = canvas[ink.window]
    under += ((color - under) * ink.cover[:, :, None] + FULL // 2) >> 10

"""Shallow regions: the deepest pixel by erosion of strips packed into the bits of one byte picture.

Eight strips of the picture share a byte, so that one AND of two shifted views, a few microseconds, tests one offset for
all pixels. Erosions by growing squares, then by discs, leave few pixels; these are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Collection
from math import isqrt

import cv2
import numpy as np

from segagent.depth.transform import NOTHING, Deepest

MAX_REACH = 72  # the largest depth that the offsets below allow for
_LOOKS = 20_000  # values looked up at a time


def _offsets() -> tuple[np.ndarray, np.ndarray]:
    """All (row, column) offsets within `MAX_REACH`, `[N, 2]`, nearest first, and their squared lengths `[N]`."""
    grid = np.indices((2 * MAX_REACH + 1,) * 2).reshape(2, -1).T - MAX_REACH
    squared = (grid**2).sum(1)
    order = np.argsort(squared, kind="stable")[: np.count_nonzero(squared <= MAX_REACH**2)]
    return grid[order], squared[order]


_OFFSETS, _SQUARED = _offsets()
_LEVELS = np.unique(_SQUARED)


def _pack(stack: np.ndarray, reach: int) -> np.ndarray:
    """`[R, H, W]` 0/1 bytes -> `[n + 2 * reach, W + 2 * reach]`, n = H * R / 8: bit k is strip k of n rows.

    Each strip has its neighbours' rows around it, so that a shift of the picture is a shift of all regions; False
    beyond the picture.
    """
    regions, height, width = stack.shape
    rows = height * regions // 8
    strips = stack.view(np.uint64).reshape(8, rows, width // 8)
    packed = strips[0].copy()
    for bit in range(1, 8):
        packed |= strips[bit] << np.uint64(bit)  # bytes are 0 or 1, so no bit leaves its byte
    picture = np.zeros((rows + 2 * reach, width + 2 * reach), np.uint8)
    picture[reach:-reach, reach:-reach] = packed.view(np.uint8)
    # The last strip of one region and the first of the next show in each other's margins too. That does no harm: each
    # region ends with a row of False, which is nearer than anything beyond it.
    picture[:reach] = picture[rows : rows + reach] << 1
    picture[-reach:] = picture[reach : 2 * reach] >> 1
    return picture


def deepest_of_thin(stack: np.ndarray, excluded: Collection[tuple[int, int]], reach: int, floor: int) -> Deepest:
    """The deepest free pixel of regions where none is deeper than `reach`; or `NOTHING` if below `floor`."""
    regions, height, width = stack.shape
    if height * regions < 8 * reach:  # a strip must be as high as the longest shift
        height = -(-8 * reach // 8) * 8
        stack = np.pad(stack, ((0, 0), (0, height - stack.shape[1]), (0, 0)))
    rows = height * regions // 8
    picture = _pack(stack, reach)
    free = np.full((rows, width), 255, np.uint8)
    for row, column in excluded:
        for region in range(regions):
            strip, inner = divmod(region * height + row, rows)
            free[inner, column] &= ~np.uint8(1 << strip)
    squares = _Squares(picture, free)
    side = squares.largest() + 1
    if side == 0:
        return NOTHING
    # Some free pixel holds the square of half side `side - 1`, so its depth >= side; none holds the next square, so
    # no depth exceeds side * sqrt(2). A pixel of depth >= side holds all offsets shorter than `side`, and with them
    # the square of half side `half`.
    if 2 * side * side < floor:
        return NOTHING
    half = isqrt((side * side - 1) // 2)
    search = _LevelSearch(picture, squares.middle(half), 8 // regions)
    found = search.run((half + 1) ** 2, max(side * side, floor), min(2 * side * side, reach * reach))
    if found is None:
        return NOTHING
    squared, strip, inner, column = found
    region, row = divmod(strip * rows + inner, height)
    return Deepest(squared, region, row, column)


class _Squares:
    """Erosions of a packed picture by squares of any half side, each two ANDs away from a smaller one."""

    def __init__(self, picture: np.ndarray, free: np.ndarray) -> None:
        self.eroded, self.free = {0: picture}, free
        self.reach = (picture.shape[0] - free.shape[0]) // 2

    def _erode(self, half: int) -> np.ndarray:
        if half not in self.eroded:
            known = max(size for size in self.eroded if size < half and (2 * size >= half or half == 1))
            step = half - known
            # Squares of half side `known` at the corners (+-step, +-step) cover the large one if step <= known.
            picture = self.eroded[known]
            lines = cv2.bitwise_and(picture[:, : -2 * step], picture[:, 2 * step :])
            if known == 0:
                lines = cv2.bitwise_and(lines, picture[:, step:-step])
            result = cv2.bitwise_and(lines[: -2 * step], lines[2 * step :])
            self.eroded[half] = cv2.bitwise_and(result, lines[step:-step]) if known == 0 else result
        return self.eroded[half]

    def middle(self, half: int) -> np.ndarray:
        """`[n, W]`: bits of the free pixels that hold the square of half side `half`."""
        (rows, width), margin = self.free.shape, self.reach - half
        return cv2.bitwise_and(self._erode(half)[margin : margin + rows, margin : margin + width], self.free)

    def largest(self) -> int:
        """Half side of the largest square that some free pixel holds, -1 when no pixel is left."""
        if not cv2.hasNonZero(self.middle(0)):
            return -1
        low, high = 0, 1
        while high < self.reach and cv2.hasNonZero(self.middle(high)):
            low, high = high, min(2 * high, self.reach)
        while high - low > 1:
            half = (low + high) // 2
            low, high = (half, high) if cv2.hasNonZero(self.middle(half)) else (low, half)
        return low


class _LevelSearch:
    """The largest squared depth among some pixels of a packed picture, and the first pixel of the last region with it.

    alive: `[n, W]` bits of the pixels. strips: how many strips, and bits, make one region.
    """

    def __init__(self, picture: np.ndarray, alive: np.ndarray, strips: int) -> None:
        self.picture, self.alive, self.strips = picture, alive, strips
        self.reach = (picture.shape[0] - alive.shape[0]) // 2
        self.lines = [picture]  # lines[w]: pixels that hold the horizontal line of half length w

    def run(self, held: int, floor: int, ceiling: int) -> tuple[int, int, int, int] | None:
        """(squared depth, strip, row in the strip, column), or None when no pixel reaches the squared depth `floor`.

        held, ceiling: every pixel alive has a squared depth of at least `held`, at most `ceiling`.
        """
        self.first = int(_SQUARED.searchsorted(held))  # shorter offsets are held by all
        radius = (floor - 1) ** 0.5
        for angle in np.arange(16) * (np.pi / 8):  # a few offsets shorter than sqrt(floor), to be rid of most
            self.alive = self._holding(self.alive, int(radius * np.cos(angle)), int(radius * np.sin(angle)))
        # Erosion costs time in proportion to the radius, looking at pixels one by one to their number.
        few = 100 + int(80 * radius)
        if cv2.countNonZero(self.alive) > few:
            self.alive = self._at_least(floor)
        levels = _LEVELS[_LEVELS.searchsorted(floor) : _LEVELS.searchsorted(ceiling, "right")]
        low, high = 0, len(levels)  # some, if any, are as deep as levels[low], none as levels[high]
        while high - low > 1 and cv2.countNonZero(self.alive) > few:
            middle = (low + high) // 2
            deeper = self._at_least(int(levels[middle]))
            if cv2.hasNonZero(deeper):
                self.alive, low = deeper, middle
            else:
                high = middle
        if cv2.countNonZero(self.alive) > few:
            return int(levels[low]), *self._first_alive()
        return self._looked_up(floor)

    def _holding(self, alive: np.ndarray, down: int, across: int) -> np.ndarray:
        top, left = self.reach + down, self.reach + across
        return cv2.bitwise_and(alive, self.picture[top : top + alive.shape[0], left : left + alive.shape[1]])

    def _at_least(self, squared: int) -> np.ndarray:
        """The alive pixels with that squared depth: those that hold every shorter offset."""
        offsets = _OFFSETS[self.first : int(_SQUARED.searchsorted(squared))]
        alive, (rows, width) = self.alive, self.alive.shape
        radius = isqrt(squared - 1)
        if len(offsets) <= 2 * radius + 1:
            for down, across in offsets.tolist():
                alive = self._holding(alive, down, across)
            return alive
        for down in range(-radius, radius + 1):
            line = self._line(isqrt(squared - 1 - down * down))
            top, left = self.reach + down, (line.shape[1] - width) // 2
            alive = cv2.bitwise_and(alive, line[top : top + rows, left : left + width])
        return alive

    def _line(self, half: int) -> np.ndarray:
        while len(self.lines) <= half:
            longest = len(self.lines)
            inner = cv2.bitwise_and(self.lines[-1][:, :-2], self.lines[-1][:, 2:])
            self.lines.append(inner if longest > 1 else cv2.bitwise_and(inner, self.picture[:, 1:-1]))
        return self.lines[half]

    def _first_alive(self) -> tuple[int, int, int]:
        """(strip, row, column) of the first pixel alive of the last region that has one."""
        present = int(np.bitwise_or.reduce(self.alive, axis=None))
        last_region = range(self.strips * ((present.bit_length() - 1) // self.strips), 8)
        strip = next(bit for bit in last_region if present >> bit & 1)
        return strip, *divmod(int((self.alive >> strip & 1).argmax()), self.alive.shape[1])

    def _looked_up(self, floor: int) -> tuple[int, int, int, int] | None:
        """The answer by looking at every pixel alive: of those that hold all offsets shorter than sqrt(floor), the
        last to meet an outside pixel as the offsets grow."""
        row, column = np.divmod(np.flatnonzero(self.alive != 0), self.alive.shape[1])
        which, strip = np.nonzero(self.alive[row, column][:, None] >> np.arange(8, dtype=np.uint8) & 1)
        pixels = np.stack([strip, row[which], column[which]])
        last = middle = int(_SQUARED.searchsorted(floor))
        while last > self.first and pixels.size:  # longest first: they are the least likely to be held
            first = max(self.first, last - 1 - _LOOKS // pixels.shape[1])
            pixels, last = pixels[:, ~self._outside(pixels, first, last).any(1)], first
        first, end = middle, int(_SQUARED.searchsorted(self.reach**2, "right"))
        while pixels.size:
            assert first < end, "a pixel is deeper than the bound that the search was given"
            last = min(first + 1 + _LOOKS // pixels.shape[1], end)
            last = int(_SQUARED.searchsorted(_SQUARED[last - 1], "right"))  # equal lengths stay together
            outside = self._outside(pixels, first, last)
            stays = ~outside.any(1)
            if not stays.any():
                squared = _SQUARED[first:last][outside.argmax(1)]
                strip, row, column = pixels
                winner = np.lexsort((column, row, strip, -(strip // self.strips), -squared))[0]
                return int(squared[winner]), *pixels[:, winner].tolist()
            pixels, first = pixels[:, stays], last
        return None

    def _outside(self, pixels: np.ndarray, first: int, last: int) -> np.ndarray:
        """`[P, last - first]` bool: is the pixel at that offset outside the region? pixels: (strip, row, column)."""
        strip, row, column = pixels
        width = self.picture.shape[1]
        place = (row + self.reach) * width + column + self.reach
        offset = _OFFSETS[first:last, 0] * width + _OFFSETS[first:last, 1]
        return self.picture.ravel().take(place[:, None] + offset) & (1 << strip).astype(np.uint8)[:, None] == 0

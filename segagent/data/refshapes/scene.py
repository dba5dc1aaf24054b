"""The scene graph: what is in a picture, where, how large, and what hides what.

All lengths are in 1/1024 of the picture's side (`UNIT`), so that they mean the same at any picture size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNIT = 1024


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing of a scene.

    x, y: center of the box of its visible pixels. box: that box, `(x0, y0, x1, y1)`. extent: half its size were
    nothing in front of it. seen: share of its pixels that is visible, in percent, pixels beyond the picture's border
    counted as hidden. pixels: number of visible pixels. covered: percent that other things hide.
    """

    noun: str
    color: str
    pattern: str
    x: int
    y: int
    box: tuple[int, int, int, int]
    extent: int
    seen: int
    covered: int
    pixels: int


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn scene.

    image: `[size, size, 3]` uint8 RGB. labels: `[size, size]` int16, index into `things` of the thing seen at each
    pixel, -1 for the background. things: from the farthest to the nearest. hides: `(i, j)` -> number of pixels where
    thing i is seen and, were it gone, thing j would be.
    """

    image: np.ndarray
    labels: np.ndarray
    things: tuple[Thing, ...]
    hides: dict[tuple[int, int], int]

    def mask(self, index: int) -> np.ndarray:
        """Visible pixels of one thing, `[size, size]` bool."""
        return self.labels == index

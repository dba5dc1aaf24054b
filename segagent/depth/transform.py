"""The exact distance transform, and the record of a deepest pixel."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import cv2
import numpy as np


class Deepest(NamedTuple):
    """squared: squared depth in pixels, 0 when no pixel may be chosen. region: index in the stack. row, column."""

    squared: int
    region: int
    row: int
    column: int


NOTHING = Deepest(0, -1, 0, 0)


def rank(found: Deepest) -> tuple[int, int, int, int]:
    """Key of `max`: the deeper, then the later region, then the first in row-major order."""
    return found.squared, found.region, -found.row, -found.column


def distances(region: np.ndarray) -> np.ndarray:
    """Distance to the nearest 0 of a `[H, W]` uint8 picture, float32, the rounded root of the exact square."""
    # The accelerated (IPP) transform is off by an ulp, which would flip ties; the switch is per thread.
    accelerated = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        return cv2.distanceTransform(region, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    finally:
        cv2.ipp.setUseIPP(accelerated)


def deepest_by_transform(region: np.ndarray, index: int, excluded: Collection[tuple[int, int]]) -> Deepest:
    depth = distances(region)
    for row, column in excluded:
        depth[row, column] = 0
    row, column = divmod(int(depth.argmax()), depth.shape[1])
    return Deepest(round(float(depth[row, column]) ** 2), index, row, column)

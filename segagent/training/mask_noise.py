"""Target -> a mask that is wrong in a random way: cheap, and of every quality.

A predictor of IoU that only saw the masks of good trajectories would call every mask good.
"""

from __future__ import annotations

import cv2
import numpy as np

from segagent.masks import bounding_box, iou

_CANDIDATES = 4  # wrong masks to choose from
_BLOB = 12  # a blob's radius is a fraction of the object's extent, down to one part in this


def _disc(mask: np.ndarray, x: int, y: int, radius: int, value: bool) -> np.ndarray:
    """The mask with a disc painted or erased."""
    return cv2.circle(mask.astype(np.uint8), (x, y), radius, int(value), thickness=-1).astype(bool)


def _resized(target: np.ndarray, pixels: int) -> np.ndarray:
    """Grown by so many pixels, or shrunk where they are negative."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(pixels) + 1,) * 2)
    change = cv2.dilate if pixels > 0 else cv2.erode
    return change(target.view(np.uint8), kernel).astype(bool)


def _shifted(mask: np.ndarray, x: int, y: int) -> np.ndarray:
    """Moved right by x and down by y pixels; what leaves the picture is gone."""
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
    return cv2.warpAffine(mask.view(np.uint8), matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST).astype(bool)


def _one(target: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One wrong mask: grown, shrunk, moved, cut, boxed, or none of these; then blobs are added and taken away."""
    box = bounding_box(target)
    extent = max(box.x1 - box.x0, box.y1 - box.y0)
    mask, kind = target.copy(), int(random.integers(6))
    if kind == 0:
        mask = _resized(target, int(random.integers(1, max(2, extent // 4))))
    elif kind == 1:
        mask = _resized(target, -int(random.integers(1, max(2, extent // 10))))
    elif kind == 2:
        most = max(1, extent // 2)
        mask = _shifted(target, *(int(value) for value in random.integers(-most, most + 1, 2)))
    elif kind == 3:  # one side of a line through the box is cut off
        angle, share = random.uniform(0, 2 * np.pi), random.uniform(-0.5, 0.5)
        rows, columns = np.indices(target.shape)
        across = (columns - (box.x0 + box.x1) / 2) * np.cos(angle) + (rows - (box.y0 + box.y1) / 2) * np.sin(angle)
        mask &= across > share * extent
    elif kind == 4:
        mask[box.y0 : box.y1, box.x0 : box.x1] = True
    for _ in range(int(random.integers(0, 5))):
        radius = max(1, round(extent * float(np.exp(random.uniform(np.log(1 / _BLOB), np.log(0.6))))))
        x = int(random.integers(box.x0 - extent // 2, box.x1 + extent // 2))
        y = int(random.integers(box.y0 - extent // 2, box.y1 + extent // 2))
        mask = _disc(mask, x, y, radius, bool(random.random() < 0.5))
    return mask


def perturbed(target: np.ndarray, void: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    """A wrong `[H, W]` bool mask for a `[H, W]` bool target that has a pixel.

    Of a few wrong masks the one whose IoU lies nearest to a value drawn evenly from [0, 1], so that no quality is rare.
    """
    aim = random.random()
    made = [_one(target, random) for _ in range(_CANDIDATES)]
    return min(made, key=lambda mask: abs(iou(mask, target, void) - aim))

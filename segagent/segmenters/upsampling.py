"""A mask on a reduced grid -> the same at full size, its outline drawn to the edges of the full picture.

Fast colour guided filter (He, Sun & Tang, TPAMI 2013; He & Sun, arXiv 1505.00996): around each pixel the mask is fitted
as a linear function of the colour, on the reduced grid; the coefficients, enlarged, meet the full-size colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# Half side of the fit's window, reduced pixels, and the variance (colours in [0, 1]) below which it stays flat.
_RADIUS = 2
_REGULARIZER = 1e-3
# The outline may move this many reduced pixels; what lies deeper on either side stays.
_BAND = 2


@dataclass(frozen=True, eq=False)
class Guide:
    """What depends on the picture alone.

    image: `[H, W, 3]` uint8 RGB. colors, means: `[height, width, 3]` float32 in [0, 1], the reduced picture and its
    window means. precision: `[height, width, 3, 3]` float32, inverse covariance of the colours in each window.
    """

    image: np.ndarray
    colors: np.ndarray
    means: np.ndarray
    precision: np.ndarray


def _window_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the window around each pixel; `[height, width]` or `[height, width, C]`, at most 4 channels."""
    return cv2.blur(values, (2 * _RADIUS + 1, 2 * _RADIUS + 1))


def make_guide(image: np.ndarray, height: int, width: int) -> Guide:
    """image: `[H, W, 3]` uint8 RGB, at least as large as the reduced grid `height` x `width`."""
    colors = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    means = _window_mean(colors)
    covariance = np.empty((height, width, 3, 3), np.float32)
    for channel in range(3):
        products = _window_mean(colors * colors[..., channel : channel + 1])
        covariance[..., channel, :] = products - means * means[..., channel : channel + 1]
    return Guide(image, colors, means, np.linalg.inv(covariance + _REGULARIZER * np.eye(3, dtype=np.float32)))


def enlarge_mask(mask: np.ndarray, guide: Guide) -> np.ndarray:
    """`[height, width]` bool on the reduced grid -> `[H, W]` bool."""
    height, width = guide.image.shape[:2]
    if mask.shape == (height, width):
        return mask.copy()
    values = mask.astype(np.float32)
    mean = _window_mean(values)
    covariance = _window_mean(guide.colors * values[..., None]) - guide.means * mean[..., None]
    slopes = np.einsum("hwij,hwj->hwi", guide.precision, covariance)
    offset = mean - (slopes * guide.means).sum(-1)
    fit = cv2.resize(_window_mean(np.dstack([slopes / 255, offset])), (width, height), interpolation=cv2.INTER_LINEAR)
    large = np.einsum("hwc,hwc->hw", fit[..., :3], guide.image, dtype=np.float32) + fit[..., 3] > 0.5
    kernel = np.ones((2 * _BAND + 1, 2 * _BAND + 1), np.uint8)
    inner, outer = (
        cv2.resize(band, (width, height), interpolation=cv2.INTER_NEAREST).view(bool)
        for band in (cv2.erode(mask.view(np.uint8), kernel), cv2.dilate(mask.view(np.uint8), kernel))
    )
    return (large | inner) & outer

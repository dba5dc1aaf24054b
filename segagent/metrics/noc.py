"""Number of clicks (NoC): IoU after each click of many samples -> how many clicks an IoU takes. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVELS = (80, 85, 90)  # percent


def iou_curves(ious: Sequence[Sequence[float]], limit: int) -> np.ndarray:
    """IoUs of samples that stopped early or not -> `[N, limit]` float64, the last value kept."""
    rows = [[*made, *[made[-1]] * (limit - len(made))] for made in ious]
    return np.array(rows, np.float64).reshape(-1, limit)


def clicks_needed(curves: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """(needed, reached): `[N]` int64, the first click with an IoU of `level` percent, else the limit; `[N]` bool.

    curves: `[N, limit]` IoU in [0, 1] after 1, 2, ... clicks.
    """
    good = curves >= level / 100
    reached = good.any(1)
    return np.where(reached, good.argmax(1) + 1, curves.shape[1]), reached


def mean_interval(values: np.ndarray, image: np.ndarray, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean of `[N]` values, bootstrapped (Efron & Tibshirani, 1993, ch. 13); NaN for a
    single picture, which says nothing of others.

    image: number of the picture of each value, `[N]` from 0: values of one picture are drawn together.
    """
    random, images = np.random.default_rng(seed), int(image.max()) + 1
    if images < 2:
        return float("nan"), float("nan")
    total, count = np.bincount(image, values, images), np.bincount(image, minlength=images)
    rows, means = max(1, 10_000_000 // images), []  # bounds memory
    for begin in range(0, resamples, rows):
        drawn = random.integers(images, size=(min(rows, resamples - begin), images))
        means.append(total[drawn].sum(1) / count[drawn].sum(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)

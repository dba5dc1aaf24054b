"""Number of clicks (NoC): IoU after each click of many samples -> how many clicks an IoU takes. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVELS = (80, 85, 90)  # percent


def iou_curves(ious: Sequence[Sequence[float]], limit: int) -> np.ndarray:
    """IoU after each click of samples that stopped early or not -> `[N, limit]` float64, the last value kept."""
    rows = [[*made, *[made[-1]] * (limit - len(made))] for made in ious]
    return np.array(rows, np.float64).reshape(-1, limit)


def clicks_needed(curves: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """(needed, reached): `[N]` int64, the first click with an IoU of `level` percent, else the limit; `[N]` bool.

    curves: `[N, limit]` IoU in [0, 1] after 1, 2, ... clicks.
    """
    good = curves >= level / 100
    reached = good.any(1)
    return np.where(reached, good.argmax(1) + 1, curves.shape[1]), reached


def mean_interval(values: np.ndarray, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean of `[N]` values, bootstrapped (Efron & Tibshirani, 1993, ch. 13)."""
    random = np.random.default_rng(seed)
    rows = max(1, 10_000_000 // len(values))  # bounds memory
    means = [
        values[random.integers(len(values), size=(min(rows, resamples - begin), len(values)))].mean(1)
        for begin in range(0, resamples, rows)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)

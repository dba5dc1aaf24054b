"""Numbers for a table, out of pixel counts: means, clicks needed, bootstrap intervals, quality of announced IoUs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segagent.metrics.protocols import Table, choose, choose_within, ratio

PRECISION_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
NOC_LEVELS = (0.80, 0.85, 0.90)
COUNTS = 1_000_000  # of an image in a resample, held at a time: bounds the bootstrap's memory


def sums(intersection: np.ndarray, union: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Per sample the terms that every mean is made of, `[n, 6]` float64: I, U, IoU, 1, IoU and 1 where there is a
    target."""
    iou, present = ratio(intersection, union), (target > 0).astype(float)
    return np.stack([intersection, union, iou, np.ones_like(iou), iou * present, present], 1).astype(float)


def means(total: np.ndarray) -> np.ndarray:
    """Sums `[..., 6]` -> cIoU = sum I / sum U, gIoU = mean IoU over all, mIoU = mean over those with a target,
    `[..., 3]`; NaN where there is nothing to average, 1 where a union is 0."""
    above, below = total[..., 0::2], total[..., 1::2]
    nothing = np.array([1.0, np.nan, np.nan])
    return np.where(below > 0, above / np.where(below > 0, below, 1), nothing)


def bootstrap(terms: np.ndarray, image: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """95% percentile intervals of `means` over images, `[2, 3]` (low, high); NaN for a single image, which says nothing
    of others.

    terms: `[n, 6]` of `sums`. image: image number of each sample, `[n]`: samples of one image are drawn together, since
    they are not independent. The images are drawn with replacement `resamples` times (Efron & Tibshirani, 1993, ch.
    13).
    """
    images = int(image.max()) + 1
    if images < 2:
        return np.full((2, 3), np.nan)
    grouped = np.stack([np.bincount(image, column, images) for column in terms.T], 1)
    random = np.random.default_rng(seed)
    block = max(1, COUNTS // images)
    results = []
    for begin in range(0, resamples, block):
        rows = min(block, resamples - begin)
        drawn = random.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        results.append(means(times.astype(float) @ grouped))
    values = np.concatenate(results)
    bounds = np.full((2, 3), np.nan)
    for column in range(3):
        finite = values[np.isfinite(values[:, column]), column]
        if finite.size:
            bounds[:, column] = np.percentile(finite, [2.5, 97.5])
    return bounds


def clicks_needed(table: Table, levels: Sequence[float], limit: int) -> list[float]:
    """NoC: mean number of actions until IoU >= level, for each level; `limit` where it is not reached within it.

    0 when the initial mask is good enough already.
    """
    iou, starts = table.iou, table.starts
    number = np.arange(iou.size) - starts[table.owner]
    return [
        float(np.minimum.reduceat(np.where(iou >= level, np.minimum(number, limit), limit), starts).mean())
        for level in levels
    ]


def by_step(table: Table, limit: int, *, best: bool = False) -> tuple[list[float], list[float]]:
    """(cIoU, mIoU) after 0, 1, ..., `limit` actions; a sample that ended earlier keeps its last mask.

    best: not of the mask at that step, but of the one with the highest predicted IoU until then.
    """
    union, rows = table.union, []
    for step in range(limit + 1):
        place = table.starts + (choose_within(table, step) if best else choose(table, f"step:{step}"))
        rows.append(means(sums(table.intersection[place], union[place], table.target).sum(0)))
    curve = np.array(rows)
    return curve[:, 0].tolist(), curve[:, 2].tolist()


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values share their mean rank, `[n]` float64."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's r; NaN when one of them does not vary."""
    if not (np.ptp(first) and np.ptp(second)):  # a mean of equal floats may differ from them in the last digit
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale > 0 else float("nan")


def hits(bad: np.ndarray, flagged: np.ndarray) -> dict[str, float | None]:
    """Precision and recall of what was flagged, `[n]` bool both; None where nothing is flagged, or nothing bad."""
    both = int((bad & flagged).sum())
    return {
        "precision": both / int(flagged.sum()) if flagged.any() else None,
        "recall": both / int(bad.sum()) if bad.any() else None,
    }


def reward_model_quality(table: Table) -> dict[str, float]:
    """Announced against true IoU of the mask shown, over all masks with an announcement (paper, table 3).

    MAE in percent points, MSE in their squares, Pearson, Spearman. Empty when nothing was announced.
    """
    has = np.isfinite(table.announced)
    if not has.any():
        return {}
    announced, true = table.announced[has], table.iou[has]
    error = 100 * (announced - true)
    return {
        "prm_mae": float(np.abs(error).mean()),
        "prm_mse": float((error**2).mean()),
        "prm_pearson": correlation(announced, true),
        "prm_spearman": correlation(ranks(announced), ranks(true)),
    }

"""Which given masks are suspicious: predicted IoUs, and a calibration or a threshold -> the ones to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segagent.policies.calibration import Calibration


@dataclass(frozen=True, eq=False)
class Suspicion:
    """order: `[n]` places of the masks, the most suspicious first; masks that were not judged come last. flagged: `[n]`
    bool. chances: `[n]` probability that the true IoU is under the bound, NaN where unknown. threshold: masks predicted
    at most this were flagged, None where none were. expected_precision: share of bad ones among the flagged to be
    expected, None where nothing says so."""

    order: np.ndarray
    flagged: np.ndarray
    chances: np.ndarray
    threshold: float | None
    expected_precision: float | None


def find_suspicious(
    predicted: np.ndarray,
    *,
    calibration: Calibration | None,
    bad_iou: float,
    precision: float,
    threshold: float | None,
) -> Suspicion:
    """predicted: `[n]` float, NaN where a mask was not judged.

    With a calibration, each mask has a probability of being bad (true IoU under `bad_iou`); as many of the lowest
    predictions are flagged as keep the mean of these probabilities at `precision` or above, equal ones together.
    threshold: flag what is predicted under it instead. With neither, masks are ranked and none is flagged.
    """
    order = np.argsort(np.where(np.isnan(predicted), np.inf, predicted), kind="stable")
    chances = np.full(len(predicted), np.nan)
    known = ~np.isnan(predicted)
    if calibration is not None:
        good = calibration.reaching(bad_iou)
        chances[known] = [1 - good(one) for one in predicted[known]]
    if threshold is not None:
        flagged = known & (predicted < threshold)
    elif calibration is not None:
        flagged = known & (
            predicted <= _highest(predicted[order][: known.sum()], chances[order][: known.sum()], precision)
        )
    else:
        flagged = np.zeros(len(predicted), bool)
    told = flagged.any() and calibration is not None
    return Suspicion(
        order,
        flagged,
        chances,
        float(predicted[flagged].max()) if flagged.any() else None,
        float(chances[flagged].mean()) if told else None,
    )


def _highest(predicted: np.ndarray, chances: np.ndarray, precision: float) -> float:
    """The highest prediction up to which the mean chance reaches `precision`; -1 when none does. Both `[n]`, rising."""
    means = np.cumsum(chances) / np.arange(1, len(chances) + 1)
    last_of_equals = np.append(predicted[1:] > predicted[:-1], True)[: len(predicted)]
    enough = np.flatnonzero((means >= precision - 1e-12) & last_of_equals)
    return float(predicted[enough[-1]]) if enough.size else -1.0

"""Predicted IoU -> what it is worth: isotonic regression of the true IoU on it, and the reliability curve.

In: pairs of predicted and true IoU. Out: a nondecreasing map of [0, 1], kept as JSON beside the checkpoint it is of,
with the pairs, so that the probability of an IoU under any bound can be told too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from segagent.weights import checkpoint_path, shipped

FILE_NAME = "iou_calibration.json"


class Calibration:
    """A nondecreasing piecewise linear map: knots (predicted, true), both in [0, 1]; flat outside of them.

    number: which predicted number it was fitted on (`PredictedIou.named`), None where it is another reward's. pairs:
    `[n, 2]`, predicted and true IoU of the masks that it was fitted on, None where they were not kept.
    """

    def __init__(
        self,
        predicted: Sequence[float],
        true: Sequence[float],
        *,
        number: str | None = None,
        pairs: Sequence[Sequence[float]] | None = None,
    ) -> None:
        self.predicted, self.true, self.number = np.asarray(predicted, float), np.asarray(true, float), number
        self.pairs = None if pairs is None else np.asarray(pairs, float)
        if self.pairs is not None and (self.pairs.ndim != 2 or self.pairs.shape[1] != 2):
            raise ValueError("pairs are [[predicted, true], ...]")
        sound = self.predicted.ndim == 1 and self.predicted.shape == self.true.shape and self.predicted.size > 0
        if not sound or (np.diff(self.predicted) <= 0).any() or (np.diff(self.true) < 0).any():
            raise ValueError("a calibration needs as many predicted as true IoUs, rising predicted, never falling true")
        if min(self.predicted[0], self.true[0]) < 0 or max(self.predicted[-1], self.true[-1]) > 1:
            raise ValueError("a calibration's IoUs are in [0, 1], not in percent")

    @classmethod
    def fit(cls, predicted: Sequence[float], true: Sequence[float], number: str | None = None) -> Self:
        """Isotonic least squares by pooling adjacent violators (Barlow et al., 1972). Raises `ValueError` without data.

        A pool becomes one knot at its mean prediction, so that between two pools the map rises evenly.
        """
        x, y = np.asarray(predicted, float), np.asarray(true, float)
        if not x.size or x.shape != y.shape:
            raise ValueError(f"{x.size} predicted and {y.size} true IoUs: give at least one, and as many of each")
        # Equal predictions are one point, else the map would depend on their order.
        at, place, count = np.unique(x, return_inverse=True, return_counts=True)
        pools: list[list[float]] = []  # sum of x, sum of y, count
        for point in zip((at * count).tolist(), np.bincount(place, y).tolist(), count.tolist(), strict=True):
            pools.append(list(point))
            while len(pools) > 1 and _violates(pools[-2], pools[-1]):
                last = pools.pop()
                pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
        levels = [min(max(b / n, 0.0), 1.0) for _, b, n in pools]
        return cls([a / n for a, _, n in pools], levels, number=number, pairs=np.stack([x, y], 1))

    def __call__(self, predicted: float) -> float:
        return float(np.interp(predicted, self.predicted, self.true))

    def reaching(self, bound: float) -> Calibration:
        """Calibrated IoU -> probability that the true one is at least `bound`, isotonic too.

        Raises `ValueError` where the pairs were not kept.
        """
        if self.pairs is None:
            raise ValueError(
                "the calibration holds no pairs of predicted and true IoU (it is of an earlier version); fit it anew: "
                "evaltools/filtering.py calibration_out=..."
            )
        calibrated = np.interp(self.pairs[:, 0], self.predicted, self.true)
        return Calibration.fit(calibrated, (self.pairs[:, 1] >= bound).astype(float))

    def save(self, path: str | Path) -> None:
        """A whole file, or the old one stays."""
        knots = {"number": self.number, "predicted": self.predicted.tolist(), "true": self.true.tolist()}
        if self.pairs is not None:
            knots["pairs"] = self.pairs.round(4).tolist()
        partial = Path(path).with_name(Path(path).name + ".partial")
        partial.write_text(json.dumps(knots, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path, name: str = FILE_NAME) -> Self:
        """From a file, or from the one of this name in a folder (of a checkpoint that ships its name will do).

        Raises `ValueError` when it is none of ours.
        """
        path = checkpoint_path(path) if str(path) in shipped() else Path(path)
        path = path / name if path.is_dir() else path
        try:
            knots = json.loads(path.read_text(encoding="utf-8"))
            return cls(knots["predicted"], knots["true"], number=knots.get("number"), pairs=knots.get("pairs"))
        except OSError:
            raise ValueError(
                f"{path}: no such calibration; evaltools/filtering.py calibration_out=... makes one"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a calibration ({error})") from None


def _violates(before: list[float], after: list[float]) -> bool:
    """Whether the level falls, or both stand at what rounding cannot tell apart."""
    falls = before[1] / before[2] > after[1] / after[2]
    return falls or after[0] / after[2] - before[0] / before[2] <= 1e-12


def reliability(predicted: np.ndarray, true: np.ndarray, bins: int = 10) -> dict[str, list]:
    """Mean true IoU of masks by predicted IoU, in `bins` equal bins of [0, 1]; both `[n]`.

    Lists of length `bins`: `reliability_n`, `reliability_predicted`, `reliability_true` (means, None in an empty bin).
    """
    place = np.minimum((predicted * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, values, bins) for values in (predicted, true)]
    means = [[float(s / n) if n else None for s, n in zip(row, count, strict=True)] for row in sums]
    names = ("reliability_n", "reliability_predicted", "reliability_true")
    return dict(zip(names, (count.tolist(), *means), strict=True))

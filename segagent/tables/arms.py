"""Predictions files -> arms (one mask per sample) -> values with 95% intervals, and paired differences of two arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from pathlib import Path

import numpy as np

from segagent.data.predictions import read_predictions
from segagent.metrics import Scores, score, statistics
from segagent.metrics.paired import Pairs, compare
from segagent.metrics.protocols import choose, choose_within


@dataclass(frozen=True, eq=False)
class Arm:
    """keys: of the samples, each its own. terms: what every mean is made of (`statistics.sums`), `[n, 6]`. image: name
    of each sample's image, `[n]`.
    """

    keys: list[str]
    terms: np.ndarray
    image: np.ndarray

    @classmethod
    def joined(cls, arms: Sequence[Arm]) -> Arm:
        """The same samples several times, with other seeds: keys become `seed number:key`, images stay."""
        keys = [f"{number}:{key}" for number, arm in enumerate(arms) for key in arm.keys]
        return cls(keys, np.concatenate([arm.terms for arm in arms]), np.concatenate([arm.image for arm in arms]))

    @property
    def ciou(self) -> float:
        return float(statistics.means(self.terms.sum(0))[0])


class Run:
    """A predictions file of ours: the pixel counts of every mask in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _read(self) -> tuple[Scores, list[str], np.ndarray]:
        keys: list[str] = []
        images: list[str] = []

        def noted() -> object:
            for record in read_predictions(self.path):
                keys.append(str(record["sample_id"]))
                images.append(str(record["img_path"]))
                yield record

        scores = score(noted(), bootstrap=0, where=str(self.path))
        return scores, keys, np.array(images)

    @property
    def scores(self) -> Scores:
        return self._read[0]

    def arm(self, protocol: str) -> Arm:
        return self._of(choose(self.scores.counted.table, protocol))

    def best_within(self, step: int) -> Arm:
        """The mask with the highest predicted IoU of the start and the first `step` actions."""
        return self._of(choose_within(self.scores.counted.table, step))

    def _of(self, chosen: np.ndarray) -> Arm:
        scores, keys, images = self._read
        table = scores.counted.table
        place = table.starts + chosen
        return Arm(keys, statistics.sums(table.intersection[place], table.union[place], table.target), images)


@dataclass(frozen=True)
class Interval:
    """A value and its 95% interval; NaN where there is nothing to tell it from."""

    value: float
    low: float
    high: float

    @property
    def untold(self) -> bool:
        """Whether there is no interval: the samples are of a single picture."""
        return isnan(self.low) or isnan(self.high)

    def percent(self, signed: bool = False) -> str:
        form = "+.2f" if signed else ".2f"
        if self.untold:
            return f"{100 * self.value:{form}} [\N{EN DASH}]"
        return f"{100 * self.value:{form}} [{100 * self.low:{form}}, {100 * self.high:{form}}]"


def ciou(arm: Arm, resamples: int, seed: int) -> Interval:
    """Cumulative IoU; percentile bootstrap over images, as `gain` none of a single one."""
    names, image = np.unique(arm.image, return_inverse=True)
    if len(names) < 2:
        return Interval(arm.ciou, float("nan"), float("nan"))
    low, high = statistics.bootstrap(arm.terms, image, resamples, seed)[:, 0]
    return Interval(arm.ciou, float(low), float(high))


def gain(base: Arm, arm: Arm, resamples: int, seed: int) -> Interval:
    """cIoU of `arm` less that of `base`, both on the same drawn images (`metrics.paired`).

    Raises `ValueError` when they are not of the same samples: a cell was then made of other data.
    """
    place = {key: number for number, key in enumerate(arm.keys)}
    if set(base.keys) != place.keys():
        raise ValueError(
            f"two runs to compare have other samples: {len(base.keys)} and {len(place)}, "
            f"{len(set(base.keys) & place.keys())} in both; were samples skipped? (on_error)"
        )
    second = np.array([place[key] for key in base.keys])
    terms = np.stack([base.terms, arm.terms[second]], 1)
    _, image = np.unique(base.image, return_inverse=True)
    pairs = Pairs(np.arange(len(second)), second, terms[:, :, 2], terms, image)
    found = compare(pairs, margin=0.01, resamples=resamples, seed=seed)
    bounds = [float("nan") if found[f"ciou_{end}"] is None else found[f"ciou_{end}"] for end in ("low", "high")]
    return Interval(found["ciou_diff"], *bounds)


def verdict(difference: Interval) -> str:
    """What a difference that should be above zero says."""
    if difference.untold:
        return "not shown: too few pictures for an interval"
    if difference.low > 0:
        return "appears"
    return "the opposite appears" if difference.high < 0 else "not shown: the interval holds 0"

"""Prediction records -> metrics. One pass counts the pixels of every mask; every protocol is read from those counts.

Everything is RLE arithmetic: no mask is decoded unless boundaries are asked for, no torch. Definitions, drop rules and
keys: docs/scoring.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from segagent.metrics import statistics
from segagent.metrics.collect import Collected, collect
from segagent.metrics.official import MissingKeyError, OfficialScore, score_official
from segagent.metrics.protocols import PROTOCOLS, choose, ratio, step_of

__all__ = ["PROTOCOLS", "MissingKeyError", "OfficialScore", "Scores", "score"]


@dataclass(frozen=True, eq=False)
class Scores:
    """Pixel counts of all masks of n samples, and what every protocol makes of them. Built by `score`."""

    counted: Collected
    protocol: str
    click_limit: int | None
    resamples: int
    seed: int

    def __len__(self) -> int:
        return self.counted.table.counts.size

    @cached_property
    def limit(self) -> int:
        """Click limit of the run: the given one, or the largest number of actions in the file."""
        return int(self.counted.table.counts.max()) - 1 if self.click_limit is None else self.click_limit

    def chosen(self, protocol: str | None = None) -> np.ndarray:
        """Number of the mask scored in each sample, `[n]`: 0 the initial one, N the one after action N.

        Under `official` -1 for a dropped sample."""
        protocol = protocol or self.protocol
        if protocol == "official":
            chosen = self.official().chosen
            return np.where(chosen < 0, -1, chosen + 1)
        return choose(self.counted.table, protocol)

    def ious(self, protocol: str | None = None) -> np.ndarray:
        """IoU of the mask scored in each sample, `[n]`, in `[0, 1]`, without void pixels; NaN for a dropped sample."""
        table, chosen = self.counted.table, self.chosen(protocol)
        return np.where(chosen < 0, np.nan, table.iou[table.starts + np.maximum(chosen, 0)])

    def official(self, click_id: int | None = None) -> OfficialScore:
        """The released scorer's result (exceptions: `score_official`)."""
        return score_official(self.counted.facts, self.counted.table, click_id)

    def metrics(self, protocol: str | None = None) -> dict[str, Any]:
        """Flat keys of metrics.json, plain JSON; shares and IoUs in `[0, 1]`, None where there is nothing to average.

        Under `official` only its own two numbers (as `ciou`, `giou`) and counts.
        """
        protocol = protocol or self.protocol
        if protocol == "official":
            return self.official_metrics(self.official())
        if not len(self):
            raise ValueError("no record to score: the list of predictions is empty")
        values = {"protocol": protocol} | self._means(protocol) | self._counts()
        values |= dict(zip(("noc80", "noc85", "noc90"), self._clicks_needed, strict=True))
        values["click_limit"] = self.limit
        values |= self._first_clicks(protocol) | self._curves | statistics.reward_model_quality(self.counted.table)
        if self.counted.boundary.size and protocol == self.protocol:
            values["boundary_iou"] = float(self.counted.boundary.mean())
        return _plain(values)

    @cached_property
    def _clicks_needed(self) -> list[float]:
        return statistics.clicks_needed(self.counted.table, statistics.NOC_LEVELS, self.limit)

    @cached_property
    def _curves(self) -> dict[str, list[float]]:
        ciou, miou = statistics.by_step(self.counted.table, self.limit)
        curves = {"ciou_by_step": ciou, "miou_by_step": miou}
        if np.isfinite(self.counted.table.announced).any():
            ciou, miou = statistics.by_step(self.counted.table, self.limit, best=True)
            curves |= {"best_ciou_by_step": ciou, "best_miou_by_step": miou}
        return curves

    def _means(self, protocol: str) -> dict[str, float]:
        table = self.counted.table
        place = table.starts + choose(table, protocol)
        intersection, union = table.intersection[place], table.union[place]
        terms = statistics.sums(intersection, union, table.target)
        values = dict(zip(("ciou", "giou", "miou"), statistics.means(terms.sum(0)).tolist(), strict=True))
        if self.resamples:
            bounds = statistics.bootstrap(terms, self.counted.image, self.resamples, self.seed)
            for name, (low, high) in zip(("ciou", "giou", "miou"), bounds.T.tolist(), strict=True):
                values |= {f"{name}_low": low, f"{name}_high": high}
        iou = ratio(intersection, union)
        for level in statistics.PRECISION_LEVELS:
            values[f"p{round(100 * level)}"] = float((iou > level).mean())
        return values

    def _first_clicks(self, protocol: str) -> dict[str, float]:
        """Share of right first clicks, and where each kind led to: mean IoU of the scored masks after it."""
        first, ious = self.counted.first_click, self.ious(protocol)
        led = {"giou_first_right": ious[first == 1], "giou_first_wrong": ious[first == 0]}
        means = {"first_click": first[np.isfinite(first)]} | led
        return {name: float(of.mean()) if of.size else math.nan for name, of in means.items()}

    def _counts(self) -> dict[str, int]:
        return {
            "n": len(self),
            "n_unparsable": int(self.counted.unparsable.sum()),
            "n_empty_target": int((self.counted.table.target == 0).sum()),
            "n_null_target": int(self.counted.null_target.sum()),
        }

    def official_metrics(self, result: OfficialScore, click_id: int | None = None) -> dict[str, Any]:
        """The released scorer's two numbers, and counts. result: `official(click_id)`."""
        dropped = int((result.chosen < 0).sum())
        return {
            "protocol": "official",
            "click_id": click_id,
            "ciou": result.class_iou,
            "giou": result.global_iou,
            "n": len(self) - dropped,
            "n_dropped": dropped,
            "n_unparsable": int(self.counted.unparsable.sum()),
        }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """NaN, which JSON does not have, becomes None; in lists too."""
    return {
        key: [_finite(item) for item in value] if isinstance(value, list) else _finite(value)
        for key, value in values.items()
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def score(
    records: Iterable[dict],
    protocol: str = "final",
    *,
    click_limit: int | None = None,
    boundary: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
    where: str = "predictions",
) -> Scores:
    """Counts the pixels of every mask of `records` (data.predictions: `read_predictions`, `prediction_record`).

    protocol: the default of `Scores.metrics`, and the one whose masks `boundary` decodes (slow). click_limit: actions
    that the run allowed, for NoC and the curves; default the most in the file. bootstrap: resamples, 0 for no
    intervals. where: the file's name in messages. Raises `ValueError` for an unknown protocol and for a broken mask,
    `KeyError` for a missing key, naming file, record and key.
    """
    step_of(protocol)
    if boundary and protocol == "official":
        raise ValueError("the official protocol has no boundary IoU: ask for it with another protocol")
    if bootstrap < 0:
        raise ValueError(f"bootstrap {bootstrap}: give the number of resamples, 0 for no intervals")
    if click_limit is not None and click_limit < 0:
        raise ValueError(f"click_limit {click_limit} is negative; give the number of actions that the run allowed")
    counted = collect(records, where, protocol if boundary else None)
    return Scores(counted, protocol, click_limit, bootstrap, seed)

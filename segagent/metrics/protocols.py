"""Which mask of each sample is scored: the honest protocols, as array arithmetic over all samples at once.

Masks of a sample are numbered by the actions before them: 0 is the initial mask, N the mask after action N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

PROTOCOLS = ("final", "best_predicted", "oracle", "official", "step:N")


@dataclass(frozen=True, eq=False)
class Table:
    """Pixel counts of every mask of n samples, masks of all samples in one row of length m = sum(counts).

    counts: masks per sample, the initial one included, `[n]`. intersection, area: `[m]` int64 without void pixels;
    raw_intersection, raw_area: with them. announced: predicted IoU in `[0, 1]`, NaN where none, `[m]`.
    target, raw_target: area of the target without and with void pixels, `[n]` int64.
    """

    counts: np.ndarray
    intersection: np.ndarray
    area: np.ndarray
    raw_intersection: np.ndarray
    raw_area: np.ndarray
    announced: np.ndarray
    target: np.ndarray
    raw_target: np.ndarray

    @classmethod
    def join(cls, parts: Sequence[Table]) -> Table:
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @property
    def starts(self) -> np.ndarray:
        """Place of each sample's initial mask, `[n]`."""
        return np.cumsum(self.counts) - self.counts

    @property
    def owner(self) -> np.ndarray:
        """Sample of each mask, `[m]`."""
        return np.repeat(np.arange(self.counts.size), self.counts)

    @property
    def union(self) -> np.ndarray:
        return self.area + self.target[self.owner] - self.intersection

    @property
    def iou(self) -> np.ndarray:
        """`[m]` float64; an empty mask of an empty target is right: 1."""
        return ratio(self.intersection, self.union)


def ratio(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    """I / U, and 1 where there is nothing to find and nothing found."""
    return np.where(union > 0, intersection / np.maximum(union, 1), 1.0)


def own_protocol(first: dict | None) -> str:
    """What a run is scored by when nobody says: by what a search returned, told by its first record; else `final`."""
    extras = None if first is None else first.get("extras")
    return "best_predicted" if isinstance(extras, dict) and "returned" in extras else "final"


def step_of(protocol: str) -> int | None:
    """N of `step:N`, None for another protocol. Raises `ValueError` for a name that is none."""
    if protocol in ("final", "best_predicted", "oracle", "official"):
        return None
    name, _, number = protocol.partition(":")
    if name == "step" and number.isascii() and number.isdigit():
        return int(number)
    raise ValueError(f"protocol {protocol!r} is none; choose {', '.join(PROTOCOLS)} (N = 0, 1, 2, ...)")


def choose(table: Table, protocol: str) -> np.ndarray:
    """Number of the mask scored in each sample, `[n]`, for an honest protocol.

    `final`: the last. `step:N`: mask N, or the last if there are fewer. `oracle`: the highest true IoU.
    `best_predicted`: the highest announced IoU; a mask without an announcement wins only if none has one, and then it
    is the last. Ties: the later mask.
    """
    step = step_of(protocol)
    if protocol == "official":
        raise ValueError("the official protocol has its own arithmetic: metrics.official.score_official")
    if protocol == "final":
        return table.counts - 1
    if step is not None:
        return np.minimum(step, table.counts - 1)
    value = table.iou if protocol == "oracle" else np.nan_to_num(table.announced, nan=-np.inf, neginf=-np.inf)
    return _last_highest(table, value)


def choose_within(table: Table, step: int) -> np.ndarray:
    """`best_predicted` among the masks 0 to `step` of each sample, `[n]`: what a run of so many actions returns."""
    number = np.arange(table.iou.size) - table.starts[table.owner]
    value = np.nan_to_num(table.announced, nan=-1.0, neginf=-1.0)
    return _last_highest(table, np.where(number <= step, value, -2.0))


def _last_highest(table: Table, value: np.ndarray) -> np.ndarray:
    # Sorted by sample, then value, then place: the last of each sample is the winner, and the later of equals.
    order = np.lexsort((value, table.owner))
    return order[np.cumsum(table.counts) - 1] - table.starts

"""One predictions file under the conventions of the field, side by side, and in subgroups (docs/scoring.md).

All rows but `official` score the same mask of each sample (that of the protocol asked for); they differ in what is
averaged. Plain numbers; IoUs and shares in `[0, 1]`, None where there is nothing to average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from segagent.metrics import statistics
from segagent.metrics.protocols import choose, ratio
from segagent.metrics.table import percent

if TYPE_CHECKING:
    from segagent.metrics import Scores

# COCO's bounds of small and medium objects, in pixels of the target.
SMALL, MEDIUM = 32**2, 96**2
WORDS = ((0, 0), (1, 2), (3, 4), (5, 8), (9, None))
ACTIONS = ((0, 0), (1, 1), (2, 2), (3, 4), (5, 7), (8, None))
MOST_CATEGORIES = 12


class Counted:
    """Pixel counts of the scored masks. intersection, union, target, area: `[n]` int64; void pixels never count."""

    def __init__(self, scores: Scores, protocol: str) -> None:
        table = scores.counted.table
        place = table.starts + choose(table, protocol)
        self.intersection, self.union = table.intersection[place], table.union[place]
        self.target, self.area = table.target, table.area[place]
        self.iou = ratio(self.intersection, self.union)
        self.actions = table.counts - 1
        self.image, self.object = scores.counted.image, scores.counted.object
        self.words, self.category = scores.counted.words, np.array(scores.counted.category, object)
        self.boundary = scores.counted.boundary if protocol == scores.protocol else np.zeros(0)
        self.resamples, self.seed = scores.resamples, scores.seed


def _averages(counted: Counted, members: np.ndarray) -> dict[str, Any]:
    """cIoU, gIoU with intervals, P@X and Boundary IoU of the samples in `members`, `[m]` indices."""
    intersection, union, iou = counted.intersection[members], counted.union[members], counted.iou[members]
    terms = statistics.sums(intersection, union, counted.target[members])
    ciou, giou, _ = statistics.means(terms.sum(0)).tolist()
    row: dict[str, Any] = {"n": len(members), "ciou": ciou, "giou": giou}
    if counted.resamples and len(members):
        # Numbered anew, so that images without a member are not drawn.
        images = np.unique(counted.image[members], return_inverse=True)[1]
        bounds = statistics.bootstrap(terms, images, counted.resamples, counted.seed)
        for name, (low, high) in zip(("ciou", "giou"), bounds.T[:2].tolist(), strict=True):
            bounds_told = (None, None) if np.isnan(low) else (low, high)
            row |= dict(zip((f"{name}_low", f"{name}_high"), bounds_told, strict=True))
    for level in statistics.PRECISION_LEVELS:
        row[f"p{round(100 * level)}"] = float((iou > level).mean())
    if counted.boundary.size:
        row["boundary_iou"] = float(counted.boundary[members].mean())
    return row


def first_of_each(groups: np.ndarray) -> np.ndarray:
    """Index of the first sample of each group, in order, `[m]`."""
    return np.sort(np.unique(groups, return_index=True)[1])


def _by_image(counted: Counted) -> dict[str, Any]:
    """Every image counts once: the mean of its samples' IoU, then the mean over images."""
    count = np.bincount(counted.image)
    means = np.bincount(counted.image, counted.iou) / count
    return {"n": len(count), "giou": float(means.mean())}


def _lisa(counted: Counted) -> dict[str, Any]:
    """LISA's sums: I / (U + 1e-5), and 1 is added where U = 0; cIoU = sum I / (sum U + 1e-10)."""
    iou = counted.intersection / (counted.union + 1e-5) + (counted.union == 0)
    ciou = counted.intersection.sum() / (counted.union.sum() + 1e-10)
    return {"n": len(iou), "ciou": float(ciou), "giou": float(iou.mean())}


def _gres(counted: Counted) -> dict[str, Any]:
    """gRefCOCO's sums: an empty mask is the answer "no target"; P@X over samples with a target, with >=.

    n_acc: share of samples without target that get an empty mask. t_acc: of those with one that get some pixel.
    """
    present = counted.target > 0
    row: dict[str, Any] = {"n": len(present), "giou": float(counted.iou.mean())}
    total = int(counted.union.sum())
    row["ciou"] = float(counted.intersection.sum() / total) if total else None
    if present.any():
        row |= {f"p{level}": float((counted.iou[present] >= level / 100).mean()) for level in (70, 80, 90)}
    row["n_acc"] = float((counted.area[~present] == 0).mean()) if (~present).any() else None
    row["t_acc"] = float((counted.area[present] > 0).mean()) if present.any() else None
    return row


def side_by_side(scores: Scores, protocol: str | None = None) -> dict[str, dict[str, Any]]:
    """Convention -> its numbers: expression, instance, image, lisa, gres, official (None where it cannot score)."""
    if not len(scores):
        raise ValueError("no record to score: the list of predictions is empty")
    counted = Counted(scores, protocol or scores.protocol)
    rows = {
        "expression": _averages(counted, np.arange(len(scores))),
        "instance": _averages(counted, first_of_each(counted.object)),
        "image": _by_image(counted),
        "lisa": _lisa(counted),
        "gres": _gres(counted),
    }
    try:
        result = scores.official()
    except (KeyError, IndexError, TypeError, ValueError):
        return rows
    rows["official"] = {
        "n": int((result.chosen >= 0).sum()),
        "ciou": float(result.class_iou),
        "giou": float(result.global_iou),
    }
    return rows


def _span(low: int, high: int | None) -> str:
    return f"{low}" if low == high else f"{low}+" if high is None else f"{low}-{high}"


def _ranges(values: np.ndarray, spans: Sequence[tuple[int, int | None]]) -> dict[str, np.ndarray]:
    return {
        _span(low, high): np.flatnonzero((values >= low) & (values <= (np.inf if high is None else high)))
        for low, high in spans
    }


def _sizes(area: np.ndarray) -> dict[str, np.ndarray]:
    bounds = {"none": (0, 0), "small": (1, SMALL - 1), "medium": (SMALL, MEDIUM - 1), "large": (MEDIUM, np.inf)}
    return {name: np.flatnonzero((area >= low) & (area <= high)) for name, (low, high) in bounds.items()}


def _categories(category: np.ndarray) -> dict[str, np.ndarray]:
    """The most frequent ones, and the others together; none where the file names no category."""
    names, counts = np.unique(category[category != ""], return_counts=True)
    shown = names[np.argsort(-counts, kind="stable")][:MOST_CATEGORIES]
    groups = {str(name): np.flatnonzero(category == name) for name in shown}
    rest = np.flatnonzero(~np.isin(category, [*shown, ""]))
    return groups | ({"(others)": rest} if rest.size else {})


def subgroups(scores: Scores, protocol: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """Kind of group (size, category, words, actions) -> group -> cIoU, gIoU, P@50 and n; groups without member left
    out."""
    counted = Counted(scores, protocol or scores.protocol)
    counted.resamples = 0
    kinds = {
        "size": _sizes(counted.target),
        "category": _categories(counted.category),
        "words": _ranges(counted.words, WORDS),
        "actions": _ranges(counted.actions, ACTIONS),
    }
    return {
        kind: {
            name: {key: row[key] for key in ("n", "ciou", "giou", "p50")}
            for name, members in groups.items()
            if members.size
            for row in [_averages(counted, members)]
        }
        for kind, groups in kinds.items()
    }


def format_side_by_side(rows: dict[str, dict[str, Any]]) -> str:
    """Lines for a terminal, in percent."""
    keys = ("ciou", "giou", "p50", "p60", "p70", "p80", "p90", "boundary_iou", "n_acc", "t_acc")
    heads = ("cIoU", "gIoU", "P@50", "P@60", "P@70", "P@80", "P@90", "bIoU", "N-acc", "T-acc")
    lines = [f"{'convention':<12}{'n':>7} " + "".join(f"{head:>8}" for head in heads)]
    for name, row in rows.items():
        cells = "".join(f"{percent(row.get(key)):>8}" for key in keys)
        lines.append(f"{name:<12}{row['n']:>7} {cells}".rstrip())
    return "\n".join(lines)


def format_subgroups(groups: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Lines for a terminal, in percent."""
    lines = [f"{'group':<26}{'n':>7}{'cIoU':>9}{'gIoU':>9}{'P@50':>9}"]
    for kind, members in groups.items():
        for name, row in members.items():
            cells = "".join(f"{percent(row[key]):>9}" for key in ("ciou", "giou", "p50"))
            lines.append(f"{kind + ' ' + name:<26.26}{row['n']:>7}{cells}")
    return "\n".join(lines)

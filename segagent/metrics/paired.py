"""Two runs over the same samples: differences with intervals, wins and losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from segagent.metrics import Scores, statistics


@dataclass(frozen=True, eq=False)
class Pairs:
    """Samples that both runs have. first, second: their indices in either run, `[m]`; iou: IoU of both, `[m, 2]`;
    terms: what every mean is made of (`statistics.sums`), `[m, 2, 6]`; image: number of each sample's image, `[m]`.
    """

    first: np.ndarray
    second: np.ndarray
    iou: np.ndarray
    terms: np.ndarray
    image: np.ndarray


def _terms(scores: Scores) -> np.ndarray:
    table = scores.counted.table
    place = table.starts + scores.chosen()
    return statistics.sums(table.intersection[place], table.union[place], table.target)


def pair(runs: tuple[Scores, Scores], keys: tuple[list[str], list[str]]) -> Pairs:
    """Joins two runs by the keys of their samples (unique within a run), in the order of the first; each is scored by
    its own protocol.

    Raises `ValueError` for a key that is there twice, when no sample is in both, and when one has another target.
    """
    places = []
    for name, own in zip("ab", keys, strict=True):
        places.append({key: index for index, key in enumerate(own)})
        if len(places[-1]) != len(own):
            twice = next(key for key in own if own.count(key) > 1)
            raise ValueError(f"{name}: sample {twice!r} is there twice; samples must be told apart")
    common = [key for key in keys[0] if key in places[1]]
    if not common:
        raise ValueError(f"no sample is in both files; a begins with {keys[0][:1]}, b with {keys[1][:1]}")
    first, second = (np.array([place[key] for key in common]) for place in places)
    targets = runs[0].counted.table.target[first], runs[1].counted.table.target[second]
    if (targets[0] != targets[1]).any():
        other = common[int(np.flatnonzero(targets[0] != targets[1])[0])]
        raise ValueError(f"sample {other!r}: the files have targets of different areas: not the same data")
    sizes = [np.array(run.counted.facts.size)[index] for run, index in zip(runs, (first, second), strict=True)]
    if (sizes[0] != sizes[1]).any():
        other = common[int(np.flatnonzero((sizes[0] != sizes[1]).any(1))[0])]
        raise ValueError(f"sample {other!r}: the files have pictures of different sizes: not the same data")
    terms = np.stack([_terms(run)[index] for run, index in zip(runs, (first, second), strict=True)], 1)
    images = np.unique(runs[0].counted.image[first], return_inverse=True)[1]
    return Pairs(first, second, terms[:, :, 2], terms, images)


def compare(pairs: Pairs, *, margin: float, resamples: int, seed: int) -> dict[str, Any]:
    """Flat keys: `ciou_a`, `ciou_b`, `ciou_diff` (b - a) with `_low`, `_high` and `_p`, the same for giou and miou;
    `wins` (b better by more than `margin`), `losses`, `ties`, `sign_p`.

    Intervals: percentile bootstrap of the difference, both runs on the same drawn images; None for a single image,
    which says nothing of others. `_p`: twice the smaller share of resamples on either side of zero, at most 1; one is
    added to both counts, since none of n resamples is no proof of 0 (Davison & Hinkley, 1997, 4.2). `sign_p`: two-sided
    sign test of wins against losses.
    """
    values = statistics.means(pairs.terms.sum(0))
    drawn = differences(pairs, resamples, seed)
    result: dict[str, Any] = {"n": len(pairs.image), "n_images": int(pairs.image.max()) + 1}
    for column, name in enumerate(("ciou", "giou", "miou")):
        a, b = (float(value) for value in values[:, column])
        result |= {f"{name}_a": a, f"{name}_b": b, f"{name}_diff": b - a}
        if resamples:
            sample = drawn[np.isfinite(drawn[:, column]) & (result["n_images"] > 1), column]
            low, high = np.percentile(sample, [2.5, 97.5]) if sample.size else (np.nan, np.nan)
            rarer = min((sample <= 0).sum(), (sample >= 0).sum())
            share = (1 + rarer) / (1 + sample.size) if sample.size else np.nan
            chance = np.minimum(1, 2 * share)  # NaN stays NaN
            result |= {f"{name}_low": float(low), f"{name}_high": float(high), f"{name}_p": float(chance)}
    change = pairs.iou[:, 1] - pairs.iou[:, 0]
    wins, losses = int((change > margin).sum()), int((change < -margin).sum())
    result |= {"wins": wins, "losses": losses, "ties": len(change) - wins - losses}
    result["sign_p"] = sign_test(wins, losses)
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in result.items()
    }


def differences(pairs: Pairs, resamples: int, seed: int) -> np.ndarray:
    """b - a of (cIoU, gIoU, mIoU) on `resamples` draws of images with replacement, `[resamples, 3]`."""
    images = int(pairs.image.max()) + 1
    grouped = np.zeros((images, 2, 6))
    np.add.at(grouped, pairs.image, pairs.terms)
    random, found = np.random.default_rng(seed), []
    block = max(1, min(256, 1_000_000 // images))  # bounds memory: one count per image and resample of the block
    for begin in range(0, resamples, block):
        rows = min(block, resamples - begin)
        times = random.multinomial(images, np.full(images, 1 / images), size=rows)
        sums = (times.astype(float) @ grouped.reshape(images, 12)).reshape(rows, 2, 6)
        values = statistics.means(sums)
        # Sums of equal runs may differ in their last bits, which is no difference.
        found.append(np.round(values[:, 1] - values[:, 0], 12))
    return np.concatenate(found) if found else np.zeros((0, 3))


def sign_test(wins: int, losses: int) -> float:
    """Probability of a split at least as uneven when either side is equally likely (two-sided, exact)."""
    total, term, tail = wins + losses, 1, 0
    for k in range(min(wins, losses) + 1):  # whole numbers: exact for any number of samples
        tail += term
        term = term * (total - k) // (k + 1)
    return min(1.0, 2 * tail / 2**total)


def biggest_changes(pairs: Pairs, count: int) -> np.ndarray:
    """Pairs with the biggest change, up to half of `count` gains first, then as many losses, `[k]` indices."""
    change = pairs.iou[:, 1] - pairs.iou[:, 0]
    order = np.argsort(change, kind="stable")
    gains = [index for index in order[::-1][: (count + 1) // 2] if change[index] > 0]
    losses = [index for index in order[: count // 2] if change[index] < 0]
    return np.array(gains + losses, int)

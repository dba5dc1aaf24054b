"""Simulated clicks for training: target and mask -> random clicks, spread wider than the annotator's deepest point.

A network that only ever saw clicks at deepest points would be lost with a human's. Pure functions of arrays and a
random generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from segagent.masks import error_regions
from segagent.types import Click


def depths(region: np.ndarray) -> np.ndarray:
    """Distance of each pixel of a `[H, W]` bool region to the nearest pixel outside it or the picture, float32."""
    padded = cv2.copyMakeBorder(region.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]


def _inside(depth: np.ndarray, share: float, random: np.random.Generator) -> tuple[int, int] | None:
    """A random (x, y) at least `share` times as deep as the deepest pixel; None where no pixel has any depth."""
    deepest = float(depth.max())
    if deepest <= 0:
        return None
    place = int(random.choice(np.flatnonzero(depth >= share * deepest)))
    return place % depth.shape[1], place // depth.shape[1]


class ClickSampler:
    """Which clicks a training sample gets.

    max_positive, max_negative: first clicks of each sign at most; positive ones are at least 1. decay: each further
    first click is so many times as likely as the one before it. near: reach of the band around the object that half of
    the negative clicks fall in, as a share of the picture's side. least_depth, most_depth: a click may fall where the
    region is deeper than a share of its deepest point, and that share is drawn between these two.
    """

    def __init__(
        self,
        *,
        max_positive: int = 4,
        max_negative: int = 3,
        decay: float = 0.5,
        near: float = 0.15,
        least_depth: float = 0.3,
        most_depth: float = 1.0,
    ) -> None:
        if max_positive < 1 or max_negative < 0:
            raise ValueError(
                f"max_positive={max_positive}, max_negative={max_negative}: give at least 1 positive and 0 negative"
            )
        if not 0 < decay <= 1:
            raise ValueError(f"decay={decay}: a share in (0, 1]")
        if not 0 <= least_depth <= most_depth <= 1:
            raise ValueError(f"least_depth={least_depth}, most_depth={most_depth}: need 0 <= least <= most <= 1")
        self.max_positive, self.max_negative, self.decay, self.near = max_positive, max_negative, decay, near
        self.least_depth, self.most_depth = least_depth, most_depth

    def first(self, target: np.ndarray, void: np.ndarray | None, random: np.random.Generator) -> list[Click]:
        """The clicks that a sample starts with, a positive one first; none when the target has no countable pixel.

        target, void: `[H, W]` bool.
        """
        positive_depth = depths(target if void is None else target & ~void)
        count = 1 + self._count(self.max_positive - 1, random)
        places = [_inside(positive_depth, self._share(random), random) for _ in range(count)]
        clicks = [Click(*place) for place in places if place is not None]
        if not clicks:
            return []
        for _ in range(self._count(self.max_negative, random)):
            click = self._negative(target, void, random)
            clicks += [] if click is None else [click]
        return clicks

    def correction(
        self, target: np.ndarray, mask: np.ndarray, void: np.ndarray | None, random: np.random.Generator
    ) -> Click | None:
        """A click in the error region that is deeper, as the annotator chooses it; None when nothing is wrong."""
        missing, surplus = (depths(region) for region in error_regions(target, mask, void))
        is_positive = bool(missing.max() > surplus.max())
        place = _inside(missing if is_positive else surplus, self._share(random), random)
        return None if place is None else Click(*place, is_positive)

    def _share(self, random: np.random.Generator) -> float:
        return float(random.uniform(self.least_depth, self.most_depth))

    def _count(self, most: int, random: np.random.Generator) -> int:
        """0..most, each `decay` times as likely as the one before."""
        chances = self.decay ** np.arange(most + 1)
        return int(random.choice(most + 1, p=chances / chances.sum()))

    def _negative(self, target: np.ndarray, void: np.ndarray | None, random: np.random.Generator) -> Click | None:
        """Beside the object or anywhere in the background, never on the very edge: edges of targets are not exact."""
        distance = cv2.distanceTransform((~target).view(np.uint8), cv2.DIST_L2, 5)
        allowed = distance > 2
        if void is not None:
            allowed &= ~void
        band = allowed & (distance <= max(4.0, self.near * max(target.shape)))
        region = band if random.random() < 0.5 and band.any() else allowed
        places = np.flatnonzero(region)
        if not places.size:
            return None
        place = int(random.choice(places))
        return Click(place % target.shape[1], place // target.shape[1], False)


def click_points(clicks: Sequence[Sequence[Click]]) -> Tensor:
    """Clicks of a batch -> `[B, 2P, 3]` float32 (y, x, order), as `simpleclick_vit.click_maps` takes them.

    P is the most clicks of one sign; the first P rows are positive; -1 is padding.
    """
    most = max(sum(click.is_positive is sign for click in made) for made in clicks for sign in (True, False))
    points = np.full((len(clicks), 2 * most, 3), -1.0, np.float32)
    for row, made in enumerate(clicks):
        places = {True: 0, False: most}
        for order, click in enumerate(made):
            points[row, places[click.is_positive]] = click.y, click.x, order
            places[click.is_positive] += 1
    return torch.from_numpy(points)

"""A click segmenter without weights: (image, clicks, memory) -> (mask, memory), by colour, nearness and min-cut.

Each click spreads over the picture along even ground (geodesic distance). What lies near positive clicks teaches the
object's colours, what lies near negative clicks and the picture's border those of the rest; nearness itself is a prior,
the last mask another one wherever an earlier click is nearer than the newest; and a min-cut draws the outline along
edges. All this happens on a reduced grid; an edge-aware step brings the mask back to full size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np

from segagent.masks import box_to_mask
from segagent.segmenters.base import check_states
from segagent.segmenters.pixel_grid import PixelGrid, make_pixel_grid
from segagent.segmenters.upsampling import Guide, enlarge_mask, make_guide
from segagent.types import Box, Click

# Preference of a clicked pixel: more than all edges of a pixel can weigh, so that the cut cannot overrule it.
_HARD = 1e6
# Log-likelihood ratios beyond this say no more: a rare colour must not beat the clicks.
_MOST_EVIDENCE = 4.0
# Share of even mass mixed into a histogram, so that an unseen colour says nothing.
_UNSEEN = 0.02
# Lab span of the colour bins is at least this, so that the noise of an even picture is not taken for colours.
_LEAST_SPAN = 20.0
# Radius of the newest click's disc: share of its distance to the last outline, and most share of the shorter side.
_DISC_SHARE = 0.3
_DISC_LIMIT = 0.05
# Geodesic distance over which a click's say in the labels right around it falls to 1/e.
_CLICK_REACH = 0.5
# How much farther than a click an anchor counts as: a given mask is less certain than a click.
_ANCHOR_OFFSET = 3.0


@dataclass(frozen=True, eq=False)
class GraphCutEmbedding:
    """What is computed once per image. `height x width` is the reduced grid.

    guide: the image itself and what brings a mask to its size. grid: edges. color_bins: `[height * width]` int64, the
    histogram bin of each pixel. border_distance: `[height, width]` float64, geodesic distance to the picture's border.
    """

    guide: Guide
    grid: PixelGrid
    color_bins: np.ndarray
    border_distance: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the full image."""
        return self.guide.image.shape[:2]


@dataclass(frozen=True, eq=False)
class GraphCutMemory:
    """What a state remembers.

    mask: `[H, W]` bool, the mask returned. grid_mask: `[height, width]` bool, the same on the reduced grid. anchors:
    `[height, width]` int8, pixels that stand for a given mask or box as if clicked: 1 object, -1 background, 0 neither.
    """

    mask: np.ndarray
    grid_mask: np.ndarray
    anchors: np.ndarray


class GraphCut:
    """The weight-free member of `ClickSegmenter`.

    max_pixels: size of the reduced grid. color_bins: bins per Lab axis. reach: geodesic distance over which a click's
    say in the colours falls to 1/e. border_offset: how much farther than a negative click the border counts as.
    prior_weight, click_weight, memory_weight: of nearness, of the even ground right around a click, and of the last
    mask, against colour at 1. smoothness: of an edge on even ground. passes: cuts per call; from the second on the
    colours are learnt from the mask too. Raises `ValueError` for values without sense.
    """

    accepts_boxes = True
    waives_click_points = ""

    def __init__(
        self,
        *,
        max_pixels: int = 40_000,
        color_bins: int = 24,
        reach: float = 2.0,
        border_offset: float = 0.8,
        prior_weight: float = 2.0,
        click_weight: float = 6.0,
        memory_weight: float = 4.0,
        smoothness: float = 6.0,
        passes: int = 2,
    ) -> None:
        for name, value, least in (
            ("max_pixels", max_pixels, 64),
            ("color_bins", color_bins, 2),
            ("passes", passes, 1),
        ):
            if value < least:
                raise ValueError(f"{name}={value}: at least {least}")
        if reach <= 0:
            raise ValueError(f"reach={reach}: a geodesic distance above 0, e.g. 2.0")
        if min(border_offset, prior_weight, click_weight, memory_weight, smoothness) < 0:
            raise ValueError("border_offset, smoothness and the weights must not be negative; 0 switches one off")
        self.max_pixels, self.color_bins, self.reach, self.border_offset = max_pixels, color_bins, reach, border_offset
        self.prior_weight, self.click_weight, self.memory_weight = prior_weight, click_weight, memory_weight
        self.smoothness, self.passes = smoothness, passes

    @classmethod
    def from_checkpoint(cls, path: str | None = None, **options: float) -> Self:
        """As the other segmenters are made. There are no weights: raises `ValueError` when a path is given."""
        if path is not None:
            raise ValueError(f"path={path!r}: GraphCut has no weights; leave the path out and give options only")
        return cls(**options)

    # --- the contract -------------------------------------------------------------------------------------------------

    def embed(self, images: Sequence[np.ndarray]) -> list[GraphCutEmbedding]:
        """`[H, W, 3]` uint8 RGB each -> one embedding each. Raises `ValueError` on another shape or dtype."""
        return [self._embed(image) for image in images]

    def predict(
        self,
        embeddings: Sequence[GraphCutEmbedding],
        clicks: Sequence[Sequence[Click]],
        memory: Sequence[GraphCutMemory | None],
        boxes: Sequence[Box | None] | None = None,
    ) -> tuple[list[np.ndarray], list[GraphCutMemory]]:
        """See `ClickSegmenter.predict`. Outside a box is background, unless a positive click lies there."""
        boxes = [None] * len(embeddings) if boxes is None else boxes
        check_states([e.size for e in embeddings], clicks, memory, boxes, self.accepts_boxes)
        memories = [self._predict(*state) for state in zip(embeddings, clicks, memory, boxes, strict=True)]
        return [remembered.mask.copy() for remembered in memories], memories

    def remember(self, embeddings: Sequence[GraphCutEmbedding], masks: Sequence[np.ndarray]) -> list[GraphCutMemory]:
        """Memories of given `[H, W]` bool masks: their inner parts count as clicked from then on."""
        memories = []
        for embedding, mask in zip(embeddings, masks, strict=True):
            if mask.shape != embedding.size or mask.dtype != np.bool_:
                size = list(embedding.size)
                raise ValueError(f"mask is {mask.dtype} {list(mask.shape)}; its image needs bool {size}")
            reduced = _reduce_mask(mask, embedding.grid)
            anchors = _cores(reduced).astype(np.int8) - _cores(~reduced).astype(np.int8)
            memories.append(GraphCutMemory(mask.copy(), reduced, anchors))
        return memories

    # --- one image ----------------------------------------------------------------------------------------------------

    def _embed(self, image: np.ndarray) -> GraphCutEmbedding:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"image is {image.dtype} {list(image.shape)}; images are uint8 RGB [H, W, 3]")
        height, width = image.shape[:2]
        scale = min(1.0, (self.max_pixels / (height * width)) ** 0.5)
        guide = make_guide(image, max(1, round(height * scale)), max(1, round(width * scale)))
        lab = cv2.cvtColor(guide.colors, cv2.COLOR_RGB2LAB)
        grid = make_pixel_grid(cv2.GaussianBlur(lab, (0, 0), 0.8))  # the grain of a photograph is no edge
        border = np.ones((grid.height, grid.width), bool)
        border[1:-1, 1:-1] = False
        return GraphCutEmbedding(guide, grid, _bin_colors(lab, self.color_bins), grid.distances(border))

    def _predict(
        self, embedding: GraphCutEmbedding, clicks: Sequence[Click], memory: GraphCutMemory | None, box: Box | None
    ) -> GraphCutMemory:
        grid = embedding.grid
        points = _reduce_clicks(clicks, embedding)
        anchors = _first_anchors(embedding, box) if memory is None else memory.anchors
        labels = _place_clicks(points, anchors, memory)
        near_positive, near_negative = grid.distances(labels > 0), grid.distances(labels < 0)
        to_object = np.minimum(near_positive, grid.distances(anchors > 0) + _ANCHOR_OFFSET)
        to_rest = np.minimum(near_negative, grid.distances(anchors < 0) + _ANCHOR_OFFSET)
        to_rest = np.minimum(to_rest, embedding.border_distance + self.border_offset)
        preference = self.prior_weight * (to_rest - to_object) / (to_rest + to_object + 1e-3)
        preference += self.click_weight * (
            np.exp(-near_positive / _CLICK_REACH) - np.exp(-near_negative / _CLICK_REACH)
        )
        if memory is not None and points:
            preference += self.memory_weight * self._kept(grid, points, anchors) * np.where(memory.grid_mask, 1, -1)
        forced = _forced(embedding, clicks, points, box)
        weights = np.exp(-to_object / self.reach), np.exp(-to_rest / self.reach)
        mask = self._cut(embedding, preference, weights, forced)
        mask = _keep_parts(mask, (labels > 0) | (anchors > 0))
        full = enlarge_mask(mask, embedding.guide)
        for click in clicks:
            full[click.y, click.x] = click.is_positive
        return GraphCutMemory(full, mask, anchors)

    def _kept(self, grid: PixelGrid, points: dict[tuple[int, int], bool], anchors: np.ndarray) -> np.ndarray:
        """How strongly each pixel keeps its last label, `[height, width]` in [0, 1].

        0 where the newest click is the nearest of all; growing with the lead of an earlier click. So a click changes
        its own surroundings and leaves the rest alone.
        """
        newest, earlier = np.zeros(anchors.shape, bool), np.zeros(anchors.shape, bool)
        for x, y in points:
            earlier[y, x] = True
        x, y = next(reversed(points))
        newest[y, x], earlier[y, x] = True, False
        to_newest = grid.distances(newest)
        to_earlier = np.minimum(grid.distances(earlier), grid.distances(anchors != 0) + _ANCHOR_OFFSET)
        return np.clip((to_newest - to_earlier) / (to_newest + to_earlier + 1e-3), 0, 1)

    def _cut(
        self,
        embedding: GraphCutEmbedding,
        preference: np.ndarray,
        weights: tuple[np.ndarray, np.ndarray],
        forced: np.ndarray,
    ) -> np.ndarray:
        """The mask on the reduced grid. weights: each pixel's say in the colours of the object and of the rest."""
        object_weights, rest_weights = weights
        for remaining in reversed(range(self.passes)):
            color = self._color_evidence(embedding.color_bins, object_weights, rest_weights)
            mask = embedding.grid.minimum_cut(color + preference + forced, self.smoothness)
            if remaining:
                object_weights = _normalized(weights[0]) + _normalized(mask)
                rest_weights = _normalized(weights[1]) + _normalized(~mask)
        return mask

    def _color_evidence(self, bins: np.ndarray, object_weights: np.ndarray, rest_weights: np.ndarray) -> np.ndarray:
        """Log-likelihood ratio of each pixel's colour, `[height, width]`, positive where it speaks for the object."""
        likelihoods = [self._histogram(bins, weights) for weights in (object_weights, rest_weights)]
        ratio = np.log(likelihoods[0] / likelihoods[1])
        return np.clip(ratio, -_MOST_EVIDENCE, _MOST_EVIDENCE)[bins].reshape(object_weights.shape)

    def _histogram(self, bins: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Blurred, weighted, normalised histogram over the bins, `[color_bins ** 3]` float64, nowhere 0."""
        side = self.color_bins
        counts = np.bincount(bins, _normalized(weights).ravel(), side**3).astype(np.float32)
        # A blur over the first two axes with the third as channels, then one over the third.
        counts = cv2.GaussianBlur(counts.reshape(side, side, side), (0, 0), 1.0)
        counts = cv2.GaussianBlur(counts.reshape(side * side, side), (9, 1), 1.0, sigmaY=1e-6).ravel()
        return counts.astype(np.float64) + _UNSEEN / side**2


def _normalized(weights: np.ndarray) -> np.ndarray:
    """Weights that sum to 1 (or stay 0 when there are none)."""
    return weights / max(float(weights.sum()), 1e-12)


def _bin_colors(lab: np.ndarray, side: int) -> np.ndarray:
    """`[height, width, 3]` Lab -> number of each pixel's histogram bin, `[height * width]` int64, bins per picture."""
    colors = lab.reshape(-1, 3)
    low = colors.min(0)
    span = np.maximum(colors.max(0) - low, _LEAST_SPAN)
    steps = np.minimum(((colors - low) / span * side).astype(np.int64), side - 1)
    return (steps[:, 0] * side + steps[:, 1]) * side + steps[:, 2]


def _reduce_mask(mask: np.ndarray, grid: PixelGrid) -> np.ndarray:
    """`[H, W]` bool -> `[height, width]` bool by majority."""
    shares = cv2.resize(mask.astype(np.float32), (grid.width, grid.height), interpolation=cv2.INTER_AREA)
    return shares > 0.5


def _reduce_clicks(clicks: Sequence[Click], embedding: GraphCutEmbedding) -> dict[tuple[int, int], bool]:
    """Clicks on the reduced grid, `(x, y) -> is_positive`, the newest last; of two on one pixel the later one holds."""
    height, width = embedding.size
    points: dict[tuple[int, int], bool] = {}
    for click in clicks:
        place = click.x * embedding.grid.width // width, click.y * embedding.grid.height // height
        points.pop(place, None)
        points[place] = click.is_positive
    return points


def _depth(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the outside of a bool mask or of the picture, `[height, width]` float32, pixels."""
    padded = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]


def _cores(mask: np.ndarray) -> np.ndarray:
    """The inner part of each 8-connected part of a mask, bool: at least half as deep as the part's deepest pixel."""
    depth = _depth(mask)
    count, parts = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    deepest = np.zeros(count, np.float32)
    np.maximum.at(deepest, parts.ravel(), depth.ravel())
    return mask & (depth >= deepest[parts] / 2)


def _first_anchors(embedding: GraphCutEmbedding, box: Box | None) -> np.ndarray:
    """Anchors of a fresh state: none; with a box its outside, and in it the ellipse half as wide and high."""
    height, width = embedding.grid.height, embedding.grid.width
    anchors = np.zeros((height, width), np.int8)
    if box is None:
        return anchors
    inside = _reduce_mask(box_to_mask(box, *embedding.size), embedding.grid)
    anchors[~inside] = -1
    rows, columns = np.mgrid[:height, :width]
    scale_x, scale_y = width / embedding.size[1], height / embedding.size[0]
    across = (columns + 0.5 - (box.x0 + box.x1) / 2 * scale_x) / max((box.x1 - box.x0) / 4 * scale_x, 0.5)
    down = (rows + 0.5 - (box.y0 + box.y1) / 2 * scale_y) / max((box.y1 - box.y0) / 4 * scale_y, 0.5)
    anchors[across**2 + down**2 <= 1] = 1
    return anchors


def _place_clicks(
    points: dict[tuple[int, int], bool], anchors: np.ndarray, memory: GraphCutMemory | None
) -> np.ndarray:
    """Where the clicks lie, `[height, width]` int8: 1 object, -1 background, 0 neither.

    The newest click is a disc: who clicks the middle of an error means its surroundings too. Its radius is a share of
    the click's distance to the last mask's outline, and at most a share of the picture's shorter side.
    """
    labels = np.zeros_like(anchors)
    for (x, y), is_positive in points.items():
        labels[y, x] = 1 if is_positive else -1
    if points:
        (x, y), is_positive = next(reversed(points.items()))
        last = np.zeros(anchors.shape, bool) if memory is None else memory.grid_mask
        radius = min(_DISC_SHARE * _depth(last != is_positive)[y, x], _DISC_LIMIT * min(anchors.shape))
        rows, columns = np.ogrid[: anchors.shape[0], : anchors.shape[1]]
        disc = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
        labels[disc & (labels == 0)] = 1 if is_positive else -1
    return labels


def _forced(
    embedding: GraphCutEmbedding, clicks: Sequence[Click], points: dict[tuple[int, int], bool], box: Box | None
) -> np.ndarray:
    """Preference of the pixels that are not up to the cut, 0 elsewhere, `[height, width]` float64."""
    forced = np.zeros((embedding.grid.height, embedding.grid.width))
    if box is not None and all(box.x0 <= c.x < box.x1 and box.y0 <= c.y < box.y1 for c in clicks if c.is_positive):
        forced[~_reduce_mask(box_to_mask(box, *embedding.size), embedding.grid)] = -_HARD
    for (x, y), is_positive in points.items():
        forced[y, x] = _HARD if is_positive else -_HARD
    return forced


def _keep_parts(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Those 8-connected parts of a mask that hold a seed; both `[height, width]` bool."""
    count, parts = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    kept = np.zeros(count, bool)
    kept[parts[seeds & mask]] = True
    return kept[parts] & mask

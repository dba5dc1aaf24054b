"""SimpleClick as a click segmenter: zoom-in crops, flip averaging, sigmoid, previous probabilities as memory.

The released predictor's chain, with nothing hidden between calls: what it kept inside itself (the last probabilities
and the stored crop) goes out as memory and comes back in. Crops of all states are resized to one size and go through
the network in one batch. Source of every rule: tests/fixtures recorded from the released predictor, and its paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segagent.devices import autocast, torch_device
from segagent.segmenters.base import check_states
from segagent.segmenters.simpleclick_checkpoint import load_simpleclick
from segagent.segmenters.simpleclick_vit import WINDOW_PIXELS, SimpleClickNet
from segagent.types import Box, Click


@dataclass(frozen=True)
class Region:
    """A crop: first and last row and column, both inclusive."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top + 1

    @property
    def width(self) -> int:
        return self.right - self.left + 1

    def contains(self, click: Click) -> bool:
        """By the released rule, under which the last row and column are outside already."""
        return self.top <= click.y < self.bottom and self.left <= click.x < self.right


@dataclass(frozen=True, eq=False)
class SimpleClickMemory:
    """What a state remembers.

    probabilities: `[H, W]` float32, on the device. extent: first and last row, first and last column of those above the
    zoom threshold, None where none is. region: the stored crop, None at the start.
    """

    probabilities: Tensor
    extent: tuple[int, int, int, int] | None
    region: Region | None = None


def _grown_range(low: int, high: int, ratio: float, least: int, size: int) -> tuple[int, int]:
    """[low, high] grown about its centre to `ratio` times its length, at least `least`, cut to the picture."""
    length = max(ratio * (high - low + 1), least)
    centre = 0.5 * (low + high)
    # Python's round, half to even, as the released code.
    return max(0, round(centre - 0.5 * length)), min(size - 1, round(centre + 0.5 * length))


def _overlap(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Length of the intersection over the length of the hull of two inclusive ranges."""
    common = min(first[1], second[1]) - max(first[0], second[0]) + 1
    return max(0, common) / (max(first[1], second[1]) - min(first[0], second[0]) + 1)


class SimpleClick:
    """The member of `ClickSegmenter` behind the paper's main results.

    network: the ViT. target_size: (height, width) that crops are resized to, None: the network's own. threshold: of the
    mask. with_flip: average with the mirrored crop. zoom_threshold, expansion, min_crop_size: what the next crop is cut
    around (probabilities above the threshold), how much larger, how small at least. max_batch: states per network call,
    with_flip twice as many crops.
    precision, device: see `devices.autocast` and `devices.torch_device`.
    """

    accepts_boxes = False
    waives_click_points = "the network weighs clicks against the picture and may overrule one"

    def __init__(
        self,
        *,
        network: SimpleClickNet,
        target_size: tuple[int, int] | None = None,
        threshold: float = 0.49,
        with_flip: bool = True,
        zoom_threshold: float = 0.5,
        expansion: float = 1.4,
        min_crop_size: int = 200,
        max_batch: int = 32,
        precision: str = "float32",
        device: str = "auto",
    ) -> None:
        side = network.config.image_size
        self.target_size = (side, side) if target_size is None else tuple(target_size)
        if any(length % network.config.patch_size for length in self.target_size):
            raise ValueError(f"target_size={self.target_size}: multiples of the patch size {network.config.patch_size}")
        patches = [length // network.config.patch_size for length in self.target_size]
        window = WINDOW_PIXELS // network.config.patch_size
        if any(side % max(1, side // window) for side in patches):
            raise ValueError(
                f"target_size={self.target_size}: sides that split into equal windows of about {WINDOW_PIXELS} pixels, "
                "e.g. 448 or 672"
            )
        if max_batch < 1:
            raise ValueError(f"max_batch={max_batch}: at least 1")
        self.device = torch_device(device)
        autocast(self.device, precision)  # refuses what cannot be
        self.network, self.precision = network.to(self.device).eval(), precision
        self.threshold, self.with_flip, self.max_batch = threshold, with_flip, max_batch
        self.zoom_threshold, self.expansion, self.min_crop_size = zoom_threshold, expansion, min_crop_size

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> Self:
        """A released `.pth` file or a folder of ours, with the constructor's options."""
        return cls(network=load_simpleclick(path), **options)

    def embed(self, images: Sequence[np.ndarray]) -> list[Tensor]:
        """`[H, W, 3]` uint8 RGB each -> the same as `[3, H, W]` uint8 on the device; the network sees crops only."""
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"image is {image.dtype} {list(image.shape)}; images are uint8 RGB [H, W, 3]")
        return [torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(self.device) for image in images]

    def remember(self, embeddings: Sequence[Tensor], masks: Sequence[np.ndarray]) -> list[SimpleClickMemory]:
        """A given `[H, W]` bool mask stands for probabilities 0 and 1. Raises `ValueError` on another size or dtype."""
        for embedding, mask in zip(embeddings, masks, strict=True):
            if mask.shape != tuple(embedding.shape[1:]) or mask.dtype != np.bool_:
                size = list(embedding.shape[1:])
                raise ValueError(f"mask is {mask.dtype} {list(mask.shape)}; its image needs bool {size}")
        given = [torch.from_numpy(mask.astype(np.float32)).to(self.device) for mask in masks]
        return [SimpleClickMemory(*row) for row in zip(given, self._extents(given), strict=True)]

    @torch.inference_mode()
    def predict(
        self,
        embeddings: Sequence[Tensor],
        clicks: Sequence[Sequence[Click]],
        memory: Sequence[SimpleClickMemory | None],
        boxes: Sequence[Box | None] | None = None,
    ) -> tuple[list[np.ndarray], list[SimpleClickMemory]]:
        """See `ClickSegmenter.predict`."""
        boxes = [None] * len(embeddings) if boxes is None else boxes
        check_states([tuple(e.shape[1:]) for e in embeddings], clicks, memory, boxes, self.accepts_boxes)
        regions = [self._region(*state) for state in zip(embeddings, clicks, memory, strict=True)]
        memories: list[SimpleClickMemory] = []
        for start in range(0, len(embeddings), self.max_batch):
            part = slice(start, start + self.max_batch)
            memories += self._predict(embeddings[part], clicks[part], memory[part], regions[part])
        return [(remembered.probabilities > self.threshold).cpu().numpy() for remembered in memories], memories

    # --- crops ----------------------------------------------------------------------------------------------------

    def _region(self, embedding: Tensor, clicks: Sequence[Click], memory: SimpleClickMemory | None) -> Region:
        """The crop of this call: the stored one as long as it fits the current one and holds the positive clicks."""
        current = self._current_region(tuple(embedding.shape[1:]), clicks, memory)
        stored = None if memory is None else memory.region
        if stored is None or not all(stored.contains(click) for click in clicks if click.is_positive):
            return current
        rows = _overlap((current.top, current.bottom), (stored.top, stored.bottom))
        columns = _overlap((current.left, current.right), (stored.left, stored.right))
        return current if rows * columns < 0.5 else stored

    def _current_region(
        self, size: tuple[int, int], clicks: Sequence[Click], memory: SimpleClickMemory | None
    ) -> Region:
        """The last mask with the positive clicks in it, grown; the whole picture while there is no mask."""
        if memory is None or memory.extent is None:
            return Region(0, size[0] - 1, 0, size[1] - 1)
        first_row, last_row, first_column, last_column = memory.extent
        positive = [click for click in clicks if click.is_positive]
        ys, xs = [click.y for click in positive], [click.x for click in positive]
        vertical = min([first_row, *ys]), max([last_row, *ys])
        horizontal = min([first_column, *xs]), max([last_column, *xs])
        top, bottom = _grown_range(*vertical, self.expansion, self.min_crop_size, size[0])
        left, right = _grown_range(*horizontal, self.expansion, self.min_crop_size, size[1])
        return Region(top, bottom, left, right)

    def _crop(self, embedding: Tensor, memory: SimpleClickMemory | None, region: Region) -> Tensor:
        """Image and previous probabilities of a region, `[4, *target_size]` float32 in [0, 1]."""
        rows, columns = slice(region.top, region.bottom + 1), slice(region.left, region.right + 1)
        image = embedding[:, rows, columns].float() / 255
        if memory is None:
            previous = image.new_zeros((1, *image.shape[1:]))
        else:
            previous = memory.probabilities[None, rows, columns]
        both = torch.cat([image, previous])[None]
        return F.interpolate(both, size=self.target_size, mode="bilinear", align_corners=True)[0]

    def _points(self, clicks: Sequence[Sequence[Click]], regions: Sequence[Region]) -> Tensor:
        """Click coordinates in the crops, `[B, 2P, 3]` float32 (y, x, order), not rounded; -1 is padding."""
        most = max(sum(click.is_positive is sign for click in made) for made in clicks for sign in (True, False))
        points = torch.full((len(clicks), 2 * most, 3), -1.0)
        height, width = self.target_size
        for row, (made, region) in enumerate(zip(clicks, regions, strict=True)):
            places = {True: 0, False: most}
            for order, click in enumerate(made):
                y, x = (click.y - region.top) / region.height, (click.x - region.left) / region.width
                points[row, places[click.is_positive]] = torch.tensor([height * y, width * x, float(order)])
                places[click.is_positive] += 1
        return points.to(self.device)

    def _mirrored(self, points: Tensor) -> Tensor:
        mirrored = points.clone()
        used = points[..., 2] >= 0
        mirrored[..., 1] = torch.where(used, self.target_size[1] - points[..., 1] - 1, points[..., 1])
        return mirrored

    def _predict(
        self,
        embeddings: Sequence[Tensor],
        clicks: Sequence[Sequence[Click]],
        memory: Sequence[SimpleClickMemory | None],
        regions: Sequence[Region],
    ) -> list[SimpleClickMemory]:
        crops = torch.stack([self._crop(*state) for state in zip(embeddings, memory, regions, strict=True)])
        points = self._points(clicks, regions)
        if self.with_flip:
            crops, points = torch.cat([crops, crops.flip(3)]), torch.cat([points, self._mirrored(points)])
        with autocast(self.device, self.precision):
            logits = self.network(crops[:, :3], crops[:, 3:], points).float()
        if self.with_flip:
            straight, mirrored = logits.chunk(2)
            logits = (straight + mirrored.flip(3)) / 2
        whole = [
            self._paste(probabilities, region, tuple(embedding.shape[1:]))
            for probabilities, region, embedding in zip(torch.sigmoid(logits), regions, embeddings, strict=True)
        ]
        return [SimpleClickMemory(*row) for row in zip(whole, self._extents(whole), regions, strict=True)]

    def _extents(self, maps: Sequence[Tensor]) -> list[tuple[int, int, int, int] | None]:
        """See `SimpleClickMemory`; one transfer from the device for all."""
        found = []
        for probabilities in maps:
            inside = probabilities > self.zoom_threshold
            for line in (inside.any(1).byte(), inside.any(0).byte()):
                found += [line.argmax(), len(line) - 1 - line.flip(0).argmax()]
            found.append(inside.any())
        table = torch.stack(found).reshape(-1, 5).tolist() if found else []
        return [tuple(extent) if there else None for *extent, there in table]

    def _paste(self, probabilities: Tensor, region: Region, size: tuple[int, int]) -> Tensor:
        """`[1, *target_size]` probabilities of a crop -> those of the picture, 0 outside the crop."""
        inside = F.interpolate(
            probabilities[None], size=(region.height, region.width), mode="bilinear", align_corners=True
        )
        whole = inside.new_zeros(size)
        whole[region.top : region.bottom + 1, region.left : region.right + 1] = inside[0, 0]
        return whole

"""How a picture sits in a SAM network's square input: picture -> pixels; clicks, boxes, masks <-> the input's frame.

Two frames: SAM and SAM-HQ scale the longest side and pad right and below; SAM 2 and 3 stretch to the square. Equal to
the published predictors, without torchvision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

# Logit that a pixel of a given mask stands for: SAM 2 feeds masks to its own decoder in this way.
_CERTAIN = 10.0


class Frame(Protocol):
    """side: of the square input, in pixels. Sizes are (height, width) of the picture."""

    side: int

    def pixels(self, image: np.ndarray) -> Tensor:
        """`[H, W, 3]` uint8 RGB -> `[3, side, side]` float32, normalised."""

    def scale(self, size: tuple[int, int]) -> tuple[float, float]:
        """Factors that take x and y of the picture to those of the input."""

    def to_picture(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """`[h, w]` low-resolution logits -> `[H, W]`."""

    def from_picture(self, mask: np.ndarray, grid: int) -> np.ndarray:
        """`[H, W]` bool -> `[grid, grid]` float32 low-resolution logits that stand for it."""


def _normalised(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _resized(maps: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    """`[..., h, w]` -> `[..., *size]`, bilinear by pixel centres."""
    planes = maps.reshape(1, -1, *maps.shape[-2:])
    resized = F.interpolate(planes, size=size, mode="bilinear", align_corners=False, antialias=antialias)
    return resized.reshape(*maps.shape[:-2], *size)


def _soft(mask: np.ndarray) -> Tensor:
    return torch.from_numpy(mask.astype(np.float32))


@dataclass(frozen=True)
class LongestSide:
    """SAM's frame: the longest side becomes `side`, the rest of the square is zero; pixel statistics on 0 to 255."""

    side: int
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)

    def inner_size(self, size: tuple[int, int], side: int | None = None) -> tuple[int, int]:
        """(height, width) that a picture takes up in the input, or in another square of `side`."""
        side = self.side if side is None else side
        factor = side / max(size)
        # A sliver thinner than half a pixel would vanish in the published rule.
        return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))

    def pixels(self, image: np.ndarray) -> Tensor:
        height, width = self.inner_size(image.shape[:2])
        resized = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        values = _normalised(torch.from_numpy(resized).permute(2, 0, 1).float(), self.mean, self.std)
        return F.pad(values, (0, self.side - width, 0, self.side - height))

    def scale(self, size: tuple[int, int]) -> tuple[float, float]:
        height, width = self.inner_size(size)
        return width / size[1], height / size[0]

    def to_picture(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = self.inner_size(size)
        return _resized(_resized(logits, (self.side, self.side))[:height, :width], size)

    def from_picture(self, mask: np.ndarray, grid: int) -> np.ndarray:
        height, width = self.inner_size(mask.shape, grid)
        inner = _resized(_soft(mask), (height, width), antialias=True)
        padded = F.pad(inner, (0, grid - width, 0, grid - height))
        return ((2 * padded - 1) * _CERTAIN).numpy()


@dataclass(frozen=True)
class Stretched:
    """The frame of SAM 2 and 3: the picture fills the square; pixel statistics on 0 to 1, ImageNet's by default."""

    side: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def pixels(self, image: np.ndarray) -> Tensor:
        values = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
        return _normalised(_resized(values, (self.side, self.side), antialias=True), self.mean, self.std)

    def scale(self, size: tuple[int, int]) -> tuple[float, float]:
        return self.side / size[1], self.side / size[0]

    def to_picture(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return _resized(logits, size)

    def from_picture(self, mask: np.ndarray, grid: int) -> np.ndarray:
        return ((2 * _resized(_soft(mask), (grid, grid), antialias=True) - 1) * _CERTAIN).numpy()

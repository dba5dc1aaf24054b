"""Detail at full resolution for small SimpleClick networks: (pixels, maps of the ViT) -> correction of the logits.

The published sizes have no such part: at 448 pixels a side and with pretrained weights they need none. A ViT of a few
million parameters that is trained from scratch for an hour learns what lies where, but hardly outlines finer than its
patches; a U-shaped net of 3x3 convolutions beside it learns those within minutes, and sooner still when it is told how
alike each pixel is to the clicked ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PLANES = 8  # red, green, blue, previous mask, positive and negative clicks, likeness to both
CONTEXT_LEVEL = 1  # where the features of the ViT's head come in: a quarter of the resolution


class ConvNormRelu(nn.Sequential):
    """3x3 convolution, normalised in groups of eight channels (of all, where they are fewer)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.GroupNorm(max(1, outputs // 8), outputs),
            nn.ReLU(),
        )


def likeness(pixels: Tensor, points: Tensor) -> Tensor:
    """How alike each pixel's color is to that under the clicks, `[B, 2, H, W]` float32 in [0, 1]: positive, negative.

    pixels: `[B, 3, H, W]` float, normalised. points: `[B, 2P, 3]`, see `simpleclick_vit.click_maps`. The likeness to a
    click is exp(-|difference|^2) with the mean color of the 3x3 pixels around it; the likest click of a sign counts, 0
    where there is none. A negative click beside the crop counts at the nearest edge (above and to the left of it: not
    at all). Given, not learnt: which colors belong together takes a small network long to find out.
    """
    batch, rows, _ = points.shape
    height, width = pixels.shape[2:]
    pixels = pixels.float()
    used = torch.maximum(points[..., 0], points[..., 1]) >= 0
    y, x = (points[..., axis].round().long().clamp(0, size - 1) for axis, size in ((0, height), (1, width)))
    # The window around a click, cut off at the picture's edges: [B, 2P, 9] places.
    near = torch.arange(-1, 2, device=points.device)
    rows_near = (y[..., None] + near).clamp(0, height - 1)[..., :, None]
    columns_near = (x[..., None] + near).clamp(0, width - 1)[..., None, :]
    places = (rows_near * width + columns_near).flatten(1)
    colors = (
        pixels.flatten(2).gather(2, places[:, None].expand(-1, 3, -1)).view(batch, 3, rows, 9).mean(3)
    )  # [B, 3, 2P]
    flat = pixels.flatten(2)
    # |p - c|^2 = |p|^2 - 2 p c + |c|^2: a small matrix product instead of all differences, [B, 2P, 3, H, W]; the part
    # of the pixel alone comes after the minimum, and unused rows are as far as can be.
    apart = colors.square().sum(1).masked_fill(~used, torch.inf)
    offsets = torch.baddbmm(apart[..., None], colors.transpose(1, 2), flat, alpha=-2)
    nearest = offsets.view(batch, 2, rows // 2, -1).amin(2) + flat.square().sum(1)[:, None]
    return torch.exp(-nearest.clamp_min(0)).view(batch, 2, height, width)


def _join(coarse: Tensor, *fine: Tensor) -> Tensor:
    """Maps of two resolutions side by side at the finer one, `[B, C, H, W]`. Nearest: a 3x3 convolution follows."""
    return torch.cat([F.interpolate(coarse, size=fine[0].shape[2:], mode="nearest"), *fine], dim=1)


class DetailHead(nn.Module):
    """A U-shaped net: down by halves, up again, with the features of the ViT's head at a quarter.

    The finest level is a half, made of all four pixels of each 2x2 square and ending in their four logits: nothing of
    the full resolution is lost, and a convolution there, the dearest of all, is saved.
    channels: at a half, a quarter and so on, three levels at least. context: channels of the head.
    """

    def __init__(self, channels: Sequence[int], context: int) -> None:
        super().__init__()
        if len(channels) < CONTEXT_LEVEL + 2:
            raise ValueError(f"detail_channels={list(channels)}: give at least {CONTEXT_LEVEL + 2} levels, or none")
        first = nn.Sequential(ConvNormRelu(4 * PLANES, channels[0]), ConvNormRelu(channels[0], channels[0]))
        self.down = nn.ModuleList([first])
        for above, here in pairwise(channels):
            self.down.append(nn.Sequential(ConvNormRelu(above, here, stride=2), ConvNormRelu(here, here)))
        self.up = nn.ModuleList()
        for level in reversed(range(len(channels) - 1)):
            beside = channels[level] + (context if level == CONTEXT_LEVEL else 0)
            self.up.append(ConvNormRelu(channels[level + 1] + beside, channels[level]))
        self.logits = nn.Conv2d(channels[0], 4, 3, padding=1)

    def forward(self, planes: Tensor, context: Tensor) -> Tensor:
        """planes: `[B, PLANES, H, W]`, both sides even. context: `[B, C, h, w]`, any resolution.

        Returns `[B, 1, H, W]`.
        """
        maps = [self.down[0](F.pixel_unshuffle(planes, 2))]
        for step in self.down[1:]:
            maps.append(step(maps[-1]))
        features = maps.pop()
        for level, step in zip(reversed(range(len(maps))), self.up, strict=True):
            beside = [maps[level]]
            if level == CONTEXT_LEVEL:
                beside.append(F.interpolate(context, size=beside[0].shape[2:], mode="bilinear", align_corners=False))
            features = step(_join(features, *beside))
        return F.pixel_shuffle(self.logits(features), 2)

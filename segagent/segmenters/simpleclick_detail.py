"""Detail at full resolution for small SimpleClick networks: (pixels, maps of the ViT) -> correction of the logits.

The published sizes have no such part: at 448 pixels a side and with pretrained weights they need none. A ViT of a few
million parameters that is trained from scratch for an hour learns what lies where, but hardly outlines finer than its
patches; a few 3x3 convolutions beside it learn those within minutes, and sooner still when they are told how alike each
pixel is to the clicked ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PLANES = 8  # red, green, blue, previous mask, positive and negative clicks, likeness to both


class ConvNormRelu(nn.Sequential):
    """3x3 convolution, normalised in groups of eight channels (of all, where they are fewer)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.GroupNorm(max(1, outputs // 8), outputs),
            nn.ReLU(),
        )


@torch.autocast("cuda", enabled=False)
def likeness(pixels: Tensor, points: Tensor) -> Tensor:
    """How alike each pixel's color is to that under the clicks, `[B, 2, H, W]` float32 in [0, 1]: positive, negative.

    pixels: `[B, 3, H, W]` float, normalised. points: `[B, 2P, 3]`, see `simpleclick_vit.click_maps`. The likeness to a
    click is exp(-|difference|^2) with the mean color of the 3x3 pixels around it; the likest click of a sign counts, 0
    where there is none. Given, not learnt: which colors belong together takes a small network long to find out.
    """
    batch, rows, _ = points.shape
    height, width = pixels.shape[2:]
    pixels = pixels.float()
    used = torch.maximum(points[..., 0], points[..., 1]) >= 0
    y, x = (points[..., axis].round().long().clamp(0, size - 1) for axis, size in ((0, height), (1, width)))
    smooth = F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False).flatten(2)
    colors = smooth.gather(2, (y * width + x)[:, None].expand(-1, 3, -1))  # [B, 3, 2P]
    flat = pixels.flatten(2)
    # |p - c|^2 = |p|^2 - 2 p c + |c|^2: a small matrix product instead of all differences, [B, 2P, 3, H, W].
    squared = flat.square().sum(1)[:, None] - 2 * colors.transpose(1, 2) @ flat + colors.square().sum(1)[..., None]
    alike = torch.exp(-squared.clamp_min(0)) * used[..., None]
    return alike.view(batch, 2, rows // 2, height, width).amax(2)


def _up(features: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(features, size=like.shape[2:], mode="bilinear", align_corners=False)


class DetailHead(nn.Module):
    """A small U-shaped net: down to a quarter, where the head's features come in, and up again.

    channels: at half resolution; twice as many at a quarter, half as many at full. context: channels of the head.
    """

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        fine, half, quarter = max(1, channels // 2), channels, 2 * channels
        self.at_half = nn.Sequential(ConvNormRelu(PLANES, half, stride=2), ConvNormRelu(half, half))
        self.at_quarter = nn.Sequential(ConvNormRelu(half, quarter, stride=2), ConvNormRelu(quarter, quarter))
        self.join_quarter = nn.Sequential(ConvNormRelu(quarter + context, quarter), ConvNormRelu(quarter, quarter))
        self.join_half = ConvNormRelu(quarter + half, half)
        self.join_full = ConvNormRelu(half + PLANES, fine)
        self.logits = nn.Conv2d(fine, 1, 1)

    def forward(self, planes: Tensor, context: Tensor) -> Tensor:
        """planes: `[B, PLANES, H, W]`. context: `[B, C, h, w]`, any resolution. Returns `[B, 1, H, W]`."""
        half = self.at_half(planes)
        quarter = self.at_quarter(half)
        quarter = self.join_quarter(torch.cat([quarter, _up(context, quarter)], dim=1))
        half = self.join_half(torch.cat([half, _up(quarter, half)], dim=1))
        return self.logits(self.join_full(torch.cat([planes, _up(half, planes)], dim=1)))

"""A plain convolutional tower: what a model that is trained from nothing, on a CPU, learns shapes with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _conv(before: int, channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(before, channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


class ConvTower(nn.Module):
    """3x3 convolutions, batch norm, ReLU. dims, depths: channels of each stage and its layers; its first one halves the
    picture. With norms over the batch it learns from nothing more readily than a ConvNeXt of that size."""

    def __init__(self, *, dims: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        if len(dims) != len(depths) or not dims or min(depths) < 1:
            raise ValueError(f"dims={list(dims)}, depths={list(depths)}: one of each per stage, a layer at least")
        before, stages = 3, []
        for channels, depth in zip(dims, depths, strict=True):
            widths = [before] + [channels] * depth
            stages.append(nn.Sequential(*(_conv(widths[k], channels, 1 if k else 2) for k in range(depth))))
            before = channels
        self.stages = nn.Sequential(*stages)
        self.stride = 2 ** len(dims)

    def forward(self, pixels: Tensor) -> Tensor:
        """`[N, 3, H, W]` -> the last stage as tokens in reading order, `[N, h * w, C]`."""
        features = self.stages(pixels.contiguous(memory_format=torch.channels_last))
        return features.flatten(2).transpose(1, 2)


def inner_convolutions(network: nn.Module) -> list[nn.Parameter]:
    """Weights `[C, C', k, k]` of all `ConvTower` layers in a network, but those that read the pixels."""
    towers = [module for module in network.modules() if isinstance(module, ConvTower)]
    layers = [layer for tower in towers for layer in tower.modules() if isinstance(layer, nn.Conv2d)]
    return [layer.weight for layer in layers if layer.in_channels > 3]

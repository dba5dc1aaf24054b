"""ConvNeXt (Liu et al. 2022), the vision tower of Osprey: pixels -> feature maps. Parameter names are those of timm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of `[N, C, H, W]`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Linear, exact GELU, Linear over the last axis."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """7x7 depthwise convolution, LayerNorm, MLP of ratio 4, layer scale `gamma`, residual; `[N, C, H, W]`."""

    def __init__(self, channels: int, layer_scale: float) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=_EPS)
        self.mlp = Mlp(channels, 4 * channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_dw(x).permute(0, 2, 3, 1)
        return x + (self.gamma * self.mlp(self.norm(y))).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """LayerNorm and a 2x2 convolution of stride 2 (none before the first stage), then blocks."""

    def __init__(self, before: int | None, channels: int, depth: int, layer_scale: float) -> None:
        super().__init__()
        self.downsample = (
            nn.Identity() if before is None else nn.Sequential(LayerNorm2d(before), nn.Conv2d(before, channels, 2, 2))
        )
        self.blocks = nn.Sequential(*(Block(channels, layer_scale) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvNeXt(nn.Module):
    """dims, depths: channels and blocks of each stage. stem: patch size of the first convolution.

    layer_scale: what `gamma` begins with; weights begin at 1 / sqrt(fan in).
    """

    def __init__(self, *, dims: Sequence[int], depths: Sequence[int], stem: int = 4, layer_scale: float = 1e-6) -> None:
        super().__init__()
        if len(dims) != len(depths) or not dims:
            raise ValueError(f"dims={list(dims)}, depths={list(depths)}: one of each per stage")
        self.stem = nn.Sequential(nn.Conv2d(3, dims[0], stem, stem), LayerNorm2d(dims[0]))
        before = [None, *dims[:-1]]
        self.stages = nn.ModuleList(Stage(*stage, layer_scale) for stage in zip(before, dims, depths, strict=True))
        self.stride = stem * 2 ** (len(dims) - 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                nn.init.zeros_(module.bias)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """The output of every stage, `[N, dims[i], H / (stem * 2^i), W / (stem * 2^i)]`; pixels `[N, 3, H, W]`."""
        x, outputs = self.stem(pixels), []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs

    def forward(self, pixels: Tensor) -> Tensor:
        """The last stage as tokens in reading order, `[N, h * w, C]`."""
        return self.features(pixels)[-1].flatten(2).transpose(1, 2)

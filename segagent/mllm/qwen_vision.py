"""The eyes of Qwen-VL-Chat: a ViT and a resampler that asks it 256 questions by cross-attention. Names as released.

In: `[N, 3, S, S]` normalised pixels. Out: `[N, queries, D]` visual tokens. Source of every rule: numbers recorded from
the released code (tests/fixtures/qwen_vl) and the Qwen-VL report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-6
_STORED_GRID = 16  # side of the position table in released files, whatever the picture's size
_HEAD_WIDTH = 128  # of the resampler's attention


@dataclass(frozen=True)
class QwenVisionConfig:
    """`visual` of a released config.json. image_start_id: id of `<img>`; `</img>` and `<imgpad>` are the next two."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float
    output_dim: int
    image_start_id: int
    n_queries: int = 256


def resize_table(table: Tensor, grid: int) -> Tensor:
    """A position table `[g * g, D]` for a grid x grid picture: bicubic, corners not aligned; `[grid * grid, D]`."""
    side = math.isqrt(table.shape[0])
    if side == grid:
        return table
    maps = table.float().T.reshape(1, -1, side, side)
    resized = F.interpolate(maps, size=(grid, grid), mode="bicubic", align_corners=False)
    return resized[0].flatten(1).T.to(table.dtype)


def sincos_table(width: int, grid: int) -> Tensor:
    """The resampler's position table before training, `[grid * grid, width]` float32.

    The first half encodes the column, the second the row: sines, then cosines, of position / 10000^(k / (width / 4)).
    """
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    phases = torch.arange(grid, dtype=torch.float64)[:, None] * rates
    axis = torch.cat([phases.sin(), phases.cos()], 1)
    return torch.cat([axis.repeat(grid, 1), axis.repeat_interleave(grid, 0)], 1).float()


class SelfAttention(nn.Module):
    """Rows of `in_proj` are ordered by head, then query, key, value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        mixed = self.in_proj(x).view(batch, length, self.heads, 3, width // self.heads).transpose(1, 2)
        read = F.scaled_dot_product_attention(*mixed.unbind(3))
        return self.out_proj(read.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    """Pre-norm attention and MLP on `[N, T, C]`."""

    def __init__(self, config: QwenVisionConfig) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = (nn.LayerNorm(config.width, eps=_EPS) for _ in range(2))
        self.attn = SelfAttention(config.width, config.heads)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Module):
    """Only here to give the blocks their released names."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class CrossAttention(nn.Module):
    """Multi-head attention with the parameter names of torch's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // _HEAD_WIDTH
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """`[N, Q, D]`, `[N, K, D]`, `[N, K, D]` -> `[N, Q, D]`."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        split = [
            F.linear(x, weight, bias).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
        ]
        return self.out_proj(F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    """Learnt queries read the patches; positions go to queries and keys, not to values, and nothing is added back."""

    def __init__(self, config: QwenVisionConfig) -> None:
        super().__init__()
        width, side = config.output_dim, math.isqrt(config.n_queries)
        self.pos_embed = nn.Parameter(sincos_table(width, side), requires_grad=False)
        self.query = nn.Parameter(torch.empty(config.n_queries, width))
        self.kv_proj = nn.Identity() if config.width == width else nn.Linear(config.width, width, bias=False)
        self.attn = CrossAttention(width)
        self.ln_q, self.ln_kv = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, patches: Tensor) -> Tensor:
        """`[N, g * g, C]` -> `[N, queries, D]`."""
        values = self.ln_kv(self.kv_proj(patches))
        keys = values + resize_table(self.pos_embed, math.isqrt(patches.shape[1]))
        queries = self.ln_q(self.query) + self.pos_embed
        return self.attn(queries.expand(len(patches), -1, -1), keys, values)


class QwenVision(nn.Module):
    """See the module. Raises `ValueError` for sizes that do not fit each other."""

    def __init__(self, config: QwenVisionConfig) -> None:
        super().__init__()
        if config.image_size % config.patch_size or config.width % config.heads:
            raise ValueError(
                f"image_size={config.image_size}, patch_size={config.patch_size}, width={config.width}, "
                f"heads={config.heads}: the first two and the last two must divide"
            )
        if math.isqrt(config.n_queries) ** 2 != config.n_queries or config.output_dim % _HEAD_WIDTH:
            raise ValueError(
                f"n_queries={config.n_queries}, output_dim={config.output_dim}: a square, a multiple of {_HEAD_WIDTH}"
            )
        self.config = config
        self.conv1 = nn.Conv2d(3, config.width, config.patch_size, config.patch_size, bias=False)
        self.positional_embedding = nn.Parameter(torch.randn(_STORED_GRID**2, config.width) * config.width**-0.5)
        self.ln_pre = nn.LayerNorm(config.width, eps=_EPS)
        self.transformer = Blocks([Block(config) for _ in range(config.layers)])
        self.attn_pool = Resampler(config)
        self.ln_post = nn.LayerNorm(config.output_dim, eps=_EPS)
        self.proj = nn.Parameter(torch.randn(config.output_dim, config.output_dim) * config.output_dim**-0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        patches = patches + resize_table(self.positional_embedding, math.isqrt(patches.shape[1]))
        return self.ln_post(self.attn_pool(self.transformer(self.ln_pre(patches)))) @ self.proj

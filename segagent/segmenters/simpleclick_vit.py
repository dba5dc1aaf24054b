"""The SimpleClick network: (image, previous mask, click points) -> logits. Plain ViT, simple feature pyramid, MLP head.

After SimpleClick (ICCV 2023, arXiv 2210.11006) and its released models, whose parameter names it keeps; measured
against recorded numbers in tests/segmenters. Knows nothing of crops, thresholds or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segagent.segmenters.simpleclick_detail import DetailHead, likeness

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
# Side of an attention window in pixels: the released models were pretrained at 224.
WINDOW_PIXELS = 224


@dataclass(frozen=True)
class SimpleClickConfig:
    """Architecture.

    image_size: pixels a side that the position table is made for. out_dims: channels of the pyramid's four scales (1/4,
    1/8, 1/16, 1/32 for 16-pixel patches). head_channels: width of the head. click_radius: of the click discs, in
    pixels. detail_channels: widths of the `DetailHead` that small networks have beside it; (): none, as released.
    """

    image_size: int = 448
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    out_dims: tuple[int, int, int, int] = (128, 256, 512, 1024)
    head_channels: int = 256
    click_radius: int = 5
    detail_channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # YAML and JSON know lists only; a config compares by value.
        for name in ("out_dims", "detail_channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.depth % 4:
            raise ValueError(f"depth={self.depth}: attention alternates in four groups, give a multiple of 4")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim={self.embed_dim} does not split into num_heads={self.num_heads}")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}")

    @property
    def grid_side(self) -> int:
        return self.image_size // self.patch_size


class Attention(nn.Module):
    """Multi-head self-attention over `[B, N, C]`, fused."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, dim = tokens.shape
        qkv = self.qkv(tokens).view(batch, count, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, dim))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class PatchEmbed(nn.Module):
    """`[B, 3, H, W]` -> `[B, C, H / patch, W / patch]`."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels)


def split_windows(grid: Tensor, windows: tuple[int, int]) -> Tensor:
    """`[B, h, w, C]` -> `[B * rows * columns, h/rows * w/columns, C]`: equal windows, row by row."""
    batch, height, width, dim = grid.shape
    rows, columns = windows
    grid = grid.view(batch, rows, height // rows, columns, width // columns, dim)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(batch * rows * columns, -1, dim)


def join_windows(tokens: Tensor, windows: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The way back from `split_windows`; size: (h, w)."""
    rows, columns = windows
    height, width = size
    tokens = tokens.view(-1, rows, columns, height // rows, width // columns, tokens.shape[-1])
    return tokens.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, tokens.shape[-1])


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """`[1, 1 + h*w, C]` position table -> `[1, 1 + h'*w', C]`: first row kept, the rest bicubic, row by row."""
    if old == new:
        return table
    grid = table[:, 1:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class Backbone(nn.Module):
    """Plain ViT without final norm. Every fourth part of the depth ends with global attention, the rest is windowed.

    The class token, `fc_norm` and `head` of the pretrained classifier are in the released files; nothing uses them.
    """

    def __init__(self, config: SimpleClickConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.config = config
        self.patch_embed = PatchEmbed(dim, config.patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid_side**2, dim))
        self.blocks = nn.ModuleList(Block(dim, config.num_heads) for _ in range(config.depth))
        # Twelve blocks are grouped by six, as released; other depths in four groups.
        self.group = 6 if config.depth == 12 else config.depth // 4

    def forward(self, patches: Tensor) -> Tensor:
        """Sum of both patch embeddings `[B, C, h, w]` -> features `[B, C, h, w]`."""
        batch, dim, height, width = patches.shape
        side = self.config.grid_side
        positions = resize_positions(self.pos_embed, (side, side), (height, width))[:, 1:]
        tokens = patches.permute(0, 2, 3, 1) + positions.view(1, height, width, dim)
        window = WINDOW_PIXELS // self.config.patch_size
        windows = max(1, height // window), max(1, width // window)
        if height % windows[0] or width % windows[1]:
            raise ValueError(f"a grid of {height}x{width} patches does not split into {windows} equal windows")
        for number, block in enumerate(self.blocks, 1):
            if number % self.group:
                tokens = join_windows(block(split_windows(tokens, windows)), windows, (height, width))
            else:
                tokens = block(tokens.reshape(batch, -1, dim)).view(batch, height, width, dim)
        return tokens.permute(0, 3, 1, 2)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(1, channels)


class SimpleFPN(nn.Module):
    """`[B, C, h, w]` -> four maps of 4h, 2h, h and h/2 (for 16-pixel patches: strides 4, 8, 16, 32)."""

    def __init__(self, dim: int, out_dims: Sequence[int]) -> None:
        super().__init__()
        four, eight = max(2 * out_dims[0], dim // 2), max(out_dims[1], dim // 2)
        thirty_two = max(out_dims[3], 2 * dim)
        self.down_4 = nn.Sequential(
            nn.ConvTranspose2d(dim, four, 2, stride=2),
            _norm(four),
            nn.GELU(),
            nn.ConvTranspose2d(four, four // 2, 2, stride=2),
            _norm(four // 2),
            nn.Conv2d(four // 2, out_dims[0], 1),
            _norm(out_dims[0]),
            nn.GELU(),
        )
        self.down_8 = nn.Sequential(
            nn.ConvTranspose2d(dim, eight, 2, stride=2),
            _norm(eight),
            nn.Conv2d(eight, out_dims[1], 1),
            _norm(out_dims[1]),
            nn.GELU(),
        )
        self.down_16 = nn.Sequential(nn.Conv2d(dim, out_dims[2], 1), _norm(out_dims[2]), nn.GELU())
        self.down_32 = nn.Sequential(
            nn.Conv2d(dim, thirty_two, 2, stride=2),
            _norm(thirty_two),
            nn.Conv2d(thirty_two, out_dims[3], 1),
            _norm(out_dims[3]),
            nn.GELU(),
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        return [self.down_4(features), self.down_8(features), self.down_16(features), self.down_32(features)]


class ConvRelu(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.conv(features))


class Head(nn.Module):
    """Four maps -> one map of logits `[B, 1, 4h, 4w]`: per-scale 1x1, upsampled to the finest, fused by 1x1."""

    def __init__(self, in_dims: Sequence[int], channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvRelu(dim, channels) for dim in in_dims)
        self.fusion_conv = ConvRelu(channels * len(in_dims), channels)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(channels, 1, 1)

    def fuse(self, maps: Sequence[Tensor]) -> Tensor:
        """`[B, channels, 4h, 4w]`: what the logits are made of."""
        size = maps[0].shape[2:]
        scaled = [
            F.interpolate(conv(map_), size=size, mode="bilinear", align_corners=False)
            for conv, map_ in zip(self.convs, maps, strict=True)
        ]
        return self.fusion_conv(torch.cat(scaled, dim=1))

    def forward(self, features: Tensor) -> Tensor:
        return self.conv_seg(self.dropout(features))


def click_maps(points: Tensor, size: tuple[int, int], radius: int) -> Tensor:
    """Discs around clicks, `[B, 2, H, W]` float: positive, negative.

    points: `[B, 2P, 3]` float (y, x, order), fractional pixels; the first P rows are positive, the last P negative; a
    row with max(y, x) < 0 is padding. A pixel is 1 where (row - y)^2 + (column - x)^2 <= radius^2 for any click.
    """
    batch, rows, _ = points.shape
    y, x = points[..., 0, None, None], points[..., 1, None, None]
    row = torch.arange(size[0], device=points.device, dtype=points.dtype).view(1, 1, -1, 1)
    column = torch.arange(size[1], device=points.device, dtype=points.dtype).view(1, 1, 1, -1)
    near = (row - y) ** 2 + (column - x) ** 2 <= radius**2
    near = near & (torch.maximum(y, x) >= 0)
    return near.view(batch, 2, rows // 2, *size).any(dim=2).to(points.dtype)


class SimpleClickNet(nn.Module):
    """The whole network. `backbone`, `neck`, `head` and `patch_embed_coords` are the released names."""

    def __init__(self, config: SimpleClickConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed_coords = PatchEmbed(config.embed_dim, config.patch_size)
        self.backbone = Backbone(config)
        self.neck = SimpleFPN(config.embed_dim, config.out_dims)
        self.head = Head(config.out_dims, config.head_channels)
        self.detail = DetailHead(config.detail_channels, config.head_channels) if config.detail_channels else None
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD).view(1, 3, 1, 1), persistent=False)

    def head_logits(self, image: Tensor, previous: Tensor, points: Tensor) -> Tensor:
        """Logits of the head alone, `[B, 1, H / patch * 4, W / patch * 4]`; inputs as in `forward`."""
        return self.head(self._features(*self._planes(image, previous, points)))

    def _planes(self, image: Tensor, previous: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels `[B, 3, H, W]`; previous mask and click maps `[B, 3, H, W]`."""
        clicks = click_maps(points, image.shape[2:], self.config.click_radius)
        return (image - self.mean) / self.std, torch.cat([previous, clicks], dim=1)

    def _features(self, pixels: Tensor, clicks: Tensor) -> Tensor:
        patches = self.backbone.patch_embed(pixels) + self.patch_embed_coords(clicks)
        return self.head.fuse(self.neck(self.backbone(patches)))

    def forward(self, image: Tensor, previous: Tensor, points: Tensor) -> Tensor:
        """Logits `[B, 1, H, W]`.

        image: `[B, 3, H, W]` float RGB in [0, 1]. previous: `[B, 1, H, W]` float, the last probabilities (zeros at
        first). points: see `click_maps`. H and W are multiples of the patch size.
        """
        pixels, clicks = self._planes(image, previous, points)
        features = self._features(pixels, clicks)
        logits = F.interpolate(self.head(features), size=image.shape[2:], mode="bilinear", align_corners=True)
        if self.detail is None:
            return logits
        with torch.autocast(pixels.device.type, enabled=False):  # differences of large numbers
            alike = likeness(pixels, points)
        return logits + self.detail(torch.cat([pixels, clicks, alike], dim=1), features)

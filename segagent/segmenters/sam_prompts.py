"""Clicks and boxes of many states -> one batch of prompt tokens that a SAM decoder takes in one call.

States differ in how many clicks they have, and tokens attend to each other, so that padding would change the masks. A
padded token is hidden from every attention that could read it; what is left computes what each state alone would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segagent.types import Box, Click

_NOT_A_POINT, _PADDING = -1, -10  # labels of transformers' prompt encoders


@dataclass(frozen=True)
class PromptTokens:
    """tokens: `[B, 1, T, D]`. used: `[B, T]` bool, False where a token is padding; None when none is."""

    tokens: Tensor
    used: Tensor | None


def encode_prompts(
    prompt_encoder: nn.Module,
    clicks: Sequence[Sequence[Click]],
    boxes: Sequence[Box | None],
    scales: Sequence[tuple[float, float]],
    device: torch.device,
) -> PromptTokens:
    """Tokens of each state: its clicks, then a token for "no more points", or the tokens of its box.

    prompt_encoder: that of any transformers network of the family. scales: factors of x and y from each picture to the
    network's input, applied in float64 as the published predictors do.
    """
    rows = [_rows(made, box, scale) for made, box, scale in zip(clicks, boxes, scales, strict=True)]
    longest = max(len(points) for points, _, _ in rows)
    padded = [
        (points + [(0.0, 0.0)] * (longest - len(points)), labels + [_PADDING] * (longest - len(points)))
        for points, labels, _ in rows
    ]
    points = torch.tensor([p for p, _ in padded], dtype=torch.float64).reshape(len(rows), 1, longest, 2)
    labels = torch.tensor([row for _, row in padded], dtype=torch.int64).reshape(len(rows), 1, longest)
    # Corners are always encoded, and dropped or hidden where there is no box: one call for states of both kinds.
    corners = torch.tensor([box for _, _, box in rows], dtype=torch.float64)[:, None]
    tokens, _ = prompt_encoder(points.float().to(device), labels.to(device), corners.float().to(device), None)
    used = torch.cat([labels[:, 0] != _PADDING, _boxed(boxes, tokens.shape[2] - longest)], 1)
    if not any(boxes):
        tokens, used = tokens[:, :, :longest], used[:, :longest]
    return PromptTokens(tokens, None if used.all() else used.to(device))


def _rows(
    clicks: Sequence[Click], box: Box | None, scale: tuple[float, float]
) -> tuple[list[tuple[float, float]], list[int], list[float]]:
    """(points, labels, corners) of one state in the input's pixels."""
    points = [(click.x * scale[0], click.y * scale[1]) for click in clicks]
    labels = [int(click.is_positive) for click in clicks]
    if box is None:
        return [*points, (0.0, 0.0)], [*labels, _NOT_A_POINT], [0.0] * 4
    return points, labels, [box.x0 * scale[0], box.y0 * scale[1], box.x1 * scale[0], box.y1 * scale[1]]


def _boxed(boxes: Sequence[Box | None], count: int) -> Tensor:
    return torch.tensor([box is not None for box in boxes])[:, None].expand(-1, count)


@contextmanager
def hidden_padding(transformer: nn.Module, used: Tensor | None, num_output_tokens: int) -> Iterator[None]:
    """While it lasts, `transformer` (the decoder's two-way transformer) does not read padded prompt tokens.

    used: `PromptTokens.used`. num_output_tokens: the decoder's own tokens, which stand before those of the prompt.
    The attentions that read tokens take an additive mask under the name `attention_similarity`; transformers itself
    hands it to the third kind only, which reads the picture.
    """
    if used is None:
        yield
        return
    read = torch.cat([used.new_ones(len(used), num_output_tokens), used], 1)
    bias = torch.zeros(read.shape, device=used.device).masked_fill(~read, float("-inf"))[:, None, None]

    def add_bias(module: nn.Module, arguments: tuple, options: dict) -> tuple[tuple, dict]:
        return arguments, options | {"attention_similarity": bias.to(options["query"].dtype)}

    readers = [reader for layer in transformer.layers for reader in (layer.self_attn, layer.cross_attn_image_to_token)]
    handles = [reader.register_forward_pre_hook(add_bias, with_kwargs=True) for reader in readers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Prompts as tensors -> sampled tokens: every prompt goes through the network once, whatever the number of samples.

The key-value cache of a prompt is repeated for its samples. Positions are counted here from the attention mask, because
rows are left-padded: the first real token is at 0, and where the network has positions in two dimensions (Qwen's mrope)
they come from its own rule, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from segagent.mllm.sampling import Sampled, choose, uniforms


def _prompt_positions(network: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(positions of the prompt, what the position of a later token exceeds the count of tokens before it by).

    `[B, L]`, or `[3, B, L]` with mrope; `[B, 1]` int64.
    """
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    inner = getattr(base, "model", base)
    mask = inputs["attention_mask"]
    if hasattr(inner, "get_rope_index"):
        return inner.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=mask,
        )
    return (mask.cumsum(-1) - 1).clamp(min=0), mask.new_zeros((mask.shape[0], 1))


def _last_logits(output: Any, like: Tensor) -> Tensor:
    """`[R, V]` float32 of the newest token, beside the inputs: a spread model ends on another device."""
    return output.logits[:, -1].float().to(like.device)


@torch.inference_mode()
def decode(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    num_samples: int,
    temperature: float,
    seeds: Sequence[int],
    end_ids: Sequence[int],
    max_new_tokens: int,
    greedy_first: bool = False,
) -> list[list[Sampled]]:
    """`num_samples` samples of each row. inputs: left-padded, on the network's device."""
    positions, excess = _prompt_positions(network, inputs)
    cache = DynamicCache(config=network.config.get_text_config(decoder=True))
    mask = inputs["attention_mask"]
    output = network(**inputs, position_ids=positions, cache=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(num_samples)
    logits = _last_logits(output, mask).repeat_interleave(num_samples, 0)
    mask, excess = mask.repeat_interleave(num_samples, 0), excess.repeat_interleave(num_samples, 0)

    drawn = None
    if temperature > 0:
        drawn = torch.from_numpy(uniforms(seeds, num_samples, max_new_tokens, greedy_first))
    ends = torch.tensor(sorted(end_ids), device=mask.device)
    open_rows = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
    log_probs = torch.zeros(len(mask), device=mask.device)
    tokens, was_open = [], []
    for step in range(max_new_tokens):
        token = choose(logits, temperature, None if drawn is None else drawn[:, step])
        log_probs += torch.where(open_rows, logits.log_softmax(-1).gather(1, token[:, None])[:, 0], 0.0)
        tokens.append(token)
        was_open.append(open_rows)
        open_rows = open_rows & ~torch.isin(token, ends)
        if step + 1 == max_new_tokens or not open_rows.any():
            break
        place = mask.sum(-1, keepdim=True) + excess
        mask = torch.cat([mask, mask.new_ones((len(mask), 1))], 1)
        place = place.expand(3, -1, -1) if positions.ndim == 3 else place
        output = network(input_ids=token[:, None], attention_mask=mask, position_ids=place, cache=cache, use_cache=True)
        logits = _last_logits(output, mask)

    rows = _gather(torch.stack(tokens, 1), torch.stack(was_open, 1), open_rows, log_probs)
    return [rows[start : start + num_samples] for start in range(0, len(rows), num_samples)]


def _gather(tokens: Tensor, was_open: Tensor, still_open: Tensor, log_probs: Tensor) -> list[Sampled]:
    """tokens, was_open: `[R, T]`, the token of each step and whether the row was still being written then."""
    lengths = (was_open.sum(1) - (~still_open).long()).tolist()  # the end token is not kept
    return [
        Sampled(row[:length], log_prob, not unfinished)
        for row, length, log_prob, unfinished in zip(
            tokens.tolist(), lengths, log_probs.tolist(), still_open.tolist(), strict=True
        )
    ]

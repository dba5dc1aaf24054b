"""Prompts as tensors -> sampled tokens: every prompt goes through the network once, whatever the number of samples.

The key-value cache of a prompt is repeated for its samples. Positions are counted here from the attention mask, because
rows are left-padded: the first real token is at 0, and where the network has positions in two dimensions (Qwen's mrope)
they come from its own rule, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from segagent.mllm.choices import ChoiceTree, additive
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
    tree: ChoiceTree | None = None,
    forced: Sequence[int] = (),
) -> tuple[list[list[Sampled]], np.ndarray | None]:
    """`num_samples` samples of each row, and the probabilities of the tree's texts, `[B, N]`, if there is a tree.

    inputs: left-padded, on the network's device. forced: how many tokens at the end of each row are not of the prompt
    but of the reply, as which the texts of the tree count too.
    """
    positions, excess = _prompt_positions(network, inputs)
    cache = DynamicCache(config=network.config.get_text_config(decoder=True))
    mask = inputs["attention_mask"]
    output = network(**inputs, position_ids=positions, cache=cache, use_cache=True, logits_to_keep=1)
    weights = None
    if tree is not None:
        weights = _weigh(network, inputs["input_ids"], mask, cache, excess, positions.ndim == 3, tree, forced)
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
    return [rows[start : start + num_samples] for start in range(0, len(rows), num_samples)], weights


def _weigh(
    network: nn.Module,
    input_ids: Tensor,
    mask: Tensor,
    cache: DynamicCache,
    excess: Tensor,
    three_axes: bool,
    tree: ChoiceTree,
    forced: Sequence[int],
) -> np.ndarray:
    """`[B, N]` float64; the cache is left as it was.

    The forced tokens are hidden, and with them the last token of the prompt, which is read once more for what follows.
    """
    length = mask.shape[1]
    last = length - 1 - torch.tensor(forced, device=mask.device)[:, None]
    places = torch.arange(length, device=mask.device)[None]
    prompt = mask * (places < last)
    offsets, seen = tree.layout(prompt, 1 + len(tree.shared))
    tokens = torch.tensor([*tree.shared, *tree.tokens], dtype=input_ids.dtype, device=mask.device)
    ids = torch.cat([input_ids.gather(1, last), tokens.expand(len(mask), -1)], 1)
    place = prompt.sum(-1, keepdim=True) + excess + offsets
    output = network(
        input_ids=ids,
        attention_mask=additive(seen, network.get_input_embeddings().weight.dtype),
        position_ids=place.expand(3, -1, -1) if three_axes else place,
        cache=cache,
        use_cache=True,
        logits_to_keep=1 + len(tree.tokens),
    )
    cache.crop(-ids.shape[1])
    return tree.weights(output.logits)


def _gather(tokens: Tensor, was_open: Tensor, still_open: Tensor, log_probs: Tensor) -> list[Sampled]:
    """tokens, was_open: `[R, T]`, the token of each step and whether the row was still being written then."""
    lengths = (was_open.sum(1) - (~still_open).long()).tolist()  # the end token is not kept
    return [
        Sampled(row[:length], log_prob, not unfinished)
        for row, length, log_prob, unfinished in zip(
            tokens.tolist(), lengths, log_probs.tolist(), still_open.tolist(), strict=True
        )
    ]

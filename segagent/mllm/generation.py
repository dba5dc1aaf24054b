"""Decoding with one prompt pass per observation: prompts -> cache; cache, forced prefixes -> sampled tokens.

The cache of a prompt is expanded to its K samples, so that image and prompt are read once. The k-th sample draws from a
generator of (seed, k) alone, and padding is masked with positions counted without it: what else is in the batch does
not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from segagent.mllm.choices import ChoiceTree, additive
from segagent.mllm.network import VisionLanguageNetwork, positions_of
from segagent.mllm.sampling import Sampled, choose, uniforms


@dataclass(frozen=True, eq=False)
class Prompts:
    """Texts that the network has read.

    cache: keys and values of every layer, `[B, heads, L, D]`. mask: `[B, L]` int64, 0 on padding, which may lie
    anywhere. logits: `[B, V]` float32 of the token that comes next.
    """

    cache: DynamicCache
    mask: Tensor
    logits: Tensor

    def branch(self, rows: Tensor) -> Prompts:
        """Copies of the given rows, `[N]` int64, in that order and as often as they occur."""
        cache = DynamicCache()
        for number, layer in enumerate(self.cache.layers):
            cache.update(layer.keys[rows], layer.values[rows], number)
        return Prompts(cache, self.mask[rows], self.logits[rows])


def read_prompts(
    network: VisionLanguageNetwork,
    input_ids: Tensor,
    attention_mask: Tensor,
    pixel_values: Tensor | None,
    pictures: Tensor | None = None,
) -> Prompts:
    """The prompt pass over a left-padded batch, `[B, L]` int64 both. pixel_values, pictures: see `network.embed`."""
    seen = network.attention(input_ids, attention_mask)
    return _step(network, network.embed(input_ids, pixel_values, pictures), attention_mask, DynamicCache(), seen)


def _step(
    network: VisionLanguageNetwork, embeddings: Tensor, mask: Tensor, cache: DynamicCache, seen: Tensor | None = None
) -> Prompts:
    """Reads `[B, N, D]` more embeddings into the cache. mask: `[B, L]` of all tokens, these included. seen: who sees
    whom, where it is not each token those before it."""
    output = network.language(
        inputs_embeds=embeddings,
        attention_mask=mask if seen is None else seen,
        position_ids=positions_of(mask)[:, -embeddings.shape[1] :],
        cache=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return Prompts(output.cache, mask, output.logits[:, -1].float())


def read_more(network: VisionLanguageNetwork, prompts: Prompts, tokens: Sequence[Sequence[int]]) -> Prompts:
    """Reads further tokens of each row, of any number, none included. The cache of `prompts` grows in place."""
    longest = max(map(len, tokens), default=0)
    if not longest:
        return prompts
    padded = [[0] * (longest - len(row)) + list(row) for row in tokens]
    used = [[0] * (longest - len(row)) + [1] * len(row) for row in tokens]
    mask = torch.cat([prompts.mask, torch.tensor(used, device=prompts.mask.device)], dim=1)
    ids = torch.tensor(padded, device=prompts.mask.device)
    after = _step(network, network.embed(ids), mask, prompts.cache)
    has_more = torch.tensor([bool(row) for row in tokens], device=prompts.mask.device)
    return Prompts(after.cache, mask, torch.where(has_more[:, None], after.logits, prompts.logits))


def weigh(network: VisionLanguageNetwork, prompts: Prompts, tree: ChoiceTree) -> np.ndarray:
    """`[B, N]` float64 probabilities of the tree's texts as the beginning of the reply; `prompts` is left as it was."""
    tokens = [*tree.shared, *tree.tokens]
    if not tokens:
        return tree.weights(prompts.logits[:, None])
    offsets, seen = tree.layout(prompts.mask, len(tree.shared))
    embeddings = network.embed(torch.tensor([tokens] * len(seen), device=seen.device))
    output = network.language(
        inputs_embeds=embeddings,
        attention_mask=additive(seen, embeddings.dtype),
        position_ids=prompts.mask.sum(-1, keepdim=True) + offsets,
        cache=prompts.cache,
        use_cache=True,
        logits_to_keep=len(tree.tokens) + (len(tree.shared) > 0),
    )
    prompts.cache.crop(-len(tokens))
    logits = output.logits
    if not tree.shared:
        logits = torch.cat([prompts.logits[:, None].to(logits.dtype), logits], 1)
    return tree.weights(logits)


def sample(
    network: VisionLanguageNetwork,
    prompts: Prompts,
    *,
    end_tokens: Sequence[int],
    limits: Sequence[int],
    num_samples: int = 1,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    greedy_first: bool = False,
) -> list[list[Sampled]]:
    """`num_samples` continuations of every prompt, `[B][K]`; at temperature 0 the greedy one, computed once.

    greedy_first: see `base.MLLM.generate`. limits: most new tokens per prompt. Sequences that ended leave the batch, so
    a long one does not hold up the others. The cache of `prompts` is left as it was when K > 1 (at K = 1 it grows:
    branch before to use it again).
    """
    count = len(limits)
    copies = 1 if temperature == 0 else num_samples
    if copies > 1:
        prompts = prompts.branch(torch.arange(count, device=prompts.mask.device).repeat_interleave(copies))
    longest = [limit for limit in limits for _ in range(copies)]
    noise = None
    if temperature > 0:
        if seeds is None:
            raise ValueError(f"temperature={temperature} without seeds: give one integer per observation")
        noise = uniforms(seeds, copies, max(limits), greedy_first)
    texts, log_probs, finished = _decode(network, prompts, frozenset(end_tokens), longest, temperature, noise)
    drawn = [Sampled(*row) for row in zip(texts, log_probs, finished, strict=True)]
    return [drawn[row * copies : (row + 1) * copies] * (num_samples // copies) for row in range(count)]


def _decode(
    network: VisionLanguageNetwork,
    prompts: Prompts,
    end_tokens: frozenset[int],
    limits: Sequence[int],
    temperature: float,
    noise: np.ndarray | None,
) -> tuple[list[list[int]], list[float], list[bool]]:
    """Tokens, log-probabilities and own end of every row. noise: `[R, most limit]`, one draw a token, or None."""
    rows = list(range(len(limits)))  # of the result, in the order in which they stand in `prompts`
    tokens: list[list[int]] = [[] for _ in rows]
    log_probs, finished = [0.0] * len(rows), [False] * len(rows)
    done = [limit < 1 for limit in limits]
    for step in range(max(limits, default=0)):
        draws = None if noise is None else torch.from_numpy(noise[rows, step])
        chosen = choose(prompts.logits, temperature, draws)
        gained = torch.log_softmax(prompts.logits, -1).gather(1, chosen[:, None])[:, 0].tolist()
        for row, token, gain in zip(rows, chosen.tolist(), gained, strict=True):
            if done[row]:
                continue
            log_probs[row] += gain
            if token in end_tokens:
                finished[row] = done[row] = True
                continue
            tokens[row].append(token)
            done[row] = len(tokens[row]) >= limits[row]
        going = [place for place, row in enumerate(rows) if not done[row]]
        if not going:
            break
        if 2 * len(going) <= len(rows):  # copying the cache is worth it once half of the rows have ended
            keep = torch.tensor(going, device=chosen.device)
            prompts, chosen, rows = prompts.branch(keep), chosen[keep], [rows[place] for place in going]
        mask = torch.cat([prompts.mask, prompts.mask.new_ones(len(rows), 1)], dim=1)
        prompts = _step(network, network.embed(chosen[:, None]), mask, prompts.cache)
    return tokens, log_probs, finished

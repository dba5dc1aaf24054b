"""One token at a time: logits and draws -> tokens. What a sample draws follows from its seed and its number alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampled:
    """Tokens of one sample without the end token, log-probability (end token included), whether it ended itself."""

    tokens: list[int]
    log_prob: float
    finished: bool


def uniforms(seeds: Sequence[int], num_samples: int, steps: int, greedy_first: bool = False) -> np.ndarray:
    """`[B * num_samples, steps]` float64 in [0, 1), the samples of a seed next to each other; a row depends on (seed,
    k) alone. greedy_first: rows of k = 0 are NaN, which `choose` takes for greedy."""
    drawn = np.stack(
        [
            np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, k], np.uint64))).random(steps)
            for seed in seeds
            for k in range(num_samples)
        ]
    )
    if greedy_first:
        drawn[::num_samples] = np.nan
    return drawn


def choose(logits: Tensor, temperature: float, draws: Tensor | None) -> Tensor:
    """`[R]` int64: the likeliest tokens, or those under which the draws fall in the cumulated probabilities.

    logits: `[R, V]` float32. draws: `[R]` float64 in [0, 1) on the CPU, NaN for a greedy row, None when all are greedy.
    """
    if draws is None:
        return logits.argmax(-1)
    wide = (logits.cpu() if logits.device.type == "mps" else logits).double()  # MPS has no float64
    cumulated = torch.softmax(wide / temperature, -1).cumsum(-1)
    # A draw of almost 1 must not fall behind the last token, so the sum that rounding left is what it is measured by.
    greedy = draws.isnan().to(wide.device)
    wanted = (draws.nan_to_num().to(wide.device) * cumulated[:, -1])[:, None]
    chosen = torch.searchsorted(cumulated, wanted, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    return torch.where(greedy, wide.argmax(-1), chosen).to(logits.device)

"""Which of given texts a reply begins with: their tokens -> a tree, read in one pass after a prompt -> probabilities.

The tokens of all texts lie in the network's input as one tree: each sees the prompt and the tokens that lead to it, and
stands at their number, so that a hundred numbers cost a dozen tokens and no copy of the prompt's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Fork:
    """How texts go on from one place. tokens: those that may come next. nodes: the place each leads to, None where only
    one text is left below. texts: the first text below each. ends: the text that ends here, if one does."""

    tokens: list[int]
    nodes: list[int | None]
    texts: list[int]
    ends: int | None


class ChoiceTree:
    """paths: the tokens of each text, `[N]` of them, no two alike.

    shared: the tokens with which all begin. tokens, parents: of the places further on where more than one text is left,
    parents first; `parents` counts places from 1 in this order, 0 being the end of `shared`. longest: tokens of the
    longest text. Raises `ValueError` for fewer than two texts, or two that the tokenizer does not tell apart.
    """

    def __init__(self, paths: Sequence[Sequence[int]]) -> None:
        rows = [tuple(path) for path in paths]
        if len(rows) < 2 or len(set(rows)) < len(rows):
            raise ValueError(f"{len(rows)} choices, {len(set(rows))} distinct to this tokenizer: need two or more")
        self.count, self.longest = len(rows), max(map(len, rows))
        same = 0
        while all(len(row) > same and row[same] == rows[0][same] for row in rows):
            same += 1
        self.shared = list(rows[0][:same])
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self._forks: list[_Fork] = []
        places = [(range(len(rows)), same)]  # (texts below, tokens read); grows while it is gone through
        for number, (members, depth) in enumerate(places):
            groups: dict[int, list[int]] = {}
            ends = None
            for member in members:
                if len(rows[member]) == depth:
                    ends = member
                else:
                    groups.setdefault(rows[member][depth], []).append(member)
            nodes: list[int | None] = []
            for token, group in groups.items():
                nodes.append(len(places) if len(group) > 1 else None)
                if len(group) > 1:
                    places.append((group, depth + 1))
                    self.tokens.append(token)
                    self.parents.append(number)
            self._forks.append(_Fork(list(groups), nodes, [group[0] for group in groups.values()], ends))

    def layout(self, mask: Tensor, lead: int) -> tuple[Tensor, Tensor]:
        """Places of `lead` tokens and then the tree's behind what a cache holds.

        mask: `[B, L]` 0/1, the tokens of the cache that count. Returns (how many tokens come before each, counted from
        the cache's, `[Q]` int64; who sees whom, `[B, 1, Q, L + Q]` bool).
        """
        depths = [0]
        for parent in self.parents:
            depths.append(depths[parent] + 1)
        offsets = torch.tensor([*range(lead), *(lead - 1 + depth for depth in depths[1:])], device=mask.device)
        total = lead + len(self.tokens)
        among = torch.eye(total, dtype=torch.bool)
        among[:, :lead] |= torch.ones(total, lead).tril().bool()
        for number, parent in enumerate(self.parents):
            if parent:
                among[lead + number] |= among[lead + parent - 1]
        before = mask.bool()[:, None, None, :].expand(-1, 1, total, -1)
        after = among.to(mask.device)[None, None].expand(len(mask), 1, -1, -1)
        return offsets, torch.cat([before, after], -1)

    def weights(self, logits: Tensor) -> np.ndarray:
        """`[B, N]` float64 probabilities of the texts, each row of sum 1, of a reply that must begin with one of them.

        At each place the tokens that go on with no text are left out (where a text may end, they are its end). logits:
        `[B, 1 + T, V]`, after `shared` and after each of `tokens`.
        """
        mass = np.zeros(logits.shape[:2])
        found = np.zeros((len(logits), self.count))
        mass[:, 0] = 1.0
        for number, fork in enumerate(self._forks):
            scores = logits[:, number, fork.tokens].float()
            if fork.ends is None:
                shares = scores.softmax(-1)
            else:
                shares = (scores - logits[:, number].float().logsumexp(-1, keepdim=True)).exp()
                found[:, fork.ends] = mass[:, number] * (1 - shares.sum(-1)).clamp(min=0).cpu().numpy()
            below = mass[:, number, None] * shares.cpu().double().numpy()  # MPS has no float64
            for place, (node, text) in enumerate(zip(fork.nodes, fork.texts, strict=True)):
                if node is None:
                    found[:, text] = below[:, place]
                else:
                    mass[:, node] = below[:, place]
        return found / found.sum(1, keepdims=True)


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Who sees whom, bool -> what every attention adds to its scores: 0, or the least number of `dtype`."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)

"""Muon for the matrices of a decoder and the convolutions of a tower, AdamW for all else, as one optimizer.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) takes, for the update of a matrix, the orthogonal
matrix nearest to its momentum, so that all its directions move alike. Updates are as large as AdamW's usually are (Liu
et al., arXiv 2502.16982, section 2.2), which lets both share a rate. Both are torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn


class MuonAndAdamW(torch.optim.Optimizer):
    """matrices, others: parameter groups of the two; one of them may be empty. A convolution `[C, C', k, k]` among the
    first is taken as the matrix `[C, C' * k * k]`. lr, betas: see `torch.optim.AdamW`."""

    def __init__(
        self, matrices: Sequence[dict], others: Sequence[dict], *, lr: float, betas: tuple[float, float]
    ) -> None:
        self.parts: list[torch.optim.Optimizer] = []
        self._flat: list[tuple[nn.Parameter, nn.Parameter]] = []  # a convolution, and the matrix that stands for it
        if matrices:
            groups = [{**group, "params": [self._matrix(weight) for weight in group["params"]]} for group in matrices]
            self.parts.append(torch.optim.Muon(groups, lr=lr, adjust_lr_fn="match_rms_adamw"))
        if others:
            self.parts.append(torch.optim.AdamW(list(others), lr=lr, betas=betas, fused=True))
        super().__init__(self._groups(), {})

    def _matrix(self, weight: nn.Parameter) -> nn.Parameter:
        if weight.ndim == 2:
            return weight
        self._flat.append((weight, nn.Parameter(weight.detach().flatten(1))))
        return self._flat[-1][1]

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for weight, _ in self._flat:
            weight.grad = None

    def _groups(self) -> list[dict]:
        """The groups of the parts themselves: a rate that is set here is set there."""
        return [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """closure: as in `torch.optim.Optimizer`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for weight, matrix in self._flat:  # the same memory, even where the network was moved since
            matrix.data = weight.detach().flatten(1)
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part in self.parts:
            part.step()
        for weight, matrix in self._flat:
            matrix.grad = None
            if matrix.data_ptr() != weight.data_ptr():  # `flatten` had to copy a weight that lies otherwise in memory
                weight.copy_(matrix.view_as(weight))
        return loss

    def state_dict(self) -> dict[str, Any]:
        """`parts`: the state of each."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises `ValueError` for the state of another optimizer."""
        states = state_dict.get("parts")
        if states is None or len(states) != len(self.parts):
            raise ValueError(
                "is the state of another optimizer; resume with what it began with (train.optimizer, train.frozen)"
            )
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()

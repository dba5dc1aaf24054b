"""Muon for the matrices of a decoder and the convolutions of a tower, AdamW for all else, as one optimizer.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) takes, for the update of a matrix, the orthogonal
matrix nearest to its momentum, so that all its directions move alike. Updates are as large as AdamW's usually are (Liu
et al., arXiv 2502.16982, section 2.2), which lets both share a rate. AdamW is torch's. Its Muon computes in bfloat16
whatever the device, which on CPUs without such instructions takes several times as long as all else of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from segagent.devices import computes_bfloat16

_MOMENTUM = 0.95
_ITERATIONS = 5
_COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the quintic: Jordan et al.; singular values end near 1, not at it


def orthogonalized(matrix: Tensor) -> Tensor:
    """`[M, N]` -> about U V^T of its singular value decomposition U S V^T.

    Five Newton-Schulz iterations (Jordan et al., `newtonschulz5`), in bfloat16 where the device computes in it, else in
    float32; returned as the type that came.
    """
    wide = matrix.bfloat16() if computes_bfloat16(matrix.device) else matrix.float()
    tall = matrix.shape[0] > matrix.shape[1]
    wide = wide.T if tall else wide
    wide = wide / wide.norm().clamp(min=1e-7)
    first, third, fifth = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), wide, beta=first)
    return (wide.T if tall else wide).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """A part of `MuonAndAdamW`, with Nesterov momentum. params: groups of matrices, and of convolutions
    `[C, C', k, k]`, which are taken as the matrix `[C, C' * k * k]`; each with `weight_decay`, decoupled."""

    def __init__(self, params: Sequence[dict], *, lr: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group["lr"], group["weight_decay"])

    def _move(self, weight: Tensor, rate: float, decay: float) -> None:
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        # Checkpoints of torch's Muon hold it as a matrix.
        momentum = state["momentum_buffer"] = state["momentum_buffer"].view_as(weight)
        momentum.lerp_(weight.grad, 1 - _MOMENTUM)
        matrix = weight.grad.lerp(momentum, _MOMENTUM).flatten(1)
        # Liu et al., section 2.2: entries of an orthogonal matrix are small, those of an update of AdamW 0.2 to 0.4.
        length = 0.2 * max(matrix.shape) ** 0.5
        weight.mul_(1 - rate * decay).add_(orthogonalized(matrix).view_as(weight), alpha=-rate * length)


class MuonAndAdamW(torch.optim.Optimizer):
    """matrices, others: parameter groups of the two, see `Muon`; one of them may be empty. lr, betas: see
    `torch.optim.AdamW`."""

    def __init__(
        self, matrices: Sequence[dict], others: Sequence[dict], *, lr: float, betas: tuple[float, float]
    ) -> None:
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(Muon(matrices, lr=lr))
        if others:
            self.parts.append(torch.optim.AdamW(list(others), lr=lr, betas=betas, fused=True))
        super().__init__(self._groups(), {})

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
        for part in self.parts:
            part.step()
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

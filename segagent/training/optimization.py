"""AdamW with layer-wise learning rates for a SimpleClick network, and the schedule over steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from segagent.segmenters.simpleclick_vit import SimpleClickNet


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """lr: peak learning rate of neck and head. layer_decay: each block below them learns so many times as fast.

    warmup: steps of linear rise. min_lr: what the cosine falls to, as a share of `lr`. clip_norm: largest gradient
    norm. The rest as in `torch.optim.AdamW`.
    """

    lr: float = 1e-3
    layer_decay: float = 0.9
    weight_decay: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.99
    warmup: int = 200
    min_lr: float = 0.01
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "clip_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: a number above 0")
        for name in ("layer_decay", "min_lr"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: a share in [0, 1]")
        if self.warmup < 0:
            raise ValueError(f"warmup={self.warmup}: a number of steps, 0 or more")


def layer_of(name: str, depth: int) -> int:
    """Layer of a parameter: 0 the patch embedding, 1..depth the blocks, depth + 1 all that no pretraining brings."""
    if name.startswith("backbone.blocks."):
        return 1 + int(name.split(".")[2])
    return 0 if name.startswith("backbone.") else depth + 1


def build_optimizer(network: SimpleClickNet, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Groups by layer and by whether weights decay; a group's `scale` is its share of the learning rate.

    Layer-wise decay as in BEiT and MAE fine-tuning: scale = layer_decay^(depth + 1 - layer). Vectors (norms, biases)
    and the position table do not decay.
    """
    depth = network.config.depth
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        decays = parameter.ndim > 1 and not name.endswith("pos_embed")
        groups.setdefault((layer_of(name, depth), decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "scale": settings.layer_decay ** (depth + 1 - layer),
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for (layer, decays), parameters in groups.items()
        ],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
    )


def learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """The rate of step 0..steps-1: linear rise over `warmup` steps, then half a cosine down to `min_lr * lr`."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, steps - settings.warmup)
    return settings.lr * (settings.min_lr + (1 - settings.min_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]

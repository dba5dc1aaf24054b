"""Normalised focal loss over logits and bool targets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def normalized_focal_loss(
    logits: Tensor, target: Tensor, void: Tensor | None = None, *, alpha: float = 0.5, gamma: float = 2.0
) -> Tensor:
    """Loss of each image, `[B]` float32.

    logits: `[B, 1, H, W]` float. target, void: `[B, 1, H, W]` bool; void pixels neither add to the loss nor to its
    weights, and an image of void pixels only has loss 0.

    Normalised focal loss (Sofiiuk, Barinova, Konushin, "AdaptIS", ICCV 2019, section 3.4; used by RITM and
    SimpleClick). With p the predicted probability of the true side of a pixel and a its alpha (alpha for the object,
    1 - alpha for the rest):

        w = (1 - p)^gamma,    loss = sum(-a * w * log p) / sum(w)

    The sum below the line is a constant to the gradient: the total weight of an image stays the same however well it
    is segmented already, where the plain focal loss fades away with the share of pixels that are right.
    Raises `ValueError` when the shapes differ.
    """
    if logits.shape != target.shape or (void is not None and void.shape != target.shape):
        shapes = [list(tensor.shape) for tensor in (logits, target, void) if tensor is not None]
        raise ValueError(f"logits, target and void are {shapes}: they must cover the same pixels")
    signed = torch.where(target, logits.float(), -logits.float())
    # 1 - sigmoid(x) = sigmoid(-x), without the cancellation near p = 1.
    weight = torch.sigmoid(-signed) ** gamma
    sides = torch.where(target, alpha, 1 - alpha)
    if void is not None:
        weight = weight * ~void
    loss = -(sides * weight * F.logsigmoid(signed)).flatten(1).sum(1)
    return loss / weight.detach().flatten(1).sum(1).clamp_min(1e-8)

"""Normalised focal loss against sums worked out by hand."""

import math

import pytest
import torch

from segagent.training.focal import normalized_focal_loss


def test_the_loss_is_the_weighted_mean_of_the_formula():
    p = torch.tensor([0.9, 0.6, 0.2])  # probability of the object
    target = torch.tensor([True, False, True])
    right = [0.9, 0.4, 0.2]
    weights = [(1 - value) ** 2 for value in right]
    wanted = sum(-0.5 * w * math.log(value) for w, value in zip(weights, right, strict=True)) / sum(weights)
    loss = normalized_focal_loss(torch.logit(p).view(1, 1, 1, 3), target.view(1, 1, 1, 3))
    assert loss.shape == (1,) and loss.item() == pytest.approx(wanted, rel=1e-5)


def test_the_normaliser_is_a_constant_to_the_gradient():
    logits = torch.tensor([[[[1.5, -0.5]]]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[[[True, True]]]])
    normalized_focal_loss(logits, target).sum().backward()
    p = torch.sigmoid(logits.detach())
    total = ((1 - p) ** 2).sum()
    again = logits.detach().clone().requires_grad_()
    q = torch.sigmoid(again)
    ((-0.5 * (1 - q) ** 2 * q.log()).sum() / total).backward()
    assert torch.allclose(logits.grad, again.grad, rtol=1e-5)


def test_alpha_weighs_object_against_rest():
    logits = torch.zeros(1, 1, 1, 2)
    target = torch.tensor([[[[True, False]]]])
    heavy = normalized_focal_loss(logits, target, alpha=1.0).item()
    assert heavy == pytest.approx(normalized_focal_loss(logits, target, alpha=0.5).item())
    only = normalized_focal_loss(logits, torch.ones_like(target), alpha=1.0).item()
    assert only == pytest.approx(math.log(2)) and heavy == pytest.approx(math.log(2) / 2)


def test_void_pixels_change_nothing_and_get_no_gradient():
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 4, 4)
    target = torch.rand(2, 1, 4, 4) > 0.5
    void = torch.zeros_like(target)
    void[:, :, 0] = True
    other = torch.where(void, 50.0, logits).requires_grad_()
    loss = normalized_focal_loss(other, target, void)
    loss.sum().backward()
    assert torch.allclose(loss, normalized_focal_loss(logits[:, :, 1:], target[:, :, 1:]))
    assert (other.grad[void] == 0).all() and (other.grad[~void] != 0).all()
    nothing = normalized_focal_loss(logits, target, torch.ones_like(void))
    assert (nothing == 0).all()


def test_sure_and_right_or_wrong_stay_finite():
    logits = torch.tensor([[[[1e4, -1e4]]]], requires_grad=True)
    for target in (torch.tensor([[[[True, False]]]]), torch.tensor([[[[False, True]]]])):
        loss = normalized_focal_loss(logits, target)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()
    with pytest.raises(ValueError, match="must cover the same pixels"):
        normalized_focal_loss(logits, target[..., :1])

"""The convolutions that small networks have beside the released head."""

from dataclasses import replace

import pytest
import torch

from segagent.segmenters.simpleclick_checkpoint import load_simpleclick, save_simpleclick
from segagent.segmenters.simpleclick_detail import PLANES, likeness
from segagent.segmenters.simpleclick_vit import SimpleClickConfig, SimpleClickNet

PLAIN = SimpleClickConfig(
    image_size=64, patch_size=16, embed_dim=16, depth=4, num_heads=2, out_dims=(8, 8, 8, 8), head_channels=8
)


def inputs():
    torch.manual_seed(1)
    points = torch.tensor([[[20.0, 30.0, 0], [-1, -1, -1]]]).expand(2, -1, -1)
    return torch.rand(2, 3, 64, 64), torch.rand(2, 1, 64, 64), points


def test_it_is_added_to_the_released_network_which_stays_as_it_was():
    torch.manual_seed(0)
    plain = SimpleClickNet(PLAIN).eval()
    detailed = SimpleClickNet(replace(PLAIN, detail_channels=(8, 8, 8))).eval()
    missing = detailed.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(key.startswith("detail.") for key in missing)
    assert not any(key.startswith("detail.") for key in plain.state_dict())
    with torch.inference_mode():
        without, with_detail = plain(*inputs()), detailed(*inputs())
        assert with_detail.shape == without.shape == (2, 1, 64, 64)
        assert (with_detail - without).abs().max() > 1e-3
        torch.nn.init.zeros_(detailed.detail.logits.weight), torch.nn.init.zeros_(detailed.detail.logits.bias)
        assert torch.equal(detailed(*inputs()), without)


def test_it_sees_every_pixel_mask_and_click():
    torch.manual_seed(0)
    detail = SimpleClickNet(replace(PLAIN, detail_channels=(8, 8, 8))).detail
    planes = torch.rand(1, PLANES, 64, 64, requires_grad=True)
    context = torch.rand(1, 8, 16, 16, requires_grad=True)
    logits = detail(planes, context)
    assert logits.shape == (1, 1, 64, 64)
    (logits[0, 0, 33, 21] * 1.0).backward()
    assert (planes.grad[0, :, 33, 21] != 0).all() and context.grad.abs().sum() > 0


def test_likeness_is_that_of_the_likest_click_of_each_sign():
    pixels = torch.zeros(2, 3, 20, 30)
    pixels[:, 0, :, 10:20], pixels[:, 1, :, 20:] = 1.0, 2.0
    points = torch.full((2, 4, 3), -1.0)
    points[0, 0], points[0, 1] = torch.tensor([5.0, 4.4, 0]), torch.tensor([5.0, 14.6, 1])  # positive: nothing, red
    points[0, 2] = torch.tensor([19.7, 29.9, 2])  # negative: green, at the very corner
    alike = likeness(pixels, points)
    assert alike.shape == (2, 2, 20, 30) and (alike[1] == 0).all(), "no click, no likeness"
    positive, negative = alike[0, :, 7, 5::10]
    assert torch.allclose(positive, torch.exp(-torch.tensor([0.0, 0.0, 4.0])), atol=1e-5)
    assert torch.allclose(negative, torch.exp(-torch.tensor([4.0, 5.0, 0.0])), atol=1e-5)


@pytest.mark.parametrize("channels", [(1, 2, 3), (8, 8, 8, 8)])
def test_it_comes_back_from_a_folder(channels, tmp_path):
    network = SimpleClickNet(replace(PLAIN, detail_channels=channels)).eval()
    save_simpleclick(network, tmp_path)
    again = load_simpleclick(tmp_path)
    with torch.inference_mode():
        assert again.config == network.config and torch.equal(again(*inputs()), network(*inputs()))

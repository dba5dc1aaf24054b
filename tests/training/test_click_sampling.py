"""Where the clicks of training fall, and the tensor they become."""

import numpy as np
import pytest
import torch

from segagent.segmenters.simpleclick import Region, SimpleClick
from segagent.segmenters.simpleclick_vit import SimpleClickConfig, SimpleClickNet
from segagent.training.click_sampling import ClickSampler, click_points, depths
from segagent.types import Click


@pytest.fixture
def square():
    target = np.zeros((40, 50), bool)
    target[10:30, 15:40] = True
    return target


def drawn(count):
    return [np.random.default_rng(seed) for seed in range(count)]


def test_first_clicks_lie_on_their_side_and_begin_with_a_positive_one(square):
    sampler = ClickSampler(max_positive=4, max_negative=3, decay=1.0)
    made = [sampler.first(square, None, random) for random in drawn(200)]
    assert all(clicks[0].is_positive for clicks in made)
    assert all(square[click.y, click.x] == click.is_positive for clicks in made for click in clicks)
    positives = [sum(click.is_positive for click in clicks) for clicks in made]
    negatives = [len(clicks) - count for clicks, count in zip(made, positives, strict=True)]
    assert set(positives) == {1, 2, 3, 4} and set(negatives) == {0, 1, 2, 3}


def test_fewer_clicks_are_likelier_under_decay(square):
    sampler = ClickSampler(max_positive=3, max_negative=0, decay=0.25)
    counts = np.bincount([len(sampler.first(square, None, random)) for random in drawn(400)], minlength=4)
    assert counts[1] > 2 * counts[2] > 0 and counts[2] > counts[3] > 0


def test_positive_clicks_keep_off_the_edge_yet_vary(square):
    depth = depths(square)
    sampler = ClickSampler(max_positive=1, max_negative=0, least_depth=0.5, most_depth=0.9)
    places = [(click.x, click.y) for random in drawn(100) for click in sampler.first(square, None, random)]
    assert min(depth[y, x] for x, y in places) >= 0.5 * depth.max()
    assert len(set(places)) > 40, "not always the deepest point"


def test_half_of_the_negatives_are_near_the_object(square):
    sampler = ClickSampler(max_positive=1, max_negative=1, decay=1.0, near=0.1)
    distance = depths(~square)
    far = [
        distance[click.y, click.x] > 5
        for random in drawn(400)
        for click in sampler.first(square, None, random)
        if not click.is_positive
    ]
    share_of_far_background = (distance > 5).sum() / (distance > 2).sum()
    assert np.mean(far) == pytest.approx(share_of_far_background / 2, abs=0.12)


def test_a_correction_goes_to_the_deeper_error_and_void_is_never_clicked(square):
    sampler = ClickSampler()
    mask = square.copy()
    mask[10:30, 15:35] = False  # 20 x 20 missing
    mask[0:4, 0:8] = True  # 4 x 8 too much
    for random in drawn(30):
        click = sampler.correction(square, mask, None, random)
        assert click.is_positive and square[click.y, click.x] and not mask[click.y, click.x]
    void = np.zeros_like(square)
    void[10:30, 15:34] = True
    for random in drawn(30):
        click = sampler.correction(square, mask, void, random)
        assert not click.is_positive and click.y < 4 and click.x < 8
    assert sampler.correction(square, square, None, np.random.default_rng(0)) is None
    assert sampler.correction(square, mask, square | mask, np.random.default_rng(0)) is None


def test_nothing_to_click_gives_no_clicks(square):
    sampler = ClickSampler()
    assert sampler.first(np.zeros_like(square), None, np.random.default_rng(0)) == []
    assert sampler.first(square, square, np.random.default_rng(0)) == []
    everything = np.ones_like(square)
    made = [sampler.first(everything, None, random) for random in drawn(20)]
    assert all(click.is_positive for clicks in made for click in clicks), "there is no background"


def test_points_are_laid_out_as_the_predictor_lays_them_out():
    clicks = [[Click(3, 4), Click(5, 2, False), Click(9, 9)], [Click(1, 1)]]
    network = SimpleClickNet(
        SimpleClickConfig(image_size=32, embed_dim=16, depth=4, num_heads=2, out_dims=(4, 4, 4, 4), head_channels=4)
    )
    predictor = SimpleClick(network=network, device="cpu")
    # Whole picture at the network's own size: the predictor's coordinates are the pixels themselves.
    wanted = predictor._points(clicks, [Region(0, 31, 0, 31)] * 2)
    assert torch.equal(click_points(clicks), wanted)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"max_positive": 0}, "at least 1 positive"),
        ({"decay": 0.0}, r"share in \(0, 1\]"),
        ({"least_depth": 0.8, "most_depth": 0.5}, "least <= most"),
    ],
)
def test_unsound_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ClickSampler(**wrong)

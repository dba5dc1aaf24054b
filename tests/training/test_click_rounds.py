"""The model in the loop."""

import pytest
import torch

from segagent.training.click_rounds import ClickRounds, to_part
from segagent.training.click_sampling import ClickSampler
from segagent.training.segmenter_batch import batches
from segagent.training.vit_init import fresh_network

CPU = torch.device("cpu")


class Recorder(torch.nn.Module):
    """Predicts the left half, whatever it is shown."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, image, previous, points):
        self.calls.append((image.clone(), previous.clone(), points.clone(), self.training, torch.is_grad_enabled()))
        logits = torch.full_like(previous, -4.0)
        logits[..., : logits.shape[3] // 2] = 4.0
        return logits


@pytest.fixture
def made(small):
    return list(batches(small.crops(), 0, 80, 4, workers=0))


def used(points):
    return (points[..., 2] >= 0).sum(1)


def play(batch, network=None, **changes):
    settings = {"max_rounds": 3, "again": 0.0, "forget": 0.0, "seed": 1} | changes
    return ClickRounds(sampler=ClickSampler(), **settings).play(network or Recorder(), batch, CPU)


def test_each_round_predicts_without_gradient_and_adds_one_click(made):
    counts = set()
    for batch in made:
        network = Recorder()
        inputs = play(batch, network)
        counts.add(len(network.calls))
        assert network.training and all(not training and not grad for *_, training, grad in network.calls)
        first = torch.tensor([len(clicks) for clicks in batch.clicks])
        assert torch.equal(used(inputs.points), first + len(network.calls)), "its mask is never right"
        for turn, (_, previous, points, *_) in enumerate(network.calls):
            assert torch.equal(used(points), first + turn)
            assert bool(previous.any()) is (turn > 0), "each round sees the mask of the one before"
        assert bool(inputs.previous.any()) is bool(network.calls)
    assert counts == {0, 1, 2, 3}


def test_the_first_prediction_sees_the_whole_picture_and_later_ones_the_crop(made):
    for batch in made:
        network = Recorder()
        inputs = play(batch, network)
        seen = [image for image, *_ in network.calls] + [inputs.image]
        views = [batch.whole] + [batch.part] * (len(seen) - 1)
        for image, view in zip(seen, views, strict=True):
            assert torch.equal(image, view.images.float() / 255)
        assert torch.equal(inputs.targets, views[-1].targets) and torch.equal(inputs.voids, views[-1].voids)
        if len(seen) > 1:
            half = torch.full_like(inputs.previous, torch.sigmoid(torch.tensor(-4.0)).item())
            half[..., :16] = torch.sigmoid(torch.tensor(4.0))
            wanted = to_part(half, batch.windows) if len(seen) == 2 else half
            assert torch.allclose(inputs.previous, wanted), "the mask is brought over to the crop"


def test_corrections_lie_in_the_error_of_the_mask_that_is_shown(made):
    checked = 0
    for batch in made:
        network = Recorder()
        inputs = play(batch, network, max_rounds=1)
        if not network.calls:
            continue
        for row, clicks in enumerate(batch.clicks):
            for half, sign in enumerate((True, False)):
                points = inputs.points[row].chunk(2)[half]
                for y, x, _ in points[points[:, 2] >= len(clicks)].int().tolist():
                    assert batch.part.targets[row, 0, y, x].item() is sign
                    assert (inputs.previous[row, 0, y, x].item() > 0.5) is not sign
                    checked += 1
    assert checked > 20


def test_some_first_predictions_are_made_again_without_a_click(made):
    def added(again):
        total = 0
        for batch in made:
            network = Recorder()
            inputs = play(batch, network, max_rounds=1, again=again)
            total += int(used(inputs.points).sum()) - sum(map(len, batch.clicks)) if network.calls else 0
        return total

    assert added(1.0) == 0 and 0.3 < added(0.5) / added(0.0) < 0.7


def test_previous_masks_are_forgotten_as_often_as_asked(made):
    def share(forget):
        return (
            torch.cat([play(batch, forget=forget).previous.flatten(1).any(1) for batch in made]).float().mean().item()
        )

    assert share(1.0) == 0 and 0.3 < share(0.5) / share(0.0) < 0.7


def test_the_same_batch_is_played_alike_whatever_came_before(made, small):
    network = fresh_network(small.config, 0)
    once = [play(batch, network) for batch in made[:5]][4]
    torch.rand(7)
    again = play(made[4], network)
    assert torch.equal(once.points, again.points) and torch.equal(once.previous, again.previous)


@pytest.mark.parametrize("wrong, message", [({"max_rounds": -1}, "0 or more"), ({"forget": 1.5}, "a probability")])
def test_unsound_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ClickRounds(sampler=ClickSampler(), **wrong)

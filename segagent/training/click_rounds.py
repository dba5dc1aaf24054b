"""The model in the loop: it predicts, a correcting click follows, several times; what comes out is learnt from.

As with the predictor, the first clicks are made on the whole picture, what follows on a crop that the first mask is
brought over to: coarse, and wrong in the ways in which the network is wrong at that scale. Iterative click sampling
with mask guidance as in RITM (Sofiiuk et al., 2021, arXiv 2102.06583) and SimpleClick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segagent.environment import stable_generator
from segagent.segmenters.simpleclick_vit import SimpleClickNet
from segagent.training.click_sampling import ClickSampler, click_points
from segagent.training.segmenter_batch import Batch, Views
from segagent.types import Click


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """On the network's device. image: `[B, 3, S, S]` float in [0, 1]. previous: `[B, 1, S, S]` float probabilities.

    points: `[B, 2P, 3]`, see `click_maps`. targets, voids: `[B, 1, S, S]` bool.
    """

    image: Tensor
    previous: Tensor
    points: Tensor
    targets: Tensor
    voids: Tensor


def to_whole(clicks: Sequence[Click], window: Sequence[float], size: int) -> list[Click]:
    """Clicks in a crop -> the same in the whole picture, both `size` pixels a side. window: see `augmentation.Crop`."""
    y_start, y_extent, x_start, x_extent = window
    last = size - 1
    return [
        Click(round(x_start * last + x_extent * click.x), round(y_start * last + y_extent * click.y), click.is_positive)
        for click in clicks
    ]


def to_part(maps: Tensor, windows: Tensor) -> Tensor:
    """Maps of the whole pictures `[B, 1, S, S]` -> their crops, `[B, 1, S, S]`, bilinear. windows: `[B, 4]`."""
    way = torch.linspace(0, 1, maps.shape[2], device=maps.device)
    y_start, y_extent, x_start, x_extent = (column[:, None] for column in windows.to(maps).unbind(1))
    y, x = 2 * (y_start + y_extent * way) - 1, 2 * (x_start + x_extent * way) - 1
    grid = torch.stack([x[:, None, :].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])], dim=3)
    return F.grid_sample(maps, grid, mode="bilinear", align_corners=True, padding_mode="border")


class ClickRounds:
    """Plays a batch up to the click that the network is then trained at.

    sampler: where clicks fall. max_rounds: predictions before that click, 0..max_rounds with equal chance, the same
    number for a whole batch; at 0 the network is trained on the whole pictures, else on the crops. again: probability
    that the first prediction is not corrected, but made again on the crop. forget: probability that the previous mask
    is left out all the same. threshold: of the masks that are corrected. seed: of all that is drawn here.
    """

    def __init__(
        self,
        *,
        sampler: ClickSampler,
        max_rounds: int = 3,
        again: float = 0.2,
        forget: float = 0.1,
        threshold: float = 0.5,
        seed: int = 0,
    ) -> None:
        if max_rounds < 0:
            raise ValueError(f"max_rounds={max_rounds}: 0 or more")
        for name, chance in (("again", again), ("forget", forget)):
            if not 0 <= chance <= 1:
                raise ValueError(f"{name}={chance}: a probability in [0, 1]")
        self.sampler, self.max_rounds, self.again, self.forget = sampler, max_rounds, again, forget
        self.threshold, self.seed = threshold, seed

    def play(self, network: SimpleClickNet, batch: Batch, device: torch.device) -> NetworkInput:
        """What the network is to be trained on; the network is left in training mode."""
        # Numbered by its first sample, so that it does not matter how steps are cut into batches.
        random = stable_generator("rounds", self.seed, batch.numbers[0])
        rounds = int(random.integers(self.max_rounds + 1))
        size = batch.part.images.shape[2]
        placed = zip(batch.clicks, batch.windows.tolist(), strict=True)
        at_whole = _input(batch.whole, [to_whole(made, window, size) for made, window in placed], None, device)
        if not rounds:
            network.train()
            return at_whole
        network.eval()
        clicks = [list(made) for made in batch.clicks]
        previous = to_part(_predict(network, at_whole), batch.windows)
        self._correct(clicks, batch, previous, 0, random.random(len(clicks)) < self.again)
        for turn in range(1, rounds):
            previous = _predict(network, _input(batch.part, clicks, previous, device))
            self._correct(clicks, batch, previous, turn, np.zeros(len(clicks), bool))
        network.train()
        forgotten = torch.from_numpy(random.random(len(clicks)) < self.forget).to(device)
        previous = torch.where(forgotten.view(-1, 1, 1, 1), torch.zeros_like(previous), previous)
        return _input(batch.part, clicks, previous, device)

    def _correct(
        self, clicks: list[list[Click]], batch: Batch, probabilities: Tensor, turn: int, spared: np.ndarray
    ) -> None:
        """Adds a click to each sample that is not spared and has something wrong. spared: `[B]` bool."""
        masks = (probabilities[:, 0] > self.threshold).cpu().numpy()
        targets, voids = batch.part.targets[:, 0].numpy(), batch.part.voids[:, 0].numpy()
        for row in np.flatnonzero(~spared):
            random = stable_generator("click", self.seed, batch.numbers[row], turn)
            click = self.sampler.correction(targets[row], masks[row], voids[row], random)
            clicks[row] += [] if click is None else [click]


def _input(
    views: Views, clicks: Sequence[Sequence[Click]], previous: Tensor | None, device: torch.device
) -> NetworkInput:
    image = views.images.to(device).float().to(memory_format=torch.channels_last) / 255
    previous = image.new_zeros((len(image), 1, *image.shape[2:])) if previous is None else previous
    points = click_points(clicks).to(device)
    return NetworkInput(image, previous, points, views.targets.to(device), views.voids.to(device))


@torch.no_grad()
def _predict(network: SimpleClickNet, inputs: NetworkInput) -> Tensor:
    """Probabilities `[B, 1, S, S]` float32."""
    return torch.sigmoid(network(inputs.image, inputs.previous, inputs.points).float())

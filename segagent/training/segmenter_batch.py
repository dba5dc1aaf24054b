"""Dataset -> batches for training a segmenter. Sample k of a run depends on the seed and k alone.

So the order of worker processes, a restart, or another batch size never changes what the network is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from segagent.data.base import Dataset
from segagent.environment import stable_generator
from segagent.training.augmentation import Crop, CropAugmentation, View
from segagent.training.click_sampling import ClickSampler
from segagent.training.workers import quiet_worker, told_plainly
from segagent.types import Click

# Samples that stay together when the order is shuffled: neighbours often share a picture, which is then made once.
_BLOCK = 8
_ATTEMPTS = 20


@dataclass(frozen=True, eq=False)
class Views:
    """images: `[B, 3, S, S]` uint8 RGB. targets, voids: `[B, 1, S, S]` bool."""

    images: Tensor
    targets: Tensor
    voids: Tensor

    @classmethod
    def stack(cls, views: Sequence[View]) -> Self:
        images = torch.from_numpy(np.stack([view.image for view in views])).permute(0, 3, 1, 2).contiguous()
        targets, voids = (np.stack([getattr(view, name) for view in views]) for name in ("target", "void"))
        return cls(images, torch.from_numpy(targets)[:, None], torch.from_numpy(voids)[:, None])


@dataclass(frozen=True, eq=False)
class Batch:
    """numbers: `[B]` which samples of the run. whole, part: the whole pictures and the crops. windows: `[B, 4]`
    float32, where the crops lie, see `augmentation.Crop`. clicks: the first of each, in pixels of the crop."""

    numbers: tuple[int, ...]
    whole: Views
    part: Views
    windows: Tensor
    clicks: tuple[tuple[Click, ...], ...]


@lru_cache(maxsize=2)
def _block_order(seed: int, epoch: int, blocks: int) -> np.ndarray:
    return stable_generator("order", seed, epoch).permutation(blocks)


def shuffled_index(number: int, length: int, seed: int) -> int:
    """Which of `length` samples comes at place `number` of the run: epochs, each a new order of blocks.

    Every sample comes once an epoch.
    """
    epoch, place = divmod(number, length)
    blocks = length // _BLOCK
    if place >= blocks * _BLOCK:  # the last, shorter block is always last
        return place
    order = _block_order(seed, epoch, blocks)
    return int(order[place // _BLOCK]) * _BLOCK + place % _BLOCK


class TrainingCrops:
    """Map from number to (number, crop, first clicks), for a `DataLoader`.

    dataset: any source with targets. length: only its first samples, the others being held out. size: side of the
    crop in pixels. Raises `ValueError` for a sample without target, and when one after the other has no pixel to click.
    """

    def __init__(
        self,
        *,
        dataset: Dataset,
        length: int,
        size: int,
        augmentation: CropAugmentation,
        sampler: ClickSampler,
        seed: int = 0,
    ) -> None:
        if not 0 < length <= len(dataset):
            raise ValueError(f"{length} samples to train on, of a dataset of {len(dataset)}: give it more samples")
        self.dataset, self.length, self.size, self.seed = dataset, length, size, seed
        self.augmentation, self.sampler = augmentation, sampler

    def __getitem__(self, number: int) -> tuple[int, Crop, tuple[Click, ...]]:
        random = stable_generator("crop", self.seed, number)
        for attempt in range(_ATTEMPTS):
            index = (shuffled_index(number, self.length, self.seed) + attempt // 2) % self.length
            sample = self.dataset[index]
            if sample.target is None:
                raise ValueError(f"sample {sample.sample_id!r} has no target mask; training needs one for every sample")
            crop = self.augmentation(sample, self.size, random)
            clicks = self.sampler.first(crop.part.target, crop.part.void, random)
            if clicks:
                return number, crop, tuple(clicks)
        raise ValueError(f"sample {sample.sample_id!r} and those before it show nothing to click at {self.size} pixels")


def collate(rows: Sequence[tuple[int, Crop, tuple[Click, ...]]]) -> Batch:
    numbers, crops, clicks = zip(*rows, strict=True)
    whole, part = Views.stack([crop.whole for crop in crops]), Views.stack([crop.part for crop in crops])
    return Batch(numbers, whole, part, torch.tensor([crop.window for crop in crops]), clicks)


def batches(
    crops: TrainingCrops, first: int, end: int, batch_size: int, workers: int, share: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """The batches of samples first..end of the run, in order, made by `workers` processes (0: by this one).

    share: (rank, count) of a training process: it gets every count-th batch, from the rank-th on.
    """
    rank, count = share
    starts = range(first + rank * batch_size, end, count * batch_size)
    loader = DataLoader(
        crops,
        batch_sampler=[range(start, min(start + batch_size, end)) for start in starts],
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=quiet_worker,
        # Not `fork`: a copy of a process whose thread pools run (torch, OpenCV) may wait forever for threads that it
        # does not have. Not `forkserver`: when this process is killed, its workers would live on.
        multiprocessing_context="spawn" if workers else None,
    )
    return told_plainly(loader)

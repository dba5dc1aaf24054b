"""Examples -> batches of tensors, made in worker processes; what is in a batch follows from its number alone.

The prompt of a batch is the one that `MLLM.encode` makes, so that training and use cannot differ; over-long samples are
refused there, never cut.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from segagent.environment import stable_generator
from segagent.mllm.base import MLLM
from segagent.training.cell_targets import CellTargets
from segagent.training.examples import Example, Examples
from segagent.training.workers import quiet_worker, told_plainly

IGNORED = -100


@dataclass(frozen=True, eq=False)
class SftBatch:
    """numbers: `[B]` which examples of the run. tensors: what the network takes, labels left out.

    labels: `[B, L]` int64, -100 everywhere but on what is learnt. weights: `[B, L]` float32, of the tokens. cells:
    `[B, 3, T]` int64, see `visual_words.CellWords`; asked: see `cell_targets`; mentions: `[B, 3, T]` int64, see
    `cell_mentions.SceneMentions`; None where the examples have none.
    """

    numbers: tuple[int, ...]
    tensors: dict[str, Tensor]
    labels: Tensor
    weights: Tensor
    cells: Tensor | None = None
    asked: CellTargets | None = None
    mentions: Tensor | None = None

    def token_weights(self) -> Tensor:
        """`[B, L]` float32: weight of each token of `labels`, 0 where nothing is learnt."""
        return (self.labels != IGNORED) * self.weights


def without_weights(mllm: MLLM) -> MLLM:
    """The model's tokenizer and preprocessing alone: small enough to be handed to worker processes."""
    small = copy.copy(mllm)
    small.network = SimpleNamespace(config=mllm.network.config)
    return small


class Collator:
    """Examples -> `SftBatch`. digit_decay: weight of each further digit of a number beside that of the one before it;
    below 1 for a word tokenizer only, whose digits are tokens (`ValueError` for others)."""

    def __init__(self, mllm: MLLM, digit_decay: float = 1.0) -> None:
        self.encoder, self.digit_decay = without_weights(mllm), digit_decay
        if digit_decay != 1 and not hasattr(getattr(mllm, "tokenizer", None), "digit_tokens"):
            raise ValueError(
                f"train.digit_decay={digit_decay}: the tokens of {type(mllm).__name__} are no digits; set it to 1"
            )

    def __call__(self, examples: Sequence[Example]) -> SftBatch:
        """Raises `ValueError` naming the samples when one is longer than the model reads."""
        observations = [example.observation for example in examples]
        try:
            tensors = dict(self.encoder.encode(observations, [example.answer for example in examples]))
        except ValueError as error:
            names = ", ".join(repr(example.sample.sample_id) for example in examples)
            raise ValueError(f"samples {names}: {error}") from None
        labels = tensors.pop("labels")
        for row, example in enumerate(examples):
            learnt = torch.nonzero(labels[row] != IGNORED)[:, 0]
            if example.open:
                labels[row, learnt[-1]] = IGNORED  # the end token: the reply may go on
        return SftBatch(
            numbers=tuple(example.number for example in examples),
            tensors=tensors,
            labels=labels,
            weights=self._digit_weights(labels) * torch.tensor([[example.weight] for example in examples]),
            cells=_all_or_none([example.cells for example in examples], _stacked),
            asked=_all_or_none([example.asked for example in examples], CellTargets.stacked),
            mentions=_all_or_none([example.mentions for example in examples], _stacked),
        )

    def _digit_weights(self, labels: Tensor) -> Tensor:
        """`[B, L]` float32: a wrong first digit is a click elsewhere, a wrong last one is the next pixel."""
        weights = torch.ones(labels.shape)
        if self.digit_decay == 1:
            return weights
        digits = torch.isin(labels, torch.tensor(self.encoder.tokenizer.digit_tokens))
        for place in range(1, labels.shape[1]):
            further = digits[:, place] & digits[:, place - 1]
            weights[further, place] = weights[further, place - 1] * self.digit_decay
        return weights


def _stacked(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def _all_or_none(parts: Sequence[Any | None], stack: Callable[[Sequence[Any]], Any]) -> Any | None:
    return stack(parts) if all(part is not None for part in parts) else None


class BatchPlan:
    """Which examples are in which batch.

    Of every `group` batches in a row the examples are sorted by length before they are cut into batches, and the
    batches are then shuffled; 1 leaves the order as it is. batch_size: examples. seed: of that shuffling.
    """

    def __init__(self, examples: Examples, *, batch_size: int, group: int = 1, seed: int = 0) -> None:
        if batch_size < 1 or group < 1:
            raise ValueError(f"batch_size={batch_size}, length_group={group}: at least 1 each")
        self.examples, self.batch_size, self.group, self.seed = examples, batch_size, group, seed

    def batch(self, number: int) -> list[int]:
        """Numbers of the examples of a batch of the run."""
        if self.group == 1:
            return list(range(number * self.batch_size, (number + 1) * self.batch_size))
        group, place = divmod(number, self.group)
        many = self.group * self.batch_size
        numbers = np.arange(group * many, (group + 1) * many)
        lengths = self.examples.lengths(numbers)
        ordered = numbers[np.lexsort((numbers, lengths[:, 1], lengths[:, 0]))].reshape(self.group, self.batch_size)
        shuffled = stable_generator("length groups", self.seed, group).permutation(self.group)
        return [int(one) for one in ordered[shuffled[place]]]


class _Batches:
    """The lists of example numbers of batches first..end, in order, every `count`-th from the `rank`-th on."""

    def __init__(self, plan: BatchPlan, first: int, end: int, share: tuple[int, int]) -> None:
        self.plan, self.numbers = plan, range(first + share[0], end, share[1])

    def __iter__(self) -> Iterable[list[int]]:
        return (self.plan.batch(number) for number in self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def sft_batches(
    plan: BatchPlan, collator: Collator, first: int, end: int, workers: int, share: tuple[int, int] = (0, 1)
) -> Iterator[SftBatch]:
    """Batches first..end of the run in order, made by `workers` processes (0: by this one).

    share: (rank, count) of a training process: it gets every count-th batch, from the rank-th on.
    """
    loader = DataLoader(
        plan.examples,
        batch_sampler=_Batches(plan, first, end, share),
        collate_fn=collator,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=quiet_worker,
        # As for the segmenter: neither `fork` (thread pools) nor `forkserver` (outlives a killed training).
        multiprocessing_context="spawn" if workers else None,
    )
    return told_plainly(loader)

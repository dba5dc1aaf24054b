"""What the native members share: observations -> batches for their network; batches -> texts.

A subclass knows its prompt and its pixels; everything about padding, labels, limits, prefixes and sampling is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from segagent.devices import torch_device, warn_if_slow
from segagent.dialogue import Observation
from segagent.mllm.ahead import one_ahead
from segagent.mllm.base import Completion, check_request
from segagent.mllm.choices import ChoiceTree
from segagent.mllm.generation import read_more, read_prompts, sample, weigh
from segagent.mllm.network import VisionLanguageNetwork
from segagent.mllm.sampling import Sampled
from segagent.types import RefusedError

IGNORED = -100  # label of tokens that are not learnt


class Tokenizer(Protocol):
    """text -> ids and back. end_tokens: ids at which a reply ends; the first one is the one that is learnt."""

    end_tokens: tuple[int, ...]
    size: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str: ...


def torch_dtype(name: str, device: torch.device) -> torch.dtype:
    """`float32`, `bfloat16`, `float16`, or `auto`: bfloat16 on CUDA, float32 elsewhere. Raises `ValueError`."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype={name!r}: choose auto, float32, bfloat16 or float16")
    dtype = getattr(torch, name)
    warn_if_slow(device, dtype, "mllm.dtype")
    return dtype


class LocalMLLM(ABC):
    """Base of the native members of `base.MLLM`.

    network, tokenizer: see there. dialogue: name of the dialogue the checkpoint was trained on. max_length: tokens that
    it reads, answer included. max_batch: observations per prompt pass. device: see `devices.torch_device`.
    """

    def __init__(
        self,
        *,
        network: VisionLanguageNetwork,
        tokenizer: Tokenizer,
        dialogue: str | None,
        max_length: int,
        max_batch: int = 32,
        device: str = "auto",
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch={max_batch}: at least 1")
        self.network = network.to(torch_device(device)).eval()
        self.tokenizer, self.dialogue = tokenizer, dialogue
        self.max_length, self.max_batch = max_length, max_batch
        self._trees: dict[tuple[str, ...], ChoiceTree] = {}

    @abstractmethod
    def prompt_tokens(self, observation: Observation) -> list[int]:
        """Everything before the reply, `network.IMAGE_TOKEN` at the place of each visual token."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the square that every picture is brought to, in pixels."""

    @abstractmethod
    def pixels(self, image: np.ndarray) -> Tensor:
        """`[H, W, 3]` uint8 RGB -> `[3, image_size, image_size]` float32 as the tower takes it."""

    def seen_size(self, *, width: int, height: int) -> tuple[int, int]:
        """See `base.MLLM.seen_size`: a square, whatever the picture's size."""
        return self.image_size, self.image_size

    # --- training -------------------------------------------------------------------------------------------------

    def encode(self, observations: Sequence[Observation], answers: Sequence[str] | None = None) -> dict[str, Tensor]:
        """See `base.MLLM.encode`; `pixel_values` `[N, 3, h, w]` float32 beside the token tensors, all on the CPU.

        Rows that show one picture share it: then `pictures` `[B]` int64 says which of the N each row shows.
        """
        prompts = [self.prompt_tokens(observation) for observation in observations]
        if answers is None:
            self._check_lengths(observations, prompts)
            return self._pad_left(observations, prompts)
        end = self.tokenizer.end_tokens[0]
        replies = [[*self.tokenizer.encode(answer), end] for answer in answers]
        rows = [prompt + reply for prompt, reply in zip(prompts, replies, strict=True)]
        self._check_lengths(observations, rows)
        length = max(map(len, rows), default=0)
        batch = {
            "input_ids": torch.full((len(rows), length), end),
            "attention_mask": torch.zeros((len(rows), length), dtype=torch.int64),
            "labels": torch.full((len(rows), length), IGNORED),
        }
        for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            batch["input_ids"][number, : len(row)] = torch.tensor(row)
            batch["attention_mask"][number, : len(row)] = 1
            batch["labels"][number, len(prompt) : len(row)] = torch.tensor(row[len(prompt) :])
        return batch | self._stack(observations)

    def _stack(self, observations: Sequence[Observation]) -> dict[str, Tensor]:
        places: dict[tuple, int] = {}
        different: list[Tensor] = []
        pictures = []
        for observation in observations:
            key = observation.image.shape, observation.image.tobytes()
            if key not in places:
                places[key] = len(different)
                different.append(self.pixels(observation.image))
            pictures.append(places[key])
        shared = {} if len(different) == len(pictures) else {"pictures": torch.tensor(pictures)}
        return {"pixel_values": torch.stack(different)} | shared

    def _pad_left(self, observations: Sequence[Observation], rows: Sequence[list[int]]) -> dict[str, Tensor]:
        length, end = max(map(len, rows)), self.tokenizer.end_tokens[0]
        return {
            "input_ids": torch.tensor([[end] * (length - len(row)) + row for row in rows]),
            "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
        } | self._stack(observations)

    def _check_lengths(self, observations: Sequence[Observation], rows: Sequence[Sequence[int]]) -> None:
        for observation, row in zip(observations, rows, strict=True):
            if len(row) > self.max_length:
                begin = observation.prompt[:60]
                raise RefusedError(
                    f"prompt {begin!r}...: {len(row)} tokens, {type(self).__name__} reads at most {self.max_length}; "
                    "shorten the description, or use a dialogue with a shorter prompt"
                )

    # --- generation -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def generate(
        self,
        observations: Sequence[Observation],
        *,
        prefixes: Sequence[str] | None = None,
        num_samples: int = 1,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        max_new_tokens: int = 64,
        greedy_first: bool = False,
        choices: Sequence[str] | None = None,
    ) -> list[list[Completion]]:
        """See `base.MLLM.generate`. A reply that would outgrow `max_length` is cut there, `finished` False."""
        prefixes = [""] * len(observations) if prefixes is None else prefixes
        seeds = [0] * len(observations) if seeds is None else seeds
        check_request(
            observations,
            prefixes,
            seeds,
            num_samples=num_samples,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
        )
        forced = [self.tokenizer.encode(prefix) if prefix else [] for prefix in prefixes]
        prompts = [self.prompt_tokens(observation) for observation in observations]
        lengths = [len(prompt) + len(prefix) for prompt, prefix in zip(prompts, forced, strict=True)]
        self._check_lengths(observations, [p + f for p, f in zip(prompts, forced, strict=True)])
        limits = [min(max_new_tokens, self.max_length - length) for length in lengths]
        tree = None if choices is None else self._tree(choices)
        if tree is not None:
            self._check_lengths(observations, [prompt + [0] * tree.longest for prompt in prompts])
        drawn: list[list[Sampled]] = []
        weights: list[tuple[float, ...] | None] = []
        parts = [slice(start, start + self.max_batch) for start in range(0, len(observations), self.max_batch)]
        batches = one_ahead(lambda part: self._pad_left(observations[part], prompts[part]), parts)
        for part, batch in zip(parts, batches, strict=True):
            read = read_prompts(self.network, **{name: self._place(tensor) for name, tensor in batch.items()})
            told = [None] * len(prompts[part]) if tree is None else weigh(self.network, read, tree).tolist()
            weights += [None if row is None else tuple(row) for row in told]
            drawn += sample(
                self.network,
                read_more(self.network, read, forced[part]),
                end_tokens=self.tokenizer.end_tokens,
                limits=limits[part],
                num_samples=num_samples,
                temperature=temperature,
                seeds=seeds[part],
                greedy_first=greedy_first,
            )
            del read  # its cache, before the next part fills another one
        return [
            [self._completion(prefix, one, told) for one in samples]
            for prefix, samples, told in zip(forced, drawn, weights, strict=True)
        ]

    def _tree(self, choices: Sequence[str]) -> ChoiceTree:
        """Made once for the texts that are asked about."""
        key = tuple(choices)
        if key not in self._trees:
            self._trees = {key: ChoiceTree([self.tokenizer.encode(text) for text in key])}
        return self._trees[key]

    def _place(self, tensor: Tensor) -> Tensor:
        """On the device of the network, in its dtype if these are pixels."""
        return tensor.to(self.network.device, self.network.dtype if tensor.is_floating_point() else None)

    def _completion(self, prefix: list[int], drawn: Sampled, weights: tuple[float, ...] | None) -> Completion:
        # Decoded together with what it continues: tokenizers treat a blank at the very beginning in a way of their own.
        whole = self.tokenizer.decode([*prefix, *drawn.tokens])
        return Completion(whole[len(self.tokenizer.decode(prefix)) :], drawn.log_prob, drawn.finished, weights)

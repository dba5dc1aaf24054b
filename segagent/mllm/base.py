"""The contract of a multimodal LLM: (observations, answers) -> training batch; (observations) -> sampled texts.

A member knows its tokenizer, its chat template and its own image preprocessing. Coordinates and wording belong to
`dialogue`: a member sees an `Observation` and gives back text, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from segagent.dialogue import Observation

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled text.

    text: without the prefix it was forced to begin with and without the end token. log_prob: natural logarithm of the
    probability of its tokens, the end token included, at temperature 1; None where the model does not tell. finished:
    False when it was cut off at the token limit. weights: probabilities of the `choices` that were asked about, alike
    in all completions of an observation; None where none were, or a served model did not come to speak of them.
    """

    text: str
    log_prob: float | None = None
    finished: bool = True
    weights: tuple[float, ...] | None = None


def check_request(
    observations: Sequence[Observation],
    prefixes: Sequence[str],
    seeds: Sequence[int],
    *,
    num_samples: int,
    temperature: float,
    max_new_tokens: int,
) -> None:
    """What every `generate` refuses: lists of unequal length, numbers that make no sense. Raises `ValueError`."""
    if not len(observations) == len(prefixes) == len(seeds):
        raise ValueError(
            f"{len(observations)} observations, {len(prefixes)} prefixes and {len(seeds)} seeds: give as many of each"
        )
    if num_samples < 1 or max_new_tokens < 1 or temperature < 0:
        raise ValueError(
            f"num_samples={num_samples}, max_new_tokens={max_new_tokens}, temperature={temperature}: "
            "need at least 1, 1 and 0"
        )


class MLLM(Protocol):
    """What every member offers; `tests/mllm/test_contract.py` holds each to it.

    dialogue: name of the dialogue that the checkpoint was trained on (`configs/dialogue/`), None when it says nothing.
    """

    dialogue: str | None

    def seen_size(self, *, width: int, height: int) -> tuple[int, int]:
        """(width, height) that a picture of this size has when the network sees it, for dialogues that are `absolute`.

        Raises `ValueError` where there is no one such size.
        """

    def encode(self, observations: Sequence[Observation], answers: Sequence[str] | None = None) -> Mapping[str, Tensor]:
        """Tensors that the network takes, one row per observation.

        With answers (training): right-padded, `input_ids` and `attention_mask` `[B, L]` int64 and `labels` `[B, L]`
        int64, -100 everywhere but on the answer and its end token. Without (generation): left-padded, no labels. Raises
        `ValueError` for a row that is longer than the model reads; image tokens are never truncated.
        """

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
        """`num_samples` completions per observation, all of them in one call.

        prefixes: text that the reply of each observation begins with, as if the model had said it. temperature: 0 is
        greedy, whose samples are all alike and computed once; the k-th sample at another temperature follows from
        (seed of its observation, k) alone, never from the rest of the batch. An image and its prompt are encoded once
        for all samples. greedy_first: the sample k = 0 is the greedy one, whatever the temperature. choices: texts
        that a reply may begin with, as `Current IOU: 7,` and its like; the completions tell their probabilities
        (`weights`) in a reply that begins with one of them, prefix or not, from the same look at the prompt. Raises
        `ValueError` as `encode` does, and where the model cannot tell probabilities.
        """

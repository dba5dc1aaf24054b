"""The loss that shows an answer where to look while it is written: at the cell of its click, at what its IoU is of.

What a picture's cells need may long be known in the decoder (`cell_needs.py`) before an answer reads it from there: one
word of a hundred has to be looked at, and three digits hardly say which. In each layer behind, one head is told for
sign and first coordinate, another one for the second, a third one for the IoU: what a head brings from a cell does not
depend on who asks, so that each can bring its own. The other heads are free, and no weight is added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segagent.dialogue import Dialogue
from segagent.mllm.network import IMAGE_TOKEN
from segagent.mllm.osprey import Osprey
from segagent.training.asked_cells import asking_layers, check_family
from segagent.training.collate import IGNORED, SftBatch

_IOU = 2  # its head; those of the coordinates are 0 and 1


class Queries(NamedTuple):
    """Tokens that are told where to look: row, place in it, head, `[Q]` int64 each."""

    rows: Tensor
    places: Tensor
    heads: Tensor


class ClickGaze:
    """Cross-entropy between where an answer should look and where the heads told look, in the layers behind those that
    `CellNeeds` asks.

    Where the next token is a sign or of a coordinate: the cell that holds the click (`CellTargets.places`). Where it is
    a digit of the IoU: all cells of target and mask, each as much as it holds of them; the mean share of them that is
    right is the IoU.

    mllm: an Osprey; its attention is set to `eager`, the one that tells its weights. Listens to the network, so that
    nothing is computed twice. Raises `ValueError` for another family.
    """

    def __init__(self, mllm: Osprey, dialogue: Dialogue) -> None:
        check_family(mllm, "gaze")
        if not hasattr(mllm.tokenizer, "digit_tokens"):
            raise ValueError("train.gaze: asks for tokens that are digits, which this tokenizer has not; set it to 0")
        tokenizer, signs = mllm.tokenizer, (dialogue.positive, dialogue.negative)
        self.signs = [tokenizer.encode(f"{before}{sign}: (")[-1] for sign in signs for before in ("", ", ")]
        self.ends = list(tokenizer.end_tokens)
        self.comma = tokenizer.encode("1, ")[-1]
        self.digits = tokenizer.digit_tokens if dialogue.iou else []
        self.announcing = tokenizer.encode(dialogue.format_iou(0.5))[:1] if dialogue.iou else []
        self.iou_length = tokenizer.number_width
        self.heads = mllm.network.config.heads
        self._weights: dict[int, Tensor] = {}
        mllm.network.language.set_attn_implementation("eager")
        layers = mllm.network.language.model.layers
        for number in range(asking_layers(len(layers))[1] + 1, len(layers)):
            layers[number].self_attn.register_forward_hook(self._listener(number))

    def _listener(self, number: int) -> Callable[[nn.Module, tuple, tuple], None]:
        def listen(module: nn.Module, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
            self._weights[number] = output[1]

        return listen

    def __call__(self, network: nn.Module, batch: SftBatch) -> Tensor:
        """The mean over layers and tokens told of the last forward pass; 0 where no answer has a click or an IoU."""
        weights, self._weights = list(self._weights.values()), {}
        queries = self.queries(batch.labels)
        if not len(queries.rows):
            return weights[0].sum() * 0.0
        cells = (batch.tensors["input_ids"] == IMAGE_TOKEN)[queries.rows]
        wanted = self.wanted(batch, queries)
        total = weights[0].new_zeros((), dtype=torch.float32)
        for looked in weights:
            shares = looked[queries.rows, queries.heads % self.heads, queries.places][cells].view(wanted.shape).float()
            total = total - (wanted * (shares + 1e-6).log()).sum() / len(wanted)
        return total / len(weights)

    def wanted(self, batch: SftBatch, queries: Queries) -> Tensor:
        """`[Q, T]` float32: how much of each query's look each cell should get."""
        clicked = batch.asked.places.sum(1)  # of either sign
        holding = batch.asked.needs[:, :3].sum(1)
        holding = holding / holding.sum(1, keepdim=True).clamp(min=1e-6)
        return torch.where((queries.heads == _IOU)[:, None], holding[queries.rows], clicked[queries.rows])

    def queries(self, labels: Tensor) -> Queries:
        """labels: `[B, L]` int64. A token is told of the one that follows it."""
        learnt = labels != IGNORED
        signs = self._among(labels, self.signs)
        clicked = (signs.cumsum(1) > 0) & ~self._among(labels, self.ends) & learnt
        second = ((labels == self.comma) & clicked).cumsum(1)
        # The IoU is the first number of an answer that announces one; a box alone has numbers too.
        announced = self._among(labels, self.announcing).cumsum(1) > 0
        digits = self._among(labels, self.digits) & announced & ~clicked
        digits &= digits.cumsum(1) <= self.iou_length
        rows, places = (clicked | digits).nonzero(as_tuple=True)
        return Queries(rows, places - 1, torch.where(digits, _IOU, second)[rows, places])

    @staticmethod
    def _among(labels: Tensor, tokens: list[int]) -> Tensor:
        return torch.isin(labels, torch.tensor(tokens, dtype=labels.dtype, device=labels.device))

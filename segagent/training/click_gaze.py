"""The loss that shows an answer where to look: at the cells around its click, while its coordinates are written.

What a picture's cells need may long be known in the middle of the decoder (`cell_needs.py`) before an answer reads it
from there: one word of a hundred has to be looked at, and three digits hardly say which. In each layer behind, one head
is told for the first coordinate and another one for the second: what a head brings from a cell does not depend on who
asks, so that each can bring its own coordinate. The other heads are free, and no weight is added.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segagent.dialogue import Dialogue
from segagent.mllm.network import IMAGE_TOKEN
from segagent.mllm.osprey import Osprey
from segagent.training.collate import IGNORED, SftBatch


class ClickGaze:
    """Cross-entropy between `SftBatch.places` and what the first head (the second one for the second coordinate) looks
    at, in the layers behind the middle, where the next token is a coordinate's.

    mllm: an Osprey; its attention is set to `eager`, the one that tells its weights. Listens to the network, so that
    nothing is computed twice. Raises `ValueError` for another family.
    """

    def __init__(self, mllm: Osprey, dialogue: Dialogue) -> None:
        if not isinstance(mllm, Osprey):
            raise ValueError(f"train.gaze: is for nano and its like, not for {type(mllm).__name__}; set it to 0")
        signs = (dialogue.positive, dialogue.negative)
        self.signs = [mllm.tokenizer.encode(f"{before}{sign}: (")[-1] for sign in signs for before in ("", ", ")]
        self.ends = list(mllm.tokenizer.end_tokens)
        self.comma = mllm.tokenizer.encode("1, ")[-1]
        self.heads = min(2, mllm.network.config.heads)
        self._weights: dict[int, Tensor] = {}
        mllm.network.language.set_attn_implementation("eager")
        layers = mllm.network.language.model.layers
        for number in range((len(layers) + 1) // 2, len(layers)):
            layers[number].self_attn.register_forward_hook(self._listener(number))

    def _listener(self, number: int) -> Callable[[nn.Module, tuple, tuple], None]:
        def listen(module: nn.Module, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
            self._weights[number] = output[1]

        return listen

    def __call__(self, network: nn.Module, batch: SftBatch) -> Tensor:
        """The mean over layers and coordinate tokens of the last forward pass; 0 where no answer has a click."""
        weights, self._weights = list(self._weights.values()), {}
        rows, queries, axes = self._coordinates(batch.labels)
        if not len(rows):
            return weights[0].sum() * 0.0
        cells = (batch.tensors["input_ids"] == IMAGE_TOKEN)[rows]
        total = weights[0].new_zeros((), dtype=torch.float32)
        for looked in weights:
            shares = looked[rows, axes % self.heads, queries][cells].view(len(rows), -1).float()
            total = total - (batch.places[rows] * (shares + 1e-6).log()).sum() / len(rows)
        return total / len(weights)

    def _coordinates(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, places, coordinates: the first or the second) of the tokens that are followed by one of a click's
        coordinates, `[Q]` int64 each."""
        signs = torch.isin(labels, torch.tensor(self.signs, device=labels.device))
        ends = torch.isin(labels, torch.tensor(self.ends, device=labels.device))
        written = (signs.cumsum(1) > 0) & ~signs & ~ends & (labels != IGNORED)
        rows, places = written.nonzero(as_tuple=True)
        second = ((labels == self.comma) & written).cumsum(1)
        return rows, places - 1, second[rows, places]

"""What the visual tokens of a picture hold in the middle of the decoder, read off without a weight more."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segagent.mllm.network import IMAGE_TOKEN
from segagent.mllm.osprey import Osprey
from segagent.training.collate import SftBatch


def asking_layers(depth: int) -> tuple[int, int]:
    """Of a decoder's layers, those whose tokens are asked what they show of what is mentioned, and what they need.

    In between what is mentioned can be compared; in the layers behind the second an answer reads what is needed.
    """
    return max(0, depth // 3 - 1), max(0, 2 * depth // 3 - 1)


def check_family(mllm: Osprey, loss: str) -> None:
    """Raises `ValueError` for a model that is no Osprey. loss: name of its weight in `train`."""
    if not isinstance(mllm, Osprey):
        raise ValueError(f"train.{loss}: is for nano and its like, not for {type(mllm).__name__}; set it to 0")


class AskedCells:
    """The visual tokens behind one layer of an Osprey's decoder, as they are and along directions drawn once.

    layer: its number. count: of directions. seed: they are drawn with. Listens to the network, so that nothing is
    computed twice.
    """

    def __init__(self, mllm: Osprey, *, layer: int, count: int, seed: int) -> None:
        drawn = torch.randn(count, mllm.network.config.width, generator=torch.Generator().manual_seed(seed))
        self.directions = F.normalize(drawn, dim=-1)
        self.hidden: Tensor | None = None
        mllm.network.language.model.layers[layer].register_forward_hook(self._listen)

    def _listen(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.hidden = output

    def read(self, network: nn.Module, batch: SftBatch) -> tuple[Tensor, Tensor]:
        """Of the last forward pass, which is then forgotten: tokens `[B * T, width]` behind the decoder's last norm,
        and along the directions `[B, T, count]` float32."""
        hidden, self.hidden = self.hidden, None
        seen = network.language.model.norm(hidden[batch.tensors["input_ids"] == IMAGE_TOKEN])
        along = (seen @ self.directions.to(seen).T).float()
        return seen, along.view(len(batch.numbers), -1, len(self.directions))

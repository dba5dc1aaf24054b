"""The loss that asks of every visual token what its cell needs: a positive click, a negative one, or none; and where.

An answer holds three numbers and a sign, its picture a hundred cells, and each of them can be asked whether it is
meant. The description stands before the picture, so every visual token has read it. The words are those of the
dialogue's actions, and where in the cell it is read off along directions drawn once, so no weight is added for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segagent.dialogue import Dialogue
from segagent.mllm.network import IMAGE_TOKEN
from segagent.mllm.osprey import Osprey
from segagent.training.cell_shares import PARTS
from segagent.training.collate import SftBatch

_SELDOM = 3.0  # logits begin so far below even odds: most parts of a picture need nothing


class CellNeeds:
    """Cross-entropy of `SftBatch.needs`, see `cell_shares.cell_needs`, over the dialogue's words for the actions: a
    positive click, a negative one, the end, and the end token for nothing; and of each part of a cell, whether it is
    missing, and whether it is surplus.

    It is asked of the tokens in the middle of the decoder: the layers behind are those in which an answer reads them.
    mllm: an Osprey. Listens to the network, so that nothing is computed twice. Raises `ValueError` for another family.
    """

    def __init__(self, mllm: Osprey, dialogue: Dialogue) -> None:
        if not isinstance(mllm, Osprey):
            raise ValueError(f"train.needs: is for nano and its like, not for {type(mllm).__name__}; set it to 0")
        tokenizer = mllm.tokenizer
        actions = (f"{dialogue.positive}: (", f"{dialogue.negative}: (", dialogue.finish)
        self.tokens = [tokenizer.encode(action)[0] for action in actions] + [tokenizer.end_tokens[0]]
        directions = torch.randn(2 * PARTS**2, mllm.network.config.width, generator=torch.Generator().manual_seed(0))
        self.directions = F.normalize(directions, dim=-1)
        self._hidden: Tensor | None = None
        layers = mllm.network.language.model.layers
        layers[(len(layers) - 1) // 2].register_forward_hook(self._listen)

    def _listen(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._hidden = output

    def __call__(self, network: nn.Module, batch: SftBatch) -> Tensor:
        """The sum over all cells of the last forward pass, for each that needs something or is right.

        Most of a picture is neither: a mean over all cells would say little of what is asked for.
        """
        hidden, self._hidden = self._hidden, None
        seen = hidden[batch.tensors["input_ids"] == IMAGE_TOKEN]
        words = network.language.get_output_embeddings().weight[torch.tensor(self.tokens, device=seen.device)]
        seen = network.language.model.norm(seen)
        said = torch.log_softmax((seen @ words.T).float(), -1)
        needs = batch.needs.transpose(1, 2).flatten(0, 1)  # a cell each
        whole = needs.mean(-1)
        told = (seen @ self.directions.to(seen).T).float() - _SELDOM
        parts = F.binary_cross_entropy_with_logits(told, needs[:, :2].flatten(1), reduction="sum") / PARTS**2
        return (parts - (whole * said).sum()) / whole[:, :-1].sum().clamp(min=1)

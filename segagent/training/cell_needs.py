"""The loss that asks of every visual token what its cell needs: a positive click, a negative one, or none.

An answer holds three numbers and a sign, its picture a hundred cells, and each of them can be asked whether it is
meant. The description stands before the picture, so every visual token has read it. The words are those of the
dialogue's actions, so no weight is added for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segagent.dialogue import Dialogue
from segagent.mllm.network import IMAGE_TOKEN
from segagent.mllm.osprey import Osprey
from segagent.training.collate import SftBatch


class CellNeeds:
    """Cross-entropy of `SftBatch.needs`, see `cell_shares.cell_needs`, over the dialogue's words for the actions: a
    positive click, a negative one, the end, and the end token for nothing.

    It is asked of the tokens in the middle of the decoder: the layers behind are those in which an answer reads them.
    mllm: an Osprey. Listens to the network, so that nothing is computed twice. Raises `ValueError` for another family.
    """

    def __init__(self, mllm: Osprey, dialogue: Dialogue) -> None:
        if not isinstance(mllm, Osprey):
            raise ValueError(f"train.needs: is for nano and its like, not for {type(mllm).__name__}; set it to 0")
        tokenizer = mllm.tokenizer
        actions = (f"{dialogue.positive}: (", f"{dialogue.negative}: (", dialogue.finish)
        self.tokens = [tokenizer.encode(action)[0] for action in actions] + [tokenizer.end_tokens[0]]
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
        said = torch.log_softmax((network.language.model.norm(seen) @ words.T).float(), -1)
        needs = batch.needs.transpose(1, 2).flatten(0, 1)
        return -(needs * said).sum() / needs[:, :-1].sum().clamp(min=1)

"""The loss that asks of every visual token what its cell needs: a positive click, a negative one, or none; and where.

An answer holds three numbers and a sign, its picture a hundred cells, and each of them can be asked whether it is
meant. The description stands before the picture, so every visual token has read it. The words are those of the
dialogue's actions, and all else is read off along directions drawn once, so no weight is added for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segagent.dialogue import Dialogue
from segagent.mllm.osprey import Osprey
from segagent.training.asked_cells import AskedCells, asking_layers, check_family
from segagent.training.cell_points import BINS, bin_losses
from segagent.training.collate import SftBatch


class CellNeeds:
    """Three cross-entropies. Which share of a cell (`CellTargets.needs`) is missing, surplus, right or none of these,
    over the dialogue's words for the actions: a positive click, a negative one, the end, and the end token. In which
    cell the click is, and of which sign (`CellTargets.places`). Where in a cell a click of either sign would go
    (`CellTargets.points`), the more the deeper it would be.

    It is asked of the tokens behind the middle of the decoder: the layers that are left are those in which an answer
    reads them.
    mllm: an Osprey. Listens to the network, so that nothing is computed twice. Raises `ValueError` for another family.
    """

    def __init__(self, mllm: Osprey, dialogue: Dialogue) -> None:
        check_family(mllm, "needs")
        tokenizer = mllm.tokenizer
        actions = (f"{dialogue.positive}: (", f"{dialogue.negative}: (", dialogue.finish)
        self.tokens = [tokenizer.encode(action)[0] for action in actions] + [tokenizer.end_tokens[0]]
        layer = asking_layers(mllm.network.config.depth)[1]
        self.cells = AskedCells(mllm, layer=layer, count=2 + 4 * BINS, seed=0)

    def __call__(self, network: nn.Module, batch: SftBatch) -> Tensor:
        """The sum of the three for the last forward pass: a mean over what is shown or asked for, over the clicks, and
        over the depths of what needs a click."""
        seen, told = self.cells.read(network, batch)
        asked = batch.asked
        where, bins = told[..., :2], told[..., 2:].unflatten(-1, (2, -1))  # of each sign
        return self._shares(network, seen, asked.needs) + _pointed(where, asked.places) + _within(bins, asked.points)

    def _shares(self, network: nn.Module, seen: Tensor, needs: Tensor) -> Tensor:
        # Most of a picture needs nothing: a mean over all cells would say little of what is asked for.
        words = network.language.get_output_embeddings().weight[torch.tensor(self.tokens, device=seen.device)]
        said = torch.log_softmax((seen @ words.T).float(), -1)
        return -(needs.transpose(1, 2).flatten(0, 1) * said).sum() / needs[:, :-1].sum().clamp(min=1)


def _pointed(where: Tensor, places: Tensor) -> Tensor:
    """where: `[B, T, 2]` logits. places: `[B, 2, T]`."""
    said = torch.log_softmax(where.transpose(1, 2).flatten(1), -1)
    return -(places.flatten(1) * said).sum() / places.sum().clamp(min=1)


def _within(bins: Tensor, points: Tensor) -> Tensor:
    """bins: `[B, T, 2, 2 * BINS]` logits. points: `[B, 2, T, 3]`."""
    depths = points[..., 2].transpose(1, 2)
    weights = depths / depths.amax((1, 2), keepdim=True).clamp(min=1e-6)
    return (weights * bin_losses(bins, points.transpose(1, 2))).sum() / weights.sum().clamp(min=1)

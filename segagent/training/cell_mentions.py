"""The loss that asks of every visual token which of the things that a description mentions its cell shows.

What is "next to the blue star and above the mug" can be told only once it is known where star and mug are. From the
answers alone a model that is trained from nothing hardly finds this out: most descriptions do without. `SceneMentions`
reads descriptions of refshapes; `CellMentions` asks early in the decoder, so that the layers behind can compare places.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from segagent.data.base import Dataset
from segagent.data.refshapes.grammar import parse
from segagent.data.refshapes.meaning import denotes, fits
from segagent.mllm.osprey import Osprey
from segagent.training.asked_cells import AskedCells, asking_layers, check_family
from segagent.training.collate import SftBatch
from segagent.training.visual_words import NOTHING, CellWords

# What is asked of a cell: whether it shows a thing with the noun, color and pattern of what the description is of, and
# whether it shows the first or the second thing that this leans on.
KINDS = 3


class SceneMentions:
    """(index, text) -> what the cells of a sample's picture have to do with a text about it. dataset, grid: as of
    `CellWords`, with the same `ValueError`."""

    def __init__(self, dataset: Dataset, grid: int) -> None:
        self.dataset, self.words = dataset, CellWords(dataset, grid)

    def __call__(self, index: int, text: str) -> np.ndarray:
        """`[KINDS, grid * grid]` int64 in reading order: 1 yes, 0 no, `NOTHING` where a cell shows no thing."""
        scene, things, phrase = self.dataset.scene(index), self.words.things(index), parse(text)
        anchors = [denotes(other, scene) for relation in phrase.relations for other in relation.others]
        mentioned = np.zeros((KINDS, len(scene.things)), np.int64)
        mentioned[0] = [fits(phrase, thing) for thing in scene.things]
        for kind, anchor in enumerate(anchors[: KINDS - 1], 1):
            if anchor is not None:
                mentioned[kind, anchor] = 1
        found = np.full((KINDS, len(things)), NOTHING, np.int64)
        found[:, things != NOTHING] = mentioned[:, things[things != NOTHING]]
        return found


class CellMentions:
    """Binary cross-entropy over the cells that show a thing, along directions drawn once: no weight is added.

    It is asked of the tokens early in the decoder, see `asking_layers`. mllm: an Osprey. Listens to the network, so
    that nothing is computed twice. Raises `ValueError` for another family.
    """

    def __init__(self, mllm: Osprey) -> None:
        check_family(mllm, "mentions")
        layer = asking_layers(mllm.network.config.depth)[0]
        self.cells = AskedCells(mllm, layer=layer, count=KINDS, seed=1)

    def __call__(self, network: nn.Module, batch: SftBatch) -> Tensor:
        """The sum over kinds of the mean over cells, for the last forward pass; 0 where no cell shows a thing."""
        told = self.cells.read(network, batch)[1].transpose(1, 2)
        shown = batch.mentions != NOTHING
        losses = F.binary_cross_entropy_with_logits(told, batch.mentions.clamp(min=0).float(), reduction="none")
        return KINDS * (losses * shown).sum() / shown.sum().clamp(min=1)

"""What each cell of a generated picture shows: its color, its thing, its pattern, as words; and the loss for them.

A model that is trained from nothing has no word for what it sees. `CellWords` reads the scene graph of refshapes (the
stand-in for captions of the web); `VisualWords` pulls the visual tokens towards the embeddings of these words.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segagent.data.base import Dataset
from segagent.data.refshapes.scene import Scene
from segagent.data.refshapes.vocabulary import BUILDERS, COLORS, PATTERNS
from segagent.mllm.osprey import Osprey
from segagent.training.asked_cells import check_family
from segagent.training.cell_shares import cell_shares
from segagent.training.collate import SftBatch

# What is asked of a cell, as attributes of a thing, each with all the words there are for it.
ATTRIBUTES = {"color": tuple(COLORS), "noun": tuple(BUILDERS), "pattern": PATTERNS}
NOTHING = -1  # a cell of background
_LEAST = 0.1  # a thing that covers less of a cell does not name it


class CellWords:
    """Sample -> words of its cells. dataset: has `scene(index)`, as refshapes and mixtures of it. grid: cells a side.

    Raises `ValueError` for a dataset of pictures that were not generated.
    """

    def __init__(self, dataset: Dataset, grid: int) -> None:
        if not hasattr(dataset, "scene"):
            raise ValueError(
                f"{type(dataset).__name__} does not know what its pictures show: set train.auxiliary=0 and "
                "train.mentions=0, or give data=refshapes or data=refshapes_mix"
            )
        self.dataset, self.grid = dataset, grid
        self._last: tuple[int, np.ndarray] | None = None  # questions about one picture come in a row

    def __call__(self, index: int) -> np.ndarray:
        """`[3, grid * grid]` int64 in reading order: indices into the words of `ATTRIBUTES`, or `NOTHING`."""
        things, scene = self.things(index), self.dataset.scene(index)
        known = [[names.index(getattr(thing, of)) for thing in scene.things] for of, names in ATTRIBUTES.items()]
        words = np.full((len(ATTRIBUTES), len(things)), NOTHING, np.int64)
        words[:, things != NOTHING] = np.array(known, np.int64)[:, things[things != NOTHING]]
        return words

    def things(self, index: int) -> np.ndarray:
        """`[grid * grid]` int64: which thing of the scene covers most of the cell, or `NOTHING`. Read only."""
        if self._last is None or self._last[0] != index:
            self._last = index, self._shown(self.dataset.scene(index))
        return self._last[1]

    def _shown(self, scene: Scene) -> np.ndarray:
        if not scene.things:
            return np.full(self.grid**2, NOTHING, np.int64)
        shares = cell_shares(scene.labels == np.arange(len(scene.things))[:, None, None], self.grid)
        return np.where(shares.max(0) >= _LEAST, shares.argmax(0), NOTHING).reshape(-1)


class VisualWords:
    """Loss that pulls what the projector makes of a cell towards the words of what the cell shows.

    Cross-entropy over the cosines with the embeddings of all words of an attribute, summed over attributes. mllm: an
    Osprey whose tokenizer knows them. temperature: of the cosines. Listens to the network, so that nothing is computed
    twice. Raises `ValueError` for another family.
    """

    def __init__(self, mllm: Osprey, temperature: float = 0.1) -> None:
        check_family(mllm, "auxiliary")
        self.temperature = temperature
        self.tokens = [[mllm.tokenizer.encode(f" {word}") for word in words] for words in ATTRIBUTES.values()]
        self._seen: Tensor | None = None
        mllm.network.visual_norm.register_forward_hook(self._listen)

    def _listen(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self._seen = output

    def __call__(self, network: nn.Module, batch: SftBatch) -> Tensor:
        """The mean loss over the cells of the last forward pass that show a thing; 0 where none does."""
        seen, table = self._seen, network.language.get_input_embeddings().weight
        self._seen = None
        if "pictures" in batch.tensors:
            seen = seen[batch.tensors["pictures"]]
        total = seen.sum() * 0.0
        for ids, wanted in zip(self.tokens, batch.cells.unbind(1), strict=True):
            words = torch.stack([table[torch.tensor(tokens, device=table.device)].mean(0) for tokens in ids])
            shown = wanted != NOTHING
            if shown.any():
                cosines = F.normalize(seen[shown].float(), dim=-1) @ F.normalize(words.float(), dim=-1).T
                total = total + F.cross_entropy(cosines / self.temperature, wanted[shown])
        return total

"""Some samples of a data source, as a data source."""

from __future__ import annotations

from collections.abc import Sequence

from segagent.data.base import Dataset
from segagent.types import Sample


class Subset:
    """`Dataset` of the samples `indices` of another one, in this order."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def sample_id(self, index: int) -> str:
        return self.dataset.sample_id(self.indices[index])

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

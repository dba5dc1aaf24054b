"""What every data source is: a sequence of samples that can tell its ids without opening an image."""

from __future__ import annotations

from typing import Protocol

from segagent.types import Sample


class Dataset(Protocol):
    """`len(dataset)` samples in a fixed order. Sample ids are unique strings, known without loading pixels.

    `dataset[index]` loads one `Sample`, and raises `ValueError` (naming the file) when it cannot.
    """

    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str: ...

    def __getitem__(self, index: int) -> Sample: ...

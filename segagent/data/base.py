"""What every data source is: a sequence of samples that can tell its ids without opening an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from segagent.types import Sample

Entry = TypeVar("Entry")


def first(entries: Sequence[Entry], limit: int | None) -> Sequence[Entry]:
    """The first `limit` of them; all where it is None."""
    check_limit(limit)
    return entries[:limit]


def check_limit(limit: int | None) -> None:
    """Raises `ValueError` for what is no number of samples (-1: all elsewhere, and all but the last in a slice)."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit={limit!r}: give a whole number of samples, 1 or more, or null for all")


class Dataset(Protocol):
    """`len(dataset)` samples in a fixed order. Sample ids are unique strings, known without loading pixels.

    `dataset[index]` loads one `Sample`, and raises `ValueError` (naming the file) when it cannot.
    """

    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str: ...

    def __getitem__(self, index: int) -> Sample: ...

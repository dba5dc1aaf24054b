"""Several data sources as one: their samples take turns."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from segagent.data.base import Dataset, check_limit
from segagent.data.refshapes.scene import Scene
from segagent.types import Sample


class Mixture:
    """`Dataset` over named datasets, one sample of each in turn, in the order of the names.

    A source that has ended is passed over, until all have; every sample comes exactly once. Ids are `name/id of the
    source`, so that they stay unique. datasets: name -> dataset. limit: only the first so many samples (None: all).
    Raises `ValueError` without datasets, for a name with a slash and for an unsound limit.
    """

    def __init__(self, *, datasets: Mapping[str, Dataset], limit: int | None = None) -> None:
        if not datasets:
            raise ValueError("datasets is empty: name at least one data source to mix")
        for name in datasets:
            if "/" in name:
                raise ValueError(f"dataset name {name!r}: a slash would make sample ids ambiguous; leave it out")
        check_limit(limit)
        self._names, self._datasets = tuple(datasets), tuple(datasets.values())
        lengths = [len(dataset) for dataset in self._datasets]
        # Between two of these rounds the same sources take part: (rounds before, samples before, who).
        self._rounds = sorted({0, *lengths})[:-1] if any(lengths) else [0]
        self._members = [[k for k, length in enumerate(lengths) if length > done] for done in self._rounds]
        self._samples = [sum(min(length, done) for length in lengths) for done in self._rounds]
        self._length = sum(lengths) if limit is None else min(limit, sum(lengths))

    def __len__(self) -> int:
        return self._length

    def sample_id(self, index: int) -> str:
        source, inner = self._place(index)
        return f"{self._names[source]}/{self._datasets[source].sample_id(inner)}"

    def picture_path(self, index: int) -> Path | None:
        """The file of a sample's picture; None where its source has no files, or lists those that there are."""
        source, inner = self._place(index)
        dataset = self._datasets[source]
        return dataset.picture_path(inner) if hasattr(dataset, "picture_path") else None

    def scene(self, index: int) -> Scene:
        """The scene graph behind a sample. Raises `ValueError` where its source is not a generated one."""
        source, inner = self._place(index)
        if not hasattr(self._datasets[source], "scene"):
            raise ValueError(
                f"data {self._names[source]!r}: its pictures are not generated, so they have no scene graph"
            )
        return self._datasets[source].scene(inner)

    def ask(self, index: int, turn: int) -> Sample:
        """Another question about the picture of a sample, see `RefShapes.ask`. Raises `ValueError` like `scene`."""
        source, inner = self._place(index)
        if not hasattr(self._datasets[source], "ask"):
            raise ValueError(f"data {self._names[source]!r}: its pictures are not generated, so nothing else is asked")
        return self._named(source, self._datasets[source].ask(inner, turn))

    def __getitem__(self, index: int) -> Sample:
        source, inner = self._place(index)
        return self._named(source, self._datasets[source][inner])

    def _named(self, source: int, sample: Sample) -> Sample:
        key = None if sample.image_key is None else (self._names[source], sample.image_key)
        return replace(sample, sample_id=f"{self._names[source]}/{sample.sample_id}", image_key=key)

    def _place(self, index: int) -> tuple[int, int]:
        """(which source, index in it)."""
        if not -self._length <= index < self._length:
            # IndexError, not ValueError: it is what ends a plain `for sample in dataset`.
            raise IndexError(f"sample {index} of {self._length}: give 0..{self._length - 1}")
        index %= self._length
        stretch = bisect_right(self._samples, index) - 1
        turn, member = divmod(index - self._samples[stretch], len(self._members[stretch]))
        return self._members[stretch][member], self._rounds[stretch] + turn

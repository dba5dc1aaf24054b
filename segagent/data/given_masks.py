"""Annotations, of a COCO file or of any data source, as masks that are given, not as the truth -> samples to refine, to
filter, to do anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from segagent.data.base import Dataset
from segagent.data.coco import Coco
from segagent.masks import bounding_box
from segagent.types import Sample


class GivenMasks:
    """The samples of a `Coco` file whose masks are given (`Sample.mask`); nothing is known to be true.

    annotations, images, text, include, limit: see `Coco`; crowd too, without `void`. Empty masks are masks too. A box
    that the file does not say is that of the given mask.
    truth: another file with the same annotation ids, whose masks are the targets, to measure by; None: no targets.
    """

    def __init__(
        self,
        *,
        annotations: str,
        images: str,
        text: str = "category",
        truth: str | None = None,
        crowd: str = "leave_out",
        include: str | None = None,
        limit: int | None = None,
    ) -> None:
        if crowd not in ("leave_out", "sample"):
            raise ValueError(f"crowd={crowd!r}: choose leave_out or sample")
        settings = {"images": images, "text": text, "crowd": crowd, "include": include, "allow_empty": True}
        self._given = Coco(annotations=annotations, limit=limit, **settings)
        self._true = None if truth is None else Coco(annotations=truth, **settings)
        self._places: dict[str, int] = {}
        if self._true is not None:
            self._places = {self._true.sample_id(index): index for index in range(len(self._true))}
            alone = [s for s in map(self.sample_id, range(len(self))) if s not in self._places]
            if alone:
                raise ValueError(f"{truth}: has no annotation {alone[0]} (nor {len(alone) - 1} more) of {annotations}")

    def __len__(self) -> int:
        return len(self._given)

    def sample_id(self, index: int) -> str:
        return self._given.sample_id(index)

    def __getitem__(self, index: int) -> Sample:
        sample = self._given[index]
        return _as_given(sample, None if self._true is None else self._true[self._places[sample.sample_id]].target)


class OwnMasks:
    """The samples of any data source whose masks are given, as of a `GivenMasks` without `truth`."""

    def __init__(self, *, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def sample_id(self, index: int) -> str:
        return self._dataset.sample_id(index)

    def __getitem__(self, index: int) -> Sample:
        """Raises `ValueError` for a sample without a mask."""
        sample = self._dataset[index]
        if sample.target is None:
            raise ValueError(f"{sample.sample_id}: has no mask; what is to be refined or filtered needs one")
        return _as_given(sample, None)


def _as_given(sample: Sample, true: np.ndarray | None) -> Sample:
    """true: `[H, W]` bool, the target to measure by, None where nothing is known to be true."""
    return replace(sample, mask=sample.target, target=true, box=sample.box or bounding_box(sample.target))

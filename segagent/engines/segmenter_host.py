"""A click segmenter in another process than its askers: `SegmenterHost` there, `RemoteSegmenter` on their side.

What a segmenter embeds and remembers stays where the segmenter is, on its device; the asker holds handles to it.
Pictures go over once, then clicks one way and masks, a bit a pixel, the other. Nothing here knows how a call travels.
"""

from __future__ import annotations

import os
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from omegaconf import DictConfig

from segagent.configuration import build
from segagent.segmenters.base import ClickSegmenter
from segagent.types import Box, Click


class SegmenterLostError(ConnectionError):
    """The host died, or was begun anew and does not know what it is asked about: what rests on it is done again."""


@dataclass
class Answer:
    """handles: what stays at the host, as (number, score or None). masks: as `_packed`. counts: of this call."""

    handles: list[tuple[int, float | None]]
    masks: list[tuple[tuple[int, int], np.ndarray]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def _packed(mask: np.ndarray) -> tuple[tuple[int, int], np.ndarray]:
    """`[H, W]` bool -> its size, and 8 pixels a byte."""
    return mask.shape, np.packbits(mask)


def _unpacked(size: tuple[int, int], bits: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits, count=size[0] * size[1]).reshape(size).astype(bool)


class SegmenterHost:
    """Holds one segmenter for any number of askers, each known by a name, and what each of them still needs.

    segmenter: its settings. folder: relative paths begin here. It is built when the first asker begins.
    """

    def __init__(self, segmenter: DictConfig, folder: str) -> None:
        self.settings, self.folder = segmenter, folder
        self.segmenter: ClickSegmenter | None = None
        self._kept: dict[str, dict[int, Any]] = {}  # by asker, then by number
        self._given = 0

    def begin(self, asker: str) -> tuple[bool, str]:
        """Lets go of what the asker had, and says what `ClickSegmenter` says: accepts_boxes, waives_click_points."""
        if self.segmenter is None:
            os.chdir(self.folder)
            self.segmenter = build(self.settings)
        self._kept[asker] = {}
        return self.segmenter.accepts_boxes, self.segmenter.waives_click_points

    def forget(self, asker: str) -> None:
        """The asker is gone."""
        self._kept.pop(asker, None)

    def embed(self, asker: str, freed: Sequence[int], images: Sequence[np.ndarray]) -> Answer:
        kept, before = self._of(asker, freed), self._counts()
        return self._answer(kept, before, self.segmenter.embed(images))

    def predict(
        self,
        asker: str,
        freed: Sequence[int],
        embeddings: Sequence[int],
        clicks: Sequence[Sequence[Click]],
        memory: Sequence[int | None],
        boxes: Sequence[Box | None] | None,
    ) -> Answer:
        kept, before = self._of(asker, freed), self._counts()
        known = [None if number is None else _known(kept, number) for number in memory]
        masks, memories = self.segmenter.predict([_known(kept, n) for n in embeddings], clicks, known, boxes)
        return self._answer(kept, before, memories, masks)

    def remember(
        self, asker: str, freed: Sequence[int], embeddings: Sequence[int], masks: Sequence[np.ndarray]
    ) -> Answer:
        kept, before = self._of(asker, freed), self._counts()
        return self._answer(kept, before, self.segmenter.remember([_known(kept, n) for n in embeddings], masks))

    def _of(self, asker: str, freed: Sequence[int]) -> dict[int, Any]:
        """What the asker has here, less what it no longer needs."""
        if asker not in self._kept:
            raise SegmenterLostError("the segmenter was begun anew")
        for number in freed:
            self._kept[asker].pop(number, None)
        return self._kept[asker]

    def _counts(self) -> Counter[str]:
        return Counter(self.segmenter.statistics() if hasattr(self.segmenter, "statistics") else {})

    def _answer(
        self, kept: dict[int, Any], before: Counter[str], made: Sequence[Any], masks: Sequence[np.ndarray] = ()
    ) -> Answer:
        counts = self._counts()
        counts.subtract(before)
        answer = Answer([], [_packed(mask) for mask in masks], dict(counts))
        for thing in made:
            kept[self._given] = thing
            answer.handles.append((self._given, getattr(thing, "score", None)))
            self._given += 1
        return answer


def _known(kept: dict[int, Any], number: int) -> Any:
    if number not in kept:
        raise SegmenterLostError("the segmenter no longer has an embedding or memory of this state")
    return kept[number]


class Handle:
    """An embedding or memory at the host. score: of a memory that has one (`reward=segmenter_score` reads it)."""

    __slots__ = ("__weakref__", "number", "score")

    def __init__(self, number: int, score: float | None) -> None:
        self.number = number
        if score is not None:
            self.score = score


class RemoteSegmenter:
    """`ClickSegmenter` whose work a `SegmenterHost` does.

    ask: (name of a method, its arguments) -> what the host's method returns; it raises what that raises, and
    `SegmenterLostError` when there is no answer. asker: a name that no other asker of this host has.
    """

    def __init__(self, ask: Callable[..., Any], asker: str) -> None:
        self.ask, self.asker, self.counts = ask, asker, Counter()
        self.begin()

    def begin(self) -> None:
        """For a fresh start, after a loss too: handles given out before are void."""
        self._freed: list[int] = []
        self.accepts_boxes, self.waives_click_points = self.ask("begin", self.asker)

    def statistics(self) -> dict[str, int]:
        return dict(self.counts)

    def embed(self, images: Sequence[np.ndarray]) -> list[Handle]:
        """See `ClickSegmenter.embed`."""
        return self._call("embed", list(images))[1]

    def predict(
        self,
        embeddings: Sequence[Handle],
        clicks: Sequence[Sequence[Click]],
        memory: Sequence[Handle | None],
        boxes: Sequence[Box | None] | None = None,
    ) -> tuple[list[np.ndarray], list[Handle]]:
        """See `ClickSegmenter.predict`."""
        known = [None if remembered is None else remembered.number for remembered in memory]
        return self._call("predict", [handle.number for handle in embeddings], list(clicks), known, boxes)

    def remember(self, embeddings: Sequence[Handle], masks: Sequence[np.ndarray]) -> list[Handle]:
        """See `ClickSegmenter.remember`."""
        return self._call("remember", [handle.number for handle in embeddings], list(masks))[1]

    def _call(self, name: str, *given: Any) -> tuple[list[np.ndarray], list[Handle]]:
        """(masks, handles); the host lets go of a handle's thing with the first call after the handle is gone."""
        freed = self._freed
        told = list(freed)
        answer = self.ask(name, self.asker, told, *given)
        del freed[: len(told)]
        self.counts.update(answer.counts)
        handles = [Handle(number, score) for number, score in answer.handles]
        for handle in handles:
            weakref.finalize(handle, freed.append, handle.number)
        return [_unpacked(*mask) for mask in answer.masks], handles

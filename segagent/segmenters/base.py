"""The contract of a click segmenter: (images) -> embeddings; (embeddings, clicks, memory, boxes) -> masks, memory.

Batched by lists, because images differ in size. Nothing is hidden between calls: what a segmenter wants to remember of
a state goes out as memory and comes back in, so that two branches from one state never touch each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from segagent.types import Box, Click


class ClickSegmenter(Protocol):
    """What every segmenter offers; `tests/segmenters/test_contract.py` holds each member to it.

    accepts_boxes: whether a box may be given. waives_click_points: empty when the mask is promised to contain every
    positive click and no negative one; otherwise the reason why it is not promised. A member that keeps embeddings may
    also offer `statistics()`: counts under flat keys that begin with `embed_`, which a run adds to its metrics.
    """

    accepts_boxes: bool
    waives_click_points: str

    def embed(self, images: Sequence[np.ndarray]) -> list[Any]:
        """`[H, W, 3]` uint8 RGB images of any sizes -> one opaque embedding each, made once per image."""

    def predict(
        self,
        embeddings: Sequence[Any],
        clicks: Sequence[Sequence[Click]],
        memory: Sequence[Any],
        boxes: Sequence[Box | None] | None = None,
    ) -> tuple[list[np.ndarray], list[Any]]:
        """One new mask per state.

        clicks: all clicks of each state so far, in order, the new one last. memory: what the last call (or `remember`)
        returned for the state, None at its start. Returns `[H, W]` bool masks and their memories.
        Raises `ValueError` for a state with neither click nor box, a click outside its image, a box where
        `accepts_boxes` is False, and lists of unequal length.
        """

    def remember(self, embeddings: Sequence[Any], masks: Sequence[np.ndarray]) -> list[Any]:
        """The memory that stands for a given `[H, W]` bool mask: a trajectory may start from any mask."""


def check_states(
    sizes: Sequence[tuple[int, int]],
    clicks: Sequence[Sequence[Click]],
    memory: Sequence[Any],
    boxes: Sequence[Box | None],
    accepts_boxes: bool,
) -> None:
    """The refusals that all segmenters share. sizes: (height, width) of each state's image."""
    if not len(sizes) == len(clicks) == len(memory) == len(boxes):
        raise ValueError(
            f"{len(sizes)} embeddings, {len(clicks)} click lists, {len(memory)} memories and {len(boxes)} boxes: "
            "give one of each per state"
        )
    for index, ((height, width), points, box) in enumerate(zip(sizes, clicks, boxes, strict=True)):
        if box is not None and not accepts_boxes:
            raise ValueError(
                f"state {index}: this segmenter takes clicks only, no box; choose one that takes boxes "
                "(segmenter=graphcut, sam, ...), or a policy without them"
            )
        if box is None and not points:
            raise ValueError(f"state {index}: no click{' and no box' if accepts_boxes else ''}; give at least one")
        if box is not None and not (0 <= box.x0 and box.x1 <= width and 0 <= box.y0 and box.y1 <= height):
            raise ValueError(f"state {index}: {box} reaches out of its {width}x{height} image")
        for click in points:
            if not (0 <= click.x < width and 0 <= click.y < height):
                raise ValueError(f"state {index}: {click} lies outside its {width}x{height} image (x < W, y < H)")

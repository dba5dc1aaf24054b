"""The records that travel between the rooms, and the units that nothing else may cross a door in.

========== =====================================================================================
image      `[H, W, 3]` uint8 RGB, EXIF rotation already applied
mask       `[H, W]` bool
click      `(x, y)` integer pixels, `0 <= x < W`, `0 <= y < H`
box        `(x0, y0, x1, y1)` integer pixels, right and bottom exclusive
IoU        float in `[0, 1]`
========== =====================================================================================

In: nothing. Out: frozen records without behaviour beyond checking themselves. No torch, no files.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np


class RefusedError(ValueError):
    """A model takes no state of a sample: its text is too long, say. Others may go on."""


@dataclass(frozen=True, slots=True)
class Click:
    """One click of the annotator.

    x, y: column and row in pixels of the full image. is_positive: True adds to the mask, False removes.
    """

    x: int
    y: int
    is_positive: bool = True


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box in pixels; `x1` and `y1` are exclusive.

    Raises `ValueError` when it holds no pixel.
    """

    x0: int
    y0: int
    x1: int
    y1: int

    def __post_init__(self) -> None:
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            raise ValueError(
                f"box ({self.x0}, {self.y0}, {self.x1}, {self.y1}) holds no pixel: "
                "give x0 < x1 and y0 < y1 in pixels (xyxy, right and bottom exclusive)"
            )


class EndReason(StrEnum):
    """Why a trajectory ended."""

    FINISHED = "finished"  # the policy said so, or the mask is good enough
    OUT_OF_CLICKS = "out_of_clicks"
    UNPARSABLE = "unparsable"  # the reply could not be read; the last mask stands
    NO_GAIN = "no_gain"  # too many clicks in a row without improvement


class InitKind(StrEnum):
    """Where the first mask of a trajectory comes from."""

    EMPTY = "empty"
    BOX = "box"
    RANDOM_POINTS = "random_points"
    MASK = "mask"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"init={value}: choose {', '.join(cls)}")


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with one description, and the mask it stands for where that is known.

    image: `[H, W, 3]` uint8 RGB. target: `[H, W]` bool or None. void: `[H, W]` bool, pixels that are never
    counted, or None. box: a box that came with the sample (a detector's, an annotator's), or None.
    image_name: the image as the files name it. image_key: equal for samples that show the same pixels, so that
    an image is embedded once for all its descriptions.
    """

    sample_id: str
    image: np.ndarray
    text: str
    target: np.ndarray | None = None
    void: np.ndarray | None = None
    box: Box | None = None
    mask: np.ndarray | None = None
    image_name: str | int = ""
    image_key: Hashable = None
    object_id: Any = None
    category: str | None = None

    @property
    def height(self) -> int:
        return self.image.shape[0]

    @property
    def width(self) -> int:
        return self.image.shape[1]


@dataclass(frozen=True, slots=True)
class Action:
    """What a policy does in one state: a click, a box, or an end (FINISHED or UNPARSABLE); exactly one of them.

    text: the reply it was read from. predicted_iou: what the policy thinks of the mask *shown*, before the action.
    log_prob: natural logarithm of the probability of `text` under the policy. source: who made it.
    """

    click: Click | None = None
    box: Box | None = None
    end: EndReason | None = None
    text: str | None = None
    predicted_iou: float | None = None
    log_prob: float | None = None
    source: str = "policy"

    def __post_init__(self) -> None:
        given = [name for name in ("click", "box", "end") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"an action is one of click, box and end; got {' and '.join(given) or 'none of them'}")


@dataclass(frozen=True, eq=False)
class Step:
    """One action that was carried out, and what came of it.

    mask: RLE dict `{"size": [H, W], "counts": str}` of the mask after it. iou_before, iou_after: true IoU around it,
    None where no target is known; their difference is the reward. kept: False when the click gained too little to
    be learnt from; it stays in the trajectory because later masks depend on it.
    """

    action: Action
    mask: dict
    iou_before: float | None = None
    iou_after: float | None = None
    kept: bool = True


@dataclass(frozen=True, eq=False)
class State:
    """A mask under work. Immutable: `environment.step` makes a new one, so that a search can branch.

    embedding, memory: the segmenter's own, opaque here. mask: `[H, W]` bool. init_mask: the mask it began with.
    iou: true IoU of `mask`, None where no target is known. best_iou: the highest so far, the start included.
    stale: actions in a row that brought no new best. extras: plain JSON that goes to the trajectory as it is.
    """

    sample: Sample
    embedding: Any
    mask: np.ndarray
    init: InitKind
    init_mask: np.ndarray
    init_box: Box | None = None
    init_clicks: tuple[Click, ...] = ()
    init_iou: float | None = None
    memory: Any = None
    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    iou: float | None = None
    best_iou: float | None = None
    stale: int = 0
    steps: tuple[Step, ...] = ()
    end_reason: EndReason | None = None
    end_text: str | None = None
    extras: dict = field(default_factory=dict)

    def replace(self, **changes: Any) -> State:
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A finished (or running) annotation of one sample, light enough to keep: masks as RLE, no image, no embedding.

    target, void, init_mask: RLE dicts, `target` and `void` None where unknown. end_text: the reply that ended it, when
    that was a reply. seconds: wall time of its share of the work, None unless asked for.
    """

    sample_id: str
    image_name: str | int
    height: int
    width: int
    text: str
    target: dict | None
    void: dict | None
    init: InitKind
    init_mask: dict
    init_box: Box | None = None
    init_clicks: tuple[Click, ...] = ()
    init_iou: float | None = None
    steps: tuple[Step, ...] = ()
    end_reason: EndReason | None = None
    end_text: str | None = None
    object_id: Any = None
    category: str | None = None
    seconds: float | None = None
    extras: dict = field(default_factory=dict)

    @property
    def final_iou(self) -> float | None:
        return self.steps[-1].iou_after if self.steps else self.init_iou

    @property
    def returned(self) -> int:
        """Number of the mask that is the answer, counted from the start's 0: the one that a search chose (it leaves it
        in `extras`), else the last."""
        said = self.extras.get("returned")
        return said if isinstance(said, int) and 0 <= said <= len(self.steps) else len(self.steps)

    @property
    def returned_iou(self) -> float | None:
        return self.steps[self.returned - 1].iou_after if self.returned else self.init_iou

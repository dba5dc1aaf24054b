"""A trajectory as pictures with captions: the target, the start, and the mask after every click."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from segagent.masks import decode_rle
from segagent.overlay import check_image, paint
from segagent.types import InitKind, Step, Trajectory

LoadImage = Callable[[Trajectory], np.ndarray]
_GREY = 150
_FIRST, _LAST = 7, 3  # of a long trajectory, the steps shown
_START = {
    InitKind.EMPTY: "start: empty mask",
    InitKind.BOX: "start: from a box",
    InitKind.RANDOM_POINTS: "start: from random points",
    InitKind.MASK: "start: a given mask",
}


@dataclass(frozen=True, eq=False)
class Panel:
    """picture: `[h, w, 3]` uint8. title: what it shows. detail: IoU and so on. reply: the model's text, or None."""

    picture: np.ndarray
    title: str
    detail: str = ""
    reply: str | None = None

    def caption(self) -> str:
        return "\n".join(line for line in (self.title, self.detail, self.reply) if line)


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def load_or_grey(trajectory: Trajectory, load_image: LoadImage) -> tuple[np.ndarray, str]:
    """(the picture `[H, W, 3]` uint8, "") or (grey of the right size, why it could not be read)."""
    height, width = trajectory.height, trajectory.width
    try:
        image = load_image(trajectory)
        check_image(image)
        if image.shape[:2] == (height, width):
            return image, ""
        reason = f"the image is {image.shape[1]}x{image.shape[0]}, the trajectory {width}x{height}"
    except (OSError, ValueError, LookupError, cv2.error) as error:
        reason = f"{type(error).__name__}: {error}"
    return np.full((height, width, 3), _GREY, np.uint8), reason


def trajectory_panels(trajectory: Trajectory, load_image: LoadImage, side: int = 240) -> list[Panel]:
    """Target, start, each step (of many the first and the last ones), `side` pixels on the longer side.

    What cannot be read, image or mask, becomes a grey picture that says why.
    """
    image, reason = load_or_grey(trajectory, load_image)
    try:
        return _panels(trajectory, image, reason, side)
    except ValueError as error:  # a broken RLE, or a mask of another size
        grey = np.full((side * 3 // 4, side, 3), _GREY, np.uint8)
        return [Panel(grey, "cannot be shown", str(error))]


def _panels(trajectory: Trajectory, image: np.ndarray, reason: str, side: int) -> list[Panel]:
    target = None if trajectory.target is None else decode_rle(trajectory.target, "target")
    title = "image" if target is None else "image, target outlined"
    first = paint(image, outline=target, side=side)
    start = paint(image, mask=decode_rle(trajectory.init_mask, "start mask"), clicks=trajectory.init_clicks, side=side)
    panels = [
        Panel(first, title, f"image not readable: {reason}" if reason else ""),
        Panel(start, _START[trajectory.init] + _if_returned(trajectory, 0), f"IoU {_shown(trajectory.init_iou)}"),
    ]
    steps = list(enumerate(trajectory.steps, 1))
    skipped = max(0, len(steps) - _FIRST - _LAST)
    for number, step in steps[:_FIRST] + steps[_FIRST + skipped :]:
        panel = _step_panel(image, target, number, step, side)
        more = f"({skipped} more) " if skipped and number == _FIRST + skipped + 1 else ""
        panels.append(replace(panel, title=f"{more}{panel.title}{_if_returned(trajectory, number)}"))
    return panels


def _if_returned(trajectory: Trajectory, number: int) -> str:
    """Where the answer is not the last mask, as a search may choose."""
    return ", returned" if number == trajectory.returned != len(trajectory.steps) else ""


def _step_panel(image: np.ndarray, target: np.ndarray | None, number: int, step: Step, side: int) -> Panel:
    action = step.action
    clicks = [] if action.click is None else [action.click]
    mask = decode_rle(step.mask, f"mask after step {number}")
    picture = paint(image, mask=mask, outline=target, clicks=clicks, first_number=number, side=side)
    if action.click is not None:
        sign = "+" if action.click.is_positive else "\N{MINUS SIGN}"
        title = f"{number}: {sign} ({action.click.x}, {action.click.y})"
    else:
        title = f"{number}: box"
    if not step.kept:
        title += ", not kept"
    detail = f"IoU {_shown(step.iou_before)} \N{RIGHTWARDS ARROW} {_shown(step.iou_after)}"
    if action.predicted_iou is not None:
        detail += f", said {action.predicted_iou:.3f}"
    return Panel(picture, title, detail, action.text)

"""Which mask of a trajectory is the answer, and what the reward model thinks of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from segagent.masks import decode_rle
from segagent.types import InitKind, Trajectory


def scores(trajectory: Trajectory) -> list[float | None]:
    """Predicted IoU of every mask, the start first; None where nothing was said of it."""
    return [*(step.action.predicted_iou for step in trajectory.steps), trajectory.extras.get("pred_iou")]


def returned(trajectory: Trajectory) -> int:
    """Number of the mask that is returned, counted from the start's 0: see `Trajectory.returned`.

    A mask that was given is only given up for one that is predicted to be better: where they are thought alike, or one
    of them was not judged, it stays.
    """
    number = trajectory.returned
    if trajectory.init is not InitKind.MASK:
        return number
    said = scores(trajectory)
    unsure = said[0] is None or said[number] is None or said[number] <= said[0]
    return 0 if unsure else number


def light(trajectory: Trajectory) -> Trajectory:
    """All that is asked of a finished one here, without the other masks, the texts of the replies and the candidates:
    a file of a million annotations is gone through at its end, and they would fill the memory."""
    number = returned(trajectory)
    steps = tuple(
        replace(step, mask=step.mask if place == number else {}, action=replace(step.action, text=""))
        for place, step in enumerate(trajectory.steps, 1)
    )
    told = {name: trajectory.extras[name] for name in ("returned", "pred_iou") if name in trajectory.extras}
    return replace(trajectory, steps=steps, target=None, void=None, end_text=None, extras=told)


def returned_rle(trajectory: Trajectory) -> dict:
    number = returned(trajectory)
    return trajectory.steps[number - 1].mask if number else trajectory.init_mask


def returned_mask(trajectory: Trajectory) -> np.ndarray:
    """`[H, W]` bool."""
    return decode_rle(returned_rle(trajectory), f"sample {trajectory.sample_id}")


def returned_score(trajectory: Trajectory) -> float | None:
    """Predicted IoU of the mask that is returned."""
    return scores(trajectory)[returned(trajectory)]


def returned_iou(trajectory: Trajectory) -> float | None:
    """Its true IoU, where the target is known."""
    number = returned(trajectory)
    return trajectory.steps[number - 1].iou_after if number else trajectory.init_iou

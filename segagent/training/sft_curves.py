"""The curves of a supervised training as a PNG: loss and token accuracy, and what its clicks are worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from segagent.training.training_log import Rows, draw_run

_SHOWN = (
    ("click_accuracy", "clicks in the right region", "#009e73", "-."),
    ("iou_after_click", "IoU after the click", "#0072b2", "-"),
    ("iou_before", "IoU before it", "#999999", ":"),
    ("iou_error", "error of the predicted IoU", "#d55e00", "--"),
)


def _clicks(axes: Axes, validations: Rows) -> None:
    x = [row["step"] for row in validations]
    for name, label, color, style in _SHOWN:
        y = np.array([row[name] for row in validations])
        if not np.isnan(y).all():
            axes.plot(x, y, color=color, linestyle=style, marker="o", ms=3, label=label)
    axes.set(xlabel="step", ylabel="held-out states", ylim=(0, 1))
    if axes.lines:
        axes.legend(frameon=False)


def draw_sft_curves(steps: Rows, validations: Rows, path: str | Path) -> None:
    """From the rows of `train.csv` and `validation.csv`; see `training_log.draw_run`."""
    draw_run(
        steps,
        validations,
        path,
        loss="loss per token",
        share=("token_accuracy", "token accuracy"),
        draw_validations=_clicks,
    )

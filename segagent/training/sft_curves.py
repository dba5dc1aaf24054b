"""The curves of a supervised training as a PNG: loss and token accuracy, and what its clicks are worth."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segagent.training.training_log import smoothed

_SMOOTHING = 0.02  # a window of this share of the run, at least one step
_SHOWN = (
    ("click_accuracy", "clicks in the right region", "#009e73", "-."),
    ("iou_after_click", "IoU after the click", "#0072b2", "-"),
    ("iou_before", "IoU before it", "#999999", ":"),
    ("iou_error", "error of the predicted IoU", "#d55e00", "--"),
)


def _left(axes: Axes, steps: list[dict[str, float]]) -> None:
    x = [row["step"] for row in steps]
    window = max(1, math.ceil(_SMOOTHING * len(x)))
    axes.plot(x, smoothed(np.array([row["loss"] for row in steps]), window), color="#0072b2")
    axes.set(xlabel="step", ylabel="loss per token", yscale="log")
    twin = axes.twinx()
    accuracy = smoothed(np.array([row["token_accuracy"] for row in steps]), window)
    twin.plot(x, accuracy, color="#d55e00", linestyle="--")
    twin.set(ylabel="token accuracy (dashed)", ylim=(0, 1))


def _right(axes: Axes, validations: list[dict[str, float]]) -> None:
    x = [row["step"] for row in validations]
    for name, label, color, style in _SHOWN:
        y = np.array([row[name] for row in validations])
        if not np.isnan(y).all():
            axes.plot(x, y, color=color, linestyle=style, marker="o", ms=3, label=label)
    axes.set(xlabel="step", ylabel="held-out states", ylim=(0, 1))
    if axes.lines:
        axes.legend(frameon=False)


def draw_sft_curves(steps: list[dict[str, float]], validations: list[dict[str, float]], path: str | Path) -> None:
    """A PNG of 1000 x 400 pixels, from the rows of `train.csv` and `validation.csv`."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    if steps:
        _left(left, steps)
    if validations:
        _right(right, validations)
    for axes in (left, right):
        axes.grid(axis="y", color="#8888", linewidth=0.5)
    figure.savefig(path, dpi=100)

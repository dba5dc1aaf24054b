"""What a training run tells: one CSV row per step, one per validation, and the curves as a PNG."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STEP_COLUMNS = ("step", "loss", "iou", "lr", "gradient_norm", "samples_per_second")
Rows = list[dict[str, float]]
_SMOOTHING = 0.02  # a window of this share of the run, at least one step


class CsvTable:
    """Rows of numbers in a CSV file that a resumed run goes on with. Written through at each row.

    columns: the first is the step. The file is made with the first row.
    """

    def __init__(self, path: str | Path, columns: Sequence[str]) -> None:
        self.path, self.columns = Path(path), tuple(columns)

    def rows(self) -> list[dict[str, float]]:
        """All rows; a last line that a kill cut off is left out."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            read = [row for row in csv.reader(file) if len(row) == len(self.columns) and all(row)]
        return [dict(zip(self.columns, map(float, row), strict=True)) for row in read[1:]]

    def cut(self, step: int) -> None:
        """Forgets rows after `step`: they will be written again."""
        kept = [row for row in self.rows() if row["step"] <= step]
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text("".join([",".join(self.columns) + "\n", *map(self._line, kept)]), encoding="utf-8")
        partial.replace(self.path)

    def add(self, **values: float) -> None:
        """Raises `ValueError` when a column is missing or unknown."""
        if set(values) != set(self.columns):
            raise ValueError(f"{self.path.name}: got {sorted(values)}, its columns are {sorted(self.columns)}")
        is_new = not self.path.exists()
        with self.path.open("a", encoding="utf-8") as file:
            if is_new:
                file.write(",".join(self.columns) + "\n")
            file.write(self._line(values))

    def _line(self, values: dict[str, float]) -> str:
        # Nine digits bring every float32 back exactly.
        return ",".join(f"{values[column]:.9g}" for column in self.columns) + "\n"


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values at each place, `[N]`; of those there are at the beginning."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _step_axes(axes: Axes, steps: Rows, loss: str, share: tuple[str, str]) -> None:
    """The loss, called `loss`, and dashed a column in [0, 1]: share is (its name, what it is called)."""
    x = [row["step"] for row in steps]
    window = max(1, math.ceil(_SMOOTHING * len(x)))
    axes.plot(x, smoothed(np.array([row["loss"] for row in steps]), window), color="#0072b2")
    axes.set(xlabel="step", ylabel=loss, yscale="log")
    twin = axes.twinx()
    twin.plot(x, smoothed(np.array([row[share[0]] for row in steps]), window), color="#d55e00", linestyle="--")
    twin.set(ylabel=f"{share[1]} (dashed)", ylim=(0, 1))


def draw_run(
    steps: Rows,
    validations: Rows,
    path: str | Path,
    *,
    loss: str,
    share: tuple[str, str],
    draw_validations: Callable[[Axes, Rows], None],
) -> None:
    """Rows of both tables side by side, as a PNG of 1000 x 400 pixels; loss, share: see `_step_axes`."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    if steps:
        _step_axes(left, steps, loss, share)
    if validations:
        draw_validations(right, validations)
    for axes in (left, right):
        axes.grid(axis="y", color="#8888", linewidth=0.5)
    figure.savefig(path, dpi=100)


def _clicks_needed(axes: Axes, validations: Rows) -> None:
    x = [row["step"] for row in validations]
    for name, color, style in (("noc80", "#009e73", "-."), ("noc85", "#0072b2", "-"), ("noc90", "#d55e00", "--")):
        axes.plot(x, [row[name] for row in validations], color=color, linestyle=style, marker="o", ms=3, label=name)
    axes.set(xlabel="step", ylabel="clicks needed (held-out samples)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def draw_curves(steps: Rows, validations: Rows, path: str | Path) -> None:
    """Of the training of a segmenter: loss and IoU over steps beside NoC of the validations."""
    draw_run(
        steps,
        validations,
        path,
        loss="normalised focal loss",
        share=("iou", "IoU after the last click"),
        draw_validations=_clicks_needed,
    )

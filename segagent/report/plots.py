"""The plots of a report as SVG text that follows the page's light or dark scheme."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#010203"  # stands for the page's text colour, put in afterwards
# Okabe and Ito's palette, which most colour-blind people can tell apart; lines differ in dashes as well.
COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
DASHES = ["-", "--", "-.", ":"]


def plain(axes: Axes) -> None:
    """Axes that follow the page: no frame, faint lines, everything that is ink in the colour that `svg` replaces."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.tick_params(colors=INK, labelsize=9)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(INK)
        text.set_fontsize(10)
    axes.grid(axis="y", color="#8888", linewidth=0.6)
    axes.set_axisbelow(True)


def svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an inline `<svg>` element, the same bytes for the same numbers."""
    buffer = io.StringIO()
    # `name` keeps the ids of several plots on one page apart.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'font: ([\d.]+px) [^;"]*', r"font: \1 system-ui, sans-serif", text)
    text = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"|\sheight="[\d.]+pt"', "", text, count=2)
    head = f'<svg role="img" aria-label="{description}" class="plot"'
    return text.replace("<svg", head, 1).replace(INK, "currentColor")


def iou_by_step(curves: Mapping[str, Sequence[float | None]], ious: np.ndarray, steps: np.ndarray) -> str:
    """Curves over steps, the middle half of all trajectories, and below the share that is still running.

    ious: `[N, S]`, column 0 the start. steps: `[N]` steps of each. Either may be empty.
    """
    figure = Figure(figsize=(6.4, 4.2))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    if len(ious):
        low, high = np.percentile(ious, [25, 75], axis=0)
        upper.fill_between(
            np.arange(ious.shape[1]), low, high, color="#0072b2", alpha=0.18, linewidth=0, label="middle half"
        )
    shown = curves or ({"mean IoU": ious.mean(0).tolist()} if len(ious) else {})
    for number, (name, values) in enumerate(shown.items()):
        numbers = np.array([np.nan if value is None else value for value in values], float)
        style = {"color": COLORS[number % len(COLORS)], "linestyle": DASHES[number % len(DASHES)]}
        upper.plot(np.arange(len(numbers)), numbers, marker="o", markersize=3.5, label=name, **style)
    upper.set_ylim(0, 1.02)
    upper.set_ylabel("IoU")
    if upper.get_legend_handles_labels()[0]:
        upper.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
    if len(steps):
        running = [(steps >= step).mean() for step in range(ious.shape[1])]
        lower.bar(np.arange(len(running)), running, color="#8889", width=0.7)
    lower.set_ylim(0, 1.05)
    lower.set_ylabel("still running")
    lower.set_xlabel("step (0: the start)")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (upper, lower):
        plain(axes)
    return svg(figure, "iou-by-step", "IoU by step, and the share of samples still running")


def histogram(final: np.ndarray) -> str:
    """How many trajectories returned a mask of which IoU; final: `[N]` in `[0, 1]`."""
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.subplots()
    axes.hist(np.clip(final, 0, 1), bins=np.linspace(0, 1, 21), color="#0072b2", alpha=0.85, rwidth=0.92)
    if len(final):
        median = float(np.median(final))
        axes.axvline(median, color="#d55e00", linestyle="--", label=f"median {median:.3f}")
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left")
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("IoU of the mask that is returned")
    axes.set_ylabel("samples")
    plain(axes)
    return svg(figure, "final-iou", "Histogram of the IoU of the masks that are returned")

"""Figures of the page: numbers with 95% intervals -> SVG for HTML, PNG for Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segagent.report.plots import COLORS, DASHES, INK, plain, svg
from segagent.tables.arms import Interval
from segagent.tables.section import Plot

_SIZE = (6.4, 3.8)


def _errors(intervals: Sequence[Interval], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(values, `[2, n]` lengths of the whiskers); an interval may leave out the value of very few samples."""
    values = scale * np.array([one.value for one in intervals])
    ends = scale * np.array([[one.low for one in intervals], [one.high for one in intervals]])
    return values, np.nan_to_num(np.maximum(0, np.stack([values - ends[0], ends[1] - values])))


def curves(
    folder: Path, name: str, caption: str, series: Mapping[str, Sequence[Interval]], *, ylabel: str, scale: float = 100
) -> Plot:
    """A line per series over 0, 1, 2 ... clicks."""
    figure = Figure(figsize=_SIZE)
    axes = figure.subplots()
    for number, (label, intervals) in enumerate(series.items()):
        values, errors = _errors(intervals, scale)
        x = np.arange(len(values)) + 0.06 * number  # whiskers beside each other
        style = {"color": COLORS[number % len(COLORS)], "linestyle": DASHES[number % len(DASHES)]}
        axes.errorbar(x, values, yerr=errors, marker="o", markersize=3.5, capsize=2.5, label=label, **style)
    axes.set(xlabel="clicks", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, len(series))
    plain(axes)
    return _finish(figure, folder, name, caption)


def bars(
    folder: Path,
    name: str,
    caption: str,
    groups: Mapping[str, Mapping[str, Interval]],
    *,
    ylabel: str,
    scale: float = 100,
) -> Plot:
    """A bar per member of a group, members of one name in one colour."""
    figure = Figure(figsize=_SIZE)
    axes = figure.subplots()
    members = list(dict.fromkeys(member for group in groups.values() for member in group))
    width = 0.8 / len(members)
    for place, member in enumerate(members):
        at = [number for number, group in enumerate(groups.values()) if member in group]
        values, errors = _errors([group[member] for group in groups.values() if member in group], scale)
        x = np.array(at) + (place - (len(members) - 1) / 2) * width
        style = {"color": COLORS[place % len(COLORS)], "ecolor": INK}
        axes.bar(x, values, width * 0.92, yerr=errors, capsize=3, label=member, **style)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_ylabel(ylabel)
    if len(members) > 1:
        _legend(axes, len(members))
    plain(axes)
    return _finish(figure, folder, name, caption)


def _legend(axes: Axes, columns: int) -> None:
    """In a row above the axes: whiskers may be anywhere below."""
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": columns, "columnspacing": 1.2}
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, borderaxespad=0.2, **place)


def _finish(figure: Figure, folder: Path, name: str, caption: str) -> Plot:
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight", facecolor="white")
    return Plot(name, caption, svg(figure, name, caption))

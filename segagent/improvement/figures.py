"""Figures of rounds: JSON, a table, a plot. No clock and no path in them: equal runs write equal bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segagent.data.predictions import prediction_record
from segagent.data.trajectories import read_trajectories
from segagent.metrics import score
from segagent.results import protocol_of
from segagent.training.training_log import CsvTable

Figures = dict[str, Any]
_SHARE = 0.1  # of a training, whose first and last losses are told


def scores_of(lines: Path, *, click_limit: int, asked: int, seed: int) -> Figures:
    """Flat keys as of evaluate.py, of a trajectory file. asked: samples that were to be rolled out."""
    records = map(prediction_record, read_trajectories(lines))
    scores = score(records, protocol_of(lines), click_limit=click_limit, seed=seed, where=str(lines)).metrics()
    return scores | {"n_skipped": asked - scores["n"]}


def training_figures(table: CsvTable) -> Figures:
    """Steps, and loss per token over the first and the last tenth of them."""
    losses = np.array([row["loss"] for row in table.rows()])
    window = max(1, round(_SHARE * len(losses)))
    return {"steps": len(losses), "loss_first": float(losses[:window].mean()), "loss": float(losses[-window:].mean())}


def read_figures(path: Path) -> Figures:
    return json.loads(path.read_text(encoding="utf-8"))


def format_rounds(rounds: Sequence[Figures]) -> str:
    """A row a round: its rollouts (of the model before), its data, its training, the model that came of it."""
    head = f"{'round':>5}  {'rollouts ciou':>13}  {'selected':>13}  {'kept':>6}  {'relabelled':>10}  {'loss':>14}"
    rows = [f"{head}  evaluation ciou"]
    for figures in rounds:
        cells = [f"{figures['round']:>5}"]
        if "rollouts" in figures:
            chosen, trained = figures["selection"], figures["training"]
            cells += [f"{100 * figures['rollouts']['ciou']:13.2f}"]
            cells += [f"{chosen['selected']:>6}/{chosen['trajectories']:>6}", f"{chosen['kept']:>6}"]
            cells += [f"{chosen['relabelled'] + chosen['added']:>10}"]
            cells += [f"{trained['loss_first']:.3f} > {trained['loss']:.3f}".rjust(14)]
        else:
            cells += [" " * width for width in (13, 13, 6, 10, 14)]
        if "evaluation" in figures:
            value, *bounds = (figures["evaluation"][key] for key in ("ciou", "ciou_low", "ciou_high"))
            interval = "-" if None in bounds else " ".join(f"{100 * bound:.2f}" for bound in bounds)
            cells.append(f"{100 * value:.2f} [{interval}]")
        rows.append("  ".join(cells).rstrip())
    return "\n".join(rows)


def draw_rounds(rounds: Sequence[Figures], title: str, path: Path) -> None:
    """cIoU over models S_0, S_1, ... beside mean IoU over clicks, as a PNG of 1000 x 400 pixels."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    # The rollouts of a round are of the model before it.
    _models(left, {row["round"] - 1: row["rollouts"] for row in rounds if "rollouts" in row}, "training samples", "--")
    held_out = {row["round"]: row["evaluation"] for row in rounds if "evaluation" in row}
    _models(left, held_out, "held-out samples", "-")
    left.set(xlabel="model S_n", ylabel="cIoU, 95% interval", ylim=(0, 1), xticks=range(rounds[-1]["round"] + 1))
    left.legend(frameon=False)
    shown = held_out or {row["round"] - 1: row["rollouts"] for row in rounds if "rollouts" in row}
    for model, scores in shown.items():
        curve = scores["miou_by_step"]
        right.plot(range(len(curve)), curve, marker="o", ms=3, label=f"S_{model}")
    samples = "held-out" if held_out else "training"
    right.set(xlabel="clicks", ylabel=f"mean IoU, {samples} samples", ylim=(0, 1))
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(axis="y", color="#8888", linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=100)


def _models(axes: Axes, scores: dict[int, Figures], label: str, line: str) -> None:
    if not scores:
        return
    rows = [[score[key] for key in ("ciou", "ciou_low", "ciou_high")] for score in scores.values()]
    values = np.array(rows, float)  # None, of a single picture: NaN
    errors = np.nan_to_num(np.abs(values[:, 1:] - values[:, :1]).T)
    axes.errorbar(list(scores), values[:, 0], yerr=errors, linestyle=line, marker="o", capsize=3, label=label)

"""The report of a run: one HTML file with numbers, plots and annotated trajectories that opens anywhere.

In: metrics and trajectories. Out: a file that needs no network and no other file; pictures and plots are inside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from segagent.report import plots
from segagent.report.gather import Gathered, Kept, gather
from segagent.report.page import data_uri, page, write_page
from segagent.report.pictures import LoadImage, Panel, trajectory_panels
from segagent.types import Trajectory

__all__ = ["trajectory_panels", "write_report"]

_LEGEND = (
    "In the pictures: green is the mask after the step, the yellow line the target; a green plus adds, a red minus "
    "removes. IoU before \N{RIGHTWARDS ARROW} after the step; \u201csaid\u201d is the IoU that the policy announced "
    "for the mask before it."
)
_MEANINGS = {
    "ciou": "cumulative IoU: all intersections over all unions",
    "giou": "mean IoU per sample; an empty target met by an empty mask counts 1",
    "miou": "mean IoU of the samples that have a target",
    "boundary_iou": "mean Boundary IoU",
    "noc80": "clicks to reach IoU 0.80",
    "noc85": "clicks to reach IoU 0.85",
    "noc90": "clicks to reach IoU 0.90",
    "click_limit": "actions that a sample may take; what is never reached counts as this many",
    "n": "samples scored",
    "first_click": "first clicks in the region that their sign is right for",
    "giou_first_right": "mean IoU of the samples whose first click is right",
    "giou_first_wrong": "mean IoU of the samples whose first click is wrong",
    "n_unparsable": "samples with a reply that could not be read",
    "n_empty_target": "samples without a target",
    "n_null_target": "of them with none in the file",
    "n_skipped": "samples that could not be loaded, not scored",
    "seconds": "time of the loop, of all processes together",
    "prm_mae": "mean absolute error of the predicted IoU, in percent points",
    "prm_mse": "mean squared error of the predicted IoU, in squared percent points",
    "prm_pearson": "linear correlation of predicted and true IoU",
    "prm_spearman": "rank correlation of predicted and true IoU",
}


def write_report(
    path: str | Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    curves: Mapping[str, Sequence[float | None]],
    trajectories: Iterable[Trajectory],
    load_image: LoadImage,
    config_text: str = "",
    extremes: int = 6,
    sampled: int = 12,
    side: int = 240,
    seed: int = 0,
) -> None:
    """Writes the report as one self-contained HTML file; equal inputs give equal bytes.

    summary: metric -> number or text; NAME_low and NAME_high beside NAME are its 95% interval; lists are left out.
    curves: name -> IoU after 0, 1, 2 ... steps. trajectories: read once, in order, and never all held. load_image:
    trajectory -> `[H, W, 3]` uint8; what it raises (`OSError`, `ValueError`, `LookupError`) is shown in grey.
    extremes, sampled: how many best, worst and random trajectories to show. side: pixels of a picture's longer side.
    """
    gathered = gather(trajectories, extremes=extremes, sampled=sampled, seed=seed)
    ious, steps = gathered.by_step()
    figures = [_figure(plots.iou_by_step(curves, ious, steps), "IoU by step")]
    if len(ious):
        figures.append(_figure(plots.histogram(gathered.returned()), f"IoU of the answers, {len(ious)} samples"))
    body = [
        f"<header><h1>{escape(title)}</h1>{_overview(gathered)}</header>",
        f"<section><h2>Numbers</h2>{_table(summary)}</section>",
        f'<section><h2>Quality by step</h2><div class="plots">{"".join(figures)}</div></section>',
    ]
    rows = {
        "Best": (gathered.best, "highest IoU of the mask that is returned"),
        "Worst": (gathered.worst, "lowest IoU of the mask that is returned"),
        "Random": (gathered.sampled, "drawn from the rest"),
    }
    if gathered.count:
        body.append(f"<p class='legend'>{_LEGEND}</p>")
    for name, (kept, note) in rows.items():
        if kept:
            body.append(_gallery(name, note, kept, load_image, side))
    if config_text:
        body.append(
            f"<section><h2>Configuration</h2><details><summary>the resolved configuration</summary>"
            f"<pre>{escape(config_text)}</pre></details></section>"
        )
    write_page(Path(path), page(title, "\n".join(body)))


def _overview(gathered: Gathered) -> str:
    """How many there are, and how they ended."""
    endings = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in gathered.endings.most_common())
    noun = "trajectory" if gathered.count == 1 else "trajectories"
    return f"<p>{gathered.count} {noun}{': ' if endings else ''}{escape(endings)}</p>"


def _number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "\N{EN DASH}" if value is None else str(value).lower()
    if isinstance(value, float | np.floating):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int | np.integer) else escape(str(value))


def _table(summary: Mapping[str, Any]) -> str:
    bounds = {f"{name}_{end}" for name in summary for end in ("low", "high") if f"{name}_{end}" in summary}
    rows = []
    for name, value in summary.items():
        if name in bounds or isinstance(value, list | tuple | dict):
            continue
        low, high = summary.get(f"{name}_low"), summary.get(f"{name}_high")
        interval = "" if low is None or high is None else f"{_number(low)} \N{EN DASH} {_number(high)}"
        rows.append(
            f"<tr><th scope='row'>{escape(name)}</th><td>{_number(value)}</td><td>{interval}</td>"
            f"<td class='meaning'>{escape(_meaning(name))}</td></tr>"
        )
    head = "<thead><tr><th>metric</th><th>value</th><th>95% interval</th><th>meaning</th></tr></thead>"
    return f'<div class="scroll"><table class="counts">{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _meaning(name: str) -> str:
    if name[:1] == "p" and name[1:].isdigit():
        return f"share of samples with IoU above 0.{name[1:]}"
    return _MEANINGS.get(name, "")


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _gallery(name: str, note: str, kept: Sequence[Kept], load_image: LoadImage, side: int) -> str:
    shown = "".join(_trajectory(place, trajectory, load_image, side) for place, trajectory in kept)
    return f'<section id="{name.lower()}"><h2>{name} <small>{escape(note)}</small></h2>{shown}</section>'


def _trajectory(place: int, trajectory: Trajectory, load_image: LoadImage, side: int) -> str:
    """One trajectory: what was asked for, how it went, and its pictures in a row that scrolls sideways."""
    panels = "".join(_panel(panel) for panel in trajectory_panels(trajectory, load_image, side))
    ended = "still running" if trajectory.end_reason is None else trajectory.end_reason.value.replace("_", " ")
    count = len(trajectory.steps)
    facts = f"{_iou(trajectory.final_iou)} after {count} step{'' if count == 1 else 's'}, {ended}"
    if trajectory.returned != count:
        facts = f"{_iou(trajectory.returned_iou)} of mask {trajectory.returned}, which is returned; {facts}"
    reply = f"<p>last reply: <q>{escape(trajectory.end_text)}</q></p>" if trajectory.end_text else ""
    origin = f"#{place} {trajectory.sample_id} {trajectory.image_name}".strip()
    return (
        f"<article><h3>{escape(trajectory.text) or '(no description)'}</h3>"
        f"<p><b>{escape(facts)}</b> <span class='origin'>{escape(origin)}</span></p>{reply}"
        f"<div class='strip' tabindex='0'>{panels}</div></article>"
    )


def _iou(value: float | None) -> str:
    return "IoU unknown" if value is None else f"IoU {value:.3f}"


def _panel(panel: Panel) -> str:
    height, width = panel.picture.shape[:2]
    reply = "" if panel.reply is None else f"<q>{escape(panel.reply)}</q>"
    detail = f"<span>{escape(panel.detail)}</span>" if panel.detail else ""
    return (
        f"<figure style='width:{width}px'><img loading='lazy' width='{width}' height='{height}' "
        f"alt='{escape(panel.title)}' src='{data_uri(panel.picture)}'>"
        f"<figcaption><b>{escape(panel.title)}</b>{detail}{reply}</figcaption></figure>"
    )

"""How many clicks does a dataset need? The simulated annotator clicks with any segmenter on any data (paper, Fig. 3).

    python evaltools/complexity.py data=refshapes_mix data.limit=400 segmenter=graphcut out=results/complexity.json

Writes NAME.json (per dataset: clicks to 80, 85 and 90% IoU with 95% intervals, samples that never get there, mean IoU
after each click), NAME.png (both drawn), NAME.config.yaml and NAME.trajectories.jsonl (grows while the run goes on;
resume=true goes on from it). The sources of a mixture are told apart, any other data is one dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig

from segagent.data.mixture import Mixture
from segagent.data.trajectories import read_trajectories
from segagent.engines.work import run_config
from segagent.entry import beside, claim_output, drop_aside, run_entry, write_text
from segagent.metrics.noc import LEVELS, clicks_needed, iou_curves, mean_interval
from segagent.run import who
from segagent.types import Trajectory

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", "-.", ":")


def curves_by_dataset(
    trajectories: Iterable[Trajectory], limit: int, name: str | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Dataset -> IoU of the start and after each click, `[N, 1 + limit]`, and number of the picture, `[N]`.

    name: of the only dataset; None: of a mixture, named in the ids.
    """
    ious: dict[str, list[list[float]]] = {}
    pictures: dict[str, list[str]] = {}
    for made in trajectories:
        dataset = name or made.sample_id.split("/", 1)[0]
        ious.setdefault(dataset, []).append([made.init_iou, *(step.iou_after for step in made.steps)])
        pictures.setdefault(dataset, []).append(str(made.image_name))
    numbers = {dataset: np.unique(names, return_inverse=True)[1] for dataset, names in pictures.items()}
    return {dataset: (iou_curves(rows, 1 + limit), numbers[dataset]) for dataset, rows in ious.items()}


def figures(curves: np.ndarray, image: np.ndarray, resamples: int) -> dict[str, Any]:
    """Flat keys of one dataset, see `curves_by_dataset`; intervals are over pictures. `never85`: samples that do not
    reach 85% within the limit; they count as the limit."""
    made: dict[str, Any] = {"n": len(curves)}
    for level in LEVELS:
        needed, reached = clicks_needed(curves, level)
        needed = needed - 1  # the first IoU is the start's: what is good already needs none
        low, high = mean_interval(needed, image, resamples)
        low, high = (None if np.isnan(end) else end for end in (low, high))
        made |= {f"noc{level}": float(needed.mean()), f"noc{level}_low": low, f"noc{level}_high": high}
        made[f"never{level}"] = int((~reached).sum())
    return made | {"iou_by_click": curves[:, 1:].mean(0).tolist()}


def draw(results: Mapping[str, Mapping[str, Any]], limit: int, title: str, path: Path) -> None:
    """Clicks needed as bars beside mean IoU over clicks, as a PNG of 1100 x 440 pixels."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    bars, lines = figure.subplots(1, 2)
    width = 0.8 / len(LEVELS)
    for place, level in enumerate(LEVELS):
        heights = np.array([result[f"noc{level}"] for result in results.values()])
        ends = np.array(
            [[result[f"noc{level}_{end}"] for end in ("low", "high")] for result in results.values()], float
        ).T  # None: NaN, which is not drawn
        x = np.arange(len(results)) + (place - 1) * width
        # A percentile interval may leave out the mean of very few samples.
        errors = np.maximum(0, np.stack([heights - ends[0], ends[1] - heights]))
        bars.bar(x, heights, width, yerr=errors, capsize=3, color=COLORS[place], label=f"IoU {level}%")
    bars.set_xticks(range(len(results)), [_literal(name) for name in results])
    bars.set_ylabel(f"clicks needed (limit {limit}), 95% interval")
    bars.legend(frameon=False)
    for number, (name, result) in enumerate(results.items()):
        ious, style = result["iou_by_click"], {"color": COLORS[number % len(COLORS)]}
        lines.plot(
            range(1, limit + 1), ious, DASHES[number % len(DASHES)], marker="o", markersize=3, label=name, **style
        )
    lines.set(xlabel="click", ylabel="mean IoU (kept once 90% is reached)", ylim=(0, 1), xticks=range(1, limit + 1, 2))
    lines.legend(lines.lines, [_literal(name) for name in results], frameon=False, loc="lower right")
    for axes in (bars, lines):
        _plain(axes)
    figure.suptitle(_literal(title))
    figure.savefig(path, dpi=100)


def _literal(name: str) -> str:
    """Not read as a formula."""
    return name.replace("$", r"\$")


def _plain(axes: Axes) -> None:
    axes.grid(axis="y", color="#8888", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def format_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    width = max(len(name) for name in results)
    return "\n".join(f"{name:{width}}  {_row(result)}" for name, result in results.items())


def _row(result: Mapping[str, Any]) -> str:
    cells = [f"n {result['n']:5}"]
    for level in LEVELS:
        noc, low, high, never = (result[key.format(level)] for key in ("noc{}", "noc{}_low", "noc{}_high", "never{}"))
        interval = "[-]" if low is None else f"[{low:.2f} {high:.2f}]"
        cells.append(f"NoC{level} {noc:5.2f} {interval} never {never}")
    return "  ".join([*cells, f"IoU@1 {result['iou_by_click'][0]:.3f}"])


def main(config: DictConfig) -> int:
    if config.resamples < 1:
        raise ValueError(f"resamples={config.resamples}: at least 1")
    out = Path(config.out)
    lines, picture = beside(out, ".trajectories.jsonl"), beside(out, ".png")
    claim_output(out, config, lines, grows=True)
    rules = {"max_clicks": config.max_clicks, "tau_stop": max(LEVELS) / 100}
    dataset, summary = run_config(config, rules, lines, "complexity")
    name = None if isinstance(dataset, Mixture) else beside(out, "").name
    curves = curves_by_dataset(read_trajectories(lines), config.max_clicks, name)
    if not curves:
        raise ValueError(f"{lines}: no sample could be clicked through ({len(summary.skipped)} skipped)")
    results = {dataset: figures(*rows, config.resamples) for dataset, rows in curves.items()}
    content = {"who": who(config), "max_clicks": config.max_clicks, "n_skipped": len(summary.skipped)}
    write_text(out, json.dumps(content | {"datasets": results}, indent=1) + "\n")
    draw(results, config.max_clicks, who(config), picture)
    print(format_table(results))
    print(f"\nfigures {out}\nplot    {picture}")
    drop_aside(out, lines)
    return 1 if summary.skipped else 0


if __name__ == "__main__":
    run_entry(main, "complexity", __doc__)

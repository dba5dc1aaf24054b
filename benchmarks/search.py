"""What search is worth with a clumsy annotator and a perfect reward: IoU against segmenter calls, and seconds.

    python benchmarks/search.py segmenter=simpleclick_nano --samples 100 --out benchmarks/results/search.json

The simulated annotator misplaces 20% of its clicks and flips 10%; the reward is the true IoU: what is measured is the
search, not a reward model. Every search runs on the same samples, and differences to the first (one candidate, the
best mask returned) are paired, with 95% intervals of 2000 bootstrap resamples over pictures. `--rows` picks searches,
`--out` also draws the curve of IoU over calls (NAME.png).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rollout_batches import machine

from segagent.configuration import build, compose_config
from segagent.data.predictions import prediction_record
from segagent.environment import Environment
from segagent.metrics import score
from segagent.rollout import rollout
from segagent.types import Sample

NOISE = ("proposer=noisy_oracle", "proposer.misplace=0.2", "proposer.flip=0.1", "reward=true_iou")
ROWS = {
    "K=1": ("policy=greedy", "search.k=1"),
    "greedy K=2": ("policy=greedy", "search.k=2"),
    "greedy K=3": ("policy=greedy", "search.k=3"),
    "greedy K=6": ("policy=greedy", "search.k=6"),
    "beam 3 x 3": ("policy=beam", "search.k=3", "search.width=3"),
    "beam 3 x 3, budget 21": ("policy=beam", "search.k=3", "search.width=3", "search.budget=21"),
    "mcts, budget 7": ("policy=mcts", "search.k=3", "search.budget=7"),
    "mcts, budget 14": ("policy=mcts", "search.k=3", "search.budget=14"),
    "mcts, budget 21": ("policy=mcts", "search.k=3", "search.budget=21"),
    "mcts, budget 42": ("policy=mcts", "search.k=3", "search.budget=42"),
}
BASE = "K=1"


def settings(overrides: Sequence[str]) -> list[str]:
    return ["policy@" + one if one.startswith("proposer=") else one for one in overrides]


def measured(samples: Sequence[Sample], overrides: Sequence[str], batch_size: int) -> tuple[dict, list]:
    """Figures of one search, and (intersection, union, image) of each sample's scored mask."""
    config = compose_config("evaluate", settings(["out=unused", *overrides]))
    environment = Environment(segmenter=build(config.segmenter), seed=config.seed, **config.rollout)
    search, began = build(config.policy), time.perf_counter()
    batches = rollout(samples, policy=search, environment=environment, init=config.init, batch_size=batch_size)
    trajectories = [trajectory for batch in batches for trajectory in batch]
    seconds = time.perf_counter() - began
    scores = score(map(prediction_record, trajectories), "best_predicted", click_limit=environment.max_clicks)
    table, place = scores.counted.table, scores.counted.table.starts + scores.chosen()
    counts = search.statistics()
    figures = {key: value for key, value in scores.metrics().items() if key.startswith(("ciou", "miou"))}
    figures["ciou_last_mask"] = scores.metrics("final")["ciou"]
    figures |= counts | {"seconds": seconds}
    figures["clicks_per_sample"] = counts["search_clicks"] / len(samples)
    return figures, [table.intersection[place], table.union[place], scores.counted.image]


def differences(rows: list, base: list, resamples: int = 2000) -> dict[str, float]:
    """cIoU and mIoU of `rows` less those of `base`, paired by sample, with 95% intervals over pictures."""
    image = rows[2]
    count = int(image.max()) + 1
    terms = [np.bincount(image, column, count) for one in (rows, base) for column in (*one[:2], one[0] / one[1])]
    images = np.bincount(image, minlength=count)
    drawn = np.random.default_rng(0).integers(count, size=(resamples, count))
    drawn = np.concatenate([np.arange(count)[None], drawn])  # the first row is the sample itself
    i1, u1, m1, i0, u0, m0, n = (column[drawn].sum(1) for column in (*terms, images))
    made = {}
    for name, gain in (("ciou", i1 / u1 - i0 / u0), ("miou", (m1 - m0) / n)):
        low, high = np.percentile(gain[1:], [2.5, 97.5])
        made |= {f"{name}_gain": float(gain[0]), f"{name}_gain_low": float(low), f"{name}_gain_high": float(high)}
    return made


def line(name: str, row: dict) -> str:
    keys = ("ciou", "ciou_low", "ciou_high", "ciou_gain", "ciou_gain_low", "ciou_gain_high", "ciou_last_mask")
    ciou, low, high, gain, least, most, last = (100 * row[key] for key in keys)
    return (
        f"{name:22} cIoU {ciou:6.2f} [{low:.2f} {high:.2f}]  gain {gain:+6.2f} [{least:+.2f} {most:+.2f}]"
        f"  last mask {last:6.2f}  calls/sample {row['clicks_per_sample']:5.1f}  {row['seconds']:6.1f} s"
    )


def draw(results: dict[str, dict], title: str, path: Path) -> None:
    """cIoU with its interval over segmenter calls per sample; searches of one kind are joined."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    for color, kind in zip(("#0072b2", "#d55e00", "#009e73"), ("greedy", "beam", "mcts"), strict=True):
        names = [name for name in results if name.startswith(kind) or (kind == "greedy" and name == BASE)]
        names.sort(key=lambda name: results[name]["clicks_per_sample"])
        x = [results[name]["clicks_per_sample"] for name in names]
        y = [100 * results[name]["ciou"] for name in names]
        ends = np.array([[results[name][f"ciou_{end}"] for name in names] for end in ("low", "high")])
        error = np.abs(100 * ends - y)
        axes.errorbar(x, y, yerr=error, marker="o", markersize=4, capsize=3, color=color, label=kind)
    axes.set(xlabel="segmenter calls per sample", ylabel="cIoU in %, 95% interval", title=title)
    axes.grid(axis="y", color="#8888", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings as of scripts/evaluate.py, e.g. segmenter=graphcut")
    arguments = parser.parse_args()
    given = ["data=refshapes", "data.subset=refshapes-thin", "device=cpu", *arguments.overrides]
    dataset = build(compose_config("evaluate", ["out=unused", *given]).data)
    samples = [dataset[index] for index in range(arguments.samples)]
    results: dict[str, dict] = {}
    scored: dict[str, list] = {}
    for name in dict.fromkeys([BASE, *arguments.rows]):
        overrides = [*given[:3], *NOISE, *ROWS[name], *arguments.overrides]
        row, scored[name] = measured(samples, overrides, arguments.batch_size)
        row |= differences(scored[name], scored[BASE])
        results[name] = row
        print(line(name, row), flush=True)
        if arguments.out:
            facts = {"machine": machine(), "samples": len(samples), "overrides": arguments.overrides, "noise": NOISE}
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(facts | {"rows": results}, indent=1) + "\n")
    if arguments.out:
        draw(results, f"noisy annotator, true IoU as reward, {len(samples)} samples", arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()

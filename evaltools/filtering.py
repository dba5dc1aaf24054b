"""Annotation filtering: how well is the IoU of a mask of any quality told? (paper, supplement E.1)

    python evaltools/filtering.py mllm=FOLDER data.limit=500 segmenter=simpleclick_nano out=results/f.json
    python evaltools/filtering.py mllm=FOLDER data.split=train data.limit=2000 calibration_out=FOLDER out=results/f.json

The test set: masks that a segmenter makes of random positive and negative points inside the targets' boxes. Writes
NAME.json (MAE in percent points, MSE in their squares, Pearson, Spearman, all with 95% intervals over pictures; the
reliability curve; how well bad masks are found), NAME.png (both drawn), NAME.config.yaml and NAME.trajectories.jsonl
(grows while the run goes on; resume=true goes on from it). With calibration_out an isotonic calibration is fitted to
the same masks: take a slice of the training data for it, and name it as reward.calibration where it is to be used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import get_class
from matplotlib.figure import Figure
from omegaconf import DictConfig

from segagent.configuration import build
from segagent.data.predictions import prediction_record
from segagent.data.trajectories import read_trajectories
from segagent.engines.work import run_config
from segagent.entry import beside, claim_output, drop_aside, run_entry, write_text
from segagent.metrics import score
from segagent.metrics.statistics import correlation, hits, ranks
from segagent.policies.calibration import Calibration, reliability

MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mae": lambda predicted, true: float(100 * np.abs(predicted - true).mean()),
    "mse": lambda predicted, true: float((1e4 * (predicted - true) ** 2).mean()),
    "pearson": correlation,
    "spearman": lambda predicted, true: correlation(ranks(predicted), ranks(true)),
}

_FEW = 200  # masks; the precision of what is flagged is then known to some five points at best


def announced_masks(lines: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Predicted IoU, true IoU and picture of every judged mask, `[n]` each, and how many masks were not judged."""
    counted = score(map(prediction_record, read_trajectories(lines)), bootstrap=0, where=str(lines)).counted
    has = np.isfinite(counted.table.announced)
    image = counted.image[counted.table.owner]
    return counted.table.announced[has], counted.table.iou[has], image[has], int((~has).sum())


def quality(predicted: np.ndarray, true: np.ndarray, image: np.ndarray, resamples: int = 1000) -> dict[str, float]:
    """MAE, MSE, Pearson, Spearman and their 95% percentile intervals; pictures are drawn with replacement. Of a single
    picture there is no interval."""
    values = {name: measure(predicted, true) for name, measure in MEASURES.items()}
    order = np.argsort(image, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(image[order])) + 1)
    random, drawn = np.random.default_rng(0), {name: [] for name in MEASURES}
    for _ in range(resamples):
        rows = np.concatenate([groups[k] for k in random.integers(len(groups), size=len(groups))])
        for name, measure in MEASURES.items():
            drawn[name].append(measure(predicted[rows], true[rows]))
    for name, rows in drawn.items() if len(groups) > 1 else ():
        finite = np.array(rows)[np.isfinite(rows)]
        if finite.size:
            values[f"{name}_low"], values[f"{name}_high"] = map(float, np.percentile(finite, [2.5, 97.5]))
    return {name: value for name, value in values.items() if np.isfinite(value)}


def found(predicted: np.ndarray, true: np.ndarray, bad_iou: float) -> dict[str, float | int | None]:
    """Masks under `bad_iou`, and how well those that are predicted to be under it hit them."""
    bad, flagged = true < bad_iou, predicted < bad_iou
    return {
        "bad_iou": bad_iou,
        "n_bad": int(bad.sum()),
        "n_flagged": int(flagged.sum()),
        **{f"flagged_{name}": share for name, share in hits(bad, flagged).items()},
    }


def calibration_file(config: DictConfig) -> Path | None:
    """Where the calibration goes. Raises `ValueError` where it must not, or cannot be used."""
    if config.calibration_out is None:
        return None
    if "number" not in config.reward:
        raise ValueError("calibration_out: is of the IoU that a model tells; say reward=predicted_iou")
    if config.reward.calibration is not None:
        raise ValueError("calibration_out: is fitted to numbers as they are announced; leave out reward.calibration")
    if config.reward.statistic == "mean" and config.search.k == 1:
        raise ValueError("reward.statistic=mean: is of one reply with search.k=1; say how many the search will have")
    target = Path(config.calibration_out)
    if not target.is_dir() and not target.suffix:
        raise ValueError(f"calibration_out={target}: no such folder; make it first, or name a file, {target}.json")
    target = target / get_class(config.reward._target_).calibration_file if target.is_dir() else target
    if not target.parent.is_dir():
        raise ValueError(f"calibration_out={config.calibration_out}: there is no folder {target.parent}; make it first")
    if target.exists() and not (config.overwrite or config.resume):
        raise ValueError(f"{target}: is there already; say overwrite=true, or another calibration_out=")
    return target


def fitted_number(reward: DictConfig) -> str:
    """Which predicted number a calibration is of: `PredictedIou.named` of these settings."""
    return build(reward, judge=None, calibration=None).named


def draw(predicted: np.ndarray, true: np.ndarray, curve: dict[str, list], title: str, path: Path) -> None:
    """True over predicted IoU: every mask, and the means by bin, as a PNG of 620 x 560 pixels."""
    figure = Figure(figsize=(6.2, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#888", linewidth=0.8)
    axes.scatter(predicted, true, s=6, alpha=0.3, color="#0072b2", linewidths=0, label="a mask")
    means = np.array([curve["reliability_predicted"], curve["reliability_true"]], float)  # None: NaN
    axes.plot(*means[:, ~np.isnan(means[0])], marker="o", color="#d55e00", label="mean of a bin")
    axes.set(xlabel="predicted IoU", ylabel="true IoU", xlim=(0, 1), ylim=(0, 1), title=title.replace("$", r"\$"))
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def format_figures(figures: dict[str, Any]) -> str:
    rows = [f"masks    {figures['n']} judged, {figures['n_unjudged']} without a predicted IoU"]
    for name in MEASURES:
        if name in figures:
            bounds = [f"{figures[f'{name}_{end}']:.3f}" for end in ("low", "high") if f"{name}_{end}" in figures]
            told = f"95% interval {' .. '.join(bounds)}" if bounds else "no interval: a single picture"
            rows.append(f"{name:9}{figures[name]:8.3f}   {told}")
    shares = [figures["flagged_precision"], figures["flagged_recall"]]
    precision, recall = ("-" if share is None else f"{share:.3f}" for share in shares)
    rows.append(
        f"bad      {figures['n_bad']} under {figures['bad_iou']}; {figures['n_flagged']} predicted so: "
        f"precision {precision}, recall {recall}"
    )
    return "\n".join(rows)


def main(config: DictConfig) -> int:
    out = Path(config.out)
    lines, picture = beside(out, ".trajectories.jsonl"), beside(out, ".png")
    if config.bins < 1:
        raise ValueError(f"bins={config.bins}: at least 1")
    calibration = calibration_file(config)
    claim_output(out, config, lines, grows=True)
    rules = {"max_clicks": 1, "min_points": config.min_points, "max_points": config.max_points}
    _, summary = run_config(config, rules, lines, "filtering")
    predicted, true, image, unjudged = announced_masks(lines)
    if not len(true):
        raise ValueError(
            f"{lines}: no mask has a predicted IoU; does the model announce one (proposer.prefix can make it), and "
            "does the reward speak of masks that were given?"
        )
    curve = reliability(predicted, true, config.bins)
    figures = {"n": len(true), "n_unjudged": unjudged, "n_skipped": len(summary.skipped)}
    figures |= quality(predicted, true, image) | found(predicted, true, config.bad_iou) | curve
    figures |= summary.statistics if summary.whole else {}
    write_text(out, json.dumps(figures, indent=1) + "\n")
    draw(predicted, true, curve, beside(out, "").name, picture)
    print(format_figures(figures))
    print(f"\nfigures {out}\nplot    {picture}")
    if calibration is not None:
        Calibration.fit(predicted, true, fitted_number(config.reward)).save(calibration)
        print(f"calibration {calibration}")
        if len(true) < _FEW:
            print(
                f"{calibration}: fitted to {len(true)} masks; thresholds that rest on so few are a guess, take "
                f"{_FEW} or more (data.limit)",
                file=sys.stderr,
            )
    drop_aside(out, lines)
    return 1 if summary.skipped else 0


if __name__ == "__main__":
    run_entry(main, "filtering", __doc__)

"""What stands beside a finished trajectory file: predictions, metrics, report. Shared by the entries that evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segagent.data.base import Dataset
from segagent.data.predictions import prediction_record, write_predictions
from segagent.data.trajectories import read_trajectories
from segagent.entry import beside, write_text
from segagent.metrics import score
from segagent.metrics.protocols import own_protocol, step_of
from segagent.types import Trajectory


def check_protocol(protocol: str | None) -> None:
    """Raises `ValueError`, before a long run rather than after it, for what `write_metrics` does not take."""
    if protocol is None:
        return
    step_of(protocol)
    if protocol == "official":
        raise ValueError(
            "protocol=official: leave it out, and score the predictions with eval_result_iou.py --protocol official"
        )


def write_metrics(
    out: Path,
    lines: Path,
    *,
    protocol: str | None = "final",
    click_limit: int | None = None,
    boundary: bool = False,
    seed: int = 0,
    statistics: dict[str, int] | None = None,
    may_be_empty: bool = False,
    **facts: Any,
) -> dict[str, Any]:
    """Scores the trajectories in `lines` and writes `NAME.metrics.json` beside `out`; returns what it wrote.

    protocol: None for that of what was run: `best_predicted` where a search chose which mask to return, else `final`.
    statistics: what was counted on the way (`run.RunSummary`); hit rates are added. facts: further flat keys (seconds,
    ...). may_be_empty: without a trajectory, as a shard may be, only the facts are written. Raises `ValueError` when
    there is nothing to score otherwise, or a mask is broken.
    """
    if may_be_empty and next(read_trajectories(lines), None) is None:
        metrics = {"n": 0} | facts | with_hit_rates(statistics or {})
        write_text(beside(out, ".metrics.json"), json.dumps(metrics, indent=1) + "\n")
        return metrics
    records = map(prediction_record, read_trajectories(lines))
    protocol = protocol or protocol_of(lines)
    scores = score(records, protocol, click_limit=click_limit, boundary=boundary, seed=seed, where=str(lines))
    metrics = scores.metrics() | facts | with_hit_rates(statistics or {})
    write_text(beside(out, ".metrics.json"), json.dumps(metrics, indent=1) + "\n")
    return metrics


def protocol_of(lines: Path) -> str:
    """The protocol that a trajectory file is scored by when nobody says."""
    return own_protocol(next(map(prediction_record, read_trajectories(lines)), None))


def with_hit_rates(counts: dict[str, int]) -> dict[str, float]:
    """Counts of a segmenter's embeddings -> the same and `embed_*_hit_rate`, shares of those asked for, in `[0, 1]`."""
    asked = counts.get("embed_images", 0)
    hits = {key: count for key, count in counts.items() if key.endswith("_hits")}
    return counts | {key.replace("_hits", "_hit_rate"): count / asked for key, count in hits.items() if asked}


def summed_counts(parts: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Metrics of the shards of one run -> the counts of its segmenter's embeddings and of its search, without rates."""
    known = dict.fromkeys(key for part in parts for key in part)
    keys = [key for key in known if key.startswith(("embed_", "search_")) and not key.endswith("_hit_rate")]
    return {key: sum(part.get(key, 0) for part in parts) for key in keys}


def image_loader(dataset: Dataset) -> Callable[[Trajectory], np.ndarray]:
    """Trajectory -> its picture `[H, W, 3]` uint8, found in the dataset by sample id."""
    places: dict[str, int] = {}

    def load(trajectory: Trajectory) -> np.ndarray:
        if not places:
            places.update((dataset.sample_id(index), index) for index in range(len(dataset)))
        return dataset[places[trajectory.sample_id]].image

    return load


class Lines:
    """The trajectories of a JSONL file, read anew each time they are iterated over."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Trajectory]:
        return read_trajectories(self.path)


def publish(
    out: Path, lines: Path, dataset: Dataset, metrics: dict[str, Any], *, title: str, report: bool, seed: int
) -> None:
    """Writes the predictions JSON to `out` and, when asked for, the report beside it."""
    write_predictions(out, read_trajectories(lines))
    if report:
        from segagent.report import write_report  # brings matplotlib: a second that other entries need not wait

        names = ("ciou_by_step", "miou_by_step", "best_ciou_by_step")
        curves = {name: metrics[name] for name in names if name in metrics}
        write_report(
            beside(out, ".html"),
            title=title,
            summary={key: value for key, value in metrics.items() if not isinstance(value, list)},
            curves=curves,
            trajectories=Lines(lines),
            load_image=image_loader(dataset),
            config_text=beside(out, ".config.yaml").read_text(encoding="utf-8"),
            seed=seed,
        )

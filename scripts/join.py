"""Joins the shards of one evaluation: predictions, trajectories, metrics and report as of one run.

    python scripts/join.py out=results/all.json 'parts=[results/s0.json,results/s1.json]'

The report is written too (report=false: not), whether or not the shards have one. Trajectory files of
scripts/simulate.py need no more than `cat`, in order.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segagent.configuration import build_recorded
from segagent.entry import RUN_KEYS, beside, claim_output, differing_settings, drop_aside, run_entry
from segagent.metrics.table import format_metrics
from segagent.results import publish, summed_counts, write_metrics
from segagent.run import shard_indices, who


def read_parts(parts: list[str]) -> DictConfig:
    """The settings the shards share. Raises `ValueError` when they are not all the shards of one run, in order."""
    if not parts:
        raise ValueError("parts: none given; say parts=[results/s0.json,results/s1.json]")
    configs = []
    for index, part in enumerate(parts):
        path = beside(part, ".config.yaml")
        if not path.is_file():
            raise ValueError(f"{path}: no such file; {part} is not an evaluation of this repository")
        config = OmegaConf.load(path)
        if config.shard != f"{index}/{len(parts)}":
            raise ValueError(f"{part}: is shard {config.shard}, not {index}/{len(parts)}; give all shards, in order")
        configs.append(config)
    for part, config in zip(parts, configs, strict=True):
        changed = differing_settings(configs[0], config, but=(*RUN_KEYS, "shard"))
        if changed:
            raise ValueError(f"{part}: has other settings than {parts[0]}: {'; '.join(changed)}")
    whole = configs[0]
    whole.shard = "0/1"
    return whole


def finished_metrics(part: str, samples: range) -> dict[str, Any]:
    """Metrics of a shard. Raises `ValueError` when it does not hold all its samples: its run was killed, or goes on."""
    path = beside(part, ".metrics.json")
    if not path.is_file():
        raise ValueError(f"{path}: no such file: {part} is not finished; go on with resume=true")
    metrics = json.loads(path.read_text(encoding="utf-8"))
    with open(beside(part, ".trajectories.jsonl"), "rb") as file:
        done, skipped = sum(1 for _ in file), metrics["n_skipped"]
    if done + skipped != len(samples):
        raise ValueError(
            f"{part}: {done} of {len(samples)} samples are done and {skipped} skipped; go on with resume=true"
        )
    return metrics


def main(config: DictConfig) -> int:
    out, parts = Path(config.out), list(config.parts)
    lines = beside(out, ".trajectories.jsonl")
    whole = read_parts(parts)
    if lines.resolve() in [beside(part, ".trajectories.jsonl").resolve() for part in parts]:
        raise ValueError(f"{out}: out is one of the parts, or shares its files; choose another out=")
    # Joining copies; there is nothing to resume.
    whole.out, whole.overwrite, whole.resume, whole.report = str(out), config.overwrite, False, config.report
    dataset = build_recorded("data", whole.data, beside(parts[0], ".config.yaml"))
    done = [
        finished_metrics(part, shard_indices(len(dataset), f"{index}/{len(parts)}")) for index, part in enumerate(parts)
    ]
    claim_output(out, whole, lines, grows=True, resumable=False)
    partial = lines.with_name(lines.name + ".partial")
    with open(partial, "wb") as joined:
        for part in parts:
            with open(beside(part, ".trajectories.jsonl"), "rb") as file:
                shutil.copyfileobj(file, joined)
    os.replace(partial, lines)
    skipped = sum(metrics["n_skipped"] for metrics in done)
    seconds = [metrics["seconds"] for metrics in done]
    metrics = write_metrics(
        out,
        lines,
        protocol=whole.protocol,
        click_limit=whole.rollout.max_clicks,
        boundary=whole.boundary,
        seed=whole.seed,
        seconds=None if None in seconds else sum(seconds),
        n_skipped=skipped,
        statistics=None if None in seconds else summed_counts(done),
    )
    title = f"{beside(out, '').name}: {who(whole)}"
    publish(out, lines, dataset, metrics, title=title, report=whole.report, seed=whole.seed)
    drop_aside(out, lines)
    print(format_metrics(metrics))
    print(f"\npredictions {out}\nmetrics     {beside(out, '.metrics.json')}")
    if whole.report:
        print(f"report      {beside(out, '.html')}")
    return 1 if skipped else 0


if __name__ == "__main__":
    run_entry(main, "join", __doc__)

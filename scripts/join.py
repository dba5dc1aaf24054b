"""Joins the shards of one evaluation: predictions, trajectories, metrics and report as of one run.

    python scripts/join.py out=results/all.json parts=[results/s0.json,results/s1.json]

Trajectory files of scripts/simulate.py need no more than `cat`, in order.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segagent.configuration import build
from segagent.entry import RUN_KEYS, beside, claim_output, differing_settings, run_entry
from segagent.metrics.table import format_metrics
from segagent.results import publish, summed_counts, write_metrics


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


def main(config: DictConfig) -> int:
    out, parts = Path(config.out), list(config.parts)
    lines = beside(out, ".trajectories.jsonl")
    whole = read_parts(parts)
    # Joining copies; there is nothing to resume.
    whole.out, whole.overwrite, whole.resume = str(out), config.overwrite, False
    claim_output(out, whole, lines)
    with open(lines, "wb") as joined:
        for part in parts:
            with open(beside(part, ".trajectories.jsonl"), "rb") as file:
                shutil.copyfileobj(file, joined)
    done = [json.loads(beside(part, ".metrics.json").read_text(encoding="utf-8")) for part in parts]
    skipped = sum(metrics["n_skipped"] for metrics in done)
    metrics = write_metrics(
        out,
        lines,
        protocol=whole.protocol,
        click_limit=whole.rollout.max_clicks,
        boundary=whole.boundary,
        seed=whole.seed,
        seconds=sum(metrics["seconds"] for metrics in done),
        n_skipped=skipped,
        statistics=summed_counts(done),
    )
    publish(out, lines, build(whole.data), metrics, title=out.stem, report=whole.report, seed=whole.seed)
    print(format_metrics(metrics))
    return 1 if skipped else 0


if __name__ == "__main__":
    run_entry(main, "join", __doc__)

"""Simulated annotator trajectories: any data, any segmenter -> JSONL.

python scripts/simulate.py data=coco data.annotations=FILE data.images=DIR out=traj.jsonl
python scripts/simulate.py data=refshapes data.split=train data.limit=1000 out=traj.jsonl
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segagent.configuration import build
from segagent.data.segagent_json import write_official
from segagent.data.trajectories import read_trajectories
from segagent.entry import claim_output, run_entry
from segagent.environment import Environment
from segagent.metrics.table import format_metrics
from segagent.results import write_metrics
from segagent.run import run


def main(config: DictConfig) -> int:
    out = Path(config.out)
    claim_output(out, config, out)
    dataset, policy, segmenter = build(config.data), build(config.policy), build(config.segmenter)
    environment = Environment(segmenter=segmenter, seed=config.seed, **config.simulate)
    summary = run(
        dataset,
        policy=policy,
        environment=environment,
        out=out,
        init=config.init,
        batch_size=config.batch_size,
        shard=config.shard,
        resume=config.resume,
        on_error=config.on_error,
        record_seconds=config.record_seconds,
        title="simulate",
    )
    metrics = write_metrics(
        out,
        out,
        click_limit=config.simulate.max_clicks,
        seed=config.seed,
        seconds=summary.seconds,
        n_skipped=len(summary.skipped),
    )
    if config.official_out is not None:
        write_official(config.official_out, read_trajectories(out))
    print(format_metrics(metrics))
    print(f"\ntrajectories {out}")
    return 1 if summary.skipped else 0


if __name__ == "__main__":
    run_entry(main, "simulate", __doc__)

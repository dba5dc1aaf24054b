"""Evaluates a policy: predictions, metrics and a report.

    python scripts/evaluate.py data=refshapes data.split=val data.limit=200 policy=oracle out=results/NAME.json

Writes NAME.json (predictions; score them again with eval_result_iou.py), NAME.metrics.json, NAME.html (the report),
NAME.config.yaml and NAME.trajectories.jsonl (grows while the run goes on; resume=true goes on from it).
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segagent.configuration import build
from segagent.entry import beside, claim_output, run_entry
from segagent.environment import Environment
from segagent.metrics.table import format_metrics
from segagent.results import check_protocol, publish, write_metrics
from segagent.run import run


def main(config: DictConfig) -> int:
    out = Path(config.out)
    lines = beside(out, ".trajectories.jsonl")
    check_protocol(config.protocol)
    claim_output(out, config, lines)
    dataset, policy, segmenter = build(config.data), build(config.policy), build(config.segmenter)
    environment = Environment(segmenter=segmenter, seed=config.seed, **config.rollout)
    summary = run(
        dataset,
        policy=policy,
        environment=environment,
        out=lines,
        init=config.init,
        batch_size=config.batch_size,
        shard=config.shard,
        resume=config.resume,
        on_error=config.on_error,
        record_seconds=config.record_seconds,
        title="evaluate",
    )
    metrics = write_metrics(
        out,
        lines,
        protocol=config.protocol,
        click_limit=config.rollout.max_clicks,
        boundary=config.boundary,
        seed=config.seed,
        seconds=summary.seconds,
        n_skipped=len(summary.skipped),
    )
    title = f"{out.stem}: {type(policy).__name__} with {type(segmenter).__name__}"
    publish(out, lines, dataset, metrics, title=title, report=config.report, seed=config.seed)
    print(format_metrics(metrics))
    print(f"\npredictions {out}\nmetrics     {beside(out, '.metrics.json')}")
    if config.report:
        print(f"report      {beside(out, '.html')}")
    return 1 if summary.skipped else 0


if __name__ == "__main__":
    run_entry(main, "evaluate", __doc__)

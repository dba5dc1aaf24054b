"""Evaluates a policy: predictions, metrics and a report.

    python scripts/evaluate.py data=refshapes data.split=val data.limit=200 policy=oracle out=results/NAME.json

Writes NAME.json (predictions; score them again with eval_result_iou.py), NAME.metrics.json, NAME.html (the report),
NAME.config.yaml and NAME.trajectories.jsonl (grows while the run goes on; resume=true goes on from it).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.utils import get_class
from omegaconf import DictConfig

from segagent.configuration import compose_config
from segagent.engines.work import run_config
from segagent.entry import beside, claim_output, drop_aside, run_entry
from segagent.metrics.table import format_metrics
from segagent.policies.search import TreeSearch
from segagent.results import check_protocol, publish, write_metrics
from segagent.run import parse_shard, who


def tell_unused(config: DictConfig) -> None:
    """On stderr, where a model is named and nobody in the run asks it, or a search is described and none is made: the
    figures of the policy could pass for those of model or search."""
    kind = config.policy._target_.rpartition(".")[2]
    if config.mllm is not None and not any("mllm" in part for part in _members([config.policy])):
        say = "proposer=sampling_agent" if "reward" in config.policy else "policy=agent"
        print(f"mllm={config.mllm.path}: is not asked by policy={kind}; say {say}", file=sys.stderr)
    if "reward" in config.policy:
        return
    default = compose_config("evaluate")
    # The temperature is the sampling proposer's, which may be the policy itself.
    changed = [
        f"search.{key}" for key in config.search if key != "temperature" and config.search[key] != default.search[key]
    ]
    changed += ["reward"] if config.reward != default.reward else []
    if changed:
        print(
            f"{', '.join(changed)}: not read, policy={kind} makes no search; say policy=greedy|beam|mcts",
            file=sys.stderr,
        )


def _members(parts: Sequence[DictConfig]) -> list[DictConfig]:
    """Settings of members, and of the members within them."""
    inner = [part[key] for part in parts for key in part if isinstance(part[key], DictConfig)]
    return [*parts, *_members(inner)] if parts else []


def main(config: DictConfig) -> int:
    out = Path(config.out)
    lines = beside(out, ".trajectories.jsonl")
    check_protocol(config.protocol)
    if config.protocol == "best_predicted" and not issubclass(get_class(config.policy._target_), TreeSearch):
        raise ValueError(
            "protocol=best_predicted: after its last click this policy is not asked about the mask, which could then "
            "never be chosen; say policy=greedy search.k=1 (the clicks are the same)"
        )
    tell_unused(config)
    claim_output(out, config, lines, grows=True)
    dataset, summary = run_config(config, config.rollout, lines, "evaluate")
    metrics = write_metrics(
        out,
        lines,
        protocol=config.protocol,
        click_limit=config.rollout.max_clicks,
        boundary=config.boundary,
        seed=config.seed,
        seconds=summary.seconds if summary.whole else None,
        n_skipped=len(summary.skipped),
        statistics=summary.statistics if summary.whole else None,
        may_be_empty=parse_shard(config.shard)[1] > 1,
    )
    title = f"{beside(out, '').name}: {who(config)}"
    report = config.report and metrics["n"] > 0
    publish(out, lines, dataset, metrics, title=title, report=report, seed=config.seed)
    print(format_metrics(metrics) if metrics["n"] else f"no sample is of shard {config.shard}, or none could be loaded")
    print(f"\npredictions {out}\nmetrics     {beside(out, '.metrics.json')}")
    if report:
        print(f"report      {beside(out, '.html')}")
    drop_aside(out, lines)
    return 1 if summary.skipped else 0


if __name__ == "__main__":
    run_entry(main, "evaluate", __doc__)

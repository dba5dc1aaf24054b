"""Simulated annotator trajectories: any data, any segmenter -> JSONL.

python scripts/simulate.py data=coco data.annotations=FILE data.images=DIR out=traj.jsonl
python scripts/simulate.py data=refshapes data.split=train data.limit=1000 out=traj.jsonl
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segagent.data.segagent_json import write_official
from segagent.data.trajectories import read_trajectories
from segagent.engines.work import run_config
from segagent.entry import beside, claim_output, drop_aside, run_entry
from segagent.metrics.table import format_metrics
from segagent.results import write_metrics
from segagent.run import parse_shard


def main(config: DictConfig) -> int:
    out = Path(config.out)
    if config.official_out is not None:
        if config.init != "empty":
            raise ValueError(f"official_out: the released JSON holds clicks from empty only (init={config.init})")
        own = [out, beside(out, ".metrics.json"), beside(out, ".config.yaml")]
        if Path(config.official_out).resolve() in [file.resolve() for file in own]:
            raise ValueError(f"official_out={config.official_out}: is a file of out={out} itself; name another one")
        if Path(config.official_out).exists() and not (config.overwrite or config.resume):
            raise ValueError(f"{config.official_out}: is there already; say overwrite=true, or another official_out=")
    claim_output(out, config, out, grows=True)
    _, summary = run_config(config, config.simulate, out, "simulate")
    metrics = write_metrics(
        out,
        out,
        protocol=None,
        click_limit=config.simulate.max_clicks,
        seed=config.seed,
        seconds=summary.seconds if summary.whole else None,
        n_skipped=len(summary.skipped),
        statistics=summary.statistics if summary.whole else None,
        may_be_empty=parse_shard(config.shard)[1] > 1,
    )
    if config.official_out is not None:
        write_official(config.official_out, read_trajectories(out))
    print(format_metrics(metrics) if metrics["n"] else f"no sample is of shard {config.shard}, or none could be loaded")
    print(f"\ntrajectories {out}")
    drop_aside(out, out)
    return 1 if summary.skipped else 0


if __name__ == "__main__":
    run_entry(main, "simulate", __doc__)

"""Policy improvement: rounds of rollouts, selection of what is learnt, and training from S_0 (StaR, StaR+, DAgger).

    python scripts/improve.py mllm=FOLDER method=star_plus data=refshapes data.subset=refshapes-thin \
        data.trajectories=traj.jsonl rounds=1 out=runs/star

Writes, per round, round_N/rollouts.jsonl, selected.jsonl, train/best/ (the model, for mllm=FOLDER) and figures.json;
improve.json and improve.png over all rounds. docs/improvement.md.
"""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig

from segagent.configuration import build
from segagent.entry import RUN_KEYS, claim_output, refuse_own_start, run_entry
from segagent.improvement.figures import format_rounds
from segagent.improvement.folder import RoundFolder, clear_rounds, last_done
from segagent.improvement.rollouts import PACE_KEYS
from segagent.improvement.rounds import Improvement
from segagent.run import parse_shard
from segagent.training.recorded_data import data_of_training
from segagent.training.sft_data import trajectory_files
from segagent.training.sft_processes import start_processes


def main(config: DictConfig) -> int:
    out = Path(config.out)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    accelerator = start_processes(config.device, build(config.train))
    start = [] if config.data.trajectories is None else trajectory_files(config)
    refuse_own_start(config, [*start, *([] if config.mllm is None else [config.mllm.path])], out.glob("round_*"))
    improvement = Improvement(config, accelerator)
    if parse_shard(config.shard)[1] > 1:
        if accelerator.num_processes > 1:
            raise ValueError(f"shard={config.shard}: the processes of accelerate share the rollouts by themselves")
        improvement.check()
        part, skipped = improvement.roll_out_shard(config.shard)
        print(f"part of the rollouts {part}")
        return 1 if skipped else 0
    improvement.check()
    done = last_done(out)
    if config.resume and done > config.rounds:  # its figures would be dropped from improve.json
        raise ValueError(f"rounds={config.rounds}: round {done} of {out} is done already; say rounds={done}, or more")
    if accelerator.is_main_process:
        claim_output(out / "improve.json", config, out / "round_1", but=(*RUN_KEYS, *PACE_KEYS))
        if config.overwrite:
            clear_rounds(out)
            for ending in (".json", ".png"):  # of other settings
                (out / f"improve{ending}").unlink(missing_ok=True)
        (out / "round_1").mkdir(exist_ok=True)  # from now on the run is there
    accelerator.wait_for_everyone()
    if config.collect_only:
        selected, skipped = improvement.collect()
        if accelerator.is_main_process:
            print(f"selected {selected}")
        return 1 if skipped else 0
    rounds = improvement.run()
    if accelerator.is_main_process:
        print(format_rounds(rounds))
        print(f"\nmodel   {RoundFolder(out, config.rounds).model}\nfigures {out / 'improve.json'}")
        print(f"plot    {out / 'improve.png'}")
    parts = [figures.get(part, {}) for figures in rounds for part in ("rollouts", "evaluation")]
    return 1 if any(part.get("n_skipped") for part in parts) else 0


if __name__ == "__main__":
    run_entry(main, "improve", __doc__, complete=data_of_training)

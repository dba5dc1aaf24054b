"""Supervised training of a multimodal LLM on trajectories -> a checkpoint folder for mllm=FOLDER.

python scripts/train.py mllm=FOLDER train=nano data=refshapes_mix data.trajectories=traj.jsonl out=runs/sft
python scripts/train.py mllm=FOLDER mllm.dialogue=absolute mllm.dtype=bfloat16 train=lora_24gb \
    data=coco data.annotations=FILE data.images=DIR data.trajectories=traj.jsonl out=runs/lora
accelerate launch --config_file configs/accelerate/ddp.yaml scripts/train.py train=paper_qwen mllm=qwen_vl_chat ...
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from segagent.entry import RUN_KEYS, claim_output, refuse_own_start, run_entry
from segagent.training.recorded_data import data_of_trajectories
from segagent.training.sft_settings import PACE_KEYS
from segagent.training.sft_setup import make_trainer
from segagent.training.tracking import Tracker


def main(config: DictConfig) -> int:
    out = Path(config.out)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    refuse_own_start(config, [] if config.mllm is None else [config.mllm.path], [out / "best", out / "checkpoints"])
    tracker = Tracker(folder=out, settings=OmegaConf.to_container(config), **config.wandb)
    trainer = make_trainer(config, tracker)
    is_main = trainer.accelerator.is_main_process
    if is_main:
        claim_output(out / "train.csv", config, out / "train.csv", but=(*RUN_KEYS, *PACE_KEYS))
        if not config.resume:
            tracker.forget()
    trainer.accelerator.wait_for_everyone()
    with tracker if is_main else nullcontext():
        progress = trainer.run(resume=config.resume)
    if is_main:
        if progress.best_step is not None:
            print(f"best model {out / 'best'} (step {progress.best_step}; figures in validation.csv)")
        print(f"curve {out / 'curve.png'}")
    return 0


if __name__ == "__main__":
    aliases = {"batch_size": "train.batch_size"}
    run_entry(main, "train", __doc__, aliases=aliases, complete=data_of_trajectories)

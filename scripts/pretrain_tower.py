"""A nano of its own: a new small model whose tower learns what generated pictures show -> a folder for train.py.

python scripts/pretrain_tower.py out=runs/tower            # with mllm=FOLDER the tower of that model learns on
python scripts/pretrain_tower.py mllm=nano new_decoder=true train.steps=0 out=runs/tower  # the tower that ships
python scripts/train.py mllm=runs/tower/best train=nano data=refshapes_mix data.trajectories=traj.jsonl out=runs/sft
"""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig

from segagent.configuration import build
from segagent.data.refshapes import description_words
from segagent.devices import autocast, torch_device
from segagent.dialogue import load_dialogue
from segagent.entry import claim_output, refuse_own_start, run_entry
from segagent.mllm.osprey import Osprey
from segagent.mllm.word_tokenizer import WordTokenizer
from segagent.training.run_folder import TrainingFolder
from segagent.training.tower_pretraining import PretrainSettings, TowerTrainer


def make_trainer(config: DictConfig) -> TowerTrainer:
    if config.new_decoder and config.mllm is None:
        raise ValueError("new_decoder=true: of which model is the tower? Set mllm=; without it all of the model is new")
    settings = PretrainSettings(**config.train)
    autocast(torch_device(config.device), settings.precision)  # refuses what cannot be
    mllm = _new_model(config) if config.mllm is None else _known_model(config)
    return TowerTrainer(
        mllm=mllm,
        dataset=build(config.data),
        dialogue=load_dialogue(mllm.dialogue),
        folder=TrainingFolder(config.out, keep=settings.keep),
        settings=settings,
        seed=config.seed,
    )


def _new_model(config: DictConfig) -> Osprey:
    tokenizer = WordTokenizer.of(load_dialogue(config.dialogue_name), sorted(description_words()))
    network = build(config.mllm_network)
    return Osprey.new(network, tokenizer, dialogue=config.dialogue_name, seed=config.seed, device=config.device)


def _known_model(config: DictConfig) -> Osprey:
    mllm = build(config.mllm)
    if not isinstance(mllm, Osprey):
        raise ValueError(f"mllm={config.mllm._target_}: only the tower of nano and its like is trained so")
    return _with_new_decoder(mllm, config) if config.new_decoder else mllm


def _with_new_decoder(mllm: Osprey, config: DictConfig) -> Osprey:
    dialogue, network = mllm.dialogue, mllm.network
    anew = Osprey.new(network.config, mllm.tokenizer, dialogue=dialogue, seed=config.seed, device=config.device)
    anew.network.tower.load_state_dict(network.tower.state_dict())
    return anew


def main(config: DictConfig) -> int:
    out = Path(config.out)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    refuse_own_start(config, [] if config.mllm is None else [config.mllm.path], [out / "best", out / "checkpoints"])
    trainer = make_trainer(config)
    claim_output(out / "train.csv", config, out / "train.csv")
    trainer.run(resume=config.resume)
    print(f"model {out / 'best'}")
    return 0


if __name__ == "__main__":
    run_entry(main, "pretrain_tower", __doc__)

"""Training of SimpleClick: any data with masks, model in the loop -> a checkpoint folder.

python scripts/train_segmenter.py network=simpleclick_nano data=refshapes_mix out=runs/simpleclick_nano
python scripts/train_segmenter.py network=simpleclick_large init_from=mae_pretrain_vit_large.pth data=coco \
    data.annotations=FILE data.images=DIR train.precision=bfloat16 out=runs/large
accelerate launch --multi_gpu --num_processes 8 scripts/train_segmenter.py network=simpleclick_large ...
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from segagent.configuration import build
from segagent.data.base import Dataset
from segagent.entry import claim_output, refuse_own_start, run_entry
from segagent.training.augmentation import CropAugmentation
from segagent.training.click_rounds import ClickRounds
from segagent.training.click_sampling import ClickSampler
from segagent.training.optimization import OptimizerSettings
from segagent.training.parallel import Processes
from segagent.training.segmenter_batch import TrainingCrops
from segagent.training.segmenter_checkpoint import RunFolder
from segagent.training.segmenter_trainer import SegmenterTrainer, TrainSettings
from segagent.training.segmenter_validation import SegmenterValidation
from segagent.training.tracking import Tracker
from segagent.training.vit_init import fresh_network, load_pretrained
from segagent.types import Sample


def held_out(dataset: Dataset, config: DictConfig) -> tuple[int, Sequence[Sample]]:
    """(how many samples are trained on, those that are validated on): another source, or the end of this one."""
    limit = config.validation.limit
    if limit < 0:
        raise ValueError(f"validation.limit={limit}: a number of samples, 0 for no validation")
    if "data" in config.validation and limit:
        other = build(config.validation.data)
        return len(dataset), [other[index] for index in range(min(limit, len(other)))]
    if limit and len(dataset) < 2:
        raise ValueError(
            f"data has {len(dataset)} sample: none to hold out; give validation.limit=0 or data@validation.data=NAME"
        )
    # A small source gives a fifth of itself at most. Even, because generated pictures come in pairs.
    count = min(limit, max(1, len(dataset) // 5))
    count -= count % 2 if count > 1 else 0
    length = len(dataset) - count
    return length, [dataset[index] for index in range(length, len(dataset))]


def make_trainer(config: DictConfig, tracker: Tracker) -> SegmenterTrainer:
    processes = Processes(config.device)
    network = fresh_network(build(config.network), config.seed)
    if config.init_from is not None:
        load_pretrained(network, config.init_from)
    dataset = build(config.data)
    length, samples = held_out(dataset, config)
    sampler = ClickSampler(**config.clicks)
    crops = TrainingCrops(
        dataset=dataset,
        length=length,
        size=network.config.image_size,
        augmentation=CropAugmentation(**config.augmentation),
        sampler=sampler,
        seed=config.seed,
    )
    checked = config.validation
    validation = samples and SegmenterValidation(
        samples=samples, max_clicks=checked.max_clicks, batch_size=checked.batch_size, predictor=dict(checked.predictor)
    )
    return SegmenterTrainer(
        network=network,
        crops=crops,
        rounds=ClickRounds(sampler=sampler, seed=config.seed, **config.rounds),
        folder=RunFolder(config.out, keep=config.keep),
        settings=TrainSettings(seed=config.seed, **config.train),
        optimizer=OptimizerSettings(**config.optimizer),
        validation=validation or None,
        processes=processes,
        tracker=tracker,
    )


def main(config: DictConfig) -> int:
    out = Path(config.out)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    refuse_own_start(config, [config.init_from], [out / "best", out / "checkpoints"])
    tracker = Tracker(folder=out, settings=OmegaConf.to_container(config), **config.wandb)
    trainer = make_trainer(config, tracker)
    if trainer.processes.is_main:
        claim_output(out / "train.csv", config, out / "train.csv")
        if not config.resume:
            tracker.forget()
    trainer.processes.wait()
    with tracker if trainer.processes.is_main else nullcontext():
        progress = trainer.run(resume=config.resume)
    if not trainer.processes.is_main:
        return 0
    if progress.best_step is not None:
        print(f"best weights {out / 'best'} (step {progress.best_step}; figures in validation.csv)")
    print(f"curve {out / 'curve.png'}")
    return 0


if __name__ == "__main__":
    run_entry(main, "train_segmenter", __doc__, aliases={"segmenter": "network", "batch_size": "train.batch_size"})

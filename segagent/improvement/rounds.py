"""The loop: S_{n-1} rolls out, the method selects D_n, S_0 is trained on it, S_n is measured; N rounds.

Every stage leaves a file that is whole or not there, so that a killed run goes on where it stopped and ends with the
same files.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from segagent.configuration import build
from segagent.data.base import Dataset
from segagent.data.trajectories import read_trajectories
from segagent.dialogue import load_dialogue
from segagent.engines.in_process import InProcess
from segagent.engines.work import RolloutWork
from segagent.entry import RUN_KEYS, beside, claim_output, write_text
from segagent.improvement.figures import (
    Figures,
    draw_rounds,
    read_figures,
    scores_of,
    training_figures,
)
from segagent.improvement.folder import RoundFolder
from segagent.improvement.rollouts import PACE_KEYS, check_parts, part_of, parts_begun, roll_out_shared
from segagent.improvement.selection import select
from segagent.policies.search import TreeSearch
from segagent.run import parse_shard
from segagent.training.examples import TaskMix
from segagent.training.sft_data import build_pictures, trajectory_files
from segagent.training.sft_setup import check_training, make_trainer
from segagent.training.tracking import Tracker
from segagent.training.trajectory_index import check_size, read_states

_SHOWN = 5  # ids that a message lists


class Improvement:
    """All rounds of one run. config: as `configs/improve.yaml`, resolved. accelerator: the processes, see
    `sft_processes.start_processes`. Raises `ValueError` for settings that cannot work, before anything is rolled out.
    """

    def __init__(self, config: DictConfig, accelerator: Accelerator) -> None:
        if config.rounds < 1:
            raise ValueError(f"rounds={config.rounds}: at least 1")
        if config.limit is not None and config.limit < 1:
            raise ValueError(f"limit={config.limit}: at least 1 sample, or null for all")
        if config.mllm is None:
            raise ValueError("mllm: no model given; say mllm=FOLDER, the model that supervised training made (S_0)")
        self.config, self.accelerator, self.out = config, accelerator, Path(config.out)
        self.method, self.engine = build(config.method), build(config.engine)
        if accelerator.num_processes > 1 and not isinstance(self.engine, InProcess):
            # While one of them drives the engine, the others would stand idle with their devices.
            raise ValueError(
                "engine: accelerate's processes share rollouts by engine=in_process only; let one process roll out "
                "first (shard=0/2, then shard=1/2, with this engine), then launch with engine=in_process resume=true"
            )
        self.start = [] if config.data.trajectories is None else [Path(path) for path in trajectory_files(config)]
        name = type(self.method).__name__
        if self.method.needs_start and not self.start:
            raise ValueError(f"{name} learns from D_0 too: say data.trajectories=FILE, what S_0 was trained on")
        if self.method.needs_search and not issubclass(get_class(config.policy._target_), TreeSearch):
            raise ValueError(
                "method.reward=search: needs rollouts whose every mask was judged; say policy=greedy search.k=1 "
                "(reward=predicted_iou is the process reward model), or method.reward=true_iou"
            )
        self.samples = chosen_samples(build_pictures(config), self.start, config.limit)

    # --- what is called ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Reads S_0 and D_0 as the trainings will. Raises `ValueError` for what they would refuse hours later."""
        dialogue = check_training(self.config, self.accelerator)
        for key in ("policy.dialogue", "policy.proposer.dialogue"):
            named = OmegaConf.select(self.config, key)
            if named is not None and vars(load_dialogue(named)) != vars(dialogue):
                raise ValueError(f"{key}={named}: the trainings learn the model's own; say mllm.dialogue={named}")
        if self.method.needs_start:
            names = TaskMix(**self.config.tasks).names
            read_states(self.start, build_pictures(self.config), dialogue, tasks=names)

    def run(self) -> list[Figures]:
        """Does what is left of all rounds; their figures, S_0's first where it was measured."""
        numbers = range(0 if self.config.evaluation.data is not None else 1, self.config.rounds + 1)
        for number in numbers:
            folder = RoundFolder(self.out, number)
            if not folder.is_done:
                self._round(folder)
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                folder.tidy()
                self._summarise(range(numbers.start, number + 1))
        return [read_figures(RoundFolder(self.out, number).figures) for number in numbers]

    def collect(self) -> tuple[Path, int]:
        """D_n of the round that is due, without a training: its file, and how many samples were skipped.

        Raises `ValueError` when all rounds are done.
        """
        folder = self._due()
        folder.path.mkdir(parents=True, exist_ok=True)
        self._collect(folder)
        return folder.selected, len(self.samples) - read_figures(folder.selection)["trajectories"]

    def roll_out_shard(self, shard: str) -> tuple[Path, bool]:
        """Does one part (`i/n`) of the rollouts of the round that is due; the part's file, and whether samples were
        skipped.

        Raises `ValueError` when that round has its rollouts, or `rounds` are done, and as `claim_output` does.
        """
        folder = self._due()
        if folder.rollouts.exists():
            raise ValueError(
                f"{folder.rollouts}: was begun by one process or is joined; go on with resume=true and without shard"
            )
        part = part_of(folder.rollouts, shard)
        count, begun = parts_begun(folder.rollouts)
        if begun and count != parse_shard(shard)[1]:
            raise ValueError(f"shard={shard}: {begun[0]} is one of {count} parts; go on with shard=i/{count}")
        check_parts(folder.rollouts, self.config)
        claim_output(part, self.config, part, but=(*RUN_KEYS, *PACE_KEYS))
        if self.config.overwrite:
            part.unlink(missing_ok=True)
        summary = self.engine.roll_out(self._work(folder.number), part, shard)
        return part, bool(summary.skipped)

    def _due(self) -> RoundFolder:
        numbers = range(1, self.config.rounds + 1)
        folder = next((one for one in (RoundFolder(self.out, number) for number in numbers) if not one.is_done), None)
        if folder is None:
            raise ValueError(f"{self.out}: all {self.config.rounds} rounds are done; nothing is left to roll out")
        return folder

    # --- a round ----------------------------------------------------------------------------------------------------

    def _round(self, folder: RoundFolder) -> None:
        figures: Figures = {"round": folder.number}
        if folder.number:
            folder.path.mkdir(parents=True, exist_ok=True)
            self._collect(folder)
            trained = self._train(folder)
            figures["rollouts"] = self._scores(folder.rollouts, self.config.rollout.max_clicks, len(self.samples))
            figures["selection"] = read_figures(folder.selection)
            figures["training"] = trained
        if self.config.evaluation.data is not None:
            figures["evaluation"] = self._evaluate(folder)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            write_text(folder.figures, json.dumps(figures, indent=1) + "\n")

    def _collect(self, folder: RoundFolder) -> None:
        """Rollouts, then D_n. Raises `ValueError` when nothing is selected."""
        if not folder.selected.exists():
            check_parts(folder.rollouts, self.config)
            roll_out_shared(self.engine, self._work(folder.number), folder.rollouts, self.accelerator)
            if self.accelerator.is_main_process:
                select(folder.rollouts, self.method, folder.selected, folder.selection)
        self.accelerator.wait_for_everyone()
        counts = read_figures(folder.selection)
        if not counts["selected"]:
            raise ValueError(
                f"{folder.rollouts}: none of {counts['trajectories']} trajectories is selected; {self.method.hint}, "
                "and begin anew (overwrite=true)"
            )

    def _train(self, folder: RoundFolder) -> Figures:
        """S_n: S_0 trained on what the method says, its last weights."""
        earlier = [RoundFolder(self.out, number).selected for number in range(1, folder.number + 1)]
        config = _plain(self.config)
        config.data.trajectories = [str(path) for path in self.method.files(self.start, earlier)]
        config.out, config.min_final_iou, config.validation = str(folder.train), None, {"limit": 0}
        config.limit = None  # the rounds' own, of what is rolled out on
        config.generated = {"share": 0.0}
        tracker = Tracker(folder=folder.train, settings=OmegaConf.to_container(config), **config.wandb)
        trainer = make_trainer(config, tracker)
        with tracker if self.accelerator.is_main_process else nullcontext():
            trainer.run(resume=True)
        figures = {"states": len(trainer.examples)} | training_figures(trainer.step_log)
        # accelerate leaves the network in a cycle, and another model is loaded next.
        del trainer
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return figures

    def _evaluate(self, folder: RoundFolder) -> Figures:
        evaluation = self.config.evaluation
        samples = range(len(build(evaluation.data)))
        work = self._work(
            folder.number + 1,
            data=evaluation.data,
            samples=samples,
            policy=evaluation.policy,
            rules=OmegaConf.create({"max_clicks": evaluation.max_clicks}),
            title=f"evaluate S_{folder.number}",
        )
        folder.path.mkdir(parents=True, exist_ok=True)
        roll_out_shared(self.engine, work, folder.evaluation, self.accelerator)
        return self._scores(folder.evaluation, evaluation.max_clicks, len(samples))

    # --- parts ------------------------------------------------------------------------------------------------------

    def _work(self, number: int, **changes: Any) -> RolloutWork:
        """What S_{number - 1} is to roll out on the training samples; changes: see `RolloutWork`."""
        config = self.config
        pictures = OmegaConf.masked_copy(config.data, [key for key in config.data if key != "trajectories"])
        work = {
            "data": pictures,
            "samples": self.samples,
            "policy": config.policy,
            "segmenter": config.segmenter,
            "rules": config.rollout,
            "init": config.init,
            "batch_size": config.batch_size,
            "seed": config.seed,
            "on_error": config.on_error,
            "title": f"round {number} rollouts",
        } | changes
        device = str(self.accelerator.device) if self.accelerator.num_processes > 1 else None
        for part in ("policy", "segmenter"):
            work[part] = placed(with_model(work[part], config.mllm, self._model(number - 1)), device)
        return RolloutWork(**work)

    def _model(self, number: int) -> str:
        return self.config.mllm.path if number == 0 else str(RoundFolder(self.out, number).model)

    def _scores(self, lines: Path, click_limit: int, asked: int) -> Figures:
        return scores_of(lines, click_limit=click_limit, asked=asked, seed=self.config.seed)

    def _summarise(self, numbers: range) -> None:
        rounds = [read_figures(RoundFolder(self.out, number).figures) for number in numbers]
        name = type(self.method).__name__
        write_text(self.out / "improve.json", json.dumps({"method": name, "rounds": rounds}, indent=1) + "\n")
        partial = self.out / "improve.partial.png"
        draw_rounds(rounds, name, partial)
        partial.replace(beside(self.out / "improve.json", ".png"))


def chosen_samples(dataset: Dataset, start: Sequence[Path], limit: int | None) -> list[int]:
    """Indices of the samples that are rolled out on, ascending: those of the files `start`, without files all.

    limit: the first so many. Raises `ValueError` when a file is not there or of other data.
    """
    absent = [str(path) for path in start if not path.is_file()]
    if absent:
        raise ValueError(f"{', '.join(absent)}: no such file; data.trajectories is what S_0 was trained on")
    wanted = {made.sample_id: path for path in start for made in read_trajectories(path)}
    total, found = len(dataset), []
    for index in range(total):
        if len(found) == (len(wanted) if start else limit or total):
            break
        if not start or dataset.sample_id(index) in wanted:
            found.append(index)
    if len(found) < len(wanted):
        there = {dataset.sample_id(index) for index in found}
        missing = [sample_id for sample_id in wanted if sample_id not in there]
        raise ValueError(
            f"{wanted[missing[0]]}: {len(missing)} of {len(wanted)} samples of data.trajectories are not in data "
            f"({', '.join(missing[:_SHOWN])}); give the data= that they were simulated on"
        )
    if not found:
        raise ValueError("nothing to roll out on: data, or data.trajectories, is empty")
    for path in start:
        first = next(read_trajectories(path), None)
        if first is not None:
            index = next(index for index in found if dataset.sample_id(index) == first.sample_id)
            check_size(dataset, index, first.width * first.height, path)
    return found[:limit]


def _plain(config: DictConfig) -> DictConfig:
    """A copy that takes new keys."""
    return OmegaConf.create(OmegaConf.to_container(config))


def with_model(config: DictConfig, start: DictConfig, path: str) -> DictConfig:
    """A copy in which each mention of the model `start` is the same model, loaded from `path`."""
    old = OmegaConf.to_container(start)

    def renew(node: Any) -> Any:
        if node == old:
            return old | {"path": path} | (_own_base(old) if path != old["path"] else {})
        if isinstance(node, dict):
            return {key: renew(value) for key, value in node.items()}
        return [renew(value) for value in node] if isinstance(node, list) else node

    return OmegaConf.create(renew(OmegaConf.to_container(config)))


def _own_base(start: dict[str, Any]) -> dict[str, Any]:
    """What else changes with the path: S_n, n > 0, is whole or names its own base, and over a quantized one its adapter
    stays beside it."""
    changes: dict[str, Any] = {"base": None} if "base" in start else {}
    return changes | ({"merge_adapter": False} if start.get("quantization") not in (None, "none") else {})


def placed(config: DictConfig, device: str | None) -> DictConfig:
    """The config with every `device` in it set; None: as it is."""
    if device is None:
        return config

    def place(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: device if key == "device" else place(value) for key, value in node.items()}
        return [place(value) for value in node] if isinstance(node, list) else node

    return OmegaConf.create(place(OmegaConf.to_container(config)))

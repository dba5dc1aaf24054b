"""What all parts share: datasets, model and segmenter as words of a command line, cells, intervals."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from segagent.configuration import load_named
from segagent.mllm.families import family_of
from segagent.tables.arms import Arm, Interval, Run, ciou, gain
from segagent.tables.cells import Cell, Cells, Done
from segagent.tables.settings import member_words, named_settings, value_word, words_of
from segagent.weights import checkpoint_path

TAU_STOP = 0.95  # true IoU from which on the simulated annotator does not click
_PROBED = 1 << 20  # bytes
_OF_FOLDER = ("mllm.path", "mllm.base", "mllm.dialogue", "mllm.merge_adapter")  # what a trained model says itself


class Setup:
    """config: as `configs/tables.yaml`, resolved. Raises `ValueError` for settings that no run could have."""

    def __init__(self, config: DictConfig, cells: Cells) -> None:
        self.config, self.cells = config, cells
        self.folder = Path(config.out)
        self.datasets = named_settings(list(config.datasets))
        for key in ("easy", "hard"):
            if config[key] not in self.datasets:
                raise ValueError(f"{key}={config[key]}: is none of datasets, {', '.join(self.datasets)}")
        if config.resamples < 1:
            raise ValueError(f"resamples={config.resamples}: at least 1")
        self.segmenter = member_words("segmenter", config.segmenter, config)
        self.reward = member_words("reward", config.reward, config)
        self._mllm = member_words("mllm", config.mllm, config)
        self.common = [f"{key}={value_word(config[key])}" for key in ("batch_size", "seed", "device")]
        self.common.append(f"on_error={config.on_error}")

    def weights(self) -> dict[str, str]:
        """Part -> digest of its weights: name, size, first and last MiB of each file. Those on a server or a hub are
        not among them."""
        parts = [part for part in ("mllm", "segmenter") if self.config[part] is not None]
        places = {part: _place(self.config[part].get("path")) for part in parts}
        if self.config.training.steps and set(self.config.parts) & {"table4", "table5", "table6"}:
            training = self.config.training
            places["training.start"] = _place(training.start)
            words = dict(word.split("=", 1) for word in words_of(training.box_segmenter, "training.box_segmenter"))
            places["training.box_segmenter"] = _place(words.get("segmenter.path"))
        return {part: _digest(place) for part, place in places.items() if place is not None}

    @property
    def mllm(self) -> list[str]:
        if not self._mllm:
            raise ValueError("mllm: no model given; say mllm=NAME or mllm=FOLDER (only fig3 needs none)")
        return self._mllm

    def model(self, folder: str | Path | None) -> list[str]:
        """Words of the model in a folder; None: of the one whose tables these are."""
        if folder is None:
            return self.mllm
        family, own = family_of(folder), self.config.mllm
        words = [f"mllm={family}", f"mllm.path={value_word(str(folder))}"]
        if own is None or own["_target_"] != load_named("mllm", family)["_target_"]:
            return words
        # Bounds of pictures, precision and the like are how the model of these tables is run, so that of its arms too.
        words += [word for word in self.mllm[1:] if word.partition("=")[0] not in _OF_FOLDER]
        return words + (["mllm.merge_adapter=false"] if own.get("quantization") not in (None, "none") else [])

    def evaluate(
        self, name: str, dataset: str, *more: str, limit: int | None, mllm: Sequence[str] | None = None, **changes: Any
    ) -> Done:
        """Runs `scripts/evaluate.py` on one of the datasets. changes: fields of the `Cell`, or `segmenter` words."""
        segmenter = changes.pop("segmenter", self.segmenter)
        settings = [*self.datasets[dataset], *limited(limit), *segmenter, *(self.mllm if mllm is None else mllm)]
        settings += [*self.reward, *self.common, "report=false", "boundary=false", *more]
        return self.cells.run(Cell("evaluate", name, tuple(settings), **changes))

    def simulate(self, name: str, data: str, limit: int, clicks: int) -> Done:
        """Trajectories of the simulated annotator with the segmenter: what a short training learns from."""
        words = [*words_of(data, name), *limited(limit), *self.segmenter, f"simulate.max_clicks={clicks}"]
        settings = [*words, f"simulate.tau_stop={TAU_STOP}", *self.common]
        return self.cells.run(Cell("simulate", name, tuple(settings), ending=".jsonl"))

    def train(self, name: str, *words: str, model: Sequence[str], data: str, seed: int, steps: int) -> tuple[Done, str]:
        """A short supervised training; (what was done, folder of the model after its last step)."""
        fixed = [f"train.steps={steps}", "train.epochs=null", "validation.limit=0", "wandb.mode=disabled"]
        place = [f"seed={seed}", f"device={self.config.device}"]
        settings = [*words_of(data, name), *model, *fixed, *place, *words]
        done = self.cells.run(Cell("train", name, tuple(settings), ending=""))
        return done, str(done.path / "checkpoints" / f"step_{steps:07d}")

    def agent(self, dataset: str) -> Done:
        """The agent with the process reward model on a dataset, as tables 1 and 2 share it.

        One candidate a step: the clicks are the agent's own, and every mask it makes is judged.
        """
        limit, clicks = self.config.limit, self.config.max_clicks
        words = ["policy=greedy", "search.k=1", f"rollout.max_clicks={clicks}"]
        return self.evaluate(f"agent/{dataset}", dataset, *words, limit=limit)

    def hard(self, k: int, name: str | None = None, mllm: Sequence[str] | None = None) -> Done:
        """A search with k candidates a step on the hard dataset, as figure 4 has it."""
        words = ["policy=greedy", f"search.k={k}", f"rollout.max_clicks={self.config.hard_max_clicks}"]
        place = name or f"fig4/k{k}"
        return self.evaluate(place, self.config.hard, *words, limit=self.config.hard_limit, mllm=mllm)

    def ciou(self, arm: Arm) -> Interval:
        return ciou(arm, self.config.resamples, self.config.seed)

    def gain(self, base: Arm, arm: Arm) -> Interval:
        return gain(base, arm, self.config.resamples, self.config.seed)


def _place(path: str | None) -> Path | None:
    try:
        return None if path is None else checkpoint_path(path)
    except ValueError:
        return None


def _digest(path: Path) -> str:
    made = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin")):
        size = file.stat().st_size
        made.update(f"{file.name} {size}".encode())
        with file.open("rb") as read:
            for place in (0, max(0, size - _PROBED)):
                read.seek(place)
                made.update(read.read(_PROBED))
    return made.hexdigest()


def limited(limit: int | None) -> list[str]:
    return [] if limit is None else [f"data.limit={limit}"]


def run_of(done: Done) -> Run:
    return Run(done.path)

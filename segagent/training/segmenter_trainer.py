"""The loop that trains a SimpleClick network: batches, rounds of clicks, loss, update, validation, checkpoint.

A step is a function of the weights and its number: a run that was stopped and resumed on a CPU has, bit for bit, the
weights and losses of one that was not. Several processes share a step's batches as one process with as many times
`accumulate` would take them in turn.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from segagent.devices import autocast
from segagent.environment import stable_generator
from segagent.metrics.noc import LEVELS
from segagent.segmenters.simpleclick_vit import SimpleClickNet
from segagent.training.click_rounds import ClickRounds, NetworkInput
from segagent.training.focal import normalized_focal_loss
from segagent.training.optimization import OptimizerSettings, build_optimizer, learning_rate, set_learning_rate
from segagent.training.parallel import Processes, check_same_step
from segagent.training.run_folder import Progress
from segagent.training.segmenter_batch import Batch, TrainingCrops, batches
from segagent.training.segmenter_checkpoint import RunFolder
from segagent.training.segmenter_validation import SegmenterValidation, ValidationFigures, figures_of
from segagent.training.tracking import Tracker
from segagent.training.training_log import STEP_COLUMNS, CsvTable, draw_curves


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """steps: updates in all. batch_size: samples per forward pass. accumulate: passes per update, in each training
    process. workers: processes that make crops (0: the training process). precision: see `devices.autocast`; the loss
    of float16 is scaled. validate_every, checkpoint_every: in steps. seed: of everything drawn."""

    steps: int = 14_000
    batch_size: int = 16
    accumulate: int = 1
    workers: int = 1
    precision: str = "float32"
    validate_every: int = 1_000
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "accumulate": 1, "workers": 0, "validate_every": 1, "checkpoint_every": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name}={getattr(self, name)}: at least {value}")


def batch_iou(logits: torch.Tensor, inputs: NetworkInput) -> float:
    """Mean IoU of the masks of a batch, void pixels left out; 1 where mask and target are empty."""
    mask, counted = logits > 0, ~inputs.voids
    common = (mask & inputs.targets & counted).flatten(1).sum(1)
    union = ((mask | inputs.targets) & counted).flatten(1).sum(1)
    return float(torch.where(union > 0, common / union.clamp_min(1), 1.0).mean())


class SegmenterTrainer:
    """network: is trained in place. crops, rounds: what it is trained on. folder: where the run is kept. validation:
    None for none; without it there is no `best`. processes: those that train together. tracker: told every figure."""

    def __init__(
        self,
        *,
        network: SimpleClickNet,
        crops: TrainingCrops,
        rounds: ClickRounds,
        folder: RunFolder,
        settings: TrainSettings,
        optimizer: OptimizerSettings,
        validation: SegmenterValidation | None = None,
        processes: Processes,
        tracker: Tracker,
    ) -> None:
        device = processes.device
        autocast(device, settings.precision)  # refuses what cannot be
        # Colors next to each other in memory: convolutions on a CPU are a sixth faster.
        self.network, self.device = network.to(device=device, memory_format=torch.channels_last), device
        self.processes, self.tracker = processes, tracker
        self.crops, self.rounds, self.folder, self.validation = crops, rounds, folder, validation
        self.settings, self.optimizer_settings = settings, optimizer
        self.optimizer = build_optimizer(self.network, optimizer)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
        clicks = validation.max_clicks if validation else 0
        columns = ("step", *(f"noc{level}" for level in LEVELS), *(f"iou_{n}" for n in range(1, clicks + 1)))
        self.step_log = CsvTable(folder.path / "train.csv", STEP_COLUMNS)
        self.validation_log = CsvTable(folder.path / "validation.csv", columns)

    def run(self, *, resume: bool = False, stop_at: int | None = None) -> Progress:
        """Trains to the end, or until `stop_at` updates as if killed there (after a checkpoint)."""
        if self.processes.is_main:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            if not resume:
                self.folder.clear()
        self.processes.wait()
        progress = self.folder.load(self.network, self.optimizer, self.scaler, self._samples_per_step())
        check_same_step(self.processes.gather([progress.step]), self.folder.path)
        if self.processes.is_main:
            for log in (self.step_log, self.validation_log):
                log.cut(progress.step)
        shared = self.processes.share(self.network)
        settings, end = self.settings, min(self.settings.steps, stop_at or self.settings.steps)
        stream = self._stream(progress.step, end)
        hidden = None if self.processes.is_main else True  # None: only in a terminal
        bar = tqdm(
            total=settings.steps, initial=progress.step, desc="train", unit="step", disable=hidden, file=sys.stderr
        )
        with bar:
            while progress.step < end:
                loss = self._step(progress, stream, shared)
                bar.update()
                bar.set_postfix(loss=f"{loss:.4f}", noc85=progress.best_score, refresh=False)
                self._keep(progress, last=progress.step == end)
        return progress

    def _stream(self, step: int, end: int) -> Iterator[Batch]:
        size, share = self.settings.batch_size, (self.processes.rank, self.processes.count)
        per_step = self._samples_per_step()
        return batches(self.crops, step * per_step, end * per_step, size, self.settings.workers, share)

    def _samples_per_step(self) -> int:
        return self.settings.batch_size * self.settings.accumulate * self.processes.count

    def _step(self, progress: Progress, stream: Iterator[Batch], shared: nn.Module) -> float:
        """One update; its loss. shared: the network as `Processes.share` gives it."""
        began = time.perf_counter()
        settings = self.settings
        rate = learning_rate(progress.step, settings.steps, self.optimizer_settings)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        parts = [self._pass(next(stream), shared, last) for last in [False] * (settings.accumulate - 1) + [True]]
        loss, iou = self.processes.mean([sum(values) / settings.accumulate for values in zip(*parts, strict=True)])
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.optimizer_settings.clip_norm)
        # A scaled loss may overflow now and then: the scaler leaves that step out and scales less.
        if not math.isfinite(loss) or not (self.scaler.is_enabled() or torch.isfinite(norm)):
            raise ValueError(
                f"step {progress.step + 1}: loss {loss} has no finite gradient; lower optimizer.lr or raise its warmup"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        progress.step += 1
        figures = {"loss": loss, "iou": iou, "lr": rate, "gradient_norm": float(norm)}
        figures["samples_per_second"] = self._samples_per_step() / (time.perf_counter() - began)
        self._tell(self.step_log, "train", progress.step, figures)
        return loss

    def _tell(self, log: CsvTable, group: str, step: int, figures: dict[str, float]) -> None:
        if self.processes.is_main:
            log.add(step=step, **figures)
            self.tracker.log(step, {f"{group}/{name}": value for name, value in figures.items()})

    def _pass(self, batch: Batch, shared: nn.Module, last: bool) -> tuple[float, float]:
        """Gradients of one batch are added; (loss, IoU). last: of the step, after which gradients are shared."""
        settings = self.settings
        with autocast(self.device, settings.precision):
            inputs = self.rounds.play(self.network, batch, self.device)
        # Dropout is all that draws from torch's own generator: seeded here, it too follows from the step.
        torch.manual_seed(int(stable_generator("dropout", settings.seed, batch.numbers[0]).integers(2**62)))
        with nullcontext() if last else self.processes.no_sync(shared):
            with autocast(self.device, settings.precision):
                logits = shared(inputs.image, inputs.previous, inputs.points)
            loss = normalized_focal_loss(logits, inputs.targets, inputs.voids).mean()
            self.scaler.scale(loss / settings.accumulate).backward()
        return float(loss.detach()), batch_iou(logits.detach(), inputs)

    def _keep(self, progress: Progress, last: bool) -> None:
        """Validation, best weights, curve and checkpoint, where this step is due for them."""
        finished = progress.step == self.settings.steps
        if self.validation is not None and (progress.step % self.settings.validate_every == 0 or finished):
            share = self.processes.rank, self.processes.count
            curves = self.processes.gather(list(self.validation.curves(self.network, share)))
            self._validate(progress, figures_of(np.stack(curves)))
        # Before the checkpoint: a run that is resumed from it does not come here again.
        if self.processes.is_main and (finished or progress.step % self.settings.validate_every == 0):
            draw_curves(self.step_log.rows(), self.validation_log.rows(), self.folder.path / "curve.png")
        if self.processes.is_main and (last or progress.step % self.settings.checkpoint_every == 0):
            self.folder.save(self.network, self.optimizer, self.scaler, progress, self._samples_per_step())
        if last:
            self.processes.wait()

    def _validate(self, progress: Progress, figures: ValidationFigures) -> None:
        nocs = {f"noc{level}": value for level, value in figures.noc.items()}
        ious = {f"iou_{n}": value for n, value in enumerate(figures.iou_by_click, 1)}
        better = progress.best_score is None or figures.score < progress.best_score
        if better:
            progress.best_step, progress.best_score = progress.step, figures.score
        if not self.processes.is_main:
            return
        self._tell(self.validation_log, "validation", progress.step, nocs | ious)
        told = "  ".join(f"NoC@{level} {value:.2f}" for level, value in figures.noc.items())
        tqdm.write(f"step {progress.step}: {told}  IoU@1 {figures.iou_by_click[0]:.3f}", file=sys.stderr)
        if better:
            self.folder.save_best(self.network)

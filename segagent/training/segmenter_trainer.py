"""The loop that trains a SimpleClick network: batches, rounds of clicks, loss, update, validation, checkpoint.

A step is a function of the weights and its number: a run that was stopped and resumed on a CPU has, bit for bit, the
weights and losses of one that was not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tqdm import tqdm

from segagent.environment import stable_generator
from segagent.segmenters.simpleclick_vit import SimpleClickNet
from segagent.training.click_rounds import ClickRounds, NetworkInput
from segagent.training.focal import normalized_focal_loss
from segagent.training.optimization import OptimizerSettings, build_optimizer, learning_rate, set_learning_rate
from segagent.training.segmenter_batch import Batch, TrainingCrops, batches
from segagent.training.segmenter_checkpoint import Progress, RunFolder
from segagent.training.segmenter_validation import LEVELS, SegmenterValidation, ValidationFigures
from segagent.training.training_log import STEP_COLUMNS, CsvTable, draw_curves


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """steps: updates in all. batch_size: samples per forward pass. accumulate: passes per update. workers: processes
    that make crops (0: the training process). bf16: autocast. validate_every, checkpoint_every: in steps.
    seed: of everything drawn."""

    steps: int = 14_000
    batch_size: int = 16
    accumulate: int = 1
    workers: int = 1
    bf16: bool = False
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
    None for none; without it there is no `best`. device: where the network runs."""

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
        device: torch.device,
    ) -> None:
        # Colors next to each other in memory: convolutions on a CPU are a sixth faster.
        self.network, self.device = network.to(device=device, memory_format=torch.channels_last), device
        self.crops, self.rounds, self.folder, self.validation = crops, rounds, folder, validation
        self.settings, self.optimizer_settings = settings, optimizer
        self.optimizer = build_optimizer(self.network, optimizer)
        clicks = validation.max_clicks if validation else 0
        columns = ("step", *(f"noc{level}" for level in LEVELS), *(f"iou_{n}" for n in range(1, clicks + 1)))
        self.step_log = CsvTable(folder.path / "train.csv", STEP_COLUMNS)
        self.validation_log = CsvTable(folder.path / "validation.csv", columns)

    def run(self, *, resume: bool = False, stop_at: int | None = None) -> Progress:
        """Trains to the end, or until `stop_at` updates as if killed there (after a checkpoint)."""
        self.folder.path.mkdir(parents=True, exist_ok=True)
        if not resume:
            self.folder.clear()
        progress = self.folder.load(self.network, self.optimizer)
        for log in (self.step_log, self.validation_log):
            log.cut(progress.step)
        settings, end = self.settings, min(self.settings.steps, stop_at or self.settings.steps)
        stream = self._stream(progress.step, end)
        bar = tqdm(
            total=settings.steps, initial=progress.step, desc="train", unit="step", disable=None, file=sys.stderr
        )
        with bar:
            while progress.step < end:
                loss = self._step(progress, stream)
                bar.update()
                bar.set_postfix(loss=f"{loss:.4f}", noc85=progress.best_score, refresh=False)
                self._keep(progress, last=progress.step == end)
        return progress

    def _stream(self, step: int, end: int) -> Iterator[Batch]:
        size, per_step = self.settings.batch_size, self.settings.batch_size * self.settings.accumulate
        return iter(batches(self.crops, step * per_step, end * per_step, size, self.settings.workers))

    def _step(self, progress: Progress, stream: Iterator[Batch]) -> float:
        """One update; its loss."""
        began = time.perf_counter()
        settings = self.settings
        rate = learning_rate(progress.step, settings.steps, self.optimizer_settings)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        parts = [self._pass(next(stream)) for _ in range(settings.accumulate)]
        loss, iou = (sum(values) / settings.accumulate for values in zip(*parts, strict=True))
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.optimizer_settings.clip_norm)
        if not torch.isfinite(norm):
            raise ValueError(
                f"step {progress.step + 1}: loss {loss} has no finite gradient; lower optimizer.lr or raise its warmup"
            )
        self.optimizer.step()
        progress.step += 1
        self.step_log.add(
            step=progress.step,
            loss=loss,
            iou=iou,
            lr=rate,
            gradient_norm=float(norm),
            samples_per_second=settings.batch_size * settings.accumulate / (time.perf_counter() - began),
        )
        return loss

    def _pass(self, batch: Batch) -> tuple[float, float]:
        """Gradients of one batch are added; (loss, IoU)."""
        settings = self.settings
        inputs = self.rounds.play(self.network, batch, self.device, settings.bf16)
        # Dropout is all that draws from torch's own generator: seeded here, it too follows from the step.
        torch.manual_seed(int(stable_generator("dropout", settings.seed, batch.numbers[0]).integers(2**62)))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bf16):
            logits = self.network(inputs.image, inputs.previous, inputs.points)
        loss = normalized_focal_loss(logits, inputs.targets, inputs.voids).mean()
        (loss / settings.accumulate).backward()
        return float(loss.detach()), batch_iou(logits.detach(), inputs)

    def _keep(self, progress: Progress, last: bool) -> None:
        """Validation, best weights, curve and checkpoint, where this step is due for them."""
        finished = progress.step == self.settings.steps
        if self.validation is not None and (progress.step % self.settings.validate_every == 0 or finished):
            self._validate(progress, self.validation(self.network))
        if last or progress.step % self.settings.checkpoint_every == 0:
            self.folder.save(self.network, self.optimizer, progress)

    def _validate(self, progress: Progress, figures: ValidationFigures) -> None:
        nocs = {f"noc{level}": value for level, value in figures.noc.items()}
        ious = {f"iou_{n}": value for n, value in enumerate(figures.iou_by_click, 1)}
        self.validation_log.add(step=progress.step, **nocs, **ious)
        told = "  ".join(f"NoC@{level} {value:.2f}" for level, value in figures.noc.items())
        tqdm.write(f"step {progress.step}: {told}  IoU@1 {figures.iou_by_click[0]:.3f}", file=sys.stderr)
        if progress.best_score is None or figures.score < progress.best_score:
            progress.best_step, progress.best_score = progress.step, figures.score
            self.folder.save_best(self.network)
        draw_curves(self.step_log.rows(), self.validation_log.rows(), self.folder.path / "curve.png")

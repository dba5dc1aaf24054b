"""The loop that trains a multimodal LLM on examples: batches, loss on the answers, update, validation, checkpoint.

A step is a function of the weights and its number: a run that was stopped and resumed on a CPU has, bit for bit, the
weights and losses of one that was not. Several processes share a step's batches; the loss is the mean over all tokens
of the step, whoever has them, so that their number changes nothing but the order of sums (and, where a tower with batch
norm is trained, its running statistics: they are of the first process's passes).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from segagent.environment import stable_generator
from segagent.mllm.base import MLLM
from segagent.training.collate import IGNORED, BatchPlan, Collator, SftBatch, sft_batches
from segagent.training.examples import Examples
from segagent.training.optimization import learning_rate, set_learning_rate
from segagent.training.parallel import check_same_step, gathered, summed
from segagent.training.run_folder import Progress
from segagent.training.sft_checkpoint import SftFolder
from segagent.training.sft_curves import draw_sft_curves
from segagent.training.sft_network import build_sft_optimizer, prepare_network, schedule
from segagent.training.sft_processes import check_sharing, is_sharded
from segagent.training.sft_settings import SftSettings
from segagent.training.sft_validation import COLUMNS, SftValidation, figures_of, score_of
from segagent.training.tracking import Tracker
from segagent.training.training_log import CsvTable

STEP_COLUMNS = ("step", "loss", "token_accuracy", "lr", "gradient_norm", "samples_per_second", "tokens_per_second")
# network and a batch that has just passed through it -> loss to be added, a scalar
Auxiliary = Callable[[nn.Module, SftBatch], Tensor]


def answer_losses(network: nn.Module, batch: SftBatch) -> tuple[Tensor, Tensor, Tensor]:
    """(loss of each token that is learnt, its weight, whether the network would have said it), `[N]` each.

    Logits are made for the end of the rows only, from the first answer of the batch on: most of a row is picture.
    """
    learnt = batch.labels != IGNORED
    first = int(learnt.any(0).nonzero()[0])
    keep = batch.labels.shape[1] - first
    logits = network(**batch.tensors, logits_to_keep=keep + 1).logits[:, :-1]
    chosen = learnt[:, first:]
    logits, labels = logits[chosen].float(), batch.labels[:, first:][chosen]
    weights = batch.token_weights()[:, first:][chosen]
    return F.cross_entropy(logits, labels, reduction="none"), weights, logits.argmax(-1) == labels


def placed(batch: SftBatch, device: torch.device) -> SftBatch:
    """The batch with its tensors on a device."""
    tensors = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.tensors.items()}
    asked = (None if part is None else part.to(device) for part in (batch.cells, batch.asked, batch.mentions))
    return SftBatch(batch.numbers, tensors, batch.labels.to(device), batch.weights.to(device), *asked)


@contextmanager
def out_of_memory_told(settings: SftSettings, when: str) -> Iterator[None]:
    """Within it, running out of memory is a `ValueError` that names the settings by which less is needed."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
            raise
        raise ValueError(
            f"{when}: out of memory ({str(error).splitlines()[0]}); lower train.batch_size={settings.batch_size} "
            "(train.global_batch stays as it is) or validation.batch_size, set train.gradient_checkpointing=true, show "
            "smaller pictures (mllm.max_pixels, mllm.max_tiles), keep what is not trained small (mllm.dtype=bfloat16), "
            "train less of it (train.lora_rank=16; mllm.quantization=4bit), or share the weights over GPUs "
            "(configs/accelerate/fsdp2.yaml)"
        ) from None


def _number(norm: Tensor | float | None) -> float:
    """NaN where an engine does not tell."""
    return math.nan if norm is None else float(norm)


class SftTrainer:
    """mllm: is trained in place. examples: what it is trained on. folder: where the run is kept. validation: None for
    none: then the last weights are the `best`. accelerator: see `sft_processes`. tracker: told every figure. seed: of
    everything drawn. auxiliary: further losses, each with its weight; `ValueError` with sharded weights."""

    def __init__(
        self,
        *,
        mllm: MLLM,
        examples: Examples,
        folder: SftFolder,
        settings: SftSettings,
        validation: SftValidation | None = None,
        accelerator: Accelerator,
        tracker: Tracker,
        seed: int = 0,
        auxiliary: Sequence[tuple[float, Auxiliary]] = (),
    ) -> None:
        self.mllm, self.examples, self.folder, self.settings = mllm, examples, folder, settings
        self.validation, self.accelerator, self.tracker, self.seed = validation, accelerator, tracker, seed
        self.auxiliary = list(auxiliary)
        check_sharing(settings, accelerator)
        with torch.random.fork_rng(devices=[]):  # LoRA layers begin at random
            torch.manual_seed(seed)
            prepare_network(mllm, settings, accelerator.device)
        self.steps = settings.updates(len(examples))
        self.rates = schedule(settings, self.steps)
        self.plan = BatchPlan(examples, batch_size=settings.batch_size, group=settings.length_group, seed=seed)
        self.collator = Collator(mllm, settings.digit_decay)
        optimizer = build_sft_optimizer(mllm.network, settings)
        self.prepared, self.optimizer = accelerator.prepare(mllm.network, optimizer)
        self.step_log = CsvTable(folder.path / "train.csv", STEP_COLUMNS)
        self.validation_log = CsvTable(folder.path / "validation.csv", ("step", *COLUMNS))

    @property
    def _share(self) -> tuple[int, int]:
        return self.accelerator.process_index, self.accelerator.num_processes

    def run(self, *, resume: bool = False, stop_at: int | None = None) -> Progress:
        """Trains to the end, or until `stop_at` updates as if killed there (after a checkpoint)."""
        accelerator = self.accelerator
        if accelerator.is_main_process:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            if not resume:
                self.folder.clear()
        accelerator.wait_for_everyone()
        progress = self.folder.load(self.mllm, self.optimizer, accelerator)
        check_same_step(gathered(accelerator, [progress.step]), self.folder.path)
        if accelerator.is_main_process:
            for log in (self.step_log, self.validation_log):
                log.cut(progress.step)
        end = min(self.steps, stop_at or self.steps)
        passes = accelerator.gradient_accumulation_steps * accelerator.num_processes
        workers = self.settings.workers
        stream = sft_batches(self.plan, self.collator, progress.step * passes, end * passes, workers, self._share)
        hidden = None if accelerator.is_main_process else True  # None: only in a terminal
        bar = tqdm(total=self.steps, initial=progress.step, desc="train", unit="step", disable=hidden, file=sys.stderr)
        with bar:
            while progress.step < end:
                with out_of_memory_told(self.settings, f"step {progress.step + 1}"):
                    loss = self._step(progress, stream)
                bar.update()
                bar.set_postfix(loss=f"{loss:.4f}", best=progress.best_score, refresh=False)
                with out_of_memory_told(self.settings, f"validation after step {progress.step}"):
                    self._keep(progress, last=progress.step == end)
        return progress

    def _step(self, progress: Progress, stream: Iterator[SftBatch]) -> float:
        """One update; its loss."""
        began, accelerator = time.perf_counter(), self.accelerator
        rate = learning_rate(progress.step, self.steps, self.rates)
        set_learning_rate(self.optimizer, rate)
        self.prepared.train()
        batches = [next(stream) for _ in range(accelerator.gradient_accumulation_steps)]
        (counted,) = summed(accelerator, [float(sum(batch.token_weights().sum() for batch in batches))])
        parts, norm = [], None
        for batch in batches:
            with accelerator.accumulate(self.prepared):
                parts.append(self._pass(placed(batch, accelerator.device), counted))
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.prepared.parameters(), self.settings.clip_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        loss, right, learnt, tokens = summed(accelerator, [sum(values) for values in zip(*parts, strict=True)])
        if not math.isfinite(loss) or not (norm is None or math.isfinite(norm)):
            raise ValueError(
                f"step {progress.step + 1}: loss {loss} has no finite gradient; lower train.lr or raise train.warmup"
            )
        progress.step += 1
        seconds = time.perf_counter() - began
        figures = {"loss": loss, "token_accuracy": right / max(1.0, learnt), "lr": rate, "gradient_norm": _number(norm)}
        figures["samples_per_second"] = self.settings.global_batch / seconds
        figures["tokens_per_second"] = tokens / seconds
        self._tell(self.step_log, "train", progress.step, figures)
        return loss

    def _pass(self, batch: SftBatch, counted: float) -> tuple[float, float, float, float]:
        """Gradients of one batch are added. counted: weight of all tokens of the step.

        Returns its share of the step's loss, tokens that were right, tokens learnt, tokens read.
        """
        accelerator = self.accelerator
        # Dropout is all that draws from torch's own generator: seeded here, it too follows from the step.
        torch.manual_seed(int(stable_generator("dropout", self.seed, batch.numbers[0]).integers(2**62)))
        losses, weights, right = answer_losses(self.prepared, batch)
        share = (losses * weights).sum() / counted
        total = share
        for weight, loss in self.auxiliary:
            added = loss(self.mllm.network, batch) * weight
            total = total + added * len(batch.numbers) / self.settings.global_batch
        # The engines take means over processes and passes, where the sum is meant.
        scale = accelerator.num_processes * accelerator.gradient_accumulation_steps
        accelerator.backward(total * scale)
        read = float(batch.tensors["attention_mask"].sum())
        return float(share.detach()), float(right.sum()), float(len(right)), read

    # --- what is kept -----------------------------------------------------------------------------------------------

    def _tell(self, log: CsvTable, group: str, step: int, figures: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            log.add(step=step, **figures)
            self.tracker.log(step, {f"{group}/{name}": value for name, value in figures.items()})

    def _keep(self, progress: Progress, last: bool) -> None:
        """Validation, best weights, curve and checkpoint, where this step is due for them."""
        settings, finished = self.settings, progress.step == self.steps
        if self.validation is not None and (progress.step % settings.validate_every == 0 or finished):
            self._validate(progress)
        elif self.validation is None and finished:
            self.folder.save_best(self.mllm, self.prepared, self.accelerator)
        # Before the checkpoint: a run that is resumed from it does not come here again.
        if self.accelerator.is_main_process and (finished or progress.step % settings.validate_every == 0):
            draw_sft_curves(self.step_log.rows(), self.validation_log.rows(), self.folder.path / "curve.png")
        if last or progress.step % settings.checkpoint_every == 0:
            self.folder.save(self.mllm, self.prepared, self.optimizer, progress, self.accelerator)

    def _validate(self, progress: Progress) -> None:
        self.prepared.eval()
        rows = self._taught()
        if not is_sharded(self.accelerator):
            rows += self.validation.replies(self.mllm, self._share, within=self.accelerator.autocast)
        figures = figures_of(gathered(self.accelerator, rows))
        score = score_of(figures)
        self._tell(self.validation_log, "validation", progress.step, figures)
        if self.accelerator.is_main_process:
            told = "  ".join(f"{name} {value:.3f}" for name, value in figures.items() if not math.isnan(value))
            tqdm.write(f"step {progress.step}: {told}", file=sys.stderr)
        if progress.best_score is None or score < progress.best_score:
            progress.best_step, progress.best_score = progress.step, score
            self.folder.save_best(self.mllm, self.prepared, self.accelerator)

    @torch.no_grad()
    def _taught(self) -> list[dict[str, float]]:
        """Loss and token accuracy of this process's held-out examples, a row per batch."""
        rows = []
        # Sharded weights are gathered in step: every process must make as many passes. Otherwise some may have no
        # example: the rest is asked without DDP's wrapper, whose first pass waits for all.
        sharded = is_sharded(self.accelerator)
        share, network = ((0, 1), self.prepared) if sharded else (self._share, self.mllm.network)
        for examples in self.validation.taught(share):
            batch = placed(self.collator(examples), self.accelerator.device)
            with self.accelerator.autocast():
                losses, weights, right = answer_losses(network, batch)
            count, weight = float(len(right)), float(weights.sum())
            row = {"token_accuracy": float(right.sum()) / count, "tokens": count}
            if weight > 0:
                row |= {"loss": float((losses * weights).sum()) / weight, "weight": weight}
            rows.append(row)
        return rows

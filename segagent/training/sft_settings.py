"""Everything a supervised training is set by, beside its data: what `configs/train/` names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segagent.devices import PRECISIONS

# Settings of how a training is done, not of what it makes: a run that goes on may change them. (Of length_group above 1
# a few examples near the seam may come twice, or not at all, where batch_size changes.)
PACE_KEYS = (
    "threads",
    "wandb",
    "train.workers",
    "train.keep",
    "train.checkpoint_every",
    "train.gradient_checkpointing",
    "train.batch_size",
    "validation.batch_size",
)
PARTS = ("vision", "projector", "language")
OPTIMIZERS = ("adamw", "muon")
_AT_LEAST = {
    "global_batch": 1,
    "batch_size": 1,
    "workers": 0,
    "length_group": 1,
    "lora_rank": 0,
    "validate_every": 1,
    "checkpoint_every": 1,
    "keep": 1,
}


@dataclass(frozen=True, kw_only=True)
class SftSettings:
    """epochs or steps: how long; the other one None. global_batch: examples per update, over all processes and passes.
    batch_size: examples per pass and process; the passes of an update follow. workers: processes that load pictures and
    encode, per training process (0: itself). length_group: see `collate.BatchPlan`.

    precision: see `devices.chosen_precision` (autocast; what is trained stays float32); not float16.
    gradient_checkpointing: compute activations of the language model anew in the backward pass: less memory, more time.

    frozen: of `vision`, `projector`, `language`, those that are not trained. lora_rank: above 0 the language model
    learns low-rank updates of its linear layers only; lora_alpha, lora_dropout: as in `peft`. With `mllm.quantization`
    (4bit) this is QLoRA.

    optimizer: `adamw`, or `muon` (see `muon.py`: for the matrices of the decoder's layers and the convolutions of
    nano's tower; AdamW for the rest). lr: peak rate, reached after `warmup` (a share of the steps), then half a cosine
    down to min_lr * lr. vision_lr: the vision part's rate, as a share of it. weight_decay: of matrices; vectors do not
    decay. beta1, beta2: of AdamW. clip_norm: largest gradient norm. validate_every, checkpoint_every: in steps. keep:
    newest checkpoints that stay.
    auxiliary: weight of the loss that pulls visual tokens towards the words of what they show (`visual_words.py`);
    mentions: of the loss that asks them which of what is mentioned they show (`cell_mentions.py`);
    needs: of the loss that asks them what their cell needs (`cell_needs.py`);
    gaze: of the loss that shows an answer where to look (`click_gaze.py`); 0 for none. digit_decay: see
    `collate.Collator`.
    """

    epochs: float | None = None
    steps: int | None = None
    global_batch: int = 16
    batch_size: int = 4
    workers: int = 2
    length_group: int = 16
    precision: str = "auto"
    gradient_checkpointing: bool = False
    frozen: Sequence[str] = ("vision",)
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    optimizer: str = "adamw"
    lr: float = 1e-5
    vision_lr: float = 1.0
    warmup: float = 0.03
    min_lr: float = 0.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 1.0
    validate_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2
    auxiliary: float = 0.0
    mentions: float = 0.0
    needs: float = 0.0
    gaze: float = 0.0
    digit_decay: float = 1.0

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"train.epochs={self.epochs}, train.steps={self.steps}: give one of them, null the other")
        for name in ("epochs", "steps", "lr", "vision_lr", "clip_norm"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"train.{name}={value}: a number above 0")
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"train.{name}={getattr(self, name)}: at least {least}")
        for name in ("warmup", "min_lr"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"train.{name}={getattr(self, name)}: a share in [0, 1]")
        unknown = sorted(set(self.frozen) - set(PARTS))
        if unknown or set(self.frozen) == set(PARTS):
            raise ValueError(f"train.frozen={list(self.frozen)}: some of {', '.join(PARTS)}, not all")
        if self.lora_rank and "language" in self.frozen:
            raise ValueError(
                f"train.lora_rank={self.lora_rank}, train.frozen={list(self.frozen)}: low-rank updates are of the "
                "language model, which is not trained; take language out of train.frozen, or set train.lora_rank=0"
            )
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"train.optimizer={self.optimizer!r}: choose {' or '.join(OPTIMIZERS)}")
        if self.precision not in PRECISIONS[:3]:
            raise ValueError(f"train.precision={self.precision!r}: choose {', '.join(PRECISIONS[:3])}")

    def passes(self, processes: int) -> int:
        """Passes per update and process. Raises `ValueError` when they do not come out even."""
        at_once = self.batch_size * processes
        if self.global_batch % at_once:
            raise ValueError(
                f"train.global_batch={self.global_batch} is no multiple of train.batch_size={self.batch_size} times "
                f"{processes} processes; change one of them"
            )
        return self.global_batch // at_once

    def updates(self, examples: int) -> int:
        """Updates in all. examples: of an epoch."""
        return self.steps if self.steps is not None else max(1, round(self.epochs * examples / self.global_batch))

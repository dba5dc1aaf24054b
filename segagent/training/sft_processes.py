"""The processes of a supervised training: alone, DDP, FSDP2 or DeepSpeed, as `accelerate launch` was told.

In: accelerate's environment. Out: an `Accelerator`. Nothing else of the training knows which engine runs.
"""

from __future__ import annotations

from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, GradientAccumulationPlugin

from segagent.devices import chosen_precision, torch_device
from segagent.training.sft_settings import SftSettings

_PATIENCE = timedelta(days=1)
_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def start_processes(device: str, settings: SftSettings) -> Accelerator:
    """The accelerator of this process. device: see `devices.torch_device`; with several processes each has its own."""
    asked = torch_device(device)
    cpu = asked.type == "cpu"
    # Processes wait for each other at rollouts of unequal length: longer than the minutes that a launcher allows.
    count = PartialState(cpu=cpu, timeout=_PATIENCE).num_processes
    if count == 1 and asked.type == "cuda" and asked.index is not None:
        torch.cuda.set_device(asked)  # accelerate takes the current one
    # With a vision part that is trained, some of its last layers are not on the way to the loss.
    unused = DistributedDataParallelKwargs(find_unused_parameters="vision" not in settings.frozen)
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision={"float32": "no", "bfloat16": "bf16"}[chosen_precision(asked, settings.precision)],
        # As a plugin: a plain number gives way to the launcher's, which with DeepSpeed's files is the word "auto".
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=settings.passes(count)),
        kwargs_handlers=[unused],
    )
    if accelerator.state.deepspeed_plugin is not None:
        engine = accelerator.state.deepspeed_plugin.deepspeed_config
        engine["train_micro_batch_size_per_gpu"] = settings.batch_size  # it would ask a data loader, and gets none
        engine["gradient_clipping"] = settings.clip_norm  # it clips by itself
    return accelerator


def check_sharing(settings: SftSettings, accelerator: Accelerator) -> None:
    """Raises `ValueError` for settings that weights which are shared out do not allow."""
    if not is_sharded(accelerator):
        return
    if settings.auxiliary or settings.mentions or settings.needs or settings.gaze:
        raise ValueError(
            "train.auxiliary, train.mentions, train.needs, train.gaze: ask for weights that no process has whole "
            "under FSDP or DeepSpeed; share out the batches only (configs/accelerate/ddp.yaml), or set them to 0"
        )
    if settings.optimizer == "muon":
        raise ValueError(
            "train.optimizer=muon: needs whole matrices, which no process has under FSDP or DeepSpeed; share out "
            "the batches only (configs/accelerate/ddp.yaml), or set train.optimizer=adamw"
        )


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether no process has all the weights, so that the model cannot be asked for replies."""
    return accelerator.distributed_type in _SHARDED

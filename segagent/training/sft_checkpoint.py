"""The folder of a supervised training: `best/` and every checkpoint are what `mllm=FOLDER` takes.

`checkpoints/step_0000500/` holds `training.pt` besides: progress, optimizer, and the trained weights as they are (the
model beside it may hold them merged). Of a sharded training (FSDP, DeepSpeed) the engine's own files are in `engine/`.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from segagent.mllm.base import MLLM
from segagent.training.run_folder import Progress, TrainingFolder
from segagent.training.sft_network import load_trained_state, save_model, trained_state
from segagent.training.sft_processes import is_sharded

_STATE, _ENGINE = "training.pt", "engine"


class SftFolder(TrainingFolder):
    """See `TrainingFolder`. Every method is called by all processes; the first one writes."""

    def save(
        self,
        mllm: MLLM,
        prepared: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        accelerator: Accelerator,
    ) -> None:
        """Writes a checkpoint beside and moves it into place. prepared, optimizer: as the accelerator gave them."""
        partial = self.path / "checkpoints" / f"step_{progress.step:07d}.partial"
        if accelerator.is_main_process:
            self.partial(progress.step)
        accelerator.wait_for_everyone()
        if is_sharded(accelerator):
            accelerator.save_state(str(partial / _ENGINE))
        state = accelerator.get_state_dict(prepared)
        if accelerator.is_main_process:
            save_model(mllm, partial, state)
            content = {"progress": vars(progress)}
            if not is_sharded(accelerator):
                content |= {"optimizer": optimizer.state_dict(), "trained": trained_state(mllm.network)}
            torch.save(content, partial / _STATE)
            self.finish(progress.step)
        accelerator.wait_for_everyone()

    def save_best(self, mllm: MLLM, prepared: nn.Module, accelerator: Accelerator) -> None:
        state = accelerator.get_state_dict(prepared)
        if accelerator.is_main_process:
            self.replace_best(lambda folder: save_model(mllm, folder, state))
        accelerator.wait_for_everyone()

    def load(self, mllm: MLLM, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> Progress:
        """Fills network and optimizer from the newest checkpoint; without one all stays as it is, at step 0.

        Raises `ValueError` naming the folder when it is of another model or cannot be read.
        """
        found = self.checkpoints()
        if not found:
            return Progress()
        newest = found[-1]
        try:
            content = torch.load(newest / _STATE, map_location="cpu", weights_only=True)
            if is_sharded(accelerator):
                _load_engine(accelerator, newest / _ENGINE)
            else:
                load_trained_state(mllm.network, content["trained"])
                optimizer.load_state_dict(content["optimizer"])
            return Progress(**content["progress"])
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError, ValueError) as error:
            raise ValueError(f"{newest}: cannot be resumed ({_first_line(error)})") from None


def _load_engine(accelerator: Accelerator, folder: Path) -> None:
    """Raises `ValueError` for whatever an engine raises: its own kinds, one of which is no `Exception` at all."""
    try:
        accelerator.load_state(str(folder))
    except (Exception, CheckpointException) as error:
        raise ValueError(
            f"{_first_line(error)}; where the number of processes is another one, go on with as many as before"
        ) from None
    # It counts passes and was saved at an update's end: with other passes an update would end in the middle of one.
    accelerator.step = 0


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line), type(error).__name__)

"""The folder of a segmenter's training run.

`best/` is what `SimpleClick.from_checkpoint` reads. `checkpoints/step_0000500/` is the same plus `training.pt`.
"""

from __future__ import annotations

import pickle

import torch

from segagent.segmenters.simpleclick_checkpoint import load_simpleclick, save_simpleclick
from segagent.segmenters.simpleclick_vit import SimpleClickNet
from segagent.training.run_folder import Progress, TrainingFolder


class RunFolder(TrainingFolder):
    """See `TrainingFolder`."""

    def save(
        self,
        network: SimpleClickNet,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        progress: Progress,
        per_step: int,
    ) -> None:
        """Writes a checkpoint beside and moves it into place; then drops the oldest ones. per_step: samples, over all
        processes."""
        partial = self.partial(progress.step)
        save_simpleclick(network, partial)
        content = {"progress": vars(progress), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
        content["samples_per_step"] = per_step
        torch.save(content, partial / "training.pt")
        self.finish(progress.step)

    def save_best(self, network: SimpleClickNet) -> None:
        """A new `best/`, whole."""
        self.replace_best(lambda folder: save_simpleclick(network, folder))

    def load(
        self,
        network: SimpleClickNet,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        per_step: int,
    ) -> Progress:
        """Fills network, optimizer and scaler from the newest checkpoint; without one all stays as it is, at step 0.

        Raises `ValueError` naming the folder when it does not fit the network, was trained with other samples a step
        (by another number of processes), or cannot be read.
        """
        found = self.checkpoints()
        if not found:
            return Progress()
        newest = found[-1]
        saved = load_simpleclick(newest)
        if saved.config != network.config:
            raise ValueError(
                f"{newest}: is of another network ({saved.config}); resume with the network= it began with"
            )
        try:
            content = torch.load(newest / "training.pt", map_location="cpu", weights_only=True)
            then = content.get("samples_per_step", per_step)
            network.load_state_dict(saved.state_dict())
            optimizer.load_state_dict(content["optimizer"])
            scaler.load_state_dict(content["scaler"])
            progress = Progress(**content["progress"])
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{newest}: cannot be resumed ({reason}); delete it to go on from the one before"
            ) from None
        if then != per_step:
            raise ValueError(
                f"{newest}: had {then} samples a step, over all processes, and would go on with {per_step}; start as "
                "many processes as before"
            )
        return progress

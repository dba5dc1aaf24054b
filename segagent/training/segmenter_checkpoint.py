"""The folder of a training run: checkpoints to go on from, the best weights so far. Whole or not there at any moment.

`best/` is what `SimpleClick.from_checkpoint` reads. `checkpoints/step_0000500/` is the same plus `training.pt`.
"""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from segagent.segmenters.simpleclick_checkpoint import load_simpleclick, save_simpleclick
from segagent.segmenters.simpleclick_vit import SimpleClickNet


@dataclass
class Progress:
    """step: updates done. best_step, best_score: of the best validation so far (less is better), None before it.

    No state of random generators: what is drawn in a step follows from the seed and its number.
    """

    step: int = 0
    best_step: int | None = None
    best_score: float | None = None


class RunFolder:
    """path: the folder. keep: how many of the newest checkpoints stay."""

    def __init__(self, path: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: at least 1 checkpoint, or nothing can be resumed")
        self.path, self.keep = Path(path), keep

    @property
    def best(self) -> Path:
        return self.path / "best"

    def checkpoints(self) -> list[Path]:
        """Finished checkpoints, the oldest first."""
        return sorted((self.path / "checkpoints").glob("step_*[0-9]"))

    def clear(self) -> None:
        """Removes what an earlier run left: checkpoints and best weights, nothing else."""
        for folder in (self.path / "checkpoints", self.best):
            if folder.exists():
                shutil.rmtree(folder)

    def save(
        self,
        network: SimpleClickNet,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        progress: Progress,
    ) -> None:
        """Writes a checkpoint beside and moves it into place; then drops the oldest ones."""
        final = self.path / "checkpoints" / f"step_{progress.step:07d}"
        partial = final.with_name(final.name + ".partial")
        for leftover in (partial, final):
            if leftover.exists():
                shutil.rmtree(leftover)
        save_simpleclick(network, partial)
        content = {"progress": vars(progress), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
        torch.save(content, partial / "training.pt")
        os.replace(partial, final)
        for old in self.checkpoints()[: -self.keep]:
            shutil.rmtree(old)

    def save_best(self, network: SimpleClickNet) -> None:
        """File by file, the weights last: the config never changes within a run, so the pair always fits."""
        partial = self.path / "best.partial"
        save_simpleclick(network, partial)
        self.best.mkdir(exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            os.replace(partial / name, self.best / name)
        partial.rmdir()

    def load(self, network: SimpleClickNet, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> Progress:
        """Fills network, optimizer and scaler from the newest checkpoint; without one all stays as it is, at step 0.

        Raises `ValueError` naming the folder when it does not fit the network or cannot be read.
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
            network.load_state_dict(saved.state_dict())
            optimizer.load_state_dict(content["optimizer"])
            scaler.load_state_dict(content["scaler"])
            return Progress(**content["progress"])
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{newest}: cannot be resumed ({reason}); delete it to go on from the one before"
            ) from None

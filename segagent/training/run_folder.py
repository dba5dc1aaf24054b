"""The folder of a training run: checkpoints to go on from, the best weights so far. Each whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Progress:
    """step: updates done. best_step, best_score: of the best validation so far (less is better), None before it.

    No state of random generators: what is drawn in a step follows from the seed and its number.
    """

    step: int = 0
    best_step: int | None = None
    best_score: float | None = None


class TrainingFolder:
    """`best/`, and `checkpoints/step_0000500/`. path: the folder. keep: how many of the newest checkpoints stay."""

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

    def partial(self, step: int) -> Path:
        """Where the checkpoint of a step is written before `finish` moves it into place; an empty folder."""
        folder = self.path / "checkpoints" / f"step_{step:07d}.partial"
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def finish(self, step: int) -> None:
        """Puts the checkpoint of a step in its place, then drops the oldest ones."""
        final = self.path / "checkpoints" / f"step_{step:07d}"
        if final.exists():
            shutil.rmtree(final)
        os.replace(final.with_name(final.name + ".partial"), final)
        for old in self.checkpoints()[: -self.keep]:
            shutil.rmtree(old)

    def replace_best(self, write: Callable[[Path], None]) -> None:
        """A new `best/`. write: fills a folder. The old one gives way when the new one is whole."""
        partial, old = self.path / "best.partial", self.path / "best.old"
        for leftover in (partial, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir(parents=True)
        write(partial)
        if self.best.exists():
            os.replace(self.best, old)
        os.replace(partial, self.best)
        if old.exists():
            shutil.rmtree(old)

"""The folder of a round: what it holds, under which names. `round_0` is S_0's, and has figures alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path


class RoundFolder:
    """out: folder of all rounds. number: of this one, from 0."""

    def __init__(self, out: Path, number: int) -> None:
        self.number, self.path = number, out / f"round_{number}"
        self.rollouts = self.path / "rollouts.jsonl"  # of S_{n-1}
        self.selected = self.path / "selected.jsonl"  # D_n
        self.selection = self.path / "selection.json"  # counts of it
        self.train = self.path / "train"
        self.model = self.train / "best"  # S_n
        self.evaluation = self.path / "evaluation.jsonl"  # of S_n, held-out samples
        self.figures = self.path / "figures.json"  # the last file: with it the round is done

    @property
    def is_done(self) -> bool:
        return self.figures.is_file()

    def tidy(self) -> None:
        """Drops what only a training under way needs: its checkpoints hold the optimizer, several times the model."""
        if (self.train / "checkpoints").exists():
            shutil.rmtree(self.train / "checkpoints")


def last_done(out: Path) -> int:
    """Number of the last round that is done, 0 for none."""
    number = 0
    while RoundFolder(out, number + 1).is_done:
        number += 1
    return number


def clear_rounds(out: Path) -> None:
    """Removes the rounds of an earlier run, nothing else."""
    for path in out.glob("round_*"):
        if re.fullmatch(r"round_\d+", path.name) and path.is_dir():
            shutil.rmtree(path)

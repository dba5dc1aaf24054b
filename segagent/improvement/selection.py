"""Rollouts of a round -> the trajectories that it learns from, and counts of what became of their clicks."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from segagent.data.trajectories import TrajectoryWriter, read_trajectories
from segagent.entry import write_text
from segagent.improvement.methods import Method
from segagent.training.trajectory_index import RELABELLED
from segagent.types import Trajectory

COUNTS = ("trajectories", "selected", "clicks", "kept", "relabelled", "left_out", "added")


def counts_of(rolled_out: Trajectory, selected: Trajectory | None) -> Counter[str]:
    """By COUNTS: rollouts and those selected; clicks of the rollouts, which are kept as they are, replaced by F_sim's,
    or not learnt from; clicks that F_sim added after the last mask."""
    counts = Counter(trajectories=1, selected=selected is not None, clicks=len(rolled_out.steps))
    if selected is None:
        return counts + Counter(left_out=len(rolled_out.steps))
    for number, step in enumerate(selected.steps):
        if number >= len(rolled_out.steps):
            counts["added"] += 1
        elif not step.kept:
            counts["left_out"] += 1
        else:
            counts["relabelled" if step.action.source == RELABELLED else "kept"] += 1
    return counts


def select(rollouts: Path, method: Method, out: Path, counts_out: Path) -> None:
    """Writes `out` (JSONL) and `counts_out` (JSON, see `counts_of`). `out` is there only when both are whole."""
    partial = out.with_name(out.name + ".partial")
    counts: Counter[str] = Counter()
    with TrajectoryWriter(partial, overwrite=True) as writer:
        for trajectory in tqdm(read_trajectories(rollouts), desc="select", unit="sample", file=sys.stderr):
            selected = method.select(trajectory)
            counts.update(counts_of(trajectory, selected))
            if selected is not None:
                writer.write([selected])
    write_text(counts_out, json.dumps({name: counts[name] for name in COUNTS}, indent=1) + "\n")
    os.replace(partial, out)

"""Rollouts shared out: work -> a trajectory file, in parts that several processes and shards may do, then joined.

What does a part is a `RolloutEngine` (`segagent/engines/`).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from omegaconf import DictConfig, OmegaConf

from segagent.engines.work import RolloutEngine, RolloutWork
from segagent.entry import RUN_KEYS, beside, differing_settings
from segagent.run import parse_shard
from segagent.training.sft_settings import PACE_KEYS as TRAINING_PACE_KEYS

# Settings of how far a run goes, and how its trainings are done: one that goes on may change them.
PACE_KEYS = ("rounds", "collect_only", *TRAINING_PACE_KEYS)


def part_of(out: Path, shard: str) -> Path:
    """`rollouts.jsonl`, `1/4` -> `rollouts.1-of-4.jsonl`."""
    index, count = parse_shard(shard)
    return out.with_name(f"{out.stem}.{index}-of-{count}.jsonl")


def parts_begun(out: Path) -> tuple[int, list[Path]]:
    """(how many parts there are to be, files of those begun); (1, []) when `out` was not shared out.

    Raises `ValueError` when parts of different numbers lie there.
    """
    pattern = re.compile(re.escape(out.stem) + r"\.\d+-of-(\d+)\.jsonl")
    found = {path: match for path in out.parent.glob("*.jsonl") if (match := pattern.fullmatch(path.name))}
    counts = {int(match[1]) for match in found.values()}
    if len(counts) > 1:
        numbers = " and ".join(map(str, sorted(counts)))
        raise ValueError(f"{out.parent}: holds parts of {numbers} shards; keep those of one number")
    return (counts.pop() if counts else 1), sorted(found)


class Processes(Protocol):
    """What is asked of `accelerate`'s processes."""

    num_processes: int
    process_index: int
    is_main_process: bool

    def wait_for_everyone(self) -> None: ...


def roll_out_shared(engine: RolloutEngine, work: RolloutWork, out: Path, processes: Processes) -> None:
    """Fills `out`, by all processes together; goes on with what earlier runs and shards left, and joins it."""
    count, begun = parts_begun(out)
    if not begun:
        count = 1 if out.exists() else processes.num_processes
    if count == 1:
        if processes.is_main_process:
            engine.roll_out(work, out)
    elif not out.exists():  # else it was joined, and not tidied up any more
        for index in range(processes.process_index, count, processes.num_processes):
            shard = f"{index}/{count}"
            engine.roll_out(work, part_of(out, shard), shard)
    processes.wait_for_everyone()
    if processes.is_main_process and count > 1:
        if not out.exists():
            _join([part_of(out, f"{index}/{count}") for index in range(count)], out)
        for part in parts_begun(out)[1]:
            beside(part, ".config.yaml").unlink(missing_ok=True)
            part.unlink()
    processes.wait_for_everyone()


def _join(parts: Sequence[Path], out: Path) -> None:
    partial = out.with_name(out.name + ".partial")
    with open(partial, "wb") as joined:
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, joined)
    os.replace(partial, out)


def check_parts(out: Path, config: DictConfig) -> None:
    """Raises `ValueError` when shards that were begun have other settings than `config`."""
    for part in parts_begun(out)[1]:
        settings = beside(part, ".config.yaml")
        if settings.is_file():
            changed = differing_settings(OmegaConf.load(settings), config, but=(*RUN_KEYS, *PACE_KEYS, "shard"))
            if changed:
                raise ValueError(f"{part}: has other settings: {'; '.join(changed)}")

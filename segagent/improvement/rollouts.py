"""The one place where rollouts are made: work -> a trajectory file, in parts that several processes may do.

What does the work is a `RolloutEngine` (`configs/engine/`): this process, or whatever else fills the same files.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from omegaconf import DictConfig, OmegaConf

from segagent.configuration import build
from segagent.data.subset import Subset
from segagent.entry import RUN_KEYS, beside, differing_settings
from segagent.environment import Environment
from segagent.run import parse_shard, run


@dataclass(frozen=True, eq=False)
class RolloutWork:
    """Which samples, and what is done on them; plain settings, so that another process can build it.

    data, policy, segmenter: configs. samples: indices in the dataset, in this order. rules: arguments of `Environment`
    beside segmenter and seed. title: of the progress bar.
    """

    data: DictConfig
    samples: Sequence[int]
    policy: DictConfig
    segmenter: DictConfig
    rules: DictConfig
    init: str
    batch_size: int
    seed: int
    on_error: str
    title: str


class RolloutEngine(Protocol):
    def roll_out(self, work: RolloutWork, out: Path, shard: str = "0/1") -> None:
        """Appends to `out` (JSONL) what it lacks of a shard (`i/n`, see `run.shard_indices`) of the work.

        The trajectories stand in the order of `work.samples`, and at every moment `out` is a prefix of the finished
        file. Samples that cannot be loaded stop it, or are left out and reported with `work.on_error=skip`.
        """


class InProcess:
    """`RolloutEngine` in this process and on its device."""

    def roll_out(self, work: RolloutWork, out: Path, shard: str = "0/1") -> None:
        policy, segmenter = build(work.policy), build(work.segmenter)
        run(
            Subset(build(work.data), work.samples),
            policy=policy,
            environment=Environment(segmenter=segmenter, seed=work.seed, **work.rules),
            out=out,
            init=work.init,
            batch_size=work.batch_size,
            shard=shard,
            resume=True,
            on_error=work.on_error,
            title=work.title,
        )


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
            changed = differing_settings(OmegaConf.load(settings), config, but=(*RUN_KEYS, "shard", "rounds"))
            if changed:
                raise ValueError(f"{part}: has other settings: {'; '.join(changed)}")

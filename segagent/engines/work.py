"""What is to be rolled out, and the contract of whoever does it: work -> a trajectory file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from omegaconf import DictConfig

from segagent.configuration import build
from segagent.data.base import Dataset
from segagent.data.subset import Subset
from segagent.environment import Environment
from segagent.policies.base import Policy
from segagent.policies.search import TreeSearch
from segagent.run import RunSummary, refuse_launcher
from segagent.segmenters.base import ClickSegmenter
from segagent.types import InitKind


@dataclass(frozen=True, eq=False)
class RolloutWork:
    """Which samples, and what is done on them; plain settings, so that another process can build it.

    data, policy, segmenter: configs. rules: arguments of `Environment` beside segmenter and seed. title: of the
    progress bar. samples: indices in the dataset, in this order; None: all. Others: see `run.run`.
    """

    data: DictConfig
    policy: DictConfig
    segmenter: DictConfig
    rules: DictConfig
    init: str
    batch_size: int
    seed: int
    on_error: str
    title: str
    samples: Sequence[int] | None = None
    record_seconds: bool = False

    def __post_init__(self) -> None:
        InitKind(self.init)  # a wrong one is told before data and weights are loaded

    @cached_property
    def dataset(self) -> Dataset:
        """Opened once in each process."""
        whole = build(self.data)
        return whole if self.samples is None else Subset(whole, self.samples)

    def build(self, segmenter: ClickSegmenter | None = None) -> tuple[Policy | TreeSearch, Environment]:
        """Policy and environment, built anew. segmenter: instead of the one that the settings say."""
        policy = build(self.policy)
        segmenter = build(self.segmenter) if segmenter is None else segmenter
        return policy, Environment(segmenter=segmenter, seed=self.seed, **self.rules)


class RolloutEngine(Protocol):
    def roll_out(self, work: RolloutWork, out: Path, shard: str = "0/1", resume: bool = True) -> RunSummary:
        """Appends to `out` (JSONL) what it lacks of a shard (`i/n`, see `run.shard_indices`) of the work.

        Without `resume` it must be new, or empty.
        The trajectories stand in the order of the samples, and at every moment `out` is a prefix of the finished file.
        A sample that cannot be loaded or begun, or is refused by the policy, stops it (`ValueError`) once those before
        it are written, or is left out and reported with `work.on_error=skip`. Raises `ValueError` for unsound input,
        `OSError` when `out` cannot be written.
        """


def work_of(config: DictConfig, rules: DictConfig, title: str) -> RolloutWork:
    """The work that an entry's settings describe; rules, title: see `RolloutWork`."""
    shared = ("data", "policy", "segmenter", "init", "batch_size", "seed", "on_error", "record_seconds")
    return RolloutWork(**{name: config[name] for name in shared}, rules=rules, title=title)


def run_config(config: DictConfig, rules: DictConfig, out: str | Path, title: str) -> tuple[Dataset, RunSummary]:
    """Rolls out into the JSONL file `out` as an entry's settings say; returns the dataset too.

    config: has data, policy, segmenter, engine, init, batch_size, shard, seed, resume, on_error, record_seconds.
    Without `resume` it must be new, or empty. rules: see `RolloutWork`. Raises what engine and constructors raise.
    """
    work = work_of(config, rules, title)
    summary = roll_out(config, work, Path(out))
    return work.dataset, summary


def roll_out(config: DictConfig, work: RolloutWork, out: Path) -> RunSummary:
    """`work` by the engine that the settings name; config: has engine, shard, resume. Raises as `run_config`."""
    refuse_launcher()
    return build(config.engine).roll_out(work, out, config.shard, config.resume)

"""A rollout over a whole dataset into a trajectory file: shards, resume, progress, broken samples.

In: a dataset and what `rollout` takes. Out: a JSONL file that is a prefix of the finished one at every moment, so that
a killed run resumes without losing or repeating a sample, and shards joined in order are the whole run byte for byte.
(A sample that was skipped and can be loaded when the run is gone on with comes after those that were done before.)
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from segagent.data.base import Dataset
from segagent.data.trajectories import TrajectoryWriter
from segagent.environment import Environment, Init
from segagent.policies.base import Policy
from segagent.policies.search import TreeSearch
from segagent.rollout import rollout
from segagent.types import Sample


def parse_shard(shard: str) -> tuple[int, int]:
    """`i/n` -> (i, n), counted from 0. Raises `ValueError` when it is not that."""
    match = re.fullmatch(r"(\d+)/(\d+)", str(shard))
    index, count = (int(part) for part in match.groups()) if match else (0, 0)
    if not 0 <= index < count:
        raise ValueError(f"shard={shard!r}: write i/n with 0 <= i < n, e.g. 0/4 for the first of four")
    return index, count


def shard_indices(total: int, shard: str) -> range:
    """The contiguous block of sample indices that a shard does; the blocks in order are the whole."""
    index, count = parse_shard(shard)
    return range(total * index // count, total * (index + 1) // count)


@dataclass
class RunSummary:
    """What a run did.

    skipped: why samples could not be loaded or begun, or were refused (with `on_error=skip`). seconds: wall time.
    statistics: what segmenter (`ClickSegmenter`) and search (`TreeSearch`) counted, if they count.
    """

    written: int = 0
    resumed: int = 0
    seconds: float = 0.0
    skipped: list[str] = field(default_factory=list)
    statistics: dict[str, int] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether all was done in one go; else time and counts are those of the last one only."""
        return not self.resumed

    def skip(self, reason: str) -> None:
        self.skipped.append(reason)
        tqdm.write(f"skipped: {reason}", file=sys.stderr)


def load(dataset: Dataset, indices: Sequence[int], on_error: str, summary: RunSummary) -> Iterator[Sample]:
    """Samples; those that cannot be loaded stop it (`ValueError`), or are told of in `summary` with `on_error=skip`."""
    for index in indices:
        try:
            sample = dataset[index]
        except ValueError as error:
            if on_error != "skip":
                raise
            summary.skip(str(error))
            continue
        yield sample


def check_settings(shard: str, on_error: str) -> None:
    """Raises `ValueError` for what `run` does not take, before a file is opened."""
    parse_shard(shard)
    if on_error not in ("stop", "skip"):
        raise ValueError(f"on_error={on_error!r}: choose stop or skip")


def left_to_do(dataset: Dataset, shard: str, writer: TrajectoryWriter, summary: RunSummary) -> list[int]:
    """Indices of a shard's samples that the file lacks, ascending; how many it has is noted in `summary`.

    Raises `ValueError` when it holds others.
    """
    if writer.repaired:
        print(writer.repaired, file=sys.stderr)
    indices = shard_indices(len(dataset), shard)
    left = [index for index in indices if dataset.sample_id(index) not in writer.done]
    summary.resumed = len(indices) - len(left)
    if len(writer.done) != summary.resumed:
        strangers = len(writer.done) - summary.resumed
        raise ValueError(
            f"{writer.path}: holds {strangers} samples that this run does not have; resume with the same data"
        )
    return left


def counted(policy: Policy | TreeSearch, environment: Environment) -> dict[str, int]:
    """What segmenter and policy have counted so far, if they count."""
    members = [member for member in (environment.segmenter, policy) if hasattr(member, "statistics")]
    return {name: count for member in members for name, count in member.statistics().items()}


def run(
    dataset: Dataset,
    *,
    policy: Policy | TreeSearch,
    environment: Environment,
    out: str | Path,
    init: Init = "empty",
    batch_size: int = 1,
    shard: str = "0/1",
    resume: bool = False,
    on_error: str = "stop",
    record_seconds: bool = False,
    title: str = "rollout",
) -> RunSummary:
    """Rolls out `dataset` (or one shard of it) into the JSONL file `out`.

    on_error: `stop` at a sample that cannot be loaded or begun, or that the policy refuses (what was done stays in the
    file), or `skip` it and report it.
    Raises `ValueError` for unsound input and `OSError` when `out` cannot be written, or holds lines without `resume`.
    """
    check_settings(shard, on_error)
    summary, began = RunSummary(), time.perf_counter()
    with TrajectoryWriter(out, resume=resume) as writer:
        left = left_to_do(dataset, shard, writer, summary)
        batches = rollout(
            load(dataset, left, on_error, summary),
            policy=policy,
            environment=environment,
            init=init,
            batch_size=batch_size,
            record_seconds=record_seconds,
            on_unsound=summary.skip if on_error == "skip" else None,
        )
        with progress_bar(len(left), summary, title) as progress:
            for trajectories in batches:
                writer.write(trajectories)
                summary.written += len(trajectories)
                progress.update(len(trajectories))
    summary.seconds = time.perf_counter() - began
    summary.statistics = counted(policy, environment)
    return summary


def progress_bar(left: int, summary: RunSummary, title: str) -> tqdm:
    return tqdm(total=left + summary.resumed, initial=summary.resumed, desc=title, unit="sample")


def who(config: DictConfig) -> str:
    """Who works in a run, from its settings: the classes of its policy and its segmenter, `Oracle with GraphCut`."""
    targets = (config.policy._target_, config.segmenter._target_)
    return " with ".join(next(part for part in target.split(".") if part[0].isupper()) for target in targets)


def refuse_launcher() -> None:
    """Raises `ValueError` in one of several processes of a launcher: each would do the whole, into one file."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes not in ("", "1"):
        raise ValueError(
            f"started {processes} times by a launcher (WORLD_SIZE={processes}), and every process would do the whole; "
            "give each its part with shard=i/n and join them with scripts/join.py, as run_eval.sh does"
        )

"""Rollouts by workers on the nodes of a Ray cluster. The only module that imports Ray, and only when it is used.

Samples go out in blocks of indices, to whichever worker is free; each worker opens the data itself, so that input of
any size streams. The trajectories come back as lines, and this process alone writes them, in order: the file is the one
that a run without Ray makes, and a prefix of it at every moment. A block whose worker or node is lost is done again by
another; only what has come back whole is written, so that nothing is there twice.
"""

from __future__ import annotations

import heapq
import os
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

from segagent.data.trajectories import TrajectoryWriter, to_lines
from segagent.engines.work import RolloutWork
from segagent.rollout import rollout
from segagent.run import RunSummary, check_settings, counted, left_to_do, load, progress_bar

_ANSWER = 20.0  # seconds that a cluster has to answer
_LOOK = 5.0  # seconds between two looks at what the cluster has room for
_TELL = 60.0  # seconds of waiting for a first worker between two words about it


@dataclass
class Block:
    """What became of a block. lines: as in the file. count: of them. failure: why it ended early."""

    lines: bytes = b""
    count: int = 0
    summary: RunSummary = field(default_factory=RunSummary)
    failure: str | None = None


class Worker:
    """One policy and one segmenter, in a process of their own (a Ray actor). folder: relative paths begin here."""

    def __init__(self, work: RolloutWork, folder: str) -> None:
        self.work, self.folder = work, folder

    def begin(self) -> None:
        """Opens the data and loads the weights."""
        os.chdir(self.folder)
        self.dataset = self.work.dataset
        self.policy, self.environment = self.work.build()

    def do(self, samples: Sequence[int]) -> Block:
        """samples: indices in the dataset."""
        block, work, before = Block(), self.work, counted(self.policy, self.environment)
        try:
            for trajectories in rollout(
                load(self.dataset, samples, work.on_error, block.summary),
                policy=self.policy,
                environment=self.environment,
                init=work.init,
                batch_size=work.batch_size,
                record_seconds=work.record_seconds,
                on_unsound=block.summary.skip if work.on_error == "skip" else None,
            ):
                block.lines += to_lines(trajectories)
                block.count += len(trajectories)
        except (ValueError, OSError) as error:
            block.failure = str(error)
        after = counted(self.policy, self.environment)
        block.summary.statistics = {name: count - before.get(name, 0) for name, count in after.items()}
        return block


class OnRay:
    """`RolloutEngine` on a Ray cluster whose nodes see the same files under the same paths.

    address: of the cluster (`HOST:PORT`, `auto`); None: one that is made of this machine and ends with the run.
    workers: how many; None: as many as there is room for, which is looked at again while nodes come and go.
    cpus_per_worker, gpus_per_worker: what Ray reserves for each; a part of a GPU is shared; None: one GPU where the
    cluster has any. block: samples handed out at once. ahead: blocks per worker that may be done before an earlier one
    is; they wait in memory. attempts: how often a block is tried whose worker is lost. Raises `ValueError`.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        cpus_per_worker: float = 1,
        gpus_per_worker: float | None = None,
        block: int = 64,
        ahead: int = 4,
        attempts: int = 5,
    ) -> None:
        least = {"workers": workers, "block": block, "ahead": ahead, "attempts": attempts}
        for name, value in least.items():
            if value is not None and value < 1:
                raise ValueError(f"engine.{name}={value}: at least 1")
        if cpus_per_worker <= 0:
            raise ValueError(f"engine.cpus_per_worker={cpus_per_worker}: more than 0")
        if gpus_per_worker is not None and gpus_per_worker < 0:
            raise ValueError(f"engine.gpus_per_worker={gpus_per_worker}: 0 for none, 0.5 for half of one, ...")
        self.address, self.workers, self.block, self.ahead, self.attempts = address, workers, block, ahead, attempts
        self.cpus_per_worker, self.gpus_per_worker = cpus_per_worker, gpus_per_worker

    def roll_out(self, work: RolloutWork, out: Path, shard: str = "0/1", resume: bool = True) -> RunSummary:
        """See `RolloutEngine`; raises `OSError` when there is no cluster, or a block lost its worker too often."""
        check_settings(shard, work.on_error)
        summary, began, dataset = RunSummary(), time.perf_counter(), work.dataset
        with ExitStack() as ends:
            # Lines that were set aside go when the file is begun: not before there is somebody who can make new ones.
            crew = None if resume else self._crew(work, ends)
            writer = ends.enter_context(TrajectoryWriter(out, resume=resume))
            left = left_to_do(dataset, shard, writer, summary)
            if left:
                self._drive(crew or self._crew(work, ends), left, writer, summary, work.title)
        summary.seconds = time.perf_counter() - began
        return summary

    def _crew(self, work: RolloutWork, ends: ExitStack) -> _Crew:
        ray, ours = self._connect()
        if ours:
            ends.callback(ray.shutdown)
        crew = _Crew(ray, self, work)
        ends.callback(crew.dismiss)
        return crew

    def _connect(self) -> tuple[ModuleType, bool]:
        """Ray, and whether the connection was made here; one that there is already is used as it is."""
        try:
            import ray
        except ImportError:
            raise ValueError(
                "engine=ray: Ray is not installed; pip install -e '.[ray]' in a clone on every node"
            ) from None
        if ray.is_initialized():
            return ray, False
        local = {"include_dashboard": False} if self.address is None else {}
        try:
            if host := re.fullmatch(r"([^:/]+):(\d+)", self.address or ""):  # Ray itself would try for minutes
                socket.create_connection((host[1], int(host[2])), timeout=_ANSWER).close()
            ray.init(address=self.address or "local", log_to_driver=False, **local)
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConnectionError(f"engine.address={self.address}: no Ray cluster answers ({reason})") from None
        return ray, True

    def _drive(
        self, crew: _Crew, left: Sequence[int], writer: TrajectoryWriter, summary: RunSummary, title: str
    ) -> None:
        """Hands out the blocks of `left` and writes what comes back, in order."""
        total = -(-len(left) // self.block)
        again: list[int] = []  # a heap of blocks that were lost
        waiting: dict[int, Block] = {}  # done before an earlier one
        fresh = written = 0
        with progress_bar(len(left), summary, title) as progress:
            while written < total:
                crew.fill_up()
                while crew.idle and (again or fresh < min(total, written + self.ahead * len(crew))):
                    number = heapq.heappop(again) if again else fresh
                    fresh = max(fresh, number + 1)
                    crew.give(number, left[number * self.block : (number + 1) * self.block])
                done, lost = crew.wait()
                for number in lost:
                    heapq.heappush(again, number)
                waiting |= done
                while (block := waiting.pop(written, None)) is not None:
                    writer.write_lines(block.lines)
                    written += 1
                    progress.update(block.count)
                    self._add(summary, block)
                    if block.failure is not None:
                        raise ValueError(block.failure)

    def _add(self, summary: RunSummary, block: Block) -> None:
        summary.written += block.count
        for reason in block.summary.skipped:
            summary.skip(reason)
        counts = Counter(summary.statistics)
        counts.update(block.summary.statistics)
        summary.statistics = dict(counts)


class _Crew:
    """The workers: those on their way, those that are idle and those at work."""

    def __init__(self, ray: ModuleType, engine: OnRay, work: RolloutWork) -> None:
        self.ray, self.engine = ray, engine
        self.work = ray.put(replace(work))  # without the dataset that this process has opened
        self.coming: dict[Any, Any] = {}  # what they are waited for by -> workers
        self.idle: list[Any] = []
        self.at_work: dict[Any, tuple[int, Any]] = {}
        self.losses: Counter[int | None] = Counter()  # by block; None: on their way
        self._needs = {"CPU": engine.cpus_per_worker, "GPU": engine.gpus_per_worker}
        if engine.gpus_per_worker is None:
            self._needs["GPU"] = 1 if any(node.get("GPU") for node in self._nodes()) else 0
        self._looked = self._heard = -float("inf")
        if engine.workers is None and not self._room():
            raise ValueError(
                f"engine: no node has room for a worker of {self._needs['CPU']} CPUs and {self._needs['GPU']} GPUs; "
                "choose engine.cpus_per_worker and engine.gpus_per_worker, or engine.workers to wait for nodes"
            )

    def __len__(self) -> int:
        return len(self.idle) + len(self.at_work) + len(self.coming)

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """Workers that the nodes which are there can hold."""
        needs = {name: need for name, need in self._needs.items() if need}
        # The small number: ten workers of 0.1 GPU fit on one, whatever 1 / 0.1 is in binary.
        return sum(min(int(node.get(name, 0) / need + 1e-6) for name, need in needs.items()) for node in self._nodes())

    def fill_up(self) -> None:
        """Starts the workers that are missing; those there is no room for yet begin when there is."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        wanted = self.engine.workers or self._room()
        kind = self.ray.remote(Worker).options(
            num_cpus=self._needs["CPU"], num_gpus=self._needs["GPU"], max_restarts=0, max_task_retries=0
        )
        for _ in range(len(self), wanted):
            worker = kind.remote(self.work, os.getcwd())
            self.coming[worker.begin.remote()] = worker

    def give(self, number: int, samples: Sequence[int]) -> None:
        """A block to an idle worker."""
        worker = self.idle.pop()
        self.at_work[worker.do.remote(samples)] = number, worker

    def wait(self) -> tuple[dict[int, Block], list[int]]:
        """Blocks that are done and numbers of those that are lost, once there are some or it is time to look again.

        Raises the `ValueError` or `OSError` of a worker that could not begin.
        """
        ready, done, lost = [], {}, []
        if at_hand := [*self.at_work, *self.coming]:
            self.ray.wait(at_hand, timeout=_LOOK)  # for one; then all that are there, so that none is passed over
            ready, _ = self.ray.wait(at_hand, num_returns=len(at_hand), timeout=0)
        else:
            time.sleep(_LOOK)
        for ref in ready:
            number, worker = self.at_work.pop(ref) if ref in self.at_work else (None, self.coming.pop(ref))
            try:
                block = self.ray.get(ref)
            except self.ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, ValueError | OSError):
                    raise error.cause from None
                raise
            except self.ray.exceptions.RayError as error:
                self._lose(number, worker, error)
                lost += [] if number is None else [number]
                continue
            self.idle.append(worker)
            self.losses[None] = 0
            if number is not None:
                done[number] = block
        self._tell(bool(ready))
        return done, lost

    def _lose(self, number: int | None, worker: Any, error: Exception) -> None:
        """Notes a loss. Raises `OSError` when it was one too many."""
        self.ray.kill(worker)  # it may live on, and only be out of reach
        self._looked = -float("inf")
        self.losses[number] += 1
        where = "on its way" if number is None else f"at block {number}"
        again = "" if number is None else "; the block is done again"
        tqdm.write(f"lost a worker {where} ({type(error).__name__}){again}", file=sys.stderr)
        most = self.engine.attempts * (1 if number is not None else len(self) + 1)
        if self.losses[number] >= most:
            raise OSError(
                f"engine=ray: lost {self.losses[number]} workers {where} (engine.attempts), the last one so: "
                f"{str(error).splitlines()[0]}; what is written is whole: go on with resume=true"
            )

    def _tell(self, heard: bool) -> None:
        """Says now and then that nobody works, so that a run that waits for nodes does not look like one that hangs."""
        now = time.monotonic()
        if heard or self.at_work or self._heard == -float("inf"):
            self._heard = now
        elif now - self._heard > _TELL:
            self._heard = now
            tqdm.write(f"waiting for {len(self.coming)} workers, of {self._needs} each, to begin", file=sys.stderr)

    def dismiss(self) -> None:
        for worker in [*self.coming.values(), *self.idle, *(worker for _, worker in self.at_work.values())]:
            self.ray.kill(worker)

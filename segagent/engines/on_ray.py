"""Rollouts by workers on the nodes of a Ray cluster. Ray is imported only when it is used.

Samples go out in blocks of indices, to whichever worker is free; each worker opens the data itself, so that input of
any size streams. The trajectories come back as lines, and this process alone writes them, in order: the file is the one
that a run without Ray makes, and a prefix of it at every moment. A block whose worker or node is lost is done again by
another; only what has come back whole is written, so that nothing is there twice. With `engine.segmenters` the
segmenters have actors of their own, fewer or more than the workers, which then hold the policy alone.
"""

from __future__ import annotations

import heapq
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

from segagent.data.trajectories import TrajectoryWriter
from segagent.engines.ray_crew import Crew
from segagent.engines.ray_worker import Block
from segagent.engines.work import RolloutWork
from segagent.run import RunSummary, check_settings, left_to_do, progress_bar

_ANSWER = 20.0  # seconds that a cluster has to answer


class OnRay:
    """`RolloutEngine` on a Ray cluster whose nodes see the same files under the same paths.

    address: of the cluster (`HOST:PORT`, `auto`); None: one that is made of this machine and ends with the run.
    workers: how many; None: as many as there is room for, which is looked at again while nodes come and go.
    cpus_per_worker, gpus_per_worker: what Ray reserves for each; a part of a GPU is shared; None: one GPU where the
    cluster has any. segmenters: actors that hold a segmenter each, shared out among the workers; None: each worker
    holds its own. cpus_per_segmenter, gpus_per_segmenter: as of workers. block: samples handed out at once. ahead:
    blocks per worker that may be done before an earlier one is; they wait in memory. attempts: how often a block is
    tried that loses its worker or segmenter. Raises `ValueError`.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        cpus_per_worker: float = 1,
        gpus_per_worker: float | None = None,
        segmenters: int | None = None,
        cpus_per_segmenter: float = 1,
        gpus_per_segmenter: float | None = None,
        block: int = 64,
        ahead: int = 4,
        attempts: int = 5,
    ) -> None:
        least = {"workers": workers, "segmenters": segmenters, "block": block, "ahead": ahead, "attempts": attempts}
        for name, value in least.items():
            if value is not None and value < 1:
                raise ValueError(f"engine.{name}={value}: at least 1")
        for name, cpus in {"cpus_per_worker": cpus_per_worker, "cpus_per_segmenter": cpus_per_segmenter}.items():
            if cpus <= 0:
                raise ValueError(f"engine.{name}={cpus}: more than 0")
        for name, gpus in {"gpus_per_worker": gpus_per_worker, "gpus_per_segmenter": gpus_per_segmenter}.items():
            if gpus is not None and gpus < 0:
                raise ValueError(f"engine.{name}={gpus}: 0 for none, 0.5 for half of one, ...")
        self.address, self.block, self.ahead, self.attempts = address, block, ahead, attempts
        self.workers, self.needs = workers, (cpus_per_worker, gpus_per_worker)
        self.segmenters, self.needs_of_host = segmenters, (cpus_per_segmenter, gpus_per_segmenter)

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
                crew = self._crew(work, ends) if crew is None else crew
                self._drive(crew, left, writer, summary, work.title)
        summary.seconds = time.perf_counter() - began
        return summary

    def _crew(self, work: RolloutWork, ends: ExitStack) -> Crew:
        ray, ours = self._connect()
        if ours:
            ends.callback(ray.shutdown)
        crew = Crew(
            ray,
            work,
            workers=self.workers,
            segmenters=self.segmenters,
            attempts=self.attempts,
            needs=self.needs,
            needs_of_host=self.needs_of_host,
        )
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
            # Where there is a token, `ray start` asks for it unbidden; who connects must be bidden to send it.
            token = "" if "RAY_AUTH_MODE" in os.environ else "; one with a token needs RAY_AUTH_MODE=token here too"
            raise ConnectionError(f"engine.address={self.address}: no Ray cluster answers ({reason}){token}") from None
        return ray, True

    def _drive(
        self, crew: Crew, left: Sequence[int], writer: TrajectoryWriter, summary: RunSummary, title: str
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

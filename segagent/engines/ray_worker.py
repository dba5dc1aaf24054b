"""What runs on the nodes of a Ray cluster: a worker, which rolls out blocks of samples and returns their lines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from segagent.data.trajectories import to_lines
from segagent.engines.segmenter_host import RemoteSegmenter, SegmenterLostError
from segagent.engines.work import RolloutWork
from segagent.rollout import rollout
from segagent.run import RunSummary, counted, load

_AGAIN = 0.5  # seconds between two calls of a segmenter that is not there yet


@dataclass
class Block:
    """What became of a block.

    lines: as in the file. count: of them. failure: why it ended early. lost: why it has to be done again.
    """

    lines: bytes = b""
    count: int = 0
    summary: RunSummary = field(default_factory=RunSummary)
    failure: str | None = None
    lost: str | None = None


def _asking(host: Any) -> Callable[..., Any]:
    """How a `RemoteSegmenter` reaches the `SegmenterHost` behind the handle of a Ray actor."""
    import ray

    def ask(name: str, *given: Any) -> Any:
        while True:
            try:
                return ray.get(getattr(host, name).remote(*given))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                # Ray begins a lost actor anew by itself; `begin`, which needs nothing of its past, waits for that.
                if name != "begin" or isinstance(error, ray.exceptions.ActorDiedError):
                    raise SegmenterLostError(str(error).splitlines()[0]) from None
                time.sleep(_AGAIN)

    return ask


class Worker:
    """One policy, and one segmenter or the way to one, in a process of their own (a Ray actor).

    folder: relative paths begin here. host: the actor that holds the segmenter; None: it is held here. name: by which
    the host knows this worker.
    """

    def __init__(self, work: RolloutWork, folder: str, host: Any, name: str) -> None:
        self.work, self.folder, self.host, self.name = work, folder, host, name

    def begin(self) -> None:
        """Opens the data and loads the weights."""
        os.chdir(self.folder)
        self.dataset = self.work.dataset
        remote = None if self.host is None else RemoteSegmenter(_asking(self.host), self.name)
        self.policy, self.environment = self.work.build(remote)

    def do(self, samples: Sequence[int]) -> Block:
        """samples: indices in the dataset."""
        block, work, before = Block(), self.work, counted(self.policy, self.environment)
        try:
            if self.host is not None:
                self.environment.segmenter.begin()
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
        except SegmenterLostError as error:
            return Block(lost=str(error))
        except (ValueError, OSError) as error:
            block.failure = str(error)
        after = counted(self.policy, self.environment)
        block.summary.statistics = {name: count - before.get(name, 0) for name, count in after.items()}
        return block

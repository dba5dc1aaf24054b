"""The workers of a Ray cluster and the hosts of segmenters: begun, given blocks, waited for, replaced."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from tqdm import tqdm

from segagent.engines.ray_worker import Block, Worker
from segagent.engines.segmenter_host import SegmenterHost
from segagent.engines.work import RolloutWork

_LOOK = 5.0  # seconds between two looks at what the cluster has room for
_TELL = 60.0  # seconds of waiting for a first worker between two words about it


@dataclass(eq=False, slots=True)
class _Member:
    """A worker. actor: its handle. name, host: see `Worker`."""

    actor: Any
    name: str
    host: Any


class Crew:
    """The workers: those on their way, those that are idle and those at work; and the hosts of segmenters, if any.

    workers, segmenters, attempts: see `OnRay`. needs, needs_of_host: (CPUs, GPUs) of each worker and each host; GPUs
    may be None. Raises `ValueError` when there is room for none and it is not said how many to wait for.
    """

    def __init__(
        self,
        ray: ModuleType,
        work: RolloutWork,
        *,
        workers: int | None,
        segmenters: int | None,
        attempts: int,
        needs: tuple[float, float | None],
        needs_of_host: tuple[float, float | None],
    ) -> None:
        self.ray, self.workers, self.segmenters, self.attempts = ray, workers, segmenters or 0, attempts
        self.work = ray.put(replace(work))  # without the dataset that this process has opened
        self.coming: dict[Any, _Member] = {}  # what they are waited for by -> workers
        self.idle: list[_Member] = []
        self.at_work: dict[Any, tuple[int, _Member]] = {}
        self.losses: Counter[int | None] = Counter()  # by block; None: on their way
        self.begun = 0  # workers, ever
        self._needs, self._needs_of_host = self._resources(*needs), self._resources(*needs_of_host)
        self._looked = self._heard = -float("inf")
        if workers is None and not self._room():
            beside = f" beside {segmenters} segmenters of {_said(self._needs_of_host)}" if segmenters else ""
            raise ValueError(
                f"engine: no node has room for a worker of {_said(self._needs)}{beside}; choose "
                "engine.cpus_per_worker and engine.gpus_per_worker (of segmenters: cpus_per_segmenter, "
                "gpus_per_segmenter), or engine.workers to wait for nodes"
            )
        # Begun anew by Ray, elsewhere if need be, as often as they are lost.
        host = self._kind(SegmenterHost, self._needs_of_host, max_restarts=-1)
        self.hosts = [host.remote(work.segmenter, os.getcwd()) for _ in range(self.segmenters)]

    def _members(self) -> list[_Member]:
        return [*self.coming.values(), *self.idle, *(member for _, member in self.at_work.values())]

    def __len__(self) -> int:
        return len(self.idle) + len(self.at_work) + len(self.coming)

    def _resources(self, cpus: float, gpus: float | None) -> dict[str, float]:
        if gpus is None:
            gpus = 1 if any(node.get("GPU") for node in self._nodes()) else 0
        return {"CPU": cpus, "GPU": gpus}

    def _kind(self, held: type, needs: dict[str, float], max_restarts: int) -> Any:
        return self.ray.remote(held).options(
            num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_restarts=max_restarts, max_task_retries=0
        )

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """Workers that the nodes which are there can hold beside all hosts."""
        room, hosts = 0, self.segmenters
        for node in self._nodes():
            here = min(hosts, _fit(node, self._needs_of_host))
            room += _fit({k: v - here * self._needs_of_host.get(k, 0) for k, v in node.items()}, self._needs)
            hosts -= here
        return 0 if hosts else room

    def fill_up(self) -> None:
        """Starts the workers that are missing; those there is no room for yet begin when there is."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        wanted = self.workers or self._room()
        kind = self._kind(Worker, self._needs, max_restarts=0)
        for _ in range(len(self), wanted):
            served = Counter(member.host for member in self._members())
            host = min(self.hosts, key=served.__getitem__, default=None)
            name = f"worker {self.begun}"
            member = _Member(kind.remote(self.work, os.getcwd(), host, name), name, host)
            self.coming[member.actor.begin.remote()] = member
            self.begun += 1

    def give(self, number: int, samples: Sequence[int]) -> None:
        """A block to an idle worker."""
        member = self.idle.pop()
        self.at_work[member.actor.do.remote(samples)] = number, member

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
            number, member = self.at_work.pop(ref) if ref in self.at_work else (None, self.coming.pop(ref))
            try:
                block = self.ray.get(ref)
            except self.ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, ValueError | OSError):
                    raise error.cause from None
                raise
            except self.ray.exceptions.RayError as error:
                self._lose(number, member, error)
                lost += [] if number is None else [number]
                continue
            self.idle.append(member)
            self.losses[None] = 0
            if number is None:
                continue
            if block.lost is None:
                done[number] = block
            else:
                self._note(number, "a segmenter", block.lost)
                lost.append(number)
        self._tell(bool(ready))
        return done, lost

    def _lose(self, number: int | None, member: _Member, error: Exception) -> None:
        """A worker is gone. Raises `OSError` when it was one too many."""
        self.ray.kill(member.actor)  # it may live on, and only be out of reach
        if member.host is not None:
            member.host.forget.remote(member.name)
        self._looked = -float("inf")
        self._note(number, "a worker", f"{type(error).__name__}: {error}")

    def _note(self, number: int | None, who: str, why: str) -> None:
        """Notes a loss. Raises `OSError` when it was one too many."""
        self.losses[number] += 1
        where = "on its way" if number is None else f"at block {number}"
        again = "" if number is None else "; the block is done again"
        why = why.splitlines()[0]
        tqdm.write(f"lost {who} {where} ({why}){again}", file=sys.stderr)
        most = self.attempts * (1 if number is not None else len(self) + 1)
        if self.losses[number] >= most:
            raise OSError(
                f"engine=ray: lost {who} {self.losses[number]} times {where} (engine.attempts), last so: {why}; "
                "what is written is whole: go on with resume=true"
            )

    def _tell(self, heard: bool) -> None:
        """Says now and then what is waited for: a run that waits for nodes must not look like one that hangs."""
        now = time.monotonic()
        if heard or (self.at_work and not self.hosts) or self._heard == -float("inf"):
            self._heard = now
        elif now - self._heard > _TELL:
            self._heard = now
            told = f"waiting for {len(self.coming)} workers, of {_said(self._needs)} each, to begin"
            if self.at_work:
                told = (
                    f"{len(self.at_work)} blocks at work; a segmenter, if lost, needs {_said(self._needs_of_host)} free"
                )
            tqdm.write(told, file=sys.stderr)

    def dismiss(self) -> None:
        for actor in [*(member.actor for member in self._members()), *self.hosts]:
            self.ray.kill(actor)


def _fit(node: dict[str, float], needs: dict[str, float]) -> int:
    """How many of such needs a node's resources meet."""
    # The small number: ten workers of 0.1 GPU fit on one, whatever 1 / 0.1 is in binary.
    return min(int(node.get(name, 0) / need + 1e-6) for name, need in needs.items() if need)


def _said(needs: dict[str, float]) -> str:
    return f"{needs['CPU']} CPUs and {needs['GPU']} GPUs"

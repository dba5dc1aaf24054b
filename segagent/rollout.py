"""The loop: samples, a policy and an environment -> trajectories. One code path for every entry and every scale.

Continuous batches: `batch_size` samples are under way, and one that ends leaves its place to the next at once. All of
them, a search's candidates included, get one call of the policy and one `step_batch` per turn. Order and content of the
result do not depend on the batch size, nor on which sample ends when.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from segagent.environment import Environment, Init, to_trajectory
from segagent.policies.base import Policy
from segagent.policies.search import Line, TreeSearch
from segagent.policies.tree import Move, Tree
from segagent.types import InitKind, RefusedError, Sample, State, Trajectory


def finish(states: Sequence[State], policy: Policy | TreeSearch, environment: Environment) -> list[State]:
    """Carries states on until every one has ended; a search also tries what it then leaves."""
    search = _search(policy, environment)
    trees = search.plant(states)
    while _turn(search, trees, environment):
        pass
    return [tree.result() for tree in trees]


def _search(policy: Policy | TreeSearch, environment: Environment) -> Line | TreeSearch:
    if not isinstance(policy, TreeSearch):
        return Line(policy)
    policy.enter(environment)
    return policy


def _turn(search: Line | TreeSearch, trees: Sequence[Tree], environment: Environment) -> int:
    """One call of the policy and one of the segmenter for all trees; the number of moves, 0 when all have ended."""
    return _carry_out(search, search.moves(trees), environment)


def _carry_out(search: Line | TreeSearch, moves: Sequence[Move], environment: Environment) -> int:
    if moves:
        search.grow(moves, environment.step_batch([m.node.state for m in moves], [m.action for m in moves]))
    return len(moves)


def _refused(search: Line | TreeSearch, places: Sequence[_Place], first_only: bool) -> dict[int, str]:
    """Numbers of the samples that the policy takes no state of -> why."""
    reasons: dict[int, str] = {}
    for place in places:
        if reasons and first_only:
            break
        try:
            search.probe(place.tree)
        except RefusedError as error:
            state = place.tree.node.state if isinstance(search, Line) else place.tree.root.state
            reasons[place.number] = _named(state.sample, error)
    return reasons


def _named(sample: Sample, error: Exception) -> str:
    """The reason, with the sample's id."""
    told = str(error)
    return told if repr(sample.sample_id) in told else f"sample {sample.sample_id!r}: {told}"


@dataclass(eq=False, slots=True)
class _Place:
    """A sample under way. number: its place in the order of the samples. seconds: its share of the time so far."""

    number: int
    tree: Any
    seconds: float = 0.0


class _Arrivals:
    """Samples that come in, as trees. on_unsound: told of those that cannot be begun; None: they end it.

    failure: why no more come, where one could not be loaded or begun.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        search: Line | TreeSearch,
        environment: Environment,
        *,
        init: Init,
        keep: int,
        on_unsound: Callable[[str], None] | None,
    ) -> None:
        self.samples, self.search, self.environment, self.init = iter(samples), search, environment, init
        self.keep, self.on_unsound, self.known, self.count = keep, on_unsound, OrderedDict(), 0
        self.failure: Exception | None = None

    def admit(self, most: int) -> list[_Place]:
        """Up to `most` further samples; none once they have run out or one has failed."""
        places: list[_Place] = []
        while self.failure is None and len(places) < most:
            fresh: list[Sample] = []
            try:
                for sample in islice(self.samples, most - len(places)):
                    fresh.append(sample)
            except Exception as error:  # those before it are finished first
                self.failure = error
            if not fresh:
                break
            trees = self._begin(fresh)
            places += [_Place(self.count + k, tree) for k, tree in enumerate(trees)]
            self.count += len(trees)
        return places

    def _begin(self, samples: Sequence[Sample]) -> list:
        """Trees of the samples that can be begun: of all others too, or of those before the first that cannot."""
        try:
            return self._plant(samples)
        except ValueError:
            pass  # one of them: which?
        except Exception as error:
            self.failure = error
            return []
        trees: list = []
        for sample in samples:
            try:
                trees += self._plant([sample])
            except ValueError as error:
                if self.on_unsound is None:
                    kind = RefusedError if isinstance(error, RefusedError) else ValueError
                    self.failure = kind(_named(sample, error))
                    break
                self.on_unsound(_named(sample, error))
        return trees

    def _plant(self, samples: Sequence[Sample]) -> list:
        return self.search.plant(self.environment.begin(samples, self._embed(samples), self.init))

    def _embed(self, samples: Sequence[Sample]) -> list:
        """One embedding each; those of the last `keep` pictures are remembered."""
        embeddings = self.environment.embed(samples, self.known)
        for sample, embedding in zip(samples, embeddings, strict=True):
            if sample.image_key is not None:
                self.known[sample.image_key] = embedding
                self.known.move_to_end(sample.image_key)
        while len(self.known) > self.keep:
            self.known.popitem(last=False)
        return embeddings


def rollout(
    samples: Iterable[Sample],
    *,
    policy: Policy | TreeSearch,
    environment: Environment,
    init: Init = InitKind.EMPTY,
    batch_size: int = 1,
    record_seconds: bool = False,
    on_unsound: Callable[[str], None] | None = None,
) -> Iterator[list[Trajectory]]:
    """Yields trajectories in the order of the samples, as many at a time as are ready.

    batch_size: samples under way at once, and so what bounds memory: each holds one state (a search: its tree), and as
    many embeddings of pictures are remembered, so that one that comes again (equal `image_key`) among the last
    `batch_size` is embedded once. A trajectory that is ready before an earlier one waits without image or embedding;
    while one sample takes N turns, at most N * (batch_size - 1) do. When a sample cannot be loaded or begun, or is
    refused by the policy (`RefusedError`: a text that is too long for the model), those before it are finished and
    yielded, then its error is raised; on_unsound: is told why a sample cannot be begun (`ValueError`: no box, no
    target, ...) or is refused, and the others go on. record_seconds: give each trajectory its share of the wall time in
    seconds (of each turn, the same for all that took part; they add up to the whole, but for what refused samples
    took); off by default, so that equal runs are equal byte for byte.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least 1")
    search = _search(policy, environment)
    arrivals = _Arrivals(samples, search, environment, init=init, keep=batch_size, on_unsound=on_unsound)
    places: list[_Place] = []
    waiting: dict[int, Trajectory | None] = {}  # None: of a sample that is left out
    written = 0
    while True:
        began = time.perf_counter()
        places += arrivals.admit(batch_size - len(places))
        if not places:
            break
        ended: list[_Place] = []
        try:
            moved = _carry_out(search, search.moves([place.tree for place in places]), environment)
        except RefusedError:
            refused = _refused(search, places, first_only=on_unsound is None)
            if not refused:
                raise
            if on_unsound is None:  # those before the first are finished, as where one cannot be loaded
                ((first, reason),) = refused.items()
                arrivals.failure = RefusedError(reason)
                places = [place for place in places if place.number < first]
            else:
                for reason in refused.values():
                    on_unsound(reason)
                waiting |= dict.fromkeys(refused)
                places = [place for place in places if place.number not in refused]
        else:
            ended = [place for place in places if not moved or place.tree.ended]
        share = (time.perf_counter() - began) / max(1, len(places))
        for place in places:
            place.seconds += share
        for place in ended:
            waiting[place.number] = to_trajectory(place.tree.result(), place.seconds if record_seconds else None)
        places = [place for place in places if place.number not in waiting]
        ready = []
        while written in waiting:
            trajectory = waiting.pop(written)
            written += 1
            if trajectory is not None:
                ready.append(trajectory)
        if ready:
            yield ready
    if arrivals.failure is not None:
        raise arrivals.failure

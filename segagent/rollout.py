"""The loop: samples, a policy and an environment -> trajectories. One code path for every entry and every scale.

Lock-step batches: all running states of a batch, a search's candidates included, get one call of the policy and one
`step_batch` per turn. Order and content of
the result do not depend on the batch size.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from segagent.environment import Environment, Init, to_trajectory
from segagent.policies.base import Policy
from segagent.policies.search import Line, TreeSearch
from segagent.types import InitKind, Sample, State, Trajectory


def finish(states: Sequence[State], policy: Policy | TreeSearch, environment: Environment) -> list[State]:
    """Carries states on until every one has ended; a search also tries what it then leaves."""
    search = policy if isinstance(policy, TreeSearch) else Line(policy)
    trees = search.plant(states)
    while moves := search.moves(trees):
        search.grow(moves, environment.step_batch([m.node.state for m in moves], [m.action for m in moves]))
    return [tree.result() for tree in trees]


def rollout(
    samples: Iterable[Sample],
    *,
    policy: Policy | TreeSearch,
    environment: Environment,
    init: Init = InitKind.EMPTY,
    batch_size: int = 1,
    record_seconds: bool = False,
) -> Iterator[list[Trajectory]]:
    """Yields the trajectories of `batch_size` samples at a time, in the order of the samples.

    A picture that comes again in the same or the next batch (equal `image_key`) is embedded once. record_seconds: give
    each trajectory its share of its batch's wall time in seconds; off by default, so that equal runs are equal byte for
    byte.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least 1")
    known: dict = {}
    samples = iter(samples)
    while batch := list(islice(samples, batch_size)):
        began = time.perf_counter()
        embeddings = environment.embed(batch, known)
        known = {s.image_key: e for s, e in zip(batch, embeddings, strict=True) if s.image_key is not None}
        states = finish(environment.begin(batch, embeddings, init), policy, environment)
        share = (time.perf_counter() - began) / len(batch) if record_seconds else None
        yield [to_trajectory(state, share) for state in states]

"""The contract of a policy: states -> ranked actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from segagent.types import Action, State


class Policy(Protocol):
    """Proposes actions for many states at once.

    `propose(states, num_candidates)` gives, per state, between 1 and `num_candidates` actions, the first one being what
    the policy would do alone. What is random depends on the seed, the sample and the clicks so far, never on the batch.
    `announces_iou`, where there is one, is False of a policy whose actions never have a `predicted_iou`.
    """

    def propose(self, states: Sequence[State], num_candidates: int = 1) -> list[list[Action]]: ...

"""Monte-Carlo tree search: spends a budget of segmenter calls where the policy's prior and the rewards point.

PUCT as in Silver et al. (Nature 550, 2017, methods), for one player, no chance and a reward in every state: the value
of an edge is the best reward below it, not a mean, because the best mask found is what is returned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from segagent.policies.base import Policy
from segagent.policies.reward_model import RewardModel
from segagent.policies.search import TreeSearch
from segagent.policies.tree import Node, Tree
from segagent.types import Action, State


def priors(actions: Sequence[Action]) -> list[float]:
    """The policy's probabilities of its distinct candidates, scaled to sum 1; all alike where it does not tell."""
    logs = [action.log_prob for action in actions]
    if any(log is None for log in logs):
        return [1 / len(actions)] * len(actions)
    weights = [math.exp(log - max(logs)) for log in logs]
    return [weight / sum(weights) for weight in weights]


@dataclass(eq=False, slots=True)
class _Branch:
    """A node with its statistics. children: by place among the candidates. value: best reward at or below it.

    closed: nothing is left to try below.
    """

    node: Node
    parent: _Branch | None = None
    children: dict[int, _Branch] = field(default_factory=dict)
    visits: int = 1
    value: float = -1.0
    closed: bool = False

    def edge(self, exploration: float) -> int:
        """Place of the candidate with the highest PUCT score; the first of equals.

        An edge that was not tried yet counts as good as the mask at hand.
        """
        scores = {}
        for place, prior in enumerate(priors(self.node.candidates)):
            child = self.children.get(place)
            if child is None:
                scores[place] = self.node.rank + exploration * prior * math.sqrt(self.visits)
            elif not child.closed:
                scores[place] = child.value + exploration * prior * math.sqrt(self.visits) / (1 + child.visits)
        return max(scores, key=scores.get)


@dataclass(eq=False)
class _Growth(Tree):
    """leaf, place: the branch and the candidate that are being tried."""

    exploration: float = 0.2
    leaf: _Branch = field(init=False)
    place: int = 0

    def begin(self) -> None:
        super().begin()
        self.top = _Branch(self.root, value=self.root.rank, closed=self.root.state.end_reason is not None)
        self.last = self.root

    def frontier(self) -> list[Node]:
        if self.end or self.top.closed:
            return []
        self.leaf = self.top
        while self.leaf.node.candidates is not None:
            place = self.leaf.edge(self.exploration)
            if place not in self.leaf.children:
                break
            self.leaf = self.leaf.children[place]
        return [self.leaf.node]

    def choose(self, node: Node) -> list[Action]:
        self.place = self.leaf.edge(self.exploration)
        return self.afford([node.candidates[self.place]])

    def grow(self, children: Sequence[Node]) -> None:
        (child,) = children
        self.last = child
        self.note(children)
        ended = child.state.end_reason is not None
        branch = _Branch(child, self.leaf, value=child.rank, closed=ended)
        self.leaf.children[self.place] = branch
        above: _Branch | None = self.leaf
        while above is not None:
            above.visits += 1
            above.value = max(above.value, child.rank)
            below = above.children
            above.closed = len(below) == len(above.node.candidates) and all(one.closed for one in below.values())
            above = above.parent

    def result(self) -> State:
        """The line that leads to the best mask."""
        return self.finished(self.best, self.best if self.best.state.end_reason else self.last)


class Mcts(TreeSearch):
    """budget: segmenter calls per sample; the search ends when they are spent, or when nothing is left to try. None:
    7 k, what greedy search spends in seven steps.

    exploration: weight of the prior against rewards, in IoU. Other arguments: see `TreeSearch`; a turn is one call.
    """

    def __init__(
        self,
        *,
        proposer: Policy,
        reward: RewardModel,
        k: int = 3,
        exploration: float = 0.2,
        budget: int | None = None,
        stop_reward: float | None = None,
        patience: int | None = None,
        keep_candidates: bool = True,
    ) -> None:
        super().__init__(
            proposer=proposer,
            reward=reward,
            k=k,
            budget=7 * k if budget is None else budget,
            stop_reward=stop_reward,
            patience=patience,
            keep_candidates=keep_candidates,
        )
        if exploration < 0:
            raise ValueError(f"exploration={exploration}: 0 or more")
        self.exploration = exploration

    def tree(self, root: Node) -> _Growth:
        return _Growth(root, self.limits, self.keep_candidates, exploration=self.exploration)

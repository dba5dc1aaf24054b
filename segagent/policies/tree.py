"""What a search knows of one sample: nodes (states and what is thought of them), and a tree that says what to try next.

A tree only decides; states are made by the environment and judged by `search.TreeSearch`, for all trees of a batch in
one call each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from segagent.types import Action, EndReason, State


@dataclass(eq=False, slots=True)
class Node:
    """A state in a tree, and the action that led to it (None at the start).

    path: numbers of the nodes from the start (0) to this one, in the order in which the tree made them. reward: what
    the reward model says of its mask, in [0, 1]; None where it says nothing. candidates: distinct actions to try from
    here, the policy's own choice first; None: not asked yet.
    """

    state: State
    action: Action | None = None
    path: tuple[int, ...] = (0,)
    reward: float | None = None
    candidates: list[Action] | None = None

    @property
    def number(self) -> int:
        return self.path[-1]

    @property
    def rank(self) -> float:
        """The reward; below any where there is none."""
        return -1.0 if self.reward is None else self.reward


@dataclass(frozen=True, slots=True)
class Limits:
    """When a search ends beside the environment's rules.

    budget: segmenter calls per sample. stop_reward: FINISHED once a reward reaches it. patience: NO_GAIN after so many
    turns in a row without a better reward. None: never.
    """

    budget: int | None = None
    stop_reward: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget < 0:
            raise ValueError(f"budget={self.budget}: a number of segmenter calls, 0 or more, or null")
        if self.stop_reward is not None and not 0 < self.stop_reward <= 1:
            raise ValueError(f"stop_reward={self.stop_reward}: an IoU in (0, 1], e.g. 0.9, or null")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience={self.patience}: at least 1, or null")


@dataclass(eq=False)
class Tree(ABC):
    """One sample's search: the best node so far, the rules that end it, a record of what was tried.

    Driven by `search.TreeSearch`: `begin` once the start is judged; `frontier`, `choose` for each of its nodes, `grow`,
    and again; a subclass says them. pending: nodes that nobody has judged yet, the start at first. spent: segmenter
    calls so far. stale: turns in a row without a better reward. end: why the tree itself ended the search, None while
    it has not. tried: facts of every node but the start, if they are to be kept.
    """

    root: Node
    limits: Limits
    keep_candidates: bool = False
    spent: int = 0
    stale: int = 0
    made: int = 1
    end: EndReason | None = None
    best: Node = field(init=False)
    pending: list[Node] = field(init=False)
    tried: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.best, self.pending = self.root, [self.root]

    @property
    def ended(self) -> bool:
        return not self.pending and not self.frontier()

    def take(self) -> None:
        """Takes in what was pending and is judged by now."""
        judged, self.pending = self.pending, []
        if judged[0] is self.root:
            self.begin()
        else:
            self.grow(judged)

    def begin(self) -> None:
        """The start has its reward."""
        self._apply_limits()

    @abstractmethod
    def frontier(self) -> list[Node]:
        """Running nodes to go on from, the most promising first; empty once the search has ended."""

    @abstractmethod
    def choose(self, node: Node) -> list[Action]:
        """Which of the candidates of a frontier node to try now."""

    @abstractmethod
    def grow(self, children: Sequence[Node]) -> None:
        """Takes in what came of the chosen actions, judged and in their order; outcomes that coincide are left out."""

    @abstractmethod
    def result(self) -> State:
        """What `finished` makes of the line that this search returns."""

    # --- for subclasses ---------------------------------------------------------------------------------------------

    def new_node(self, parent: Node, action: Action, state: State) -> Node:
        self.made += 1
        return Node(state, action, (*parent.path, self.made - 1))

    def afford(self, actions: Sequence[Action]) -> list[Action]:
        """As many of the actions as the budget allows, which are then paid for; ends cost nothing."""
        chosen = []
        for action in actions:
            if action.end is None:
                if self.limits.budget is not None and self.spent >= self.limits.budget:
                    continue
                self.spent += 1
            chosen.append(action)
        return chosen

    def note(self, children: Sequence[Node]) -> None:
        """Remembers the best node: the first of equals within a turn, the later turn's among turns."""
        before = self.best.rank
        if children:
            top = max(children, key=lambda node: node.rank)
            self.best = top if top.rank >= before else self.best
        self.stale = 0 if self.best.rank > before else self.stale + 1
        if self.keep_candidates:
            self.tried += [_facts(child) for child in children]
        self._apply_limits()

    def _apply_limits(self) -> None:
        limits = self.limits
        if limits.stop_reward is not None and self.best.rank >= limits.stop_reward:
            self.end = EndReason.FINISHED
        elif limits.patience is not None and self.stale >= limits.patience:
            self.end = EndReason.NO_GAIN
        elif limits.budget is not None and self.spent >= limits.budget:
            self.end = EndReason.OUT_OF_CLICKS

    def finished(self, line: Node, last: Node) -> State:
        """The result: the states along `line`, ended as `last` did where that lies behind it, else as this tree did:
        NO_GAIN where nothing was left to try.

        extras: `pred_iou`, reward of the last mask; `returned`, number of the mask that the search returns, counted
        from the start's 0, which is the one with the highest reward; `candidates`, what was tried, if it was kept.
        """
        extras: dict[str, Any] = {"returned": len(self.best.state.steps)}
        if line.reward is not None:
            extras["pred_iou"] = line.reward
        if self.keep_candidates:
            extras["candidates"] = self.tried
        # An end in another branch says nothing of this line.
        reason, text = (last.state.end_reason, last.state.end_text) if line.number in last.path else (None, None)
        if reason is None or self.end is EndReason.FINISHED:
            reason = self.end or EndReason.NO_GAIN
        return line.state.replace(
            end_reason=reason,
            end_text=text,
            extras=extras,
        )


@dataclass(eq=False, slots=True)
class Move:
    """An action to be carried out in a node of a tree."""

    tree: Tree
    node: Node
    action: Action


def _facts(node: Node) -> dict:
    """Plain JSON of a node and the action that led to it, in the words of the predictions file. path: see `Node`."""
    action, facts = node.action, {"path": list(node.path)}
    if action.click is not None:
        facts["clicks"] = {"is_positive": action.click.is_positive, "coords": [action.click.y, action.click.x]}
    elif action.box is not None:
        facts["used_box"] = [action.box.x0, action.box.y0, action.box.x1, action.box.y1]
    else:
        facts["end_reason"] = action.end.value
    known = {"pred_iou": node.reward, "iou": node.state.iou, "log_prob": action.log_prob}
    return facts | {key: value for key, value in known.items() if value is not None}

"""Search: states -> better states than following the policy gives, by trying several of its proposals.

In: a policy that proposes, a reward model that judges. Out: trees, which `rollout` carries on until each has ended. All
trees of a batch move together, however old each is: the candidates of all samples are one segmenter call, and one call
of the policy both judges the masks that came of them and proposes what to do next (a reply announces the IoU of the
mask it was shown, so that every distinct state is looked at once). `Line` is the search that tries nothing: the policy
alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from segagent.environment import Environment
from segagent.policies.base import Policy
from segagent.policies.reward_model import RewardModel
from segagent.policies.tree import Limits, Move, Node, Tree
from segagent.types import Action, EndReason, State


@dataclass(eq=False)
class _Thread:
    """A tree with one branch, of which only the end is remembered. proposed: the action to be made next, once asked."""

    node: Node
    proposed: Action | None = None

    @property
    def ended(self) -> bool:
        return self.node.state.end_reason is not None

    def result(self) -> State:
        return self.node.state


class Line:
    """A policy alone: its first action, until the environment or the policy ends it."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def plant(self, states: Sequence[State]) -> list[_Thread]:
        return [_Thread(Node(state)) for state in states]

    def moves(self, trees: Sequence[_Thread]) -> list[Move]:
        running = [tree for tree in trees if not tree.ended]
        asked = [tree for tree in running if tree.proposed is None]
        proposals = self.policy.propose([tree.node.state for tree in asked]) if asked else []
        for tree, actions in zip(asked, proposals, strict=True):
            tree.proposed = actions[0]
        return [Move(tree, tree.node, tree.proposed) for tree in running]

    def probe(self, tree: _Thread) -> None:
        """Raises what `moves` would raise of this tree alone; a reply is kept for it."""
        self.moves([tree])

    def grow(self, moves: Sequence[Move], states: Sequence[State]) -> None:
        for move, state in zip(moves, states, strict=True):
            move.tree.node, move.tree.proposed = Node(state), None


class TreeSearch(ABC):
    """What the searches share: the calls, for all trees at once, and their counts. A subclass says what a tree is.

    proposer: makes the candidates. reward: judges masks. k: candidates per state; those that are alike are tried once.
    budget, stop_reward, patience: see `Limits`. keep_candidates: write what was tried into the trajectories.
    """

    def __init__(
        self,
        *,
        proposer: Policy,
        reward: RewardModel,
        k: int = 3,
        budget: int | None = None,
        stop_reward: float | None = None,
        patience: int | None = None,
        keep_candidates: bool = True,
    ) -> None:
        if not hasattr(proposer, "propose"):
            raise ValueError(f"proposer={proposer!r} is no policy; name one, e.g. proposer=noisy_oracle")
        if not hasattr(reward, "score"):
            raise ValueError(f"reward={reward!r} is no reward model; name one, e.g. reward=true_iou")
        if k < 1:
            raise ValueError(f"search.k={k}: at least 1 candidate")
        if reward.reads_replies and not getattr(proposer, "announces_iou", True):
            raise ValueError(
                f"{type(reward).__name__}: {type(proposer).__name__} announces no IoU (an agent does, where its "
                "dialogue has a wording for it); name another reward, e.g. reward=true_iou"
            )
        self._asked = {"expected_iou": True} if reward.reads_replies and getattr(reward, "expected_iou", False) else {}
        if self._asked and not getattr(proposer, "expects_iou", False):
            raise ValueError(
                f"reward.number=expected: {type(proposer).__name__} tells no probabilities; say reward.number=greedy, "
                "or name an agent as proposer or as reward.judge"
            )
        self.proposer, self.reward, self.k = proposer, reward, k
        self._reads_all = getattr(reward, "reads_all_replies", False)
        self.limits, self.keep_candidates = Limits(budget, stop_reward, patience), keep_candidates
        self.counts: Counter[str] = Counter()

    @abstractmethod
    def tree(self, root: Node) -> Tree:
        """A fresh tree over one sample's first state, which has not been judged yet."""

    def statistics(self) -> dict[str, int]:
        """Counts since this object was made: `search_states_seen`, states shown to the proposer, each a prompt pass;
        `search_policy_calls`, in so many calls; `search_clicks`, states through the segmenter; `search_segmenter_calls`
        the same; `search_rewards`, masks judged; `search_coinciding`, candidates and outcomes that were like another
        one and cost nothing more; `search_unparsable`, candidates that nobody could read, beside others that were.
        And what the reward counts, if it counts."""
        names = ("states_seen", "policy_calls", "clicks", "segmenter_calls", "rewards", "coinciding", "unparsable")
        counts = {f"search_{name}": self.counts[name] for name in names}
        return counts | (self.reward.statistics() if hasattr(self.reward, "statistics") else {})

    # --- what the loop calls --------------------------------------------------------------------------------------

    def enter(self, environment: Environment) -> None:
        """Where all that follows takes place; for a reward that makes moves of its own."""
        if hasattr(self.reward, "enter"):
            self.reward.enter(environment, self.proposer)

    # Where the reward stands in the replies, what is new is judged when the moves are asked for: one call of the
    # proposer then serves old trees and fresh ones. Other rewards are given at once: a tree that ends leaves at once.

    def plant(self, states: Sequence[State]) -> list[Tree]:
        trees = [self.tree(Node(state)) for state in states]
        if not self.reward.reads_replies:
            self._look(trees)
        return trees

    def moves(self, trees: Sequence[Tree]) -> list[Move]:
        """What all trees try next; none of a tree that has ended.

        An action's `predicted_iou` becomes the reward of the mask it was proposed for.
        """
        asked = self._asked_now(trees)
        moves = [
            Move(tree, node, replace(action, predicted_iou=node.reward))
            for tree, node in asked
            for action in tree.choose(node)
        ]
        clicks = sum(move.action.end is None for move in moves)
        self.counts.update(clicks=clicks, segmenter_calls=clicks > 0)
        return moves

    def probe(self, tree: Tree) -> None:
        """Raises what `moves`, or judging what is pending, would raise of this tree alone; nothing is tried yet."""
        self._asked_now([tree])

    def _asked_now(self, trees: Sequence[Tree]) -> list[tuple[Tree, Node]]:
        """Nodes to go on from, all with their candidates."""
        # Of a reward that needs no reply only what it refused to judge in `grow` is pending.
        self._look(trees)
        asked = [(tree, node) for tree in trees for node in tree.frontier()]
        self._propose([node for _, node in asked if node.candidates is None])
        return asked

    def grow(self, moves: Sequence[Move], states: Sequence[State]) -> None:
        """Hands the trees what came of their moves."""
        seen: set[tuple[int, bytes]] = set()
        for move, state in zip(moves, states, strict=True):
            node = move.tree.new_node(move.node, move.action, state)
            if move.action.end is not None:
                node.reward = move.node.reward  # the mask is the same
            elif (outcome := (id(move.tree), state.mask.tobytes())) in seen:
                self.counts["coinciding"] += 1
                continue
            else:
                seen.add(outcome)
            move.tree.pending.append(node)
        if not self.reward.reads_replies:
            self._look(list({id(move.tree): move.tree for move in moves}.values()))

    # --- calls ----------------------------------------------------------------------------------------------------

    def _look(self, trees: Sequence[Tree]) -> None:
        """Judges what is pending in all trees, in one call."""
        grown = [tree for tree in trees if tree.pending]
        self._judge([n for tree in grown for n in tree.pending if n.action is None or n.action.end is None])
        for tree in grown:
            tree.take()

    def _judge(self, nodes: Sequence[Node]) -> None:
        """Rewards of nodes, one call; candidates too where the reward stands in the replies."""
        if not nodes:
            return
        replies = None
        if self.reward.reads_replies:
            replies = self._ask(nodes)
            for node, actions in zip(nodes, replies, strict=True):
                node.candidates = self._distinct(actions)
        rewards = self.reward.score([node.state for node in nodes], replies)
        self.counts["rewards"] += len(nodes)
        for node, reward in zip(nodes, rewards, strict=True):
            node.reward = reward

    def _propose(self, nodes: Sequence[Node]) -> None:
        for node, actions in zip(nodes, self._ask(nodes) if nodes else (), strict=True):
            node.candidates = self._distinct(actions)

    def _ask(self, nodes: Sequence[Node]) -> list[list[Action]]:
        """The proposer's one call. Of a state that has ended, the first reply is all that is used, whatever else is in
        the call, unless the reward is of all replies."""
        states = [node.state for node in nodes]
        whole = [self._reads_all or state.end_reason is None for state in states]
        self.counts.update(states_seen=len(states), policy_calls=1)
        replies = self.proposer.propose(states, self.k if any(whole) else 1, **self._asked)
        return [row if all_of_it else row[:1] for all_of_it, row in zip(whole, replies, strict=True)]

    def _distinct(self, actions: Sequence[Action]) -> list[Action]:
        """Without repetitions, and without replies that nobody could read as long as there are others."""
        by_deed: dict[tuple, Action] = {}
        for action in actions:
            by_deed.setdefault((action.click, action.box, action.end), action)
        distinct = list(by_deed.values())
        self.counts["coinciding"] += len(actions) - len(distinct)
        readable = [action for action in distinct if action.end is not EndReason.UNPARSABLE]
        if readable:
            self.counts["unparsable"] += sum(action.end is EndReason.UNPARSABLE for action in actions)
        return readable or distinct


@dataclass(eq=False)
class _Beam(Tree):
    """beam: the nodes that the search goes on from, the best first; those that have ended stand where they rank."""

    width: int = 1
    beam: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.beam = [self.root]

    def frontier(self) -> list[Node]:
        return [] if self.end else [node for node in self.beam if node.state.end_reason is None]

    def choose(self, node: Node) -> list[Action]:
        return self.afford(node.candidates)

    def grow(self, children: Sequence[Node]) -> None:
        self.note(children)
        self.beam = sorted(children, key=lambda node: -node.rank)[: self.width]

    def result(self) -> State:
        """The line that the beam followed where the best mask lies on it, else the one that leads to the best mask."""
        last = self.beam[0]
        line = last if self.best.number in last.path else self.best
        return self.finished(line, line if line.state.end_reason is not None else last)


class Beam(TreeSearch):
    """Beam search, and with `width` 1 the paper's greedy search (Alg. 2).

    Per step every state of the beam is tried with each of its k candidates, and the `width` best outcomes are gone on
    from, also when they are worse than before. An end among the candidates is the outcome that the mask stays. With one
    candidate and width 1 the actions are those of the proposer alone, and the rewards say which mask to return.
    Other arguments: see `TreeSearch`.
    """

    def __init__(
        self,
        *,
        proposer: Policy,
        reward: RewardModel,
        k: int = 3,
        width: int = 1,
        budget: int | None = None,
        stop_reward: float | None = None,
        patience: int | None = None,
        keep_candidates: bool = True,
    ) -> None:
        super().__init__(
            proposer=proposer,
            reward=reward,
            k=k,
            budget=budget,
            stop_reward=stop_reward,
            patience=patience,
            keep_candidates=keep_candidates,
        )
        if width < 1:
            raise ValueError(f"search.width={width}: at least 1")
        self.width = width

    def tree(self, root: Node) -> _Beam:
        return _Beam(root, self.limits, self.keep_candidates, width=self.width)

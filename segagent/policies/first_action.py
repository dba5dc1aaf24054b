"""A policy whose first action is another's: a box to begin with, from a model's grounding or from the sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from segagent.policies.base import Policy
from segagent.types import Action, EndReason, State


class SampleBox:
    """The box that came with the sample (a detector's, another model's grounding); unparsable where there is none."""

    announces_iou = False

    def propose(self, states: Sequence[State], num_candidates: int = 1) -> list[list[Action]]:
        return [[self._act(state)] for state in states]

    def _act(self, state: State) -> Action:
        if state.sample.box is None:
            return Action(end=EndReason.UNPARSABLE, text="the sample has no box", source="sample_box")
        return Action(box=state.sample.box, source="sample_box")


class FirstAction:
    """first: acts in the states where nothing was done yet. then: acts in the others; None: the trajectory ends there.

    With a first policy that gives boxes and nothing after it, this is box and segmenter alone, the baseline with one
    action. box_only: an answer of the first policy without a box counts as unparsable, and is not carried out as a
    click. An expected IoU can be asked for where both policies can tell one.
    """

    def __init__(self, *, first: Policy, then: Policy | None = None, box_only: bool = False) -> None:
        self.first, self.then, self.box_only = first, then, box_only
        parts = [policy for policy in (first, then) if policy is not None]
        self.announces_iou = any(getattr(policy, "announces_iou", True) for policy in parts)
        self.expects_iou = all(getattr(policy, "expects_iou", False) for policy in (first, then))

    def propose(self, states: Sequence[State], num_candidates: int = 1, **asked: bool) -> list[list[Action]]:
        """One call of each of the two, for the states that are its own. asked: passed on to both."""
        fresh = [k for k, state in enumerate(states) if not state.steps]
        later = [k for k, state in enumerate(states) if state.steps]
        actions: list[list[Action]] = [[Action(end=EndReason.FINISHED, source="first_action")] for _ in states]
        for policy, rows in ((self.first, fresh), (self.then, later)):
            if rows and policy is not None:
                proposed = policy.propose([states[k] for k in rows], num_candidates, **asked)
                for k, row in zip(rows, proposed, strict=True):
                    actions[k] = [_box_of(action) for action in row] if self.box_only and policy is self.first else row
        return actions


def _box_of(action: Action) -> Action:
    """The action where it is a box or an end."""
    if action.box is not None or action.end is not None:
        return action
    return replace(action, click=None, end=EndReason.UNPARSABLE)

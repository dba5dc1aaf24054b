"""F_sim as a judge of what a policy did: in any visited state, the click that the simulated annotator makes there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from segagent.masks import decode_rle, next_click
from segagent.training.examples import mask_of_state
from segagent.training.trajectory_index import RELABELLED, iou_of_state
from segagent.types import Action, Click, Step, Trajectory


def simulated_click(trajectory: Trajectory, state: int, tau_stop: float | None) -> Click | None:
    """F_sim's click before step `state` (paper, Alg. 3); cells that the policy had clicked by then are excluded.

    tau_stop: F_sim stops once the true IoU reaches it, as in scripts/simulate.py (None: never). Returns None where it
    stops, or nothing is wrong. Raises `ValueError` without a target.
    """
    if trajectory.target is None:
        raise ValueError(
            f"sample {trajectory.sample_id!r} has no target mask: F_sim needs one; roll out on data with masks"
        )
    if tau_stop is not None and iou_of_state(trajectory, state) >= tau_stop:
        return None
    clicks = [step.action.click for step in trajectory.steps[:state]]
    excluded = [(click.x, click.y) for click in clicks if click is not None]
    void = None if trajectory.void is None else decode_rle(trajectory.void)
    return next_click(decode_rle(trajectory.target), mask_of_state(trajectory, state), excluded, void)


def relabel(trajectory: Trajectory, states: Collection[int], tau_stop: float | None) -> Trajectory:
    """The trajectory with F_sim's click in place of what was done in `states`; every mask stays as it was visited.

    Where F_sim stops, the step is marked as not kept. State N of N steps is the last mask: F_sim's click there becomes
    a step N + 1 that was never carried out, whose mask is the one before it, and the trajectory has no end any more.
    Replaced actions have the source `relabelled` and no text.
    """
    steps = [_relabelled(trajectory, k, tau_stop) if k in states else step for k, step in enumerate(trajectory.steps)]
    last = len(steps)
    click = simulated_click(trajectory, last, tau_stop) if last in states else None
    if click is None:
        return replace(trajectory, steps=tuple(steps))
    mask, known = trajectory.steps[-1].mask if steps else trajectory.init_mask, trajectory.final_iou
    steps.append(Step(Action(click=click, source=RELABELLED), mask, known, known))
    extras = {name: value for name, value in trajectory.extras.items() if name != "pred_iou"}  # it was of the last mask
    return replace(trajectory, steps=tuple(steps), end_reason=None, end_text=None, extras=extras)


def _relabelled(trajectory: Trajectory, state: int, tau_stop: float | None) -> Step:
    step, click = trajectory.steps[state], simulated_click(trajectory, state, tau_stop)
    if click is None:
        return replace(step, kept=False)
    return replace(step, action=Action(click=click, source=RELABELLED), kept=True)

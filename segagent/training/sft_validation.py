"""A model under training -> what it says on held-out states, and what its clicks do to their masks.

Loss and token accuracy with the right answer before it; then its own replies, read by the dialogue, and the click in
them carried out by the real segmenter in the real environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np

from segagent.environment import Environment, stable_generator
from segagent.masks import error_regions
from segagent.mllm.base import MLLM, Completion
from segagent.segmenters.base import ClickSegmenter
from segagent.training.examples import Example, Examples, mask_of_state
from segagent.training.trajectory_index import TASKS, iou_of_state
from segagent.types import Action, Click

COLUMNS = ("loss", "token_accuracy", "parsed", "click_accuracy", "iou_before", "iou_after_click", "iou_error")
_CLICKS = sum(1 << TASKS.index(task) for task in ("click", "iou_click"))


def click_is_right(click: Click, target: np.ndarray, mask: np.ndarray, void: np.ndarray | None) -> bool:
    """Whether a click falls into the error region of its sign. target, mask, void: `[H, W]` bool."""
    missing, surplus = error_regions(target, mask, void)
    return bool((missing if click.is_positive else surplus)[click.y, click.x])


def figures_of(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Rows of all states -> means, by `COLUMNS`; NaN where no row has a value. `loss` and `token_accuracy` are per
    token (a row has `tokens`, which count `weight` in the loss)."""
    figures, of = {}, {"loss": "weight", "token_accuracy": "tokens"}
    for name in COLUMNS:
        known = [row for row in rows if name in row]
        counts = [row[of[name]] if name in of else 1.0 for row in known]
        total = sum(counts)
        sums = sum(row[name] * count for row, count in zip(known, counts, strict=True))
        figures[name] = sums / total if total else float("nan")
    return figures


def score_of(figures: dict[str, float]) -> float:
    """What checkpoints are compared by, less is better: lack of IoU after the predicted click, else the loss."""
    after = figures["iou_after_click"]
    return figures["loss"] if np.isnan(after) else 1 - after


class SftValidation:
    """examples: held-out ones. segmenter: carries out clicks, None for replies only. states: of those with a next click
    that the model is asked in, at most. batch_size: at once. max_new_tokens: of a reply."""

    def __init__(
        self,
        *,
        examples: Examples,
        segmenter: ClickSegmenter | None,
        states: int = 64,
        batch_size: int = 16,
        max_new_tokens: int = 32,
    ) -> None:
        for name, value in {"states": states, "batch_size": batch_size, "max_new_tokens": max_new_tokens}.items():
            if value < 1:
                raise ValueError(f"validation.{name}={value}: at least 1")
        self.examples, self.batch_size, self.max_new_tokens = examples, batch_size, max_new_tokens
        self.environment = None if segmenter is None else Environment(segmenter=segmenter, max_clicks=1)
        clickable = np.flatnonzero(examples.states.can & _CLICKS)
        # Evenly over all of them, since neighbours are of one trajectory.
        chosen = np.linspace(0, len(clickable) - 1, min(states, len(clickable))).round().astype(int)
        self.clickable = [int(row) for row in clickable[chosen]]

    def taught(self, share: tuple[int, int] = (0, 1)) -> Iterator[list[Example]]:
        """Batches of held-out examples, each state once, the same at every validation. share: (rank, count)."""
        rows = range(share[0], len(self.examples), share[1])
        for start in range(0, len(rows), self.batch_size):
            yield [self._example(row) for row in rows[start : start + self.batch_size]]

    def _example(self, row: int) -> Example:
        return self.examples.example(row, row, stable_generator("held out", self.examples.seed, row))

    def replies(
        self,
        mllm: MLLM,
        share: tuple[int, int] = (0, 1),
        within: Callable[[], AbstractContextManager] = nullcontext,
    ) -> list[dict[str, float]]:
        """A row per state with a next click: parsed, click_accuracy (0 or 1), IoU around the click, error of its own
        IoU. A reply that cannot be read, or has no click, leaves the mask as it was. within: what the model replies in,
        such as autocast; the segmenter has a precision of its own."""
        chosen = self.clickable[share[0] :: share[1]]
        rows: list[dict[str, float]] = []
        for start in range(0, len(chosen), self.batch_size):
            part = chosen[start : start + self.batch_size]
            shown = [self._example(row) for row in part]
            # The state itself, though the task drawn for it may have replaced its mask.
            states = [self._state(row, example) for row, example in zip(part, shown, strict=True)]
            with within():
                completions = mllm.generate([one.observation for one, _ in states], max_new_tokens=self.max_new_tokens)
            rows += self._judge(mllm, states, completions)
        return rows

    def _state(self, row: int, example: Example) -> tuple[Example, float | None]:
        trajectory = self.examples.trajectory(row)
        state = int(self.examples.states.state[row])
        mask = mask_of_state(trajectory, state)
        observation = self.examples.dialogue.observe(example.sample.image, mask, trajectory.text)
        return replace(example, mask=mask, observation=observation), iou_of_state(trajectory, state)

    def _judge(
        self, mllm: MLLM, states: Sequence[tuple[Example, float | None]], completions: Sequence[Sequence[Completion]]
    ) -> list[dict[str, float]]:
        rows, clicks = [], []
        for (example, known), (completion,) in zip(states, completions, strict=True):
            sample = example.sample
            size = {"width": sample.width, "height": sample.height}
            seen = mllm.seen_size(**size) if self.examples.dialogue.absolute else None
            reply = self.examples.dialogue.parse(completion.text, **size, seen=seen)
            right = reply.click is not None and sample.target is not None
            right = right and click_is_right(reply.click, sample.target, example.mask, sample.void)
            row = {"parsed": float(reply.click is not None), "click_accuracy": float(right)}
            if reply.predicted_iou is not None and known is not None:
                row["iou_error"] = abs(reply.predicted_iou - known)
            rows.append(row)
            clicks.append(reply.click)
        if self.environment is not None:
            self._click([example for example, _ in states], clicks, rows)
        return rows

    def _click(self, examples: Sequence[Example], clicks: Sequence[Click | None], rows: list[dict[str, float]]) -> None:
        """Adds IoU before and after the click to the rows."""
        samples = [replace(example.sample, mask=example.mask) for example in examples]
        states = self.environment.start_batch(samples, "mask")
        moving = [k for k, click in enumerate(clicks) if click is not None]
        actions = [Action(click=clicks[k]) for k in moving]
        after = dict(zip(moving, self.environment.step_batch([states[k] for k in moving], actions), strict=True))
        for k, (row, state) in enumerate(zip(rows, states, strict=True)):
            if state.iou is not None:
                row |= {"iou_before": state.iou, "iou_after_click": after.get(k, state).iou}

"""The annotation task as a Markov decision process: (sample, init) -> state; (state, action) -> state.

States are immutable and `step` writes nothing but its result, so that a search may branch from any state. All calls
come in a batched form that hands the segmenter every state at once; the single forms are batches of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from segagent.masks import bounding_box, box_to_mask, encode_rle, iou
from segagent.segmenters.base import ClickSegmenter
from segagent.types import Action, Box, Click, EndReason, InitKind, Sample, State, Step, Trajectory

Init = InitKind | str | Box | np.ndarray


def stable_generator(*parts: object) -> np.random.Generator:
    """Random numbers that depend on the parts alone: not on batch, shard, order or process."""
    digest = hashlib.sha256("\0".join(map(repr, parts)).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))


def _true_iou(sample: Sample, mask: np.ndarray) -> float | None:
    return None if sample.target is None else iou(mask, sample.target, sample.void)


class Environment:
    """Rules of an episode around one segmenter.

    max_clicks: actions before OUT_OF_CLICKS. tau_stop: FINISHED once the true IoU reaches it (None: never), though not
    before `min_clicks` actions. patience: NO_GAIN after so many actions in a row without a new best true IoU (None:
    never). tau_diff: a step that gains less true IoU is marked as not kept; it stays in the state, since the masks
    after it depend on it (None: all are kept). The published recorder: tau_stop 0.98, min_clicks 1, patience 1,
    tau_diff > 0. min_points, max_points: how many clicks a `random_points` start gets. seed: of those starts.
    """

    def __init__(
        self,
        *,
        segmenter: ClickSegmenter,
        max_clicks: int = 7,
        min_clicks: int = 0,
        tau_stop: float | None = None,
        tau_diff: float | None = None,
        patience: int | None = None,
        min_points: int = 1,
        max_points: int = 6,
        seed: int = 0,
    ) -> None:
        if max_clicks < 1:
            raise ValueError(f"max_clicks={max_clicks}: at least 1")
        if tau_stop is not None and not 0 < tau_stop <= 1:
            raise ValueError(f"tau_stop={tau_stop}: an IoU in (0, 1], e.g. 0.9, or null")
        if patience is not None and patience < 1:
            raise ValueError(f"patience={patience}: at least 1, or null")
        if not 1 <= min_points <= max_points:
            raise ValueError(f"min_points={min_points}, max_points={max_points}: need 1 <= min_points <= max_points")
        self.segmenter, self.max_clicks, self.min_clicks, self.seed = segmenter, max_clicks, min_clicks, seed
        self.tau_stop, self.tau_diff, self.patience = tau_stop, tau_diff, patience
        self.min_points, self.max_points = min_points, max_points

    # --- start ----------------------------------------------------------------------------------------------------

    def start(self, sample: Sample, init: Init = InitKind.EMPTY) -> State:
        """The first state of one sample; see `start_batch`."""
        return self.start_batch([sample], init)[0]

    def start_batch(self, samples: Sequence[Sample], init: Init = InitKind.EMPTY) -> list[State]:
        """First states. Each picture (by `image_key`) is embedded once.

        init: `empty`; `box` (the sample's box, else that of its target) or a `Box`; `random_points` (clicks of random
        sign inside the target's box, as the paper's filtering test set); `mask` (the sample's own) or a `[H, W]` bool
        mask. Raises `ValueError` naming the sample when it lacks what the init needs.
        """
        return self.begin(samples, self.embed(samples), init)

    def embed(self, samples: Sequence[Sample], known: dict | None = None) -> list:
        """One embedding per sample; pictures found in `known` (image_key -> embedding) are not embedded again."""
        known = dict(known or {})
        keys = [f"sample {k}" if sample.image_key is None else sample.image_key for k, sample in enumerate(samples)]
        new = {key: sample.image for key, sample in zip(keys, samples, strict=True) if key not in known}
        known.update(zip(new, self.segmenter.embed(list(new.values())), strict=True) if new else ())
        return [known[key] for key in keys]

    def begin(self, samples: Sequence[Sample], embeddings: Sequence, init: Init) -> list[State]:
        """`start_batch` with the embeddings at hand."""
        if isinstance(init, np.ndarray):
            return self._from_masks(samples, embeddings, [init] * len(samples))
        if isinstance(init, Box):
            return self._from_boxes(samples, embeddings, [init] * len(samples))
        kind = InitKind(init)
        if kind is InitKind.MASK:
            return self._from_masks(samples, embeddings, [_given_mask(sample) for sample in samples])
        if kind is InitKind.BOX:
            return self._from_boxes(samples, embeddings, [_target_box(sample) for sample in samples])
        if kind is InitKind.RANDOM_POINTS:
            return self._from_points(samples, embeddings)
        empty = [np.zeros((sample.height, sample.width), bool) for sample in samples]
        return [self._state(*row, kind) for row in zip(samples, embeddings, empty, [None] * len(samples), strict=True)]

    def _state(self, sample: Sample, embedding: object, mask: np.ndarray, memory: object, kind: InitKind) -> State:
        start = _true_iou(sample, mask)
        state = State(sample, embedding, mask, kind, mask, init_iou=start, memory=memory, iou=start, best_iou=start)
        return state.replace(end_reason=self._end(state))

    def _from_masks(
        self,
        samples: Sequence[Sample],
        embeddings: Sequence,
        masks: Sequence[np.ndarray],
        kind: InitKind = InitKind.MASK,
    ) -> list[State]:
        for sample, mask in zip(samples, masks, strict=True):
            if mask.shape != (sample.height, sample.width) or mask.dtype != np.bool_:
                size = [sample.height, sample.width]
                raise ValueError(
                    f"sample {sample.sample_id!r}: the initial mask is {mask.dtype} {list(mask.shape)}; "
                    f"it must be bool {size} like the picture"
                )
        memories = self.segmenter.remember(embeddings, masks)
        return [self._state(*row, kind) for row in zip(samples, embeddings, masks, memories, strict=True)]

    def _from_boxes(self, samples: Sequence[Sample], embeddings: Sequence, boxes: Sequence[Box]) -> list[State]:
        """A segmenter that takes boxes makes the first mask of it; for the others the filled box is the first mask."""
        if self.segmenter.accepts_boxes:
            nothing = [()] * len(samples)
            masks, memories = self.segmenter.predict(embeddings, nothing, [None] * len(samples), boxes)
            rows = zip(samples, embeddings, masks, memories, strict=True)
            states = [self._state(*row, InitKind.BOX) for row in rows]
            return [state.replace(init_box=box, box=box) for state, box in zip(states, boxes, strict=True)]
        masks = [box_to_mask(box, s.height, s.width) for s, box in zip(samples, boxes, strict=True)]
        states = self._from_masks(samples, embeddings, masks, InitKind.BOX)
        return [state.replace(init_box=box) for state, box in zip(states, boxes, strict=True)]

    def _random_clicks(self, sample: Sample) -> tuple[Click, ...]:
        box = _target_box(sample)
        random = stable_generator("random_points", self.seed, sample.sample_id)
        count = int(random.integers(self.min_points, self.max_points + 1))
        xs, ys = random.integers(box.x0, box.x1, count), random.integers(box.y0, box.y1, count)
        signs = random.random(count) < 0.5
        signs[0] = True  # a mask needs something to grow from
        return tuple(Click(int(x), int(y), bool(sign)) for x, y, sign in zip(xs, ys, signs, strict=True))

    def _from_points(self, samples: Sequence[Sample], embeddings: Sequence) -> list[State]:
        """The clicks make the mask and are then forgotten: they were random, and the annotator sees but the mask."""
        clicks = [self._random_clicks(sample) for sample in samples]
        masks, _ = self.segmenter.predict(embeddings, clicks, [None] * len(samples))
        states = self._from_masks(samples, embeddings, masks, InitKind.RANDOM_POINTS)
        return [state.replace(init_clicks=points) for state, points in zip(states, clicks, strict=True)]

    # --- step -----------------------------------------------------------------------------------------------------

    def step(self, state: State, action: Action) -> State:
        """The state after one action; `state` is left as it was."""
        return self.step_batch([state], [action])[0]

    def step_batch(self, states: Sequence[State], actions: Sequence[Action]) -> list[State]:
        """The states after one action each; all masks are predicted in one call.

        Raises `ValueError` for a state that has ended, and whatever the segmenter refuses.
        """
        for state in states:
            if state.end_reason is not None:
                raise ValueError(f"sample {state.sample.sample_id!r} has ended ({state.end_reason}): no more steps")
        moving = [k for k, action in enumerate(actions) if action.end is None]
        after = [
            state if action.end is None else _ended(state, action)
            for state, action in zip(states, actions, strict=True)
        ]
        if not moving:
            return after
        clicks = [states[k].clicks + ((actions[k].click,) if actions[k].click else ()) for k in moving]
        boxes = [actions[k].box or states[k].box for k in moving]
        embeddings, memory = [states[k].embedding for k in moving], [states[k].memory for k in moving]
        masks, memories = self.segmenter.predict(embeddings, clicks, memory, boxes)
        for row, k in enumerate(moving):
            moved = states[k].replace(mask=masks[row], memory=memories[row], clicks=clicks[row], box=boxes[row])
            after[k] = self._judge(states[k], actions[k], moved)
        return after

    def _judge(self, before: State, action: Action, moved: State) -> State:
        reward = _true_iou(before.sample, moved.mask)
        known = reward is not None
        better = known and (before.best_iou is None or reward > before.best_iou)
        kept = not known or self.tau_diff is None or reward - before.iou >= self.tau_diff
        step = Step(action, encode_rle(moved.mask), before.iou, reward, kept)
        state = moved.replace(
            iou=reward,
            best_iou=reward if better else before.best_iou,
            stale=before.stale + 1 if known and not better else 0,
            steps=(*before.steps, step),
        )
        return state.replace(end_reason=self._end(state))

    def _end(self, state: State) -> EndReason | None:
        good = self.tau_stop is not None and state.iou is not None and state.iou >= self.tau_stop
        if good and len(state.steps) >= self.min_clicks:
            return EndReason.FINISHED
        if self.patience is not None and state.stale >= self.patience:
            return EndReason.NO_GAIN
        return EndReason.OUT_OF_CLICKS if len(state.steps) >= self.max_clicks else None


def _ended(state: State, action: Action) -> State:
    """What an end says of the last mask is kept: no further reply will."""
    told = {} if action.predicted_iou is None else {"pred_iou": action.predicted_iou}
    return state.replace(end_reason=action.end, end_text=action.text, extras=state.extras | told)


def _given_mask(sample: Sample) -> np.ndarray:
    if sample.mask is None:
        raise ValueError(f"sample {sample.sample_id!r} has no mask to start from; choose another init")
    return sample.mask


def _target_box(sample: Sample) -> Box:
    box = sample.box or (None if sample.target is None else bounding_box(sample.target))
    if box is None:
        raise ValueError(
            f"sample {sample.sample_id!r} has neither a box nor a target to take one from; init=empty works"
        )
    return box


def to_trajectory(state: State, seconds: float | None = None) -> Trajectory:
    """What is kept of a state: facts of the sample, RLE masks, steps."""
    sample = state.sample
    return Trajectory(
        sample_id=sample.sample_id,
        image_name=sample.image_name,
        height=sample.height,
        width=sample.width,
        text=sample.text,
        target=None if sample.target is None else encode_rle(sample.target),
        void=None if sample.void is None else encode_rle(sample.void),
        init=state.init,
        init_mask=encode_rle(state.init_mask),
        init_box=state.init_box,
        init_clicks=state.init_clicks,
        init_iou=state.init_iou,
        steps=state.steps,
        end_reason=state.end_reason,
        end_text=state.end_text,
        object_id=sample.object_id,
        category=sample.category,
        seconds=seconds,
        extras=state.extras,
    )

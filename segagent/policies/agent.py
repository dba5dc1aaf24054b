"""The policy that is a multimodal LLM: states -> what it sees and is asked -> its replies -> actions.

It sees the picture with the mask painted on it and the description; neither the clicks so far nor the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from segagent.data.images import through_jpeg
from segagent.dialogue import Observation, load_dialogue
from segagent.environment import stable_generator
from segagent.mllm.base import MLLM, Completion
from segagent.types import Action, EndReason, State


class Agent:
    """mllm: see `mllm.base.MLLM`. dialogue: name of the one it is spoken to in, None for its checkpoint's own.

    temperature: of sampling; at 0 all candidates of a state are alike, and one is returned. greedy_first: the first of
    several candidates is the greedy reply, whatever the temperature, so that one candidate is what the policy does at
    temperature 0. max_new_tokens: of a reply. prefix: what every reply begins with, as if the model had said it;
    first_prefix: the first one of a trajectory, where it differs (`<box>(` asks for a box first). jpeg_quality: the
    picture with the mask goes through JPEG before the model sees it, as in the released evaluation (75); None: it does
    not. takes_boxes: a reply with a box and no point is a box action; otherwise it counts as unparsable. seed: of
    sampling; a state's samples follow from it, the sample and the clicks so far.
    """

    expects_iou = True  # `propose` takes `expected_iou`

    def __init__(
        self,
        *,
        mllm: MLLM | None,
        dialogue: str | None = None,
        temperature: float = 0.0,
        greedy_first: bool = False,
        max_new_tokens: int = 64,
        prefix: str = "",
        first_prefix: str | None = None,
        jpeg_quality: int | None = None,
        takes_boxes: bool = False,
        seed: int = 0,
    ) -> None:
        if mllm is None:
            raise ValueError("policy=agent: no model given; say mllm=NAME or mllm=FOLDER (--help lists the names)")
        named = dialogue or mllm.dialogue
        if named is None:
            raise ValueError("policy=agent: the checkpoint names no dialogue; say policy.dialogue=NAME")
        self.mllm, self.dialogue = mllm, load_dialogue(named)
        self.announces_iou = bool(self.dialogue.iou)
        self.temperature, self.greedy_first, self.max_new_tokens = temperature, greedy_first, max_new_tokens
        self.prefix, self.first_prefix = prefix, first_prefix
        self.takes_boxes, self.seed = takes_boxes, seed
        if jpeg_quality is not None and not 1 <= jpeg_quality <= 95:
            raise ValueError(f"policy.jpeg_quality={jpeg_quality}: give 1 to 95, or null for none")
        self.jpeg_quality = jpeg_quality

    def propose(
        self,
        states: Sequence[State],
        num_candidates: int = 1,
        prefixes: Sequence[str] | None = None,
        expected_iou: bool = False,
    ) -> list[list[Action]]:
        """See `Policy.propose`; all candidates of all states are sampled in one call, duplicates kept.

        prefixes: what the reply to each state begins with (a box, a predicted IoU), instead of its own. An action's
        text includes it, its log-probability does not. expected_iou: the predicted IoU is not the number in the reply
        but the mean of all that the dialogue can write, each weighed by the probability that the model announces it.
        """
        texts, values = self.dialogue.iou_choices() if expected_iou else (None, ())
        prefixes = [self._prefix(state) for state in states] if prefixes is None else prefixes
        observations = [self._observe(state) for state in states]
        alone = self.greedy_first and num_candidates == 1
        replies = self.mllm.generate(
            observations,
            prefixes=prefixes if any(prefixes) else None,
            num_samples=1 if self.temperature == 0 else num_candidates,
            temperature=0.0 if alone else self.temperature,
            greedy_first=self.greedy_first and not alone,
            seeds=[self._seed(state) for state in states],
            max_new_tokens=self.max_new_tokens,
            **({"choices": texts} if expected_iou else {}),
        )
        actions = [
            [self.read(state, prefix, completion) for completion in completions]
            for state, prefix, completions in zip(states, prefixes, replies, strict=True)
        ]
        if not expected_iou:
            return actions
        means = [_mean(values, completions[0].weights) for completions in replies]
        return [[replace(a, predicted_iou=mean) for a in row] for row, mean in zip(actions, means, strict=True)]

    def _observe(self, state: State) -> Observation:
        seen = self.dialogue.observe(state.sample.image, state.mask, state.sample.text)
        if self.jpeg_quality is None:
            return seen
        return replace(seen, image=through_jpeg(seen.image, self.jpeg_quality))

    def read(self, state: State, prefix: str, completion: Completion) -> Action:
        """The action that a reply stands for; one that cannot be read ends the trajectory and keeps its text."""
        text = prefix + completion.text
        size = {"width": state.sample.width, "height": state.sample.height}
        seen = self.mllm.seen_size(**size) if self.dialogue.absolute else None
        reply = self.dialogue.parse(text, **size, seen=seen)
        facts = {
            "text": text,
            "predicted_iou": reply.predicted_iou,
            # Rounded, because its last digits depend on what else was in the batch.
            "log_prob": None if completion.log_prob is None else round(completion.log_prob, 3),
        }
        if reply.click is not None:
            return Action(click=reply.click, **facts)
        if reply.box is not None and self.takes_boxes:
            return Action(box=reply.box, **facts)
        return Action(end=EndReason.FINISHED if reply.finished else EndReason.UNPARSABLE, **facts)

    def _prefix(self, state: State) -> str:
        return self.prefix if state.steps or self.first_prefix is None else self.first_prefix

    def _seed(self, state: State) -> int:
        random = stable_generator("agent", self.seed, state.sample.sample_id, state.clicks, state.box)
        return int(random.integers(2**63))


def _mean(values: Sequence[float], weights: Sequence[float] | None) -> float | None:
    """Rounded, because its last digits depend on what else was in the batch."""
    return None if weights is None else round(sum(v * w for v, w in zip(values, weights, strict=True)), 4)

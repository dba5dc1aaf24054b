"""The plain loop that `rollout.py` measures against: what the released evaluation does, with the same parts.

One sample at a time: its picture is embedded for it alone; per click the mask is painted on the picture, written to an
image file and read back from there, and the model reads picture and prompt from the beginning for one reply. With K
candidates it reads them K times, once a candidate, and once more for each outcome that is to be judged. Nothing is
kept from one call to the next. The file is a PNG where the released code writes a JPEG, so that the model sees the same
pixels as in the other loop.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from segagent.data.images import load_image
from segagent.dialogue import Observation
from segagent.environment import Environment
from segagent.policies.agent import Agent
from segagent.types import Action, EndReason, Sample, State


class PlainLoop:
    """agent: model, dialogue, temperature and limits. k: candidates a step. folder: where the pictures are written."""

    def __init__(self, *, agent: Agent, environment: Environment, k: int, folder: Path) -> None:
        self.agent, self.environment, self.k = agent, environment, k
        self.path = folder / "observation.png"

    def run(self, sample: Sample) -> State:
        """The last state of the line that was followed, its best mask told by `extras["returned"]` when k > 1."""
        state = self.environment.start(sample)
        if self.k == 1:
            while state.end_reason is None:
                state = self.environment.step(state, self.reply(state, 0))
            return state
        rewards = [self.score(state)]
        while state.end_reason is None:
            outcomes = []
            for k in range(self.k):
                action = self.reply(state, k)
                if action.end is not EndReason.UNPARSABLE or (not outcomes and k + 1 == self.k):
                    moved = self.environment.step(state, action)
                    outcomes.append((self.score(moved), moved))
            reward, state = max(outcomes, key=lambda one: one[0])
            rewards.append(reward)
        return state.replace(extras={"returned": int(np.argmax(rewards))})

    def score(self, state: State) -> float:
        """What the model says of a mask: a reply of its own."""
        return self.reply(state, 0).predicted_iou or 0.0

    def reply(self, state: State, k: int) -> Action:
        """The k-th candidate: the first greedy, the others sampled, each from a prompt pass of its own."""
        agent = self.agent
        seen = self.through_file(agent.dialogue.observe(state.sample.image, state.mask, state.sample.text))
        ((completion,),) = agent.mllm.generate(
            [seen],
            temperature=agent.temperature if k else 0.0,
            seeds=[agent.seed + k],
            max_new_tokens=agent.max_new_tokens,
        )
        return agent.read(state, "", completion)

    def through_file(self, seen: Observation) -> Observation:
        if not cv2.imwrite(str(self.path), seen.image[..., ::-1]):
            raise OSError(f"{self.path}: cannot be written")
        return replace(seen, image=load_image(self.path))

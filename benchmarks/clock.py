"""Where the time of a rollout goes: sections of its parts, none counted twice, and counts of calls and tokens.

Sections are put around methods and modules of one run's objects and taken off again; what a section calls in turn is
subtracted from it; what another thread does meanwhile is nobody's time. On CUDA every border waits for the device, so
that a split run is slower than one that is timed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor, nn

from segagent.mllm.local import LocalMLLM
from segagent.policies.agent import Agent
from segagent.segmenters.base import ClickSegmenter

SECTIONS = ("overlay", "preprocessing", "vision tower", "prefill", "decode", "segmenter", "parsing", "files", "rest")


class Clock:
    """seconds: by section. counts: calls and tokens. Use as a context; `rest` is what no section took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(SECTIONS, 0.0)
        self.counts: Counter[str] = Counter()
        self._stack, self._undo, self._since = ["rest"], ExitStack(), 0.0

    def __enter__(self) -> Self:
        self._thread = threading.get_ident()
        self._since = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self._charge()
        self._undo.close()

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def _charge(self) -> None:
        now = self._now()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def enter(self, section: str) -> None:
        if threading.get_ident() == self._thread:
            self._charge()
            self._stack.append(section)

    def leave(self) -> None:
        if threading.get_ident() == self._thread:
            self._charge()
            self._stack.pop()

    def around(self, owner: Any, name: str, section: str, count: Callable[..., dict] | None = None) -> None:
        """Puts a section around a method of one object. count: what a call adds to the counts, of its arguments."""
        method = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            self.enter(section)
            try:
                return method(*arguments, **named)
            finally:
                self.counts.update(count(*arguments, **named) if count else {})
                self.leave()

        setattr(owner, name, timed)
        self._undo.callback(delattr, owner, name)

    def module(self, module: nn.Module, section: Callable[[dict], str], count: Callable[[dict], dict]) -> None:
        """Puts a section around a module, named after the keyword arguments it is called with."""

        def before(_: nn.Module, __: tuple, named: dict) -> None:
            self.enter(section(named))
            self.counts.update(count(named))

        for handle in (
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(lambda *_: self.leave(), always_call=True),
        ):
            self._undo.callback(handle.remove)

    # --- what is watched ------------------------------------------------------------------------------------------

    def watch(self, agent: Agent, segmenter: ClickSegmenter) -> None:
        """Puts sections around everything that an agent and a segmenter do."""
        mllm, network = agent.mllm, agent.mllm.network
        self.around(agent.dialogue, "observe", "overlay")
        self.around(agent, "read", "parsing")
        self.around(segmenter, "embed", "segmenter", lambda images: {"pictures embedded": len(images)})
        self.around(segmenter, "predict", "segmenter", lambda states, *_: {"segmenter calls": 1, "clicks": len(states)})
        # What is left of a call of the model is choosing tokens and turning them into text.
        self.around(mllm, "generate", "decode", lambda *_, **__: {"model calls": 1})
        if isinstance(mllm, LocalMLLM):
            self.around(mllm, "_pad_left", "preprocessing")
            self.around(mllm, "prompt_tokens", "preprocessing")
            self.around(network, "visual_tokens", "vision tower")
            self.module(network.language, _stage, _tokens)
        else:
            self.around(mllm, "_tensors", "preprocessing")
            self.module(network, _stage, _tokens)
            self.module(network.model.visual, lambda _: "vision tower", lambda _: {})


def _length(named: dict) -> Tensor:
    """The tensor whose first two sides are rows and tokens."""
    return named["inputs_embeds"] if named.get("inputs_embeds") is not None else named["input_ids"]


def _stage(named: dict) -> str:
    return "decode" if _length(named).shape[1] == 1 else "prefill"


def _tokens(named: dict) -> dict:
    rows, tokens = _length(named).shape[:2]
    if tokens == 1:
        return {"decoding passes": 1, "tokens decoded": rows}
    return {"prompt passes": 1, "prompts read": rows, "prompt tokens": rows * tokens}

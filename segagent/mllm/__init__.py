"""Multimodal LLMs: (observations) -> replies as text, with log-probabilities. The contract is `base.MLLM`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segagent.mllm.endpoint import Endpoint
    from segagent.mllm.transformers_vlm import TransformersVLM

__all__ = ["Endpoint", "TransformersVLM"]
_MODULES = {"Endpoint": "endpoint", "TransformersVLM": "transformers_vlm"}


def __getattr__(name: str) -> Any:
    """Members are imported when asked for: transformers takes seconds that a served model need not wait for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

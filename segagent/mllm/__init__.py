"""Multimodal LLMs: (observations) -> replies as text, with log-probabilities. The contract is `base.MLLM`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segagent.mllm.endpoint import Endpoint
    from segagent.mllm.osprey import Osprey
    from segagent.mllm.qwen_vl_chat import QwenVLChat
    from segagent.mllm.transformers_vlm import TransformersVLM

__all__ = ["Endpoint", "Osprey", "QwenVLChat", "TransformersVLM"]
_MODULES = {
    "Endpoint": "endpoint",
    "Osprey": "osprey",
    "QwenVLChat": "qwen_vl_chat",
    "TransformersVLM": "transformers_vlm",
}


def __getattr__(name: str) -> Any:
    """Members are imported when asked for: torch and transformers take seconds that others need not wait for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

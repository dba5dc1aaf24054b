"""Click segmenters: (embeddings, clicks, memory, boxes) -> (masks, memory). The contract is `base.ClickSegmenter`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segagent.segmenters.graphcut import GraphCut
    from segagent.segmenters.sam import Sam
    from segagent.segmenters.sam2 import Sam2
    from segagent.segmenters.sam3tracker import Sam3Tracker
    from segagent.segmenters.samhq import SamHq
    from segagent.segmenters.simpleclick import SimpleClick

__all__ = ["GraphCut", "Sam", "Sam2", "Sam3Tracker", "SamHq", "SimpleClick"]


def __getattr__(name: str) -> Any:
    """Members are imported when asked for: torch takes seconds that a weight-free one need not wait for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{name.lower()}"), name)

"""The size at which a network that reads pictures at their own size sees one: (width, height) and bounds -> the same.

The rule of Qwen2-VL (arXiv:2409.12191, section 2.1) and its successors: sides are multiples of one patch of merged
tokens, the area lies within bounds, the aspect ratio is kept as far as that allows.
"""

from __future__ import annotations

import math

from segagent.types import RefusedError


def check_ratio(*, width: int, height: int) -> None:
    """Raises `RefusedError` for a side ratio above 200: such a picture would be huge once its short side is resized."""
    if max(width, height) > 200 * min(width, height):
        raise RefusedError(f"picture of {width}x{height}: one side is more than 200 times the other; crop it")


def bounded_size(*, width: int, height: int, multiple: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(width, height) after resizing. Raises `RefusedError` for a side ratio above 200, which the networks refuse."""
    check_ratio(width=width, height=height)
    wide, high = round(width / multiple) * multiple, round(height / multiple) * multiple
    if wide * high > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        wide = max(multiple, math.floor(width / shrink / multiple) * multiple)
        high = max(multiple, math.floor(height / shrink / multiple) * multiple)
    elif wide * high < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        wide = math.ceil(width * grow / multiple) * multiple
        high = math.ceil(height * grow / multiple) * multiple
    return wide, high

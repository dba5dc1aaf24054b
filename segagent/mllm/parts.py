"""Which part of a multimodal LLM a weight is of, by its name, for every family."""

from __future__ import annotations

_VISION = {"tower", "visual", "vision_tower", "vision_model"}
# Parts that make tokens for the language model, some of which lie inside the vision part. Of Qwen-VL-Chat the released
# recipe trains the attention pool only.
PROJECTOR = {"attn_pool", "merger", "deepstack_merger_list", "projector", "mlp1"}
PROJECTOR |= {"multi_modal_projector", "connector", "visual_norm", "positions", "image_newline"}
# As a regular expression of names from their beginning: what is not of the language model, and its output layer.
NOT_QUANTIZED = rf"(.*\.)?({'|'.join(sorted(_VISION | PROJECTOR))}|lm_head)"


def part_of(name: str) -> str:
    """`vision`, `projector` or `language`: where a parameter or a module of any family belongs."""
    words = set(name.split("."))
    if words & PROJECTOR:
        return "projector"
    return "vision" if words & _VISION else "language"

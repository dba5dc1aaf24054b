"""Memory that the weights of released vision-language models take, from their published widths; no weights are needed.

    python benchmarks/vlm_memory.py

Each model is built without memory for its weights, and its parameters are counted. bf16: 2 bytes each. 4-bit (NF4 of
bitsandbytes): 4.5 bits for the weights of linear layers (4, and a float32 scale per 64), 2 bytes for all others; the
output layer is not quantized. Activations and the key-value cache come on top.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    InternVLConfig,
    LlavaConfig,
    LlavaOnevisionConfig,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
    SmolVLMConfig,
)
from transformers.utils import logging

_MROPE = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}


def decoder(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": vocab}
    return {**sizes, "num_attention_heads": heads, "num_key_value_heads": kv_heads, **more}


def tower(hidden: int, inner: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    return {**sizes, "num_attention_heads": heads, **more}


def qwen2_vl(text: dict[str, Any], tied: bool) -> PreTrainedConfig:
    vision = {"hidden_size": text["hidden_size"]}  # the rest of the tower is the class's default
    return Qwen2VLConfig(
        text_config={**text, "rope_parameters": dict(_MROPE)}, vision_config=vision, tie_word_embeddings=tied
    )


def qwen2_5_vl(text: dict[str, Any], tied: bool) -> PreTrainedConfig:
    vision = {"hidden_size": 1280, "out_hidden_size": text["hidden_size"]}
    return Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": dict(_MROPE)}, vision_config=vision, tie_word_embeddings=tied
    )


def qwen3_vl(text: dict[str, Any], vision: dict[str, Any], tied: bool) -> PreTrainedConfig:
    rope = {**_MROPE, "mrope_interleaved": True}
    seen = {**vision, "out_hidden_size": text["hidden_size"]}
    return Qwen3VLConfig(
        text_config={**text, "head_dim": 128, "rope_parameters": rope}, vision_config=seen, tie_word_embeddings=tied
    )


def llava(text: dict[str, Any]) -> PreTrainedConfig:
    vision = tower(1024, 4096, 24, 16, image_size=336, patch_size=14, projection_dim=768)
    return LlavaConfig(
        text_config={"model_type": "llama", **text}, vision_config={"model_type": "clip_vision_model", **vision}
    )


def onevision(text: dict[str, Any], tied: bool) -> PreTrainedConfig:
    vision = tower(1152, 4304, 26, 16, image_size=384, patch_size=14, vision_use_head=False)
    return LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text, "tie_word_embeddings": tied},
        vision_config={"model_type": "siglip_vision_model", **vision},
        tie_word_embeddings=tied,
    )


def internvl(text: dict[str, Any]) -> PreTrainedConfig:
    vision = tower(1024, 4096, 24, 16, attention_bias=True)
    return InternVLConfig(text_config={"model_type": "qwen2", **text}, vision_config=vision, tie_word_embeddings=False)


def smolvlm(text: dict[str, Any], vision: dict[str, Any], scale_factor: int) -> PreTrainedConfig:
    return SmolVLMConfig(
        text_config={"model_type": "llama", **text},
        vision_config=vision,
        scale_factor=scale_factor,
        image_token_id=49190,
    )


def released() -> dict[str, PreTrainedConfig]:
    small = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
    base = tower(768, 3072, 12, 12, image_size=512, patch_size=16)
    so400m = tower(1152, 4304, 27, 16, image_size=384, patch_size=14)
    return {
        "Qwen2-VL-2B": qwen2_vl(decoder(1536, 8960, 28, 12, 2, 151936), True),
        "Qwen2-VL-7B": qwen2_vl(decoder(3584, 18944, 28, 28, 4, 152064), False),
        "Qwen2.5-VL-3B": qwen2_5_vl(decoder(2048, 11008, 36, 16, 2, 151936), True),
        "Qwen2.5-VL-7B": qwen2_5_vl(decoder(3584, 18944, 28, 28, 4, 152064), False),
        "Qwen3-VL-2B": qwen3_vl(decoder(2048, 6144, 28, 16, 8, 151936), small, True),
        "Qwen3-VL-4B": qwen3_vl(decoder(2560, 9728, 36, 32, 8, 151936), small, True),
        "Qwen3-VL-8B": qwen3_vl(decoder(4096, 12288, 36, 32, 8, 151936), {}, False),
        "LLaVA-1.5-7B": llava(decoder(4096, 11008, 32, 32, 32, 32064)),
        "LLaVA-1.5-13B": llava(decoder(5120, 13824, 40, 40, 40, 32064)),
        "LLaVA-OneVision-0.5B": onevision(decoder(896, 4864, 24, 14, 2, 152000), True),
        "LLaVA-OneVision-7B": onevision(decoder(3584, 18944, 28, 28, 4, 152128), False),
        "InternVL3-1B": internvl(decoder(896, 4864, 24, 14, 2, 151674)),
        "InternVL3-2B": internvl(decoder(1536, 8960, 28, 12, 2, 151674)),
        "InternVL3-8B": internvl(decoder(3584, 18944, 28, 28, 4, 151674)),
        "SmolVLM2-256M": smolvlm(decoder(576, 1536, 30, 9, 3, 49280), base, 4),
        "SmolVLM2-500M": smolvlm(decoder(960, 2560, 32, 15, 5, 49280), base, 4),
        "SmolVLM2-2.2B": smolvlm(decoder(2048, 8192, 24, 32, 32, 49280), so400m, 3),
    }


def count(config: PreTrainedConfig) -> tuple[int, int]:
    """(all parameters, those that 4-bit quantization stores in 4.5 bits)."""
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(config)
    network.tie_weights()
    output = network.get_output_embeddings()
    linear = sum(
        layer.weight.numel() for layer in network.modules() if isinstance(layer, nn.Linear) and layer is not output
    )
    return sum(parameter.numel() for parameter in network.parameters()), linear


def main() -> None:
    logging.set_verbosity_error()
    print("model                      parameters   bf16 GiB  4-bit GiB")
    for name, config in released().items():
        total, linear = count(config)
        print(
            f"{name:22} {total:14,} {2 * total / 2**30:10.1f} {(4.5 / 8 * linear + 2 * (total - linear)) / 2**30:10.1f}"
        )


if __name__ == "__main__":
    main()

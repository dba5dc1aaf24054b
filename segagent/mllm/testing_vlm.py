"""Tiny checkpoints with random weights in the format of the hub: (family, folder) -> a folder as the real ones.

Config, safetensors, tokenizer, chat template, image processor: everything is made here, nothing is fetched. For tests,
and for trying a command before the real weights are there. The prompts that the templates make are those of the
released models; widths, depths and vocabularies are not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    GPT2Tokenizer,
    InternVLConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaOnevisionConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen3VLConfig,
    SmolVLMConfig,
)

_WORDS = ["Positive point: (123, 456)", "Negative point: (78, 90)", "Finish", "Current IOU: 85,", "the left red cup"]
_CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_QWEN_VISION = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_INTERNVL_VISION = ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
_CLIP = {"image_mean": [0.481, 0.458, 0.408], "image_std": [0.269, 0.261, 0.276]}
_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}

# What each loop over the parts of a message prints for a part; `image` stands for the placeholder.
_PARTS = (
    "{%% for part in message['content'] %%}{%% if part['type'] == 'image' %%}%s"
    "{%% else %%}{{ part['text'] }}{%% endif %%}{%% endfor %%}"
)
_CHATML_TEMPLATE = (
    "{%% if messages[0]['role'] != 'system' %%}%s{%% endif %%}"
    "{%% for message in messages %%}<|im_start|>{{ message['role'] }}\n%s<|im_end|>\n{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|im_start|>assistant\n{%% endif %%}"
)
_QWEN_PART = "<|vision_start|><|image_pad|><|vision_end|>"
_DEFAULT_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_LLAVA_TEMPLATE = (
    "{%% for message in messages %%}{%% if message['role'] != 'system' %%}{{ message['role'] | upper }}: {%% endif %%}"
    "%s {%% endfor %%}{%% if add_generation_prompt %%}ASSISTANT:{%% endif %%}"
) % (_PARTS % "<image>\n")
_SMOLVLM_TEMPLATE = (
    "<|im_start|>{%% for message in messages %%}{{ message['role'] | capitalize }}"
    "{%% if message['content'][0]['type'] == 'image' %%}:{%% else %%}: {%% endif %%}%s<end_of_utterance>\n"
    "{%% endfor %%}{%% if add_generation_prompt %%}Assistant:{%% endif %%}"
) % (_PARTS % "<image>")


def _chatml(image: str, default_system: str = "") -> str:
    return _CHATML_TEMPLATE % (default_system, _PARTS % image)


# --- tokenizers -----------------------------------------------------------------------------------------------------


def _byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level vocabulary of 256 bytes and some pairs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_WORDS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _qwen_tokenizer(extra: Sequence[str], **named: str) -> PreTrainedTokenizerBase:
    vocab, merges = _byte_pairs()
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=named or None,
    )
    tokenizer.add_tokens([*_CHATML, *extra], special_tokens=True)
    return tokenizer


def _llama_tokenizer() -> PreTrainedTokenizerBase:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [chr(code) for code in range(33, 127)]
    merges = [("▁", "P"), ("o", "i"), ("n", "t"), ("▁", "("), ("oi", "nt")]
    pieces += [first + second for first, second in merges]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = LlamaTokenizer(vocab=vocab, merges=merges)
    tokenizer.add_tokens(["<image>", "<pad>"], special_tokens=True)
    tokenizer.pad_token = "<pad>"
    return tokenizer


def _smolvlm_tokenizer() -> PreTrainedTokenizerBase:
    vocab, merges = _byte_pairs()
    tokens = ["<|endoftext|>", "<|im_start|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tokens += ["<global-img>", *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))]
    tokenizer = GPT2Tokenizer(
        vocab=vocab, merges=merges, bos_token="<|im_start|>", eos_token="<end_of_utterance>", unk_token="<|endoftext|>"
    )
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.pad_token = "<|im_start|>"
    return tokenizer


# --- configs --------------------------------------------------------------------------------------------------------

_TOWER: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_DECODER: dict[str, Any] = {**_TOWER, "num_key_value_heads": 2, "max_position_embeddings": 2048}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def _ids(tokenizer: PreTrainedTokenizerBase, **tokens: str) -> dict[str, int]:
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}


def _decoder(tokenizer: PreTrainedTokenizerBase, **changes: Any) -> dict[str, Any]:
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return {**_DECODER, **ends, "vocab_size": len(tokenizer), **changes}


def _qwen_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    return _ids(
        tokenizer,
        image_token_id="<|image_pad|>",
        video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    )


def _qwen2_vl(tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2}
    text = _decoder(tokenizer, rope_parameters=dict(_MROPE))
    return Qwen2VLConfig(text_config=text, vision_config=vision, **_qwen_ids(tokenizer))


def _qwen2_5_vl(tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}
    vision |= {"fullatt_block_indexes": [1], "window_size": 56}
    text = _decoder(tokenizer, rope_parameters=dict(_MROPE))
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_qwen_ids(tokenizer))


def _qwen3_vl(tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    text = _decoder(tokenizer, head_dim=8, rope_parameters={**_MROPE, "mrope_interleaved": True})
    return Qwen3VLConfig(text_config=text, vision_config=vision, **_qwen_ids(tokenizer))


def _llava(tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    vision = {"model_type": "clip_vision_model", **_TOWER, "image_size": 56, "patch_size": 14, "projection_dim": 32}
    text = {"model_type": "llama", **_decoder(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    ids = _ids(tokenizer, image_token_index="<image>")
    return LlavaConfig(vision_config=vision, text_config=text, image_seq_length=16, **ids)


def _llava_onevision(tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    vision = {"model_type": "siglip_vision_model", **_TOWER, "image_size": 56, "patch_size": 14}
    vision |= {"vision_use_head": False}
    text = {"model_type": "qwen2", **_decoder(tokenizer)}
    ids = _ids(tokenizer, image_token_index="<image>", video_token_index="<video>")
    return LlavaOnevisionConfig(vision_config=vision, text_config=text, image_grid_pinpoints=_GRIDS, **ids)


def _internvl(tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    vision = {**_TOWER, "image_size": [56, 56], "patch_size": [14, 14]}
    text = {"model_type": "qwen2", **_decoder(tokenizer)}
    ids = _ids(tokenizer, image_token_id="<IMG_CONTEXT>")
    return InternVLConfig(vision_config=vision, text_config=text, image_seq_length=4, **ids)


def _smolvlm(tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    vision = {**_TOWER, "image_size": 64, "patch_size": 16}
    text = {"model_type": "llama", **_decoder(tokenizer)}
    ids = _ids(tokenizer, image_token_id="<image>")
    return SmolVLMConfig(vision_config=vision, text_config=text, scale_factor=2, **ids)


# --- families -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """One model family. preprocessor, processor: contents of the two JSON files beside the weights."""

    tokenizer: Callable[[], PreTrainedTokenizerBase]
    config: Callable[[PreTrainedTokenizerBase], PreTrainedConfig]
    template: str
    preprocessor: dict[str, Any]
    processor: dict[str, Any]


def _qwen_pixels(name: str, patch_size: int, bounds: tuple[str, str], statistics: dict[str, Any]) -> dict[str, Any]:
    """bounds: the names of the bounds in the file, which differ between the releases."""
    pixels = {bounds[0]: 4 * (2 * patch_size) ** 2, bounds[1]: 24 * (2 * patch_size) ** 2}
    layout = {"patch_size": patch_size, "merge_size": 2, "temporal_patch_size": 2}
    size = pixels if bounds[0] == "min_pixels" else {"size": pixels}
    return {"image_processor_type": name, **size, **layout, **statistics}


_GRIDS = [[56 * rows, 56 * columns] for rows in range(1, 4) for columns in range(1, 4)]

FAMILIES = {
    "qwen2_vl": Family(
        lambda: _qwen_tokenizer(_QWEN_VISION),
        _qwen2_vl,
        _chatml(_QWEN_PART, _DEFAULT_SYSTEM),
        _qwen_pixels("Qwen2VLImageProcessor", 14, ("min_pixels", "max_pixels"), _CLIP),
        {"processor_class": "Qwen2VLProcessor"},
    ),
    "qwen2_5_vl": Family(
        lambda: _qwen_tokenizer(_QWEN_VISION),
        _qwen2_5_vl,
        _chatml(_QWEN_PART, _DEFAULT_SYSTEM),
        _qwen_pixels("Qwen2VLImageProcessor", 14, ("min_pixels", "max_pixels"), _CLIP),
        {"processor_class": "Qwen2_5_VLProcessor"},
    ),
    "qwen3_vl": Family(
        lambda: _qwen_tokenizer(_QWEN_VISION),
        _qwen3_vl,
        _chatml(_QWEN_PART),
        _qwen_pixels("Qwen2VLImageProcessorFast", 16, ("shortest_edge", "longest_edge"), _HALF),
        {"processor_class": "Qwen3VLProcessor"},
    ),
    "llava": Family(
        _llama_tokenizer,
        _llava,
        _LLAVA_TEMPLATE,
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 56},
            "crop_size": {"height": 56, "width": 56},
            "do_center_crop": True,
            **_CLIP,
        },
        {
            "processor_class": "LlavaProcessor",
            "patch_size": 14,
            "num_additional_image_tokens": 1,
            "vision_feature_select_strategy": "default",
        },
    ),
    "llava_onevision": Family(
        lambda: _qwen_tokenizer(["<image>", "<video>"]),
        _llava_onevision,
        _chatml("<image>\n"),
        {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "size": {"height": 56, "width": 56},
            "image_grid_pinpoints": _GRIDS,
            **_HALF,
        },
        {
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": 16,
            "vision_feature_select_strategy": "full",
        },
    ),
    "internvl": Family(
        lambda: _qwen_tokenizer(
            _INTERNVL_VISION,
            start_image_token="<img>",
            end_image_token="</img>",
            context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        ),
        _internvl,
        _chatml("<IMG_CONTEXT>\n"),
        {
            "image_processor_type": "GotOcr2ImageProcessor",
            "size": {"height": 56, "width": 56},
            "crop_to_patches": False,
            "min_patches": 1,
            "max_patches": 12,
            **_HALF,
        },
        {"processor_class": "InternVLProcessor", "image_seq_length": 4},
    ),
    "smolvlm": Family(
        _smolvlm_tokenizer,
        _smolvlm,
        _SMOLVLM_TEMPLATE,
        {
            "image_processor_type": "SmolVLMImageProcessor",
            "size": {"longest_edge": 128},
            "max_image_size": {"longest_edge": 64},
            "do_image_splitting": True,
            **_HALF,
        },
        {"processor_class": "SmolVLMProcessor", "image_seq_len": 4},
    ),
}


def write_tiny_checkpoint(family: str, folder: str | Path, *, seed: int = 0) -> Path:
    """A checkpoint of `FAMILIES[family]` in `folder`, some hundred kB; equal seeds give equal weights."""
    made = FAMILIES[family]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = made.tokenizer()
    tokenizer.chat_template = made.template
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForImageTextToText.from_config(made.config(tokenizer))
        _enliven(network)
    network.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    network.save_pretrained(folder)
    for name, content in (("preprocessor_config.json", made.preprocessor), ("processor_config.json", made.processor)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


@torch.no_grad()
def _enliven(network: nn.Module) -> None:
    """Weights large enough that replies differ with the picture; the usual small ones repeat one token."""
    for parameter in network.parameters():
        if parameter.ndim >= 2:
            spread = 1.5 / math.sqrt(parameter[0].numel())
            parameter.copy_(torch.randn_like(parameter) * spread)

"""Tiny checkpoints in the real format of each family, weights random: config, weights, tokenizer and template.

For tests and for trying a pipeline without the gigabytes: `evaluate.py mllm=FOLDER policy=agent` takes them as it takes
the released ones. What such a model says is noise.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from sentencepiece import SentencePieceTrainer

from segagent.dialogue import load_dialogue
from segagent.mllm.osprey import Osprey
from segagent.mllm.osprey_network import OspreyConfig, file_config, file_tensors, new_network
from segagent.mllm.qwen_network import QwenConfig, QwenNetwork
from segagent.mllm.qwen_network import file_tensors as file_tensors_of_qwen
from segagent.mllm.qwen_tokenizer import QwenTokenizer
from segagent.mllm.qwen_vision import QwenVisionConfig
from segagent.mllm.sentencepiece_tokenizer import SentencePieceTokenizer
from segagent.mllm.weights import write_folder
from segagent.mllm.word_tokenizer import WordTokenizer

WORDS = ("the", "left", "right", "red", "green", "blue", "star", "circle", "thing", "above", "small", "big")
TINY_NANO = OspreyConfig(
    image_size=32,
    tower_dims=(8, 16),
    tower_depths=(1, 1),
    width=32,
    depth=2,
    heads=2,
    mlp_width=64,
    stem=4,
    layer_scale=0.1,
    max_length=160,
    tie_embeddings=True,
    visual_norm=True,
    positions="learnt",
    attention="prefix",
    template="{prompt}{image}",
)
TINY_QWEN = QwenConfig(
    vocab_size=480,
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=256,
    seq_length=2048,
    visual=QwenVisionConfig(
        image_size=56,
        patch_size=14,
        width=64,
        layers=2,
        heads=4,
        mlp_ratio=4.9231,
        output_dim=128,
        image_start_id=256 + 3 + 205 + 6,
        n_queries=16,
    ),
)


def write_nano(folder: str | Path, *, seed: int = 0) -> None:
    """A `nano` of 32x32 pixels and 16 visual tokens, which knows the words of WORDS."""
    tokenizer = WordTokenizer.of(load_dialogue("nano"), WORDS)
    Osprey.new(TINY_NANO, tokenizer, dialogue="nano", seed=seed, device="cpu").save(folder)


def write_osprey(folder: str | Path, *, seed: int = 0) -> None:
    """A folder as SegAgent-LLaVA's: Llama config that says nothing of the tower, tokenizer.model, 64x64 pixels.

    Two tokens are embedded beyond those of the tokenizer (<mask> and <pos>), as in the released one.
    """
    folder = Path(folder)
    tokenizer = SentencePieceTokenizer(_sentencepiece())
    config = OspreyConfig(
        image_size=64,
        tower_dims=(8, 12, 16),
        tower_depths=(1, 1, 2),
        width=32,
        depth=2,
        heads=2,
        mlp_width=64,
        vocab_size=tokenizer.size + 2,
        max_length=1024,
    )
    written = file_config(config)
    del written["segagent"]
    write_folder(folder, {**written, "image_size": 64}, dict(file_tensors(new_network(config, seed))))
    tokenizer.save(folder)


def _sentencepiece() -> bytes:
    """A sentencepiece model of the words of the dialogue, with Llama's special ids, digits apart and bytes beneath."""
    texts = [load_dialogue("released_llava").prompt, "Current IOU: 85.2, Positive point: (0.512, 0.308)"] * 4
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.splitlines()] + list(WORDS)),
        model_writer=model,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def write_qwen_vl_chat(folder: str | Path, *, seed: int = 0) -> None:
    """A folder as Qwen-VL-Chat's: fused weights, qwen.tiktoken (of single bytes), 56x56 pixels and 16 queries."""
    tokenizer = QwenTokenizer({bytes([byte]): byte for byte in range(256)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = QwenNetwork(TINY_QWEN)
    write_folder(folder, TINY_QWEN.to_file(), dict(file_tensors_of_qwen(network)))
    tokenizer.save(folder)

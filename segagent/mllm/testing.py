"""Tiny checkpoints in the real format of each family, weights random: config, weights, tokenizer and template.

For tests and for trying a pipeline without the gigabytes: `evaluate.py mllm=FOLDER policy=agent` takes them as it takes
the released ones. What such a model says is noise.
"""

from __future__ import annotations

import io
from pathlib import Path

from sentencepiece import SentencePieceTrainer

from segagent.dialogue import load_dialogue
from segagent.mllm.osprey import Osprey
from segagent.mllm.osprey_network import OspreyConfig, file_config, file_tensors, new_network
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
    template="{prompt}{image}",
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

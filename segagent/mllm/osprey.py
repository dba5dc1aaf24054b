"""Osprey as an MLLM: the model that the released SegAgent-LLaVA is, and nano, which is the same class at small width.

A released folder holds Llama's `tokenizer.model`; one of ours holds `words.json`, the word tokenizer of nano.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segagent.devices import torch_device
from segagent.dialogue import Observation
from segagent.mllm.files import read_config
from segagent.mllm.image_size import check_ratio
from segagent.mllm.local import LocalMLLM, Tokenizer, torch_dtype
from segagent.mllm.network import IMAGE_TOKEN
from segagent.mllm.osprey_network import (
    OspreyConfig,
    OspreyNetwork,
    file_config,
    file_tensors,
    from_file_name,
    new_network,
    read_file_config,
)
from segagent.mllm.pixels import clip_pixels
from segagent.mllm.sentencepiece_tokenizer import SentencePieceTokenizer
from segagent.mllm.weights import fill, read_shapes, read_tensors, unsound_values_told, write_folder
from segagent.mllm.word_tokenizer import FILE_NAME as WORDS_FILE
from segagent.mllm.word_tokenizer import WordTokenizer
from segagent.weights import checkpoint_path


class Osprey(LocalMLLM):
    """network, tokenizer: they must agree on the vocabulary. The rest: see `LocalMLLM`."""

    def __init__(
        self,
        *,
        network: OspreyNetwork,
        tokenizer: Tokenizer,
        dialogue: str | None = None,
        max_batch: int = 32,
        device: str = "auto",
    ) -> None:
        if tokenizer.size > network.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.size} tokens, the network embeds {network.config.vocab_size}: "
                "they are of different checkpoints"
            )
        super().__init__(
            network=network,
            tokenizer=tokenizer,
            dialogue=dialogue,
            max_length=network.config.max_length,
            max_batch=max_batch,
            device=device,
        )
        before, after = network.config.template.split("{image}")
        self._before, self._after = before, after

    # --- folders --------------------------------------------------------------------------------------------------

    @classmethod
    def new(
        cls,
        config: OspreyConfig,
        tokenizer: Tokenizer,
        *,
        dialogue: str | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> Self:
        """Random weights. `config.vocab_size` None is filled in from the tokenizer."""
        sized = config if config.vocab_size is not None else replace(config, vocab_size=tokenizer.size)
        return cls(network=new_network(sized, seed), tokenizer=tokenizer, dialogue=dialogue, device=device)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        dialogue: str | None = None,
        dtype: str = "auto",
        max_batch: int = 32,
        device: str = "auto",
    ) -> Self:
        """A released folder (Osprey, SegAgent-LLaVA), one that `save` wrote, or the name of one that ships.

        dialogue: None for the one that its config.json names, and `released_llava` where it names none. dtype: see
        `local.torch_dtype`. Weights that are not on the way from picture to text (mask extractor, last stage and head
        of the tower) are reported and skipped. Raises `ValueError` naming the file and what is wrong with it.
        """
        path = checkpoint_path(path)
        values, shapes = read_config(path), read_shapes(path)
        with unsound_values_told(path):
            config = read_file_config(values, shapes, str(path / "config.json"))
        tokenizer = WordTokenizer.load(path) if (path / WORDS_FILE).is_file() else SentencePieceTokenizer.load(path)
        ours = isinstance(tokenizer, WordTokenizer)  # may be given as many as one likes
        if not tokenizer.size <= config.vocab_size or not (ours or config.vocab_size <= tokenizer.size + _MOST_ADDED):
            raise ValueError(
                f"{path}: its tokenizer has {tokenizer.size} tokens, its weights embed {config.vocab_size}: "
                "they are of different checkpoints"
            )
        placed = torch_device(device)
        with unsound_values_told(path), torch.device("meta"):
            network = OspreyNetwork(config)
        tensors = ((from_file_name(key), tensor) for key, tensor in read_tensors(path))
        fill(network, tensors, where=path, device=placed, dtype=torch_dtype(dtype, placed))
        network.renew_rotary()
        named = values.get("segagent", {}).get("dialogue") or "released_llava"
        return cls(network=network, tokenizer=tokenizer, dialogue=dialogue or named, max_batch=max_batch, device=device)

    def save(self, folder: str | Path) -> None:
        """Writes config.json, model.safetensors and the tokenizer under the names of released checkpoints."""
        config = file_config(self.network.config)
        family = "nano" if isinstance(self.tokenizer, WordTokenizer) else "osprey"
        config["segagent"] |= {"family": family, "dialogue": self.dialogue}
        write_folder(folder, config, dict(file_tensors(self.network)))
        self.tokenizer.save(folder)

    # --- what LocalMLLM asks for ----------------------------------------------------------------------------------

    def prompt_tokens(self, observation: Observation) -> list[int]:
        """Begin, text before the image, visual tokens, text after it; both texts are tokenized apart, as LLaVA does."""
        texts = [
            part.replace("{system}", observation.system).replace("{prompt}", observation.prompt)
            for part in (self._before, self._after)
        ]
        before, after = (self.tokenizer.encode(text) if text else [] for text in texts)
        image = [IMAGE_TOKEN] * self.network.config.num_visual_tokens
        return [self.tokenizer.begin, *before, *image, *after]

    @property
    def image_size(self) -> int:
        return self.network.config.image_size

    def pixels(self, image: np.ndarray) -> Tensor:
        """`[3, S, S]`: shortest side to S with PIL's bicubic, aspect kept, then bilinear to the square, as Osprey.

        Raises `RefusedError` as `check_ratio`.
        """
        side = self.image_size
        height, width = image.shape[:2]
        check_ratio(width=width, height=height)
        if height < width:
            height, width = side, int(side * width / height)
        else:
            height, width = int(side * height / width), side
        values = clip_pixels(image, width, height)
        return F.interpolate(values[None], size=(side, side), mode="bilinear", align_corners=False)[0]


# Checkpoints embed a few tokens more than their tokenizer file has: <mask> and <pos> of Osprey, and padding to 64.
_MOST_ADDED = 64

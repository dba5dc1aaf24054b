"""Qwen-VL-Chat as an MLLM: the model that the released SegAgent-Qwen is. Current transformers, no remote code.

The official evaluation is this member with its `released_qwen` dialogue, pictures of 448x448 and greedy decoding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from segagent.devices import torch_device
from segagent.dialogue import Observation
from segagent.mllm.files import read_config
from segagent.mllm.local import LocalMLLM, torch_dtype
from segagent.mllm.network import IMAGE_TOKEN
from segagent.mllm.pixels import clip_pixels
from segagent.mllm.qwen_network import QwenConfig, QwenNetwork, file_tensors, from_file_tensors
from segagent.mllm.qwen_tokenizer import QwenTokenizer
from segagent.mllm.weights import fill, read_tensors, unsound_values_told, write_folder


def _check_ids(config: QwenConfig, tokenizer: QwenTokenizer, where: str | Path) -> None:
    start, found = config.visual.image_start_id, tokenizer.ids["<img>"]
    if found != start or tokenizer.size > config.vocab_size:
        raise ValueError(
            f"{where}: the tokenizer has {tokenizer.size} tokens and <img> as {found}; the network embeds "
            f"{config.vocab_size} and expects it as {start}: they are of different checkpoints"
        )


class QwenVLChat(LocalMLLM):
    """network, tokenizer: they must agree on the ids of the image marks. The rest: see `LocalMLLM`.

    Reads at most `seq_length` tokens (2,048), 258 of them the picture's.
    """

    def __init__(
        self,
        *,
        network: QwenNetwork,
        tokenizer: QwenTokenizer,
        dialogue: str | None = "released_qwen",
        max_batch: int = 32,
        device: str = "auto",
    ) -> None:
        _check_ids(network.config, tokenizer, "QwenVLChat")
        super().__init__(
            network=network,
            tokenizer=tokenizer,
            dialogue=dialogue,
            max_length=network.config.seq_length,
            max_batch=max_batch,
            device=device,
        )

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
        """A released folder (Qwen-VL-Chat, SegAgent-Qwen) or one that `save` wrote, whole or in shards.

        dialogue: None for `released_qwen`. dtype: see `local.torch_dtype`. Raises `ValueError` naming the file and what
        is wrong with it.
        """
        path = Path(path)
        values = read_config(path)
        with unsound_values_told(path):
            config = QwenConfig.from_file(values, str(path / "config.json"))
        tokenizer = QwenTokenizer.load(path)
        _check_ids(config, tokenizer, path)
        placed = torch_device(device)
        with unsound_values_told(path), torch.device("meta"):
            network = QwenNetwork(config)
        fill(
            network, from_file_tensors(read_tensors(path)), where=path, device=placed, dtype=torch_dtype(dtype, placed)
        )
        network.renew_rotary()
        return cls(
            network=network,
            tokenizer=tokenizer,
            dialogue=dialogue or values.get("dialogue", "released_qwen"),
            max_batch=max_batch,
            device=device,
        )

    def save(self, folder: str | Path) -> None:
        """Writes config.json, safetensors and the tokenizer as released: query, key and value fused."""
        write_folder(
            folder, {**self.network.config.to_file(), "dialogue": self.dialogue}, dict(file_tensors(self.network))
        )
        self.tokenizer.save(folder)

    # --- what LocalMLLM asks for ----------------------------------------------------------------------------------

    def prompt_tokens(self, observation: Observation) -> list[int]:
        """ChatML: a system turn, a user turn that begins with "Picture 1", the head of the assistant's turn."""
        encode, ids = self.tokenizer.encode, self.tokenizer.ids
        start, end, line = ids["<|im_start|>"], ids["<|im_end|>"], encode("\n")
        queries = [IMAGE_TOKEN] * self.network.config.visual.n_queries
        picture = [*encode("Picture 1: "), ids["<img>"], *queries, ids["</img>"]]
        return [
            *(start, *encode("system"), *line, *encode(observation.system), end, *line),
            *(start, *encode("user"), *line, *picture, *encode(f"\n{observation.prompt}"), end, *line),
            *(start, *encode("assistant"), *line),
        ]

    @property
    def image_size(self) -> int:
        return self.network.config.visual.image_size

    def pixels(self, image: np.ndarray) -> Tensor:
        """`[3, S, S]`: PIL bicubic to the square, aspect not kept."""
        return clip_pixels(image, self.image_size, self.image_size)

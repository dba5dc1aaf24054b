"""Llama's tokenizer, read from the `tokenizer.model` of a checkpoint folder by the sentencepiece library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from sentencepiece import SentencePieceProcessor

FILE_NAME = "tokenizer.model"


class SentencePieceTokenizer:
    """model: the bytes of a sentencepiece model with begin and end tokens."""

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._processor = SentencePieceProcessor(model_proto=model)
        self.size = self._processor.vocab_size()
        self.begin = self._processor.bos_id()
        self.end_tokens = (self._processor.eos_id(),)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without begin and end; a blank at its beginning is the tokenizer's own."""
        return self._processor.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of any ids; ids that were added after the tokenizer was made are written as nothing."""
        return self._processor.decode([int(token) for token in tokens if token < self.size])

    def save(self, folder: str | Path) -> None:
        (Path(folder) / FILE_NAME).write_bytes(self._model)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """From a checkpoint folder. Raises `ValueError` when its file is missing or no sentencepiece model."""
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise ValueError(f"{folder}: has no {FILE_NAME}; without its tokenizer the model cannot be used")
        try:
            tokenizer = cls(path.read_bytes())
        except RuntimeError as error:
            raise ValueError(f"{path}: not a sentencepiece model ({error})") from None
        if min(tokenizer.begin, *tokenizer.end_tokens) < 0:
            raise ValueError(f"{path}: has no begin or no end token; it is not the tokenizer of a Llama")
        return tokenizer

"""Qwen's tokenizer, read from the `qwen.tiktoken` of a checkpoint folder: byte ranks, then the special tokens.

What stands in user text is text: only the marks of boxes and references are read as tokens there, so that no
description can end a turn or open an image.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tiktoken import Encoding

FILE_NAME = "qwen.tiktoken"
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MARKS = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|extra_{number}|>" for number in range(205)),
    *_MARKS,
    "<img>",
    "</img>",
    "<imgpad>",
)


class QwenTokenizer:
    """ranks: byte sequence -> id, the first 256 of them the single bytes. Ids of the special tokens follow."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        self._ranks = ranks
        special = {text: len(ranks) + number for number, text in enumerate(_SPECIAL)}
        self._encoding = Encoding("qwen", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=special)
        self.ids = special
        self.size = len(ranks) + len(_SPECIAL)
        # As released: a reply ends at the end of its turn, and at what only a new turn or text begins with.
        self.end_tokens = (special["<|im_end|>"], special["<|im_start|>"], special["<|endoftext|>"])
        self._shown = frozenset(special[mark] for mark in _MARKS)
        self._first_special = len(ranks)

    def encode(self, text: str) -> list[int]:
        text = unicodedata.normalize("NFC", text)  # as released: macOS writes letters and accents apart
        return self._encoding.encode(text, allowed_special=set(_MARKS), disallowed_special=())

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of any ids; marks are written out, other special tokens and unknown ids are written as nothing."""
        kept = [token for token in tokens if token < self._first_special or token in self._shown]
        return self._encoding.decode(kept, errors="replace")

    def save(self, folder: str | Path) -> None:
        lines = (f"{base64.b64encode(piece).decode()} {rank}\n" for piece, rank in self._ranks.items())
        (Path(folder) / FILE_NAME).write_text("".join(lines), encoding="ascii")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """From a checkpoint folder. Raises `ValueError` when its file is missing or no list of ranks."""
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise ValueError(f"{folder}: has no {FILE_NAME}; without its tokenizer the model cannot be used")
        ranks: dict[bytes, int] = {}
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                piece, rank = line.split()
                ranks[base64.b64decode(piece, validate=True)] = int(rank)
            except (ValueError, binascii.Error):
                raise ValueError(f"{path}, line {number}: expected base64 bytes and their rank") from None
        if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
            raise ValueError(f"{path}: its {len(ranks)} ranks do not count from 0 without gaps; download it again")
        return cls(ranks)

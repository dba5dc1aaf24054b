"""A tokenizer of whole words and digits: text <-> ids, small enough that a model of a few million parameters learns it.

Its pieces are the wordings of one dialogue (`Positive point: (` is one token), the words of descriptions, punctuation
and the ten digits. A whole number of up to `number_width` digits takes exactly that many tokens: leading zeros are a
token that is written as nothing, so that the first digit always means the same, whatever the number. Unknown words
become one token; nothing raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from segagent.dialogue import Dialogue

FILE_NAME = "words.json"
_PAD, _BEGIN, _END, _UNKNOWN, _NO_DIGIT = "<pad>", "<begin>", "<end>", "<unknown>", "<zero>"
_SPECIAL = (_PAD, _BEGIN, _END, _UNKNOWN, _NO_DIGIT)
_UNKNOWN_TEXT = "�"
_PUNCTUATION = tuple(".,:;!?'\"()<>/-%&+")
_NEXT = re.compile(r"\s*([^\W\d_]+|\S)")


class WordTokenizer:
    """pieces: the texts of the ordinary tokens, digits included. number_width: see the module."""

    def __init__(self, pieces: Sequence[str], *, number_width: int = 3) -> None:
        pieces = list(dict.fromkeys([*"0123456789", *pieces]))
        self.number_width = number_width
        self.texts = [*_SPECIAL, *pieces]
        self.ids = {text: number for number, text in enumerate(self.texts)}
        # The longest piece wins; digits are read by `_number`.
        self._by_start: dict[str, list[str]] = {}
        for piece in sorted((piece for piece in pieces if not piece.isdigit()), key=len, reverse=True):
            self._by_start.setdefault(piece[0], []).append(piece)
        self.begin, self.end, self.unknown = (self.ids[name] for name in (_BEGIN, _END, _UNKNOWN))

    @property
    def size(self) -> int:
        return len(self.texts)

    @property
    def digit_tokens(self) -> list[int]:
        """Ids of what numbers are made of."""
        return [self.ids[text] for text in (_NO_DIGIT, *"0123456789")]

    @property
    def end_tokens(self) -> tuple[int, ...]:
        return (self.end,)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without begin and end. Words are found in lower case too, and with no blank before them."""
        tokens: list[int] = []
        at = 0
        while at < len(text):
            digits = re.compile(r"[0-9]+").match(text, at)
            if digits:
                tokens += self._number(digits[0])
                at = digits.end()
                continue
            piece = self._piece(text, at)
            if piece is not None:
                tokens.append(self.ids[piece])
                at += len(piece)
                continue
            word = _NEXT.match(text, at)
            if word is None:  # only blanks are left
                break
            if word[1].isdigit() and word[1] in self.ids:
                at = word.start(1)
                continue
            lower = word[1].lower()
            tokens.append(self.ids.get(f" {lower}", self.ids.get(lower, self.unknown)))
            at = word.end()
        return tokens

    def _piece(self, text: str, at: int) -> str | None:
        """The longest piece that comes next, cuts no word in two, and takes a last blank before a number only.

        Blanks before words belong to the words, so that a text may be cut after a comma and gives the same ids.
        """
        for piece in self._by_start.get(text[at], ()):
            if text.startswith(piece, at):
                after = text[at + len(piece) : at + len(piece) + 1]
                cuts = piece[-1].isalpha() and after.isalpha()
                if not cuts and not (piece[-1] == " " and after and not after.isdigit()):
                    return piece
        return None

    def _number(self, digits: str) -> list[int]:
        missing = max(self.number_width - len(digits), 0)
        return [self.ids[_NO_DIGIT]] * missing + [self.ids[digit] for digit in digits]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of any ids; special ones, and those that no word has, are written as nothing, unknown words as
        U+FFFD."""
        hidden = {self.ids[name] for name in _SPECIAL} - {self.unknown}
        texts = (
            _UNKNOWN_TEXT if token == self.unknown else self.texts[token]
            for token in tokens
            if token < len(self.texts) and token not in hidden
        )
        return "".join(texts)

    def save(self, folder: str | Path) -> None:
        content = {"number_width": self.number_width, "pieces": self.texts[len(_SPECIAL) :]}
        text = json.dumps(content, ensure_ascii=False, indent=0) + "\n"
        (Path(folder) / FILE_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """From a checkpoint folder. Raises `ValueError` when its file is missing or not one that `save` wrote."""
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise ValueError(f"{folder}: has no {FILE_NAME}; without its tokenizer the model cannot be used")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(content["pieces"], number_width=content["number_width"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a word tokenizer ({error!r})") from None

    @classmethod
    def of(cls, dialogue: Dialogue, words: Sequence[str], *, number_width: int = 3) -> Self:
        """The tokenizer of a dialogue and the words of its descriptions."""
        spaced = [f" {word}" for word in words]
        return cls([*_wordings(dialogue), *_PUNCTUATION, *spaced], number_width=number_width)


def _wordings(dialogue: Dialogue) -> list[str]:
    """The fixed texts of replies, each with the blanks and brackets around it, and with a blank before it."""
    points = [f"{word}: (" for word in (dialogue.positive, dialogue.negative)]
    box = [part for part in re.split(r"\{[xy][01]\}", dialogue.box) if part]
    iou = dialogue.iou.split("{iou}") if dialogue.iou else []
    first = [*points, *box[:1], *iou[:1], dialogue.finish]
    return [*first, *(f" {text}" for text in first), *box[1:], *iou[1:], ", ", ")"]

"""A text -> what it says. The only reader of referring expressions; it shares no code with what writes them.

    phrase   = [article] {before} noun {after} {"and" relation phrase}      ("and" at the top level only)
    before   = color | pattern | size | place | ordinal | "partly hidden"
    after    = ["that is" | "which is"] ( place | pattern | "partly hidden" | relation phrase | "from the left" ... )
    relation = "to the left of" | "above" | "behind" | "bigger than" | ... ; "between" takes two phrases and an "and"

Words after a relation belong to its own, nearest phrase: "the star above the mug on the left" is above the left mug.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from segagent.data.refshapes.vocabulary import BUILDERS, COLORS, PATTERNS

T = TypeVar("T")
_ARTICLES = ("the", "a", "an")
_ANY_NOUN = ("thing", "object", "shape", "one")

_SIZES = {
    "big": "big", "large": "big", "small": "small", "little": "small", "tiny": "small",
    "biggest": "biggest", "largest": "biggest", "smallest": "smallest",
}  # fmt: skip
_PATTERNS = {
    **{name: name for name in PATTERNS}, "spotted": "dotted", "checkered": "checked", "stripy": "striped",
    "with stripes": "striped", "with dots": "dotted", "with spots": "dotted", "with checks": "checked",
    "without a pattern": "plain",
}  # fmt: skip
_EDGES = ("left", "right", "top", "bottom")
_CORNERS = {
    f"{name} {side}": f"{edge} {side}"
    for edge, names in (("top", ("top", "upper")), ("bottom", ("bottom", "lower")))
    for name in names
    for side in ("left", "right")
}
_PLACES = {
    **{edge: edge for edge in _EDGES}, "upper": "top", "lower": "bottom",
    "leftmost": "leftmost", "rightmost": "rightmost", "far left": "leftmost", "far right": "rightmost",
    "on the far left": "leftmost", "on the far right": "rightmost",
    "middle": "middle", "center": "middle", "in the middle": "middle", "in the center": "middle",
    **{f"on {article}{side}{end}": side for article in ("", "the ") for side in ("left", "right")
       for end in ("", " side")},
    **{f"{start} {edge}": edge for edge in ("top", "bottom") for start in ("at the", "on", "on the", "at")},
    **_CORNERS,
    **{f"in the {name}{end}": corner for name, corner in _CORNERS.items() for end in ("", " corner")},
}  # fmt: skip
_RANKS = {"second": 2, "third": 3}
_DIRECTIONS = {f"from {article}{edge}": edge for edge in _EDGES for article in ("the ", "")}
_RELATIONS = {
    "to the left of": "left", "left of": "left", "to the right of": "right", "right of": "right",
    "above": "above", "below": "below", "under": "below",
    "next to": "near", "beside": "near", "close to": "near",
    "closest to": "nearest", "nearest to": "nearest",
    "in front of": "front", "partly hiding": "front", "partly covering": "front",
    "behind": "behind", "partly hidden by": "behind", "partly covered by": "behind",
    "bigger than": "bigger", "larger than": "bigger", "smaller than": "smaller",
    "between": "between",
}  # fmt: skip
_HIDDEN = {"partly hidden": True, "partly covered": True, "half hidden": True}
_NOUNS = {name: name for name in BUILDERS}


@dataclass(frozen=True, slots=True)
class Relation:
    """How something stands to one other thing, or two (`between`). others: descriptions of these."""

    kind: str
    others: tuple[Phrase, ...]


@dataclass(slots=True)
class Phrase:
    """A description; what is not said is None. rank: (number, edge) for "second ... from the left"."""

    noun: str | None = None
    color: str | None = None
    pattern: str | None = None
    hidden: bool = False
    size: str | None = None
    place: str | None = None
    rank: tuple[int, str] | None = None
    relations: list[Relation] = field(default_factory=list)


class _Words:
    """The words of a text and how far they are read."""

    def __init__(self, text: str) -> None:
        self.words = text.lower().split()
        self.text = text
        self.at = 0

    def accept(self, *phrases: str) -> bool:
        """Step over the first of these that comes next."""
        for phrase in phrases:
            words = phrase.split()
            if self.words[self.at : self.at + len(words)] == words:
                self.at += len(words)
                return True
        return False

    def look_up(self, table: Mapping[str, T]) -> tuple[int, T] | None:
        """(words, meaning) of the longest entry that comes next; not stepped over."""
        for length in range(min(_LONGEST, len(self.words) - self.at), 0, -1):
            key = " ".join(self.words[self.at : self.at + length])
            if key in table:
                return length, table[key]
        return None

    def error(self, expected: str) -> ValueError:
        rest = " ".join(self.words[self.at :]) or "the end"
        return ValueError(f"cannot read {self.text!r} at {rest!r}: expected {expected}")


def _modifiers(**tables: Mapping[str, object]) -> dict[str, tuple[str, object]]:
    """Words -> (kind of modifier, meaning), from a table for each kind. In one table, for this is read most often."""
    return {words: (kind, meaning) for kind, table in tables.items() for words, meaning in table.items()}


_ANYWHERE = _modifiers(pattern=_PATTERNS, hidden=_HIDDEN, place=_PLACES)
_BEFORE = _ANYWHERE | _modifiers(color={name: name for name in COLORS}, size=_SIZES, number=_RANKS)
_RELATION = _modifiers(relation=_RELATIONS)
_AFTER = _ANYWHERE | _modifiers(edge=_DIRECTIONS) | _RELATION
_LONGEST = max(len(words.split()) for words in (*_BEFORE, *_AFTER, *_NOUNS))
_LINKS = ("that is", "which is")


def description_words() -> tuple[str, ...]:
    """Every word that a referring expression may hold, sorted: what the tokenizer of a small model must know."""
    phrases = [*_ARTICLES, *_ANY_NOUN, *_NOUNS, *_LINKS, "and"]
    phrases += [*_BEFORE, *_AFTER]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


def parse(text: str) -> Phrase:
    """What a referring expression says. Raises `ValueError`, naming the place, when it cannot be read."""
    words = _Words(text)
    phrase = _phrase(words, top=True)
    if words.at < len(words.words):
        raise words.error("the end")
    return phrase


def _phrase(words: _Words, top: bool) -> Phrase:
    said: dict[str, object] = {}
    relations: list[Relation] = []
    words.accept(*_ARTICLES)
    while _modifier(words, _BEFORE, said, relations):
        pass
    noun = words.look_up(_NOUNS)
    if noun is not None:
        words.at += 1
    elif not words.accept(*_ANY_NOUN):
        raise words.error("a color, size, pattern, place or noun")
    while True:
        words.accept(*_LINKS)
        if not _modifier(words, _AFTER, said, relations):
            break
    while top and words.accept("and"):
        words.accept(*_LINKS)
        if not _modifier(words, _RELATION, said, relations):
            raise words.error("a relation after 'and'")
    number, edge = said.pop("number", None), said.pop("edge", None)
    if (number is None) != (edge is None):
        raise words.error("'second' or 'third' together with 'from the left', 'from the top', ...")
    rank = None if number is None else (number, edge)
    return Phrase(noun=noun and noun[1], rank=rank, relations=relations, **said)  # type: ignore[arg-type]


def _modifier(
    words: _Words, table: Mapping[str, tuple[str, object]], said: dict[str, object], relations: list[Relation]
) -> bool:
    """Read one modifier, the longest that fits. False when the next words are none."""
    found = words.look_up(table)
    if found is None:
        return False
    length, (kind, meaning) = found
    if kind in said:
        raise words.error(f"only one {kind}")
    words.at += length
    if kind != "relation":
        said[kind] = meaning
        return True
    others = [_phrase(words, top=False)]
    if meaning == "between":
        if not words.accept("and"):
            raise words.error("'and' and the second thing")
        others.append(_phrase(words, top=False))
    relations.append(Relation(str(meaning), tuple(others)))
    return True

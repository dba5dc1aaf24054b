"""Random numbers that are the same on every machine and with every NumPy.

NumPy promises stable bit streams but not stable distribution methods (`integers`, `choice`, `shuffle` may change
between releases), so every draw here is one SHAKE-256 word turned into a number by our own integer arithmetic.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
_WORDS_PER_BLOCK = 128


class Stream:
    """An endless sequence of 64-bit words, a function of its key alone.

    key: parts that are joined as text; two different keys give unrelated streams.
    """

    def __init__(self, *key: object) -> None:
        self._key = "|".join(str(part) for part in key)
        self._block = 0
        self._words: list[int] = []

    def fork(self, name: object) -> Stream:
        """A stream of its own below this key: what is drawn from it does not move the draws here."""
        return Stream(self._key, name)

    def word(self) -> int:
        """The next integer in `[0, 2**64)`."""
        if not self._words:
            digest = hashlib.shake_256(f"{self._key}#{self._block}".encode()).digest(8 * _WORDS_PER_BLOCK)
            self._words = list(struct.unpack(f"<{_WORDS_PER_BLOCK}Q", digest))[::-1]
            self._block += 1
        return self._words.pop()

    def below(self, bound: int) -> int:
        """An integer in `[0, bound)`; the bias of the multiplication is under `bound / 2**64`."""
        return (self.word() * bound) >> 64

    def between(self, low: int, high: int) -> int:
        """An integer in `[low, high]`, both ends included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 draws."""
        return self.below(100) < percent

    def choice(self, items: Sequence[T]) -> T:
        """One of the items, all equally likely."""
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[tuple[T, int]]) -> T:
        """One of `(item, weight)`; weights are positive integers."""
        place = self.below(sum(weight for _, weight in items))
        for item, weight in items:
            place -= weight
            if place < 0:
                return item
        raise AssertionError("the weights changed while drawing")

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """A new list in random order (Fisher-Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order

"""How many requests a server gets at once: a fixed number, or the one found while it answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_FIRST = 8  # requests at once to begin with
_GAIN = 1.1  # answers a second that a doubling has to bring, as a factor
_RENEW = 32  # rounds after which more is tried again: the server's other users come and go


class Gate:
    """A context that lets as many in as `limit` says; the others wait.

    concurrency: the limit; None: it is found, up to `most`. Then it doubles as long as that brings a tenth more answers
    a second; a doubling that brings less is taken back. A round of measuring is as many answers as the limit, after as
    many others that only fill the server, and all of them with requests waiting outside: otherwise it is not the limit
    that holds the server back. A sign of overload (`overloaded`) halves it at once; further ones of those that were let
    in before count as the same. Entering returns the number of halvings so far. clock: seconds that only rise.

    Raises `ValueError` when a number is not above 0.
    """

    def __init__(self, *, concurrency: int | None, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        for name, value in (("concurrency", concurrency), ("most_concurrency", most)):
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value}: more than 0")
        self.limit = min(_FIRST, most) if concurrency is None else concurrency
        self.most = most if concurrency is None else concurrency
        self._searches, self._searching, self._clock = concurrency is None, concurrency is None, clock
        self._under_way, self._waiting, self._halvings, self._changed = 0, 0, 0, threading.Condition()
        self._answers, self._since, self._rate, self._before, self._rounds = 0, clock(), 0.0, self.limit, 0

    @property
    def threads(self) -> int:
        """As many as keep it full; while the limit is searched for, one more, which shows that others wait."""
        return self.most + self._searches

    def __enter__(self) -> int:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self._under_way < self.limit)
            self._waiting -= 1
            self._under_way += 1
            return self._halvings

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._changed:
            self._under_way -= 1
            if self._searches and kind is None:
                self._count()
            self._changed.notify_all()

    def overloaded(self, seen: int) -> None:
        """The server said that it has too much to do, or did not answer in time. seen: what entering returned."""
        with self._changed:
            if self._searches and seen == self._halvings:
                self._halvings += 1
                self._settle(max(1, self.limit // 2))

    def _count(self) -> None:
        """One more answer."""
        if not self._waiting:
            self._answers = 0
            return
        self._answers += 1
        if self._answers == self.limit:
            self._since = self._clock()
        elif self._answers == 2 * self.limit:
            self._judge(self.limit / max(self._clock() - self._since, 1e-9))

    def _judge(self, rate: float) -> None:
        """A round is over; rate: answers a second."""
        self._answers = 0
        if not self._searching:
            self._rounds += 1
            if self._rounds < _RENEW or self.limit == self.most:
                return
            self._searching, self._rate = True, 0.0
        if rate < _GAIN * self._rate:
            self._settle(self._before)
        elif self.limit == self.most:
            self._settle(self.limit)
        else:
            self._rate, self._before, self.limit = rate, self.limit, min(2 * self.limit, self.most)

    def _settle(self, limit: int) -> None:
        self.limit, self._searching, self._answers, self._rounds = limit, False, 0, 0

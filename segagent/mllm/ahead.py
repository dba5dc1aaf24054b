"""Pictures and prompts of the next batch are made ready in a thread while the network works on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Part = TypeVar("Part")
Ready = TypeVar("Ready")


def one_ahead(make: Callable[[Part], Ready], parts: Iterable[Part]) -> Iterator[Ready]:
    """`make(part)` of each part, in order; the one behind that which was handed out last is being made meanwhile.

    A single part is made by the caller's own thread. What `make` raises is raised when its part's turn comes.
    """
    parts = list(parts)
    if len(parts) < 2:
        yield from map(make, parts)
        return
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(make, parts[0])
        for part in islice(parts, 1, None):
            ready, coming = coming.result(), thread.submit(make, part)
            yield ready
        yield coming.result()

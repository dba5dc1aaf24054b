"""The processes that load and encode examples beside a training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

import cv2
import torch

T = TypeVar("T")


def quiet_worker(_: int) -> None:
    """Workers are many: each keeps to one thread. And they take only the time that the training process leaves: on a
    CPU its threads wait for each other, so that whoever interrupts one of them stops all."""
    if hasattr(os, "nice"):
        os.nice(19)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def told_plainly(batches: Iterable[T]) -> Iterator[T]:
    """The batches; a `ValueError` that a worker raised without torch's traceback of the worker around it."""
    try:
        yield from batches
    except ValueError as error:
        _, found, message = str(error).rpartition("\nValueError: ")
        raise ValueError(message.rstrip() if found else str(error)) from None

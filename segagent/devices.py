"""Where tensors live: names of devices -> torch devices, and precision, memory of the CPU."""

from __future__ import annotations

import ctypes
import sys

import torch

PRECISIONS = ("float32", "bfloat16", "float16")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # <malloc.h>


def keep_freed_memory() -> None:
    """Tells glibc to keep large blocks that are freed. Elsewhere: nothing.

    By default it gives each back to the kernel, and the next tensor of that size is paid for page by page once more:
    on a CPU that can take longer than the arithmetic.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Networks run within it in this precision; weights and what needs it stay float32.

    precision: `float32` (nothing is changed), `bfloat16`, or `float16`, which is for CUDA only. Raises `ValueError`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: choose {', '.join(PRECISIONS)}")
    if precision == "float16" and device.type != "cuda":
        raise ValueError(f"precision=float16 on {device.type}: for CUDA only; bfloat16 works anywhere")
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")


def torch_device(name: str) -> torch.device:
    """`auto` (the first of CUDA, MPS and CPU that is there) or any name that torch knows; a CPU keeps freed memory.

    Raises `ValueError` when the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={name!r} cannot be used here ({reason}); say device=auto or device=cpu") from None
    if device.type == "cpu":
        keep_freed_memory()
    return device

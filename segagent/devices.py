"""Where tensors live: names of devices -> torch devices, and precision, memory of the CPU."""

from __future__ import annotations

import ctypes
import sys
import warnings

import torch

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# As torch names what a CPU can do: of x86, of ARM.
_INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
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


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a GPU of CUDA or a CPU has instructions for it; False for other devices."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and _has_instructions(torch.bfloat16)


def _has_instructions(dtype: torch.dtype) -> bool:
    # Without oneDNN, as in torch for macOS, instructions are there and not used.
    capable = torch.cpu.get_capabilities() if torch.backends.mkldnn.is_available() else {}
    return any(capable.get(name, False) for name in _INSTRUCTIONS[dtype])


def warn_if_slow(device: torch.device, dtype: torch.dtype, setting: str) -> None:
    """Warns of a network in half precision on a CPU that has no instructions for it: it takes many times as long as in
    float32, and nothing else would tell. setting: what the user can change."""
    if device.type == "cpu" and dtype in _INSTRUCTIONS and not _has_instructions(dtype):
        warnings.warn(
            f"{setting}: this CPU has no instructions for {str(dtype).removeprefix('torch.')} and takes many times as "
            f"long as in float32; say {setting}=float32",
            stacklevel=2,
        )


def chosen_precision(device: torch.device, name: str) -> str:
    """`float32`, `bfloat16` or `float16`, as named; `auto` is bfloat16 where the device computes in it, else float32.

    Raises `ValueError` for other names, and for float16, which is for CUDA only, elsewhere. See also `warn_if_slow`.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision={name!r}: choose {', '.join(PRECISIONS)}")
    if name == "float16" and device.type != "cuda":
        raise ValueError(f"precision=float16 on {device.type}: for CUDA only; bfloat16 works anywhere")
    if name == "auto":
        return "bfloat16" if computes_bfloat16(device) else "float32"
    warn_if_slow(device, getattr(torch, name), "precision")
    return name


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Networks run within it in this precision; weights and what needs it stay float32. precision: see
    `chosen_precision`."""
    chosen = chosen_precision(device, precision)
    return torch.autocast(device.type, getattr(torch, chosen), enabled=chosen != "float32")


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

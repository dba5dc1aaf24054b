"""Names of devices -> torch devices."""

from __future__ import annotations

import torch


def torch_device(name: str) -> torch.device:
    """`auto` (the first of CUDA, MPS and CPU that is there) or any name that torch knows.

    Raises `ValueError` when the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={name!r} cannot be used here ({reason}); say device=auto or device=cpu") from None
    return device

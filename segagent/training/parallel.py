"""One training in several processes: who is who, what they share. Started by `accelerate launch`, `torchrun` or alone.

Each process has its own copy of the network and its share of every step's samples; gradients are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from segagent.devices import torch_device


def summed(state: PartialState | Accelerator, values: Sequence[float]) -> list[float]:
    """Each value's sum over the processes."""
    if state.num_processes == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=state.device)
    torch.distributed.all_reduce(total)
    return total.tolist()


def gathered(state: PartialState | Accelerator, rows: list[Any]) -> list[Any]:
    """The rows of all processes, in order of rank; the same in each."""
    return gather_object(rows) if state.num_processes > 1 else rows


def check_same_step(steps: Sequence[int], folder: Path) -> None:
    """Raises `ValueError` when processes would go on from different steps of the run in `folder`."""
    if len(set(steps)) > 1:
        raise ValueError(
            f"{folder}: the processes would go on from the steps {sorted(set(steps))}; out= must be one folder that "
            "all machines see"
        )


class Processes:
    """The processes of this run. rank: 0..count-1 of this one. device: where its network runs.

    device (argument): see `devices.torch_device`; with several processes `auto` and `cuda` mean each one's own GPU.
    """

    def __init__(self, device: str = "auto") -> None:
        state = PartialState(cpu=torch_device(device).type == "cpu")
        self.rank, self.count = state.process_index, state.num_processes
        self.device = state.device if self.count > 1 else torch_device(device)
        self._state = state

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and tells what goes on."""
        return self.rank == 0

    def share(self, network: nn.Module) -> nn.Module:
        """The network to call for gradients: they are averaged over the processes when `backward` returns."""
        if self.count == 1:
            return network
        return DistributedDataParallel(network, device_ids=[self.device] if self.device.type == "cuda" else None)

    def no_sync(self, network: nn.Module) -> AbstractContextManager:
        """Within it, gradients of `share`'s network stay this process's own."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def mean(self, values: Sequence[float]) -> list[float]:
        """Each value's mean over the processes."""
        return [total / self.count for total in summed(self._state, values)]

    def gather(self, rows: list[Any]) -> list[Any]:
        """See `gathered`."""
        return gathered(self._state, rows)

    def wait(self) -> None:
        """Until every process is here."""
        self._state.wait_for_everyone()

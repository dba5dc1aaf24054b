"""Precision is refused where it cannot be; memory of a CPU is kept once a network is to run there."""

import platform
import subprocess
import sys

import pytest
import torch

from segagent.devices import autocast, torch_device

# Resident memory after 64 MiB were taken and given back, above that before, in MiB.
MEASURE = """
import numpy, resource
from segagent.devices import torch_device
def pages(): return int(open("/proc/self/statm").read().split()[1])
if {kept}: torch_device("cpu")
before = pages()
block = numpy.ones(8 << 20); del block
print((pages() - before) * resource.getpagesize() >> 20)
"""


def mebibytes_kept(kept):
    done = subprocess.run([sys.executable, "-c", MEASURE.format(kept=kept)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_a_cpu_keeps_memory_that_is_freed():
    assert mebibytes_kept(True) > 58 > 4 > mebibytes_kept(False), "of 64"


def test_precisions_are_named_and_float16_is_for_cuda():
    cpu = torch.device("cpu")
    layer, inputs = torch.nn.Linear(4, 4), torch.ones(1, 4)
    for precision in ("float32", "bfloat16"):
        with autocast(cpu, precision):
            assert layer(inputs).dtype is getattr(torch, precision)
    with pytest.raises(ValueError, match=r"precision='half': choose float32"):
        autocast(cpu, "half")
    with pytest.raises(ValueError, match=r"precision=float16 on cpu: for CUDA only"):
        autocast(cpu, "float16")


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"device='abacus' cannot be used here"):
        torch_device("abacus")

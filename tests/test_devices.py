"""Precision is refused where it cannot be; memory of a CPU is kept once a network is to run there."""

import platform
import subprocess
import sys
import warnings

import pytest
import torch

from segagent.devices import autocast, chosen_precision, computes_bfloat16, torch_device

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
    with pytest.raises(ValueError, match=r"precision='half': choose auto, float32"):
        autocast(cpu, "half")
    with pytest.raises(ValueError, match=r"precision=float16 on cpu: for CUDA only"):
        autocast(cpu, "float16")


@pytest.mark.parametrize(
    ("capability", "computes"),
    [({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True)],
)
def test_auto_is_bfloat16_where_a_cpu_has_instructions_for_it(capability, computes, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    cpu = torch.device("cpu")
    assert computes_bfloat16(cpu) is computes
    assert chosen_precision(cpu, "auto") == ("bfloat16" if computes else "float32")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert chosen_precision(cpu, "bfloat16") == "bfloat16", "what was asked for is done"
    told = "".join(str(warning.message) for warning in warned)
    assert ("no instructions for bfloat16" not in told) if computes else ("say precision=float32" in told)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"device='abacus' cannot be used here"):
        torch_device("abacus")

"""Benchmarks are files of no package; each imports its neighbours by name."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def benchmark_file(monkeypatch):
    """Imports `benchmarks/NAME.py`."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return importlib.import_module

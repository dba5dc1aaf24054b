"""Recorded numbers of the published networks, and tiny checkpoints that are written once for all tests."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from segagent.dialogue import load_dialogue
from segagent.mllm import testing

FIXTURES = Path(__file__).parents[1] / "fixtures"


def value_of(key, shape, seed):
    """The rule by which the recorded networks were filled: from a tensor's name and shape."""
    values = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape).astype(np.float32)
    if len(shape) == 1 and key.endswith("weight"):
        return 1 + np.float32(0.1) * values
    if key.endswith("bias"):
        return np.float32(0.1) * values
    if len(shape) in (2, 4) and shape[0] != 1:
        return values / np.float32(np.sqrt(np.prod(shape[1:])))
    return np.float32(0.5) * values


@pytest.fixture(scope="session")
def recorded():
    """`recorded("osprey/vision_64")` -> its arrays; JSON texts parsed."""

    def read(name):
        data = np.load(FIXTURES / f"{name}.npz")
        parsed = {key: data[key] for key in data.files}
        return {k: json.loads(str(v)) if v.dtype.kind == "U" and str(v)[:1] in "[{" else v for k, v in parsed.items()}

    return read


@pytest.fixture(scope="session")
def recorded_state():
    """The weights of a recording under their full reference names."""

    def state(data):
        seed, prefix = int(data["weight_seed"]), str(data.get("key_prefix", ""))
        return {
            prefix + key: torch.from_numpy(value_of(prefix + key, tuple(shape), seed))
            for key, shape in data["state_dict_shapes"].items()
        }

    return state


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """name -> folder of a tiny checkpoint; not to be written to."""
    root = tmp_path_factory.mktemp("mllm")
    for name in ("nano", "osprey", "qwen_vl_chat"):
        getattr(testing, f"write_{name}")(root / name)
    return {name: root / name for name in ("nano", "osprey", "qwen_vl_chat")}


@pytest.fixture
def observe():
    """(dialogue, description, seed) -> an observation of noise."""

    def make(dialogue, description="the red star", seed=0, size=(40, 60)):
        image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        return load_dialogue(dialogue).observe(image, np.zeros(size, bool), description)

    return make

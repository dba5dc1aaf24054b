"""Two processes train as one does that takes their batches in turn."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segagent.segmenters.simpleclick_checkpoint import load_simpleclick

ROOT = Path(__file__).resolve().parents[2]
# Runs with one and with two passes a step, one after the other.
RUN = """
import sys, torch
sys.path[:0] = [{tests!r}]
from conftest import make_trainer
torch.set_num_threads(1)
for accumulate in (1, 2):
    made = dict(steps=3, batch_size=2, accumulate=accumulate, validate_every=3)
    make_trainer({out!r} + "/two" + str(accumulate), **made).run()
"""


def losses(folder):
    return [tuple(map(float, row.split(",")[:5])) for row in (folder / "train.csv").read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with what `RUN` left."""
    folder = tmp_path_factory.mktemp("shared")
    script = folder / "run.py"
    script.write_text(RUN.format(tests=str(ROOT / "tests" / "training"), out=str(folder)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    launch += ["--nproc_per_node", "2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_give_the_losses_and_weights_of_one(accumulate, small, shared, tmp_path):
    two, one = shared / f"two{accumulate}", tmp_path / "one"
    alone = small.trainer(one, steps=3, batch_size=2, accumulate=2 * accumulate, validate_every=3)
    alone.run()
    for many, single in zip(losses(two), losses(one), strict=True):
        assert many == pytest.approx(single, rel=1e-5)
    validated = [(path / "validation.csv").read_text() for path in (two, one)]
    assert validated[0] == validated[1]
    again = load_simpleclick(two / "checkpoints" / "step_0000003").state_dict()
    for name, value in alone.network.state_dict().items():
        # A shift of all keys alike changes no attention: its gradient is rounding, which Adam takes for a direction.
        assert name.endswith("attn.qkv.bias") or torch.allclose(again[name], value, atol=1e-5), name

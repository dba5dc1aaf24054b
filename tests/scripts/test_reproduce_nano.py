"""scripts/reproduce_nano.sh: every stage really runs, a little of it; wrong words are told before anything is."""

import os
import subprocess
from pathlib import Path

import pytest

from segagent.mllm.osprey import Osprey

ROOT = Path(__file__).resolve().parents[2]


def reproduce(*arguments):
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "reproduce_nano.sh"), *map(str, arguments)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_every_stage_leads_to_a_policy(tmp_path):
    out = tmp_path / "run (1), a=b"  # as a file manager names a copy
    done = reproduce(out, "all", "0.0003")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == (
        f"reproduce_nano: mllm={out}/policy/best segmenter=simpleclick_nano segmenter.path={out}/segmenter/best"
    )
    steps = {name: len((out / name / "train.csv").read_text().splitlines()) - 1 for name in ("clicks", "policy")}
    assert steps == {"clicks": 2, "policy": 6}, "of 6000 and 20000"
    shipped = Osprey.from_checkpoint("segagent_nano")
    made = Osprey.from_checkpoint(str(out / "policy" / "best"))
    assert made.network.config == shipped.network.config, "the architecture is that of the one that ships"


@pytest.mark.parametrize(
    "words, message",
    [
        (["every"], "every: say policy or all"),
        (["policy", "0"], "0: give the share of steps and samples, above 0 and at most 1"),
        (["policy", "1.5"], "1.5: give the share"),
        (["policy", "half"], "half: give the share"),
    ],
)
def test_wrong_words(tmp_path, words, message):
    done = reproduce(tmp_path / "out", *words)
    assert done.returncode != 0 and message in done.stderr
    assert not (tmp_path / "out").exists()

"""scripts/annotate.py as a user runs it: killed and resumed, exit codes."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


# A run that ends itself as `kill -9` would, when it is about to write for the fourth time.
KILLED = """
import os, runpy, signal, sys
from segagent.data.trajectories import TrajectoryWriter
write, calls = TrajectoryWriter.write_lines, []
def until_killed(self, lines):
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, lines)
TrajectoryWriter.write_lines = until_killed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def command(*arguments):
    return [sys.executable, str(ROOT / "scripts" / "annotate.py"), *map(str, arguments)]


def files(folder):
    """Every result and its bytes; not the settings, which say that one was resumed."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".yaml"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_killed_with_nine_and_resumed_leaves_the_files_of_a_run_that_was_not(tmp_path):
    """One picture is broken: it is told in both runs, by the exit code too."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    random = np.random.default_rng(0)
    for index in range(12):
        mask = np.zeros((40, 56), np.uint8)
        mask[8 : 26 + index % 5, 10 : 30 + index] = 255
        image = random.integers(0, 90, (40, 56, 3), dtype=np.uint8)
        image[mask > 0] += 140
        Image.fromarray(image).save(tmp_path / "images" / f"p{index:02}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"p{index:02}.png")
    (tmp_path / "images" / "p05.png").write_bytes(b"no picture")
    settings = (
        f"images={tmp_path / 'images'}", f"truth={tmp_path / 'masks'}", "text=cup", "segmenter=graphcut",
        "proposer=noisy_oracle", "reward=true_iou", "search.k=2", "rollout.max_clicks=4", "device=cpu", "batch_size=1",
    )  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(command(*settings, f"out={whole}"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "p05.png: not an image" in done.stderr and "mean true iou" in done.stdout
    python, *rest = command(*settings, f"out={killed}")
    dead = subprocess.run([python, "-c", KILLED, *rest], capture_output=True, timeout=300)
    assert dead.returncode == -signal.SIGKILL
    begun = (killed / "trajectories.jsonl").read_bytes()
    assert begun and (whole / "trajectories.jsonl").read_bytes().startswith(begun)
    assert not (killed / "annotations.json").exists(), "killed in the middle"
    resumed = subprocess.run(command(*settings, f"out={killed}", "resume=true"), capture_output=True, timeout=300)
    assert resumed.returncode == 1
    assert files(killed) == files(whole) and len(files(whole)) == 14

"""scripts/annotate.py as a user runs it: killed and resumed, exit codes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


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
    process = subprocess.Popen(command(*settings, f"out={killed}"), stderr=subprocess.DEVNULL)
    lines, deadline = killed / "trajectories.jsonl", time.monotonic() + 120
    while not (lines.exists() and lines.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "annotations.json").exists(), "killed in the middle"
    resumed = subprocess.run(command(*settings, f"out={killed}", "resume=true"), capture_output=True, timeout=300)
    assert resumed.returncode == 1
    assert files(killed) == files(whole) and len(files(whole)) == 14

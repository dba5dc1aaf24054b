"""What annotation costs, against sums by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def cost(tmp_path, *given):
    out = tmp_path / "cost.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "cost.py"), "--gpu-price", "2", "--storage-price", "20"]
    done = subprocess.run([*command, *given, "--out", str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_counted_from_a_models_size(tmp_path):
    """T=2, K=3: 7 states, 21 replies, 6 clicks of the segmenter. One billion parameters take 2 ms a token."""
    sizes = ("--decoder", "1", "--tower", "0.5", "--segmenter", "0.1", "--patches", "40", "--prompt", "30")
    sizes += ("--tokens", "10", "--segmenter-tokens", "50", "--passes", "2", "--batch-size", "4", "--kv-bytes", "1e6")
    ceilings = ("--peak-tflops", "1", "--bandwidth", "0.1", "--efficiency", "0.5")
    stages = cost(tmp_path, "--clicks", "2", "--k", "3", *sizes, *ceilings)["stages"]
    assert stages == pytest.approx(
        {
            "tower": 40 * 1e-3 * 7 / 0.5,
            "prompt": 30 * 2e-3 * 7 / 0.5,
            "decode": 21 * 10 * (2e9 / 4 + 30e6) / 1e11 / 0.5,  # reading takes longer than arithmetic
            "segment": 50 * 0.2e-3 * 2 * 6 / 0.5,
        }
    )


def test_from_a_measured_rate(tmp_path):
    result = cost(tmp_path, "--samples-per-second", "10", "--deadline", "10", "--line-bytes", "5000")
    rows = {row["task"]: row for row in result["rows"]}
    assert rows["RefCOCO family, val and test"]["masks"] == 57457 and not result["counted"]
    million = rows["COCO-size, 10^6 masks"]
    assert million["gpu_hours"] == pytest.approx(27.78, abs=0.01) and million["gpus"] == 3
    assert million["gpu_cost"] == pytest.approx(55.56, abs=0.01) and million["trajectories_tb"] == pytest.approx(0.005)
    assert million["written_mb_per_second"] == pytest.approx(3 * 10 * 0.005)
    clicks = 4.8441558441558445 * 0.06756848352276561 + 0.059737741740
    assert result["simulated_core_hours"]["COCO-size, 10^6 masks"] == pytest.approx(clicks * 1e6 / 3600, rel=1e-3)

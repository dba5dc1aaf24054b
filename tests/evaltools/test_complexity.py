"""evaltools/complexity.py: any data, any segmenter, figures that agree with the trajectories."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from segagent.configuration import compose_config
from segagent.data.trajectories import read_trajectories

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("complexity", ROOT / "evaltools" / "complexity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script, out, *overrides):
    config = compose_config(
        "complexity", [f"out={out}", "segmenter=graphcut", "segmenter.max_pixels=4000", "max_clicks=3", *overrides]
    )
    OmegaConf.resolve(config)
    assert script.main(config) == 0
    return json.loads(out.read_text())


def test_the_sources_of_a_mixture_are_told_apart(script, tmp_path, capsys):
    made = run(script, tmp_path / "c.json", "data=refshapes_mix", "data.limit=8", "data.datasets.short.size=128")
    assert list(made["datasets"]) == ["short", "plus", "long", "thin"] and made["who"] == "Oracle with GraphCut"
    trajectories = list(read_trajectories(tmp_path / "c.trajectories.jsonl"))
    for name, result in made["datasets"].items():
        own = [trajectory for trajectory in trajectories if trajectory.sample_id.startswith(f"{name}/")]
        first = sum(trajectory.steps[0].iou_after for trajectory in own) / 2
        assert result["n"] == len(own) == 2 and result["iou_by_click"][0] == pytest.approx(first)
        never = [max(step.iou_after for step in trajectory.steps) < 0.85 for trajectory in own]
        assert result["never85"] == sum(never)
        assert result["noc80_low"] is result["noc80_high"] is None, "both are of one picture"
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert "thin" in capsys.readouterr().out


def test_other_data_is_one_dataset_and_a_finished_run_resumes_to_the_same(script, tmp_path):
    given = ["data=refshapes", "data.limit=2", "data.size=128"]
    made = run(script, tmp_path / "short.json", *given)
    assert list(made["datasets"]) == ["short"]
    assert run(script, tmp_path / "short.json", *given, "resume=true") == made
    with pytest.raises(ValueError, match="is there already; say resume=true"):
        run(script, tmp_path / "short.json", *given)


def test_what_is_good_before_the_first_click_needs_none(script, tmp_path):
    made = run(script, tmp_path / "b.json", "data=refshapes", "data.limit=6", "data.size=128", "init=box")
    trajectories = list(read_trajectories(tmp_path / "b.trajectories.jsonl"))
    ious = [[one.init_iou, *(step.iou_after for step in one.steps)] for one in trajectories]
    needed = [next((n for n, iou in enumerate(row) if iou >= 0.8), 3) for row in ious]
    assert 0 in needed and made["datasets"]["b"]["noc80"] == pytest.approx(sum(needed) / len(needed))


def test_samples_that_are_all_skipped_and_a_single_picture(script, tmp_path):
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(np.full((16, 16), 255, np.uint8)).save(tmp_path / "set" / name / "a.png")
    (tmp_path / "set" / "images" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"no sample could be clicked through \(1 skipped\)"):
        run(script, tmp_path / "c.json", "data=mask_folders", f"data.root={tmp_path / 'set'}", "on_error=skip")
    made = run(script, tmp_path / "a$b$.json", "data=refshapes", "data.limit=1", "data.size=128")
    (only,) = made["datasets"].values()
    assert only["noc85_low"] is only["noc85_high"] is None

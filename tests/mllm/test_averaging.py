"""The mean of models: its numbers, its files, and what has no mean."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from segagent.mllm.averaging import average
from segagent.mllm.osprey import Osprey
from segagent.mllm.testing import write_nano
from segagent.mllm.weights import read_tensors, weight_files, write_folder

ROOT = Path(__file__).resolve().parents[2]


def changed(source, folder, by):
    """A copy of a model with all its weights moved."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    save_file({key: value + by for key, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def pair(tmp_path):
    first = tmp_path / "first"
    write_nano(first)
    return first, changed(first, tmp_path / "second", 0.5)


@pytest.mark.parametrize("shares, part", [(None, 0.5), ([3, 1], 0.25), ([1.5, -0.5], -0.5)])
def test_weights_are_the_mean_by_shares(pair, tmp_path, shares, part):
    out = tmp_path / "runs" / "mean"
    average(pair, out, shares)
    before, after = load_file(pair[0] / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    for key, value in before.items():
        torch.testing.assert_close(after[key], value + 0.5 * part, rtol=0, atol=1e-6)
    assert Osprey.from_checkpoint(out, device="cpu").dialogue == Osprey.from_checkpoint(pair[0], device="cpu").dialogue


def test_what_speaks_of_one_model_only_is_left_behind(pair, tmp_path):
    for name in ("iou_calibration.json", "second_opinion_calibration.json", "README.md", "training.pt"):
        (pair[0] / name).write_text("{}")
    (pair[0] / "notes.txt").write_text("kept")
    average(pair, tmp_path / "mean")
    names = {path.name for path in (tmp_path / "mean").iterdir()}
    kept = {path.name for path in pair[1].iterdir()} | {"notes.txt"}
    assert names == kept and not (tmp_path / "mean.partial").exists()


def test_shards_and_their_dtype_stay_those_of_the_first(tmp_path):
    config = {"model_type": "x"}
    one = {f"layer.{k}.weight": torch.full((8, 8), float(k), dtype=torch.bfloat16) for k in range(4)}
    two = {key: value.float() + 1 for key, value in one.items()}
    write_folder(tmp_path / "one", config | {"_name_or_path": "a"}, one, shard_bytes=300)
    write_folder(tmp_path / "two", config | {"_name_or_path": "b"}, two)
    average([tmp_path / "one", tmp_path / "two"], tmp_path / "mean")
    files = [path.name for path in weight_files(tmp_path / "mean")]
    assert files == [path.name for path in weight_files(tmp_path / "one")] and len(files) == 2
    for key, value in read_tensors(tmp_path / "mean"):
        assert value.dtype == torch.bfloat16 and torch.equal(value, one[key] + 0.5), key


def test_counts_are_the_first_ones(tmp_path):
    """Of a batch norm: those of two trainings differ, and have no mean."""
    for name, count in (("one", 3), ("two", 8)):
        write_folder(tmp_path / name, {}, {"norm.num_batches_tracked": torch.tensor(count), "norm.bias": torch.ones(2)})
    average([tmp_path / "one", tmp_path / "two"], tmp_path / "mean")
    tensors = dict(read_tensors(tmp_path / "mean"))
    assert tensors["norm.num_batches_tracked"] == 3 and torch.equal(tensors["norm.bias"], torch.ones(2))


def test_models_that_are_not_alike_have_no_mean(pair, tmp_path):
    out, second = tmp_path / "mean", pair[1]
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    with pytest.raises(ValueError, match=r"second: rope_theta is 5.0, of .*first 10000.0; only like models"):
        average(pair, out)
    (second / "config.json").write_text(json.dumps(config))
    tensors = load_file(second / "model.safetensors")
    key = min(tensors)
    save_file(tensors | {key: torch.zeros(2, 3)}, second / "model.safetensors")
    with pytest.raises(ValueError, match=rf"second: {key} is \[2, 3\], of .*first \["):
        average(pair, out)
    save_file({name: value for name, value in tensors.items() if name != key}, second / "model.safetensors")
    with pytest.raises(ValueError, match=rf"second: {key} is None, of .*first \["):
        average(pair, out)
    (second / "model.safetensors").rename(second / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin: only models as safetensors"):
        average(pair, out)
    (second / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"second: is an adapter; make it a whole model first"):
        average(pair, out)
    assert not out.exists() and not (tmp_path / "mean.partial").exists()


def test_dialogues_that_differ_beside_the_config_are_told(pair, tmp_path):
    (pair[1] / "segagent.json").write_text('{"dialogue": "paper"}')
    with pytest.raises(ValueError, match=r"second: segagent.json is \{'dialogue': 'paper'\}, of .*first None"):
        average(pair, tmp_path / "mean")


@pytest.mark.parametrize(
    "shares, said",
    [
        ([1], "shares: 1 for 2 models"),
        ([1, -1], r"shares=\[1, -1\]: their sum is 0; it has to be above 0"),
        ([1, float("nan")], "their sum is nan"),
        ([1, "x"], r"shares=\[1, 'x'\]: give numbers"),
    ],
)
def test_shares_that_make_no_mean_are_refused(pair, tmp_path, shares, said):
    with pytest.raises(ValueError, match=said):
        average(pair, tmp_path / "mean", shares)


def test_one_model_and_a_folder_that_is_there_are_refused(pair, tmp_path):
    with pytest.raises(ValueError, match="models: 1 given; a mean takes two or more"):
        average(pair[:1], tmp_path / "mean")
    (tmp_path / "mean").mkdir()
    with pytest.raises(ValueError, match="mean: is there already; choose another out="):
        average(pair, tmp_path / "mean")


def test_the_command_takes_the_folders_of_trainings(pair, tmp_path):
    (tmp_path / "run").mkdir()
    pair[1].rename(tmp_path / "run" / "best")
    command = [sys.executable, "scripts/average.py", f"models=[{pair[0]},{tmp_path / 'run'}]", "shares=[0.6,0.4]"]
    command.append(f"out={tmp_path / 'mean'}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"model {tmp_path / 'mean'}\n"), done.stderr
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2 and "is there already" in again.stderr

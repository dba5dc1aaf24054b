"""Checkpoint folders in the real format through the commands, as a user runs them."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segagent.data.trajectories import read_trajectories
from segagent.entry import expand_checkpoints
from segagent.mllm.families import family_of
from segagent.mllm.testing_endpoint import ProtocolServer
from segagent.mllm.testing_vlm import FAMILIES, write_tiny_checkpoint
from segagent.types import EndReason

ROOT = Path(__file__).resolve().parents[2]
POINTS = {
    "nano": "Current IOU: 7, Positive point: (500, 250)",
    "osprey": "Current IOU: 7.0, Positive point: (0.500, 0.250)",
    "qwen_vl_chat": "Positive point: (250, 500)",
}


@pytest.fixture
def command(monkeypatch, capsys):
    """(script, settings) -> (exit code, stdout, stderr), run in this process to import torch once."""

    def call(script, *settings):
        monkeypatch.setattr(sys, "argv", [script, *map(str, settings)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return call


@pytest.mark.parametrize("name", POINTS)
def test_every_family_is_evaluated_from_its_folder(command, folders, tmp_path, name):
    """Random weights answer prose: the run goes on, every reply is kept and counted."""
    out = tmp_path / "noise.json"
    settings = ("policy=agent", f"mllm={folders[name]}", "device=cpu", "data.limit=3", "policy.max_new_tokens=12")
    code, shown, _ = command("evaluate.py", *settings, f"out={out}", "batch_size=2")
    assert code == 0 and "3 ended by an unparsable reply (counted)" in shown
    metrics = json.loads((tmp_path / "noise.metrics.json").read_text())
    assert metrics["n"] == metrics["n_unparsable"] == 3
    trajectories = list(read_trajectories(tmp_path / "noise.trajectories.jsonl"))
    assert all(t.end_reason is EndReason.UNPARSABLE and t.end_text is not None for t in trajectories)
    assert (tmp_path / "noise.html").is_file()


@pytest.mark.parametrize("name", POINTS)
def test_replies_that_can_be_read_become_clicks(command, folders, tmp_path, name):
    """A forced reply stands in for training; whatever is said after it, the click is where it says."""
    out = tmp_path / "clicks.jsonl"
    code, _, error = command(
        "simulate.py", "policy=agent", f"mllm={folders[name]}", "device=cpu", "data.limit=2", "simulate.max_clicks=2",
        "simulate.tau_stop=null", "policy.max_new_tokens=1", f'policy.prefix="{POINTS[name]}"', f"out={out}",
    )  # fmt: skip
    assert code == 0, error
    for trajectory in read_trajectories(out):
        actions = [step.action for step in trajectory.steps]
        assert [(a.click.x, a.click.y, a.click.is_positive) for a in actions] == [(128, 64, True)] * 2
        assert all(a.text.startswith(POINTS[name]) and a.log_prob < 0 for a in actions)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_vision_language_models_of_transformers_are_evaluated_from_their_folder(command, family, tmp_path):
    write_tiny_checkpoint(family, tmp_path / "model")
    code, shown, error = command(
        "evaluate.py", "policy=agent", f"mllm={tmp_path / 'model'}", "device=cpu", "data.limit=2", "report=false",
        "rollout.max_clicks=2", "policy.dialogue=paper", 'policy.prefix="Positive point: (500, 250)"',
        "policy.max_new_tokens=1", "mllm.max_pixels=40000" if "qwen" in family else "mllm.max_pixels=null",
        f"out={tmp_path / 'x.json'}",
    )  # fmt: skip
    assert code == 0, error
    made = list(read_trajectories(tmp_path / "x.trajectories.jsonl"))
    clicks = [[(step.action.click.x, step.action.click.y) for step in trajectory.steps] for trajectory in made]
    assert clicks == [[(128, 64)] * 2] * 2 and "0 ended by an unparsable reply" in shown


def test_a_served_model_that_goes_down_in_the_middle_stops_the_run_which_is_resumed(command, tmp_path):
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    up = {"until": 10**6}

    def behave(body, count):
        """Clicks into the upper half; down after so many requests."""
        if len(server.bodies) > up["until"]:
            return "drop"
        message = {"role": "assistant", "content": "Positive point: (500, 250)"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return 200, {}, json.dumps({"object": "chat.completion", "choices": [choice]})

    with ProtocolServer(behave) as server:
        settings = (
            "policy=agent", "mllm=endpoint", "mllm.path=tiny", f"mllm.url={server.url}", "mllm.attempts=2",
            "mllm.backoff=0.01", "mllm.log_probs=false", "policy.dialogue=paper", "data.limit=4", "batch_size=1",
            "simulate.max_clicks=2", "simulate.tau_stop=null", "segmenter.max_pixels=4000",
        )  # fmt: skip
        assert command("simulate.py", *settings, f"out={whole}")[0] == 0
        up["until"] = len(server.bodies) + 5
        code, _, error = command("simulate.py", *settings, f"out={broken}")
        assert code == 2 and "gave up after 2 of 2 attempts" in error and "resume=true" in error
        assert whole.read_bytes().startswith(broken.read_bytes()) and len(broken.read_bytes().splitlines()) == 2
        up["until"] = 10**6
        assert command("simulate.py", *settings, f"out={broken}", "resume=true")[0] == 0
    assert broken.read_bytes() == whole.read_bytes()


def test_a_run_is_the_same_for_any_batch_size_and_after_a_resume(command, folders, tmp_path):
    settings = (
        "policy=agent", f"mllm={folders['nano']}", "device=cpu", "data.limit=3", "simulate.max_clicks=2",
        "policy.temperature=1.0", "policy.max_new_tokens=6", f'policy.prefix="{POINTS["nano"]}"',
    )  # fmt: skip
    whole, single = tmp_path / "whole.jsonl", tmp_path / "single.jsonl"
    assert command("simulate.py", *settings, f"out={whole}", "batch_size=3")[0] == 0
    assert command("simulate.py", *settings, f"out={single}", "batch_size=1")[0] == 0
    assert single.read_bytes() == whole.read_bytes()
    single.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:1]))
    assert command("simulate.py", *settings, f"out={single}", "batch_size=2", "resume=true")[0] == 0
    assert single.read_bytes() == whole.read_bytes()


def test_a_prompt_over_the_limit_stops_the_run_with_its_reason(command, folders, tmp_path):
    short = shutil.copytree(folders["nano"], tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    config["segagent"]["max_length"] = 19
    (short / "config.json").write_text(json.dumps(config))
    settings = ("policy=agent", f"mllm={short}", "device=cpu", "data.limit=4", f"out={tmp_path / 'x.json'}")
    code, _, error = command("evaluate.py", *settings)
    assert code == 2 and "tokens, Osprey reads at most 19; shorten the description" in error


@pytest.mark.parametrize(
    "settings, message",
    [
        (("policy=agent",), "policy=agent: no model given; say mllm=NAME or mllm=FOLDER"),
        (("policy=agent", "mllm=nanno"), "mllm=nanno: neither one of"),
        (("policy=agent", "mllm=nano", "mllm.path=/no/such"), "/no/such: no such checkpoint file or folder"),
        (("policy=agent", "mllm=qwen_vl_chat"), "not given; say mllm.path=..."),
        (("policy=agent", "mllm=EMPTY"), "has no config.json; give the folder of a checkpoint"),
        (("policy=agent", "mllm=FOREIGN"), "bert"),
        (("policy=agent", "mllm=WEIGHTLESS"), "has no weights (model.safetensors"),
    ],
)
def test_wrong_checkpoints_are_refused_in_one_line(command, folders, tmp_path, settings, message):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FOREIGN").mkdir()
    (tmp_path / "FOREIGN" / "config.json").write_text('{"model_type": "bert"}')
    save_file({"weight": torch.zeros(1)}, tmp_path / "FOREIGN" / "model.safetensors")
    shutil.copytree(folders["osprey"], tmp_path / "WEIGHTLESS", ignore=shutil.ignore_patterns("*.safetensors"))
    placed = [s.replace("mllm=", f"mllm={tmp_path}/") if s[5:].isupper() else s for s in settings]
    code, _, error = command("evaluate.py", *placed, f"out={tmp_path / 'x.json'}", "device=cpu")
    assert code == 2 and error.startswith("error: ") and message in error and "Traceback" not in error


def test_a_folder_is_of_the_family_that_its_config_names(folders, tmp_path):
    for name, folder in folders.items():
        assert family_of(folder) == name
    odd = shutil.copytree(folders["nano"], tmp_path / 'a "strange", name=1')
    assert expand_checkpoints([f"mllm={odd}", "out=x"])[0] == "mllm=nano"
    assert expand_checkpoints(["mllm=nano", "device=cpu"]) == ["mllm=nano", "device=cpu"]
    assert expand_checkpoints(["mllm=null"]) == ["~mllm"]


def test_a_folder_with_a_strange_name_is_found(command, folders, tmp_path):
    odd = shutil.copytree(folders["nano"], tmp_path / 'a "strange", {name}=1')
    out = tmp_path / "x.jsonl"
    code, _, error = command("simulate.py", "policy=agent", f"mllm={odd}", "device=cpu", "data.limit=1", f"out={out}")
    assert code == 0, error

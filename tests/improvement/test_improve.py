"""scripts/improve.py: rounds from S_0, kept apart; killed and resumed; shared out; wrong input."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from segagent.configuration import compose_config
from segagent.engines.work import run_config
from segagent.entry import expand_checkpoints
from segagent.improvement import rounds as rounds_room
from segagent.improvement.figures import training_figures
from segagent.improvement.folder import RoundFolder
from segagent.mllm.testing import write_nano
from segagent.mllm.testing_vlm import write_tiny_checkpoint
from segagent.training.sft_checkpoint import SftFolder
from segagent.training.training_log import CsvTable, smoothed

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ["data=refshapes", "data.size=128", "data.limit=5", "segmenter=graphcut", "segmenter.max_pixels=1024"]
# A reply of random weights is noise; this one begins with a click, so that there is something to keep and to replace.
AGENT = [
    "policy.prefix='Current IOU: 50, Positive point: (500, 500)'",
    "policy.temperature=1",
    "policy.max_new_tokens=4",
]
SETTINGS = [
    *PICTURES, "device=cpu", "wandb.mode=disabled", "train.epochs=null", "train.steps=2", "train.global_batch=2",
    "train.batch_size=2", "train.workers=0", "train.precision=float32", "train.lr=0.01", "rollout.max_clicks=2",
    "batch_size=2", "threads=1",
]  # fmt: skip
MEASURED = [
    "data@evaluation.data=refshapes", "evaluation.data.size=128", "evaluation.data.limit=2", "evaluation.max_clicks=1",
    "evaluation.policy.max_new_tokens=4",
]  # fmt: skip
TIMED = ("samples_per_second", "tokens_per_second")

pytestmark = pytest.mark.usefixtures("blank_plots")  # but those of `whole`


@pytest.fixture(scope="module", autouse=True)
def threads_as_before():
    """The entry sets the threads of the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("improve", ROOT / "scripts" / "improve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder with S_0 of random weights (`nano`) and D_0 (`d0.jsonl`)."""
    root = tmp_path_factory.mktemp("parts")
    write_nano(root / "nano")
    given = [*PICTURES, "data.split=train", "simulate.max_clicks=2", f"out={root / 'd0.jsonl'}", "device=cpu"]
    config = compose_config("simulate", given)
    OmegaConf.resolve(config)
    run_config(config, config.simulate, root / "d0.jsonl", "simulate")
    return root


@pytest.fixture(scope="module")
def improve(script, parts):
    def call(*overrides):
        model = [] if any(given.startswith("mllm=") for given in overrides) else [f"mllm={parts / 'nano'}"]
        given = [*model, f"data.trajectories={parts / 'd0.jsonl'}", *SETTINGS, *overrides]
        config = compose_config("improve", expand_checkpoints(given))
        OmegaConf.resolve(config)
        return script.main(config)

    return call


ROUNDS = ("round_0", "round_1", "round_2", "improve.json")


def files(out, parts=ROUNDS):
    """Every file of these parts of a run, as it is to be after a kill too: without the training's times."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.relative_to(out).parts[0] in parts):
        content = b"drawn from the tables" if path.suffix == ".png" else path.read_bytes()
        if path.name == "train.csv":
            rows = [line.split(",") for line in content.decode().splitlines()]
            timed = [rows[0].index(name) for name in TIMED]
            content = [[cell for k, cell in enumerate(row) if k not in timed] for row in rows]
        found[str(path.relative_to(out))] = content
    return found


@pytest.fixture(scope="module")
def whole(improve, tmp_path_factory):
    """Two rounds of StaR+ with an evaluation, undisturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert improve(*AGENT, *MEASURED, "rounds=2", f"out={out}") == 0
    return out


def test_each_round_leaves_its_data_its_model_and_its_figures(whole):
    names = {path.name for path in whole.iterdir()}
    assert names == {"round_0", "round_1", "round_2", "improve.json", "improve.png", "improve.config.yaml"}
    kept = {path.name for path in (whole / "round_2").iterdir()}
    assert kept == {"rollouts.jsonl", "selected.jsonl", "selection.json", "train", "evaluation.jsonl", "figures.json"}
    summary = json.loads((whole / "improve.json").read_text())
    assert summary["method"] == "StarPlus" and [row["round"] for row in summary["rounds"]] == [0, 1, 2]
    first, last = summary["rounds"][1:]
    assert first["rollouts"]["n"] == 5 and last["evaluation"]["n"] == 2 and "rollouts" not in summary["rounds"][0]
    counts = first["selection"]
    assert counts["clicks"] == counts["kept"] + counts["relabelled"] + counts["left_out"]
    assert counts["relabelled"] > 0 and counts["kept"] > 0, "the second click in one place helps nobody"
    assert first["training"]["steps"] == 2 and first["training"]["states"] > 5
    trained = {path.name for path in (whole / "round_1" / "train").iterdir()}
    assert trained == {"best", "train.csv", "validation.csv", "curve.png"}, "no checkpoints any more"
    replies = [RoundFolder(whole, number).rollouts.read_text() for number in (1, 2)]
    assert replies[0] != replies[1], "the second round is rolled out by the model of the first"


def test_every_round_begins_with_the_weights_of_s0(improve, tmp_path):
    """The oracle's rollouts are the same in both rounds, so the models are too, unless one began with the other."""
    improve("policy=oracle", "rounds=1", f"out={tmp_path}")
    improve("policy=oracle", "rounds=2", f"out={tmp_path}", "resume=true")
    one, two = (RoundFolder(tmp_path, number) for number in (1, 2))
    assert one.selected.read_bytes() == two.selected.read_bytes()
    assert (one.model / "model.safetensors").read_bytes() == (two.model / "model.safetensors").read_bytes()


def test_star_learns_its_round_alone_and_dagger_all_rounds(improve, parts, tmp_path):
    states = {}
    for method in ("star", "star_plus", "dagger"):
        out = tmp_path / method
        given = ["policy=noisy_oracle", "rounds=2", f"method={method}", f"out={out}"]
        improve(*given, *(["method.min_reward=0.0", "data.trajectories=null"] if method == "star" else []))
        rows = json.loads((out / "improve.json").read_text())["rounds"]
        states[method] = [row["training"]["states"] for row in rows]
    assert states["star"][0] == states["star"][1] < states["star_plus"][0]
    assert states["star_plus"][0] == states["star_plus"][1]
    assert states["dagger"][0] < states["dagger"][1]


def test_killed_with_nine_and_resumed_is_the_run_that_was_not(improve, parts, whole, tmp_path):
    out = tmp_path / "run"
    given = [f"mllm={parts / 'nano'}", f"data.trajectories={parts / 'd0.jsonl'}", *SETTINGS, *AGENT, *MEASURED]
    command = [sys.executable, str(ROOT / "scripts" / "improve.py"), *given, f"out={out}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    lines, deadline = out / "round_1" / "rollouts.jsonl", time.monotonic() + 300
    while not (lines.exists() and lines.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "improve.png").exists() or len(json.loads((out / "improve.json").read_text())["rounds"]) < 2
    with pytest.raises(ValueError, match=r"round_1: is there already; say resume=true"):
        improve(*AGENT, *MEASURED, f"out={out}")
    assert improve(*AGENT, *MEASURED, f"out={out}", "resume=true") == 0
    (out / "round_2").mkdir()
    (out / "round_2" / "figures.json").write_text("{}")
    with pytest.raises(ValueError, match=r"rounds=1: round 2 of .* is done already; say rounds=2, or more"):
        improve(*AGENT, *MEASURED, f"out={out}", "resume=true")
    shutil.rmtree(out / "round_2")
    assert files(out, ROUNDS[:2]) == files(whole, ROUNDS[:2])
    with pytest.raises(ValueError, match=r"cannot resume with other settings: method.min_gain \(0.0 then, 0.1 now\)"):
        improve(*AGENT, *MEASURED, f"out={out}", "resume=true", "method.min_gain=0.1")


class Killed(BaseException):
    """Like a kill: nothing in the package may catch it."""


@pytest.mark.slow
def test_two_processes_share_a_round(improve, parts, tmp_path):
    """Rollouts and selection byte for byte; weights but for the order of sums."""
    out, alone = tmp_path / "run", tmp_path / "alone"
    improve(*AGENT, *MEASURED, "train.batch_size=1", f"out={alone}")
    given = [f"mllm={parts / 'nano'}", f"data.trajectories={parts / 'd0.jsonl'}", *SETTINGS, *AGENT, *MEASURED]
    given += ["train.batch_size=1", f"out={out}"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command = [*launch, "--nproc_per_node", "2", str(ROOT / "scripts" / "improve.py"), *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = RoundFolder(alone, 1), RoundFolder(out, 1)
    assert two.rollouts.read_bytes() == one.rollouts.read_bytes()
    assert two.selected.read_bytes() == one.selected.read_bytes()
    assert {path.name for path in two.path.iterdir()} == {path.name for path in one.path.iterdir()}
    weights, shared = (load_file(folder.model / "model.safetensors") for folder in (one, two))
    assert weights.keys() == shared.keys()
    assert all(torch.allclose(shared[name], value, atol=2e-4) for name, value in weights.items())
    assert [row["round"] for row in json.loads((out / "improve.json").read_text())["rounds"]] == [0, 1]


def test_killed_in_every_stage_and_resumed(improve, whole, tmp_path, monkeypatch):
    stages = [
        (rounds_room, "select", False),
        (rounds_room, "select", True),
        (SftFolder, "save_best", False),
        (SftFolder, "save_best", True),
        (SftFolder, "save", True),
        (rounds_room, "scores_of", True),
    ]
    given = [*AGENT, *MEASURED, f"out={tmp_path / 'run'}"]
    for number, (place, name, after) in enumerate(stages):
        original = getattr(place, name)

        def dies(*arguments, original=original, after=after, **keywords):
            if after:
                original(*arguments, **keywords)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(place, name, dies)
            with pytest.raises(Killed):
                improve(*given, f"resume={'true' if number else 'false'}")
    assert improve(*given, "resume=true") == 0
    assert files(tmp_path / "run", ROUNDS[:2]) == files(whole, ROUNDS[:2])


def test_shards_are_joined_and_gone_on_from(improve, whole, tmp_path):
    given = [*AGENT, *MEASURED, "rounds=2", f"out={tmp_path}"]
    improve(*given, "shard=2/3")
    part = tmp_path / "round_1" / "rollouts.2-of-3.jsonl"
    assert part.read_text().count("\n") == 2
    with pytest.raises(ValueError, match=r"2-of-3.jsonl: is there already; say resume=true"):
        improve(*given, "shard=2/3")
    with pytest.raises(ValueError, match=r"2-of-3.jsonl: has other settings: .*; seed \(0 then, 1 now\)"):
        improve(*given, "shard=0/3", "seed=1")
    with pytest.raises(ValueError, match=r"shard=1/4: .*2-of-3.jsonl is one of 3 parts; go on with shard=i/3"):
        improve(*given, "shard=1/4")
    nothing = ["tasks.iou_click=0", "tasks.iou=0", "tasks.perturbed=0"]
    with pytest.raises(ValueError, match="tasks"):
        improve(*AGENT, "rounds=2", f"out={tmp_path / 'other'}", "shard=0/2", *nothing)
    assert not list(tmp_path.glob("other/**/*.jsonl")), "told before anything is rolled out"
    improve(*given, "shard=0/3")
    assert improve(*given, "resume=true") == 0, "it does the part that nobody did"
    assert files(tmp_path) == files(whole)
    with pytest.raises(ValueError, match="all 2 rounds are done"):
        improve(*given, "shard=0/3")


def test_collect_only_ends_before_the_training_and_can_be_gone_on_from(improve, whole, tmp_path, capsys):
    given = [*AGENT, *MEASURED, "rounds=2", f"out={tmp_path}"]
    assert improve(*given, "collect_only=true") == 0
    selected = tmp_path / "round_1" / "selected.jsonl"
    assert f"selected {selected}" in capsys.readouterr().out
    assert {path.name for path in selected.parent.iterdir()} == {"rollouts.jsonl", "selected.jsonl", "selection.json"}
    assert selected.read_bytes() == RoundFolder(whole, 1).selected.read_bytes()
    assert improve(*given, "resume=true") == 0
    assert files(tmp_path) == files(whole)
    with pytest.raises(ValueError, match="all 2 rounds are done"):
        improve(*given, "collect_only=true", "resume=true")


@pytest.mark.parametrize(
    "given, message",
    [
        (["mllm=null"], "mllm: no model given; say mllm=FOLDER"),
        (["rounds=0"], "rounds=0: at least 1"),
        (["limit=0"], "limit=0: at least 1"),
        (["data.trajectories=null"], "StarPlus learns from D_0 too: say data.trajectories=FILE"),
        (["data.trajectories=none.jsonl"], "none.jsonl: no such file"),
        (["data.split=val"], r"d0.jsonl: 5 of 5 samples of data.trajectories are not in data"),
        (["method.reward=search"], "needs rollouts whose every mask was judged; say policy=greedy search.k=1"),
        (["mllm.dialogue=none"], "no dialogue 'none'; there are absolute, nano, "),
        (["mllm=endpoint", "mllm.path=x"], "has no weights here"),
        (["train.global_batch=3"], "is no multiple of train.batch_size=2"),
    ],
)
def test_wrong_input_is_told_before_anything_is_done(improve, tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        improve(*given, f"out={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_what_a_training_would_refuse_is_told_before_the_rollouts(improve, tmp_path):
    write_tiny_checkpoint("qwen2_5_vl", tmp_path / "qwen")
    given = [f"mllm={tmp_path / 'qwen'}", "mllm.dialogue=nano", f"out={tmp_path / 'run'}"]
    with pytest.raises(ValueError, match=r"train.auxiliary: is for nano and its like, not for TransformersVLM"):
        improve(*given, "train.auxiliary=0.3")
    with pytest.raises(ValueError, match=r"train.lora_rank=2, train.frozen=\[\]: an adapter keeps no vision part"):
        improve(*given, "train.lora_rank=2", "train.frozen=[]")
    assert not (tmp_path / "run").exists()


def test_nothing_selected_says_what_to_loosen(improve, tmp_path):
    with pytest.raises(ValueError, match=r"none of 5 trajectories is selected; lower method.min_reward=1.0, or allow"):
        improve(*AGENT, "method=star", "method.min_reward=1.0", f"out={tmp_path}")


def test_each_model_is_measured_with_its_own_weights(improve, parts, tmp_path, monkeypatch):
    used, shared = [], rounds_room.roll_out_shared

    def noted(engine, work, out, processes):
        used.append((out.relative_to(tmp_path).as_posix(), work.policy.mllm.path))
        shared(engine, work, out, processes)

    monkeypatch.setattr(rounds_room, "roll_out_shared", noted)
    improve(*AGENT, *MEASURED, f"out={tmp_path}")
    s0, s1 = str(parts / "nano"), str(RoundFolder(tmp_path, 1).model)
    wanted = {"round_0/evaluation.jsonl": s0, "round_1/rollouts.jsonl": s0, "round_1/evaluation.jsonl": s1}
    assert dict(used) == wanted


def test_what_a_run_begins_from_is_not_overwritten_and_its_dialogue_is_the_models(improve, parts, tmp_path):
    shutil.copytree(parts / "nano", tmp_path / "run" / "round_1" / "train" / "best")
    own = f"mllm={tmp_path / 'run' / 'round_1' / 'train' / 'best'}"
    with pytest.raises(ValueError, match=r"overwrite=true would delete .*best, which this run begins from"):
        improve("policy=oracle", own, f"out={tmp_path / 'run'}", "overwrite=true")
    with pytest.raises(ValueError, match=r"policy.dialogue=paper: the trainings learn the model's own"):
        improve(*AGENT, "policy.dialogue=paper", f"out={tmp_path}")


def test_the_next_model_names_its_own_base_and_keeps_its_adapter():
    start = OmegaConf.create({"path": "a", "base": "b", "quantization": "4bit", "merge_adapter": True})
    config = OmegaConf.create({"mllm": start})
    later = rounds_room.with_model(config, start, "round_1")
    assert later.mllm == {"path": "round_1", "base": None, "quantization": "4bit", "merge_adapter": False}
    assert rounds_room.with_model(config, start, "a").mllm == start


def test_losses_that_are_told_are_of_the_first_and_the_last_tenth(tmp_path):
    table = CsvTable(tmp_path / "t.csv", ("step", "loss"))
    for step in range(20):
        table.add(step=step + 1, loss=20 - step)
    assert training_figures(table) == {"steps": 20, "loss_first": 19.5, "loss": 1.5}
    assert smoothed(np.array([4.0, 2, 0, 6]), 2).tolist() == [4, 3, 1, 3]

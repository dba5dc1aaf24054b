"""run_eval.sh: which commands it runs. A stand-in for Python writes down its arguments; nothing is evaluated."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from segagent.configuration import compose_config
from segagent.entry import expand_checkpoints

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """#!/usr/bin/env bash
for word in "$@"; do printf '%s\\n' "$word"; done >"$CALLS/$BASHPID.call"
echo "CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-}" >>"$CALLS/$BASHPID.call"
case "$*" in *fail_me=1*shard=1/*) exit 2 ;; esac
"""


@pytest.fixture
def run_eval(tmp_path):
    """run_eval(*arguments, **environment) -> (exit code, list of calls, output)."""
    shutil.copy(ROOT / "run_eval.sh", tmp_path / "run_eval.sh")
    (tmp_path / "scripts").mkdir()
    stub = f'ROOT={tmp_path}\nPYTHON={tmp_path}/python\nfail() {{ echo "error: $*" >&2; exit 2; }}\n'
    (tmp_path / "scripts" / "setup.sh").write_text(stub)
    (tmp_path / "python").write_text(STAND_IN)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "calls").mkdir()

    def run(*arguments, **environment):
        for old in (tmp_path / "calls").iterdir():
            old.unlink()
        kept = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME")}
        done = subprocess.run(
            ["bash", str(tmp_path / "run_eval.sh"), *arguments],
            env=kept | {"CALLS": str(tmp_path / "calls")} | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        calls = [path.read_text().splitlines() for path in (tmp_path / "calls").iterdir()]
        return done.returncode, calls, done.stdout + done.stderr

    run.root = tmp_path
    return run


def settings_of(call):
    return [word for word in call[1:] if not word.startswith("CUDA")]


def evaluations(calls):
    return sorted((call for call in calls if call[0].endswith("evaluate.py")), key=lambda call: call[-1])


def composed(call):
    return compose_config("evaluate", expand_checkpoints(settings_of(call)))


def test_without_arguments_it_runs_the_embedded_benchmark(run_eval):
    code, calls, out = run_eval()
    assert code == 0 and len(calls) == 1 and not out
    config = composed(calls[0])
    assert (config.data.split, config.data.limit, config.rollout.max_clicks) == ("val", 200, 7)
    assert (config.policy.k, config.policy.width, config.policy.reward.number) == (1, 1, "expected")
    assert config.mllm.path == "segagent_nano"
    assert config.out == f"{run_eval.root}/results/run_eval.json"


def test_overrides_win_over_the_defaults(run_eval):
    _, calls, _ = run_eval("data.limit=3", "segmenter=graphcut", "out=results/x.json")
    config = composed(calls[0])
    assert (config.data.limit, config.out) == (3, "results/x.json") and "GraphCut" in config.segmenter._target_


def test_a_checkpoint_clicks_and_its_family_is_found_out(run_eval, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen", "visual": {}}')
    code, calls, _ = run_eval(str(tmp_path / "model"))
    config = composed(calls[0])
    assert code == 0 and "Agent" in config.policy._target_ and "QwenVLChat" in config.mllm._target_
    assert config.mllm.path == str(tmp_path / "model")


def test_data_split_and_segmenter_come_from_the_environment(run_eval):
    environment = {"DATA": "refcoco data.root=/d", "SPLIT": "testA", "SEGMENTER": "simpleclick segmenter.path=/w.pth"}
    config = composed(run_eval(**environment)[1][0])
    assert (config.data.root, config.data.split, config.data.limit) == ("/d", "testA", None)
    assert config.segmenter.path == "/w.pth"


def test_the_released_use_is_the_preset_and_needs_a_checkpoint(run_eval, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen", "visual": {}}')
    environment = {
        "DATA": "segagent_json data.annotations=/a.json data.images=/d",
        "PRESET": "released",
        "SEGMENTER": "simpleclick segmenter.path=/w.pth",
    }
    config = composed(run_eval(str(tmp_path / "model"), **environment)[1][0])
    assert config.data.limit == 5000 and config.policy.jpeg_quality == 75 and config.rollout.max_clicks == 7
    code, calls, out = run_eval(**environment)
    assert code == 2 and not calls and "PRESET=released: needs a CHECKPOINT" in out


def test_several_gpus_do_a_part_each_and_the_parts_are_joined(run_eval):
    code, calls, _ = run_eval("ckpt", "out=results/x.json", GPUS="3")
    parts = evaluations(calls)
    (join,) = [call for call in calls if call[0].endswith("join.py")]
    assert code == 0 and len(parts) == 3
    for index, call in enumerate(parts):
        assert f"shard={index}/3" in call and call[-1] == f"CUDA_VISIBLE_DEVICES={index}"
        assert f'out="results/x.part{index}.json"' in call and "report=false" in call
    config = compose_config("join", settings_of(join))
    assert config.out == "results/x.json" and list(config.parts) == [f"results/x.part{i}.json" for i in range(3)]
    assert config.report, "the joined run has the report that one process would have written"


def test_the_report_can_be_left_out_however_many_processes(run_eval):
    (join,) = [call for call in run_eval("ckpt", "report=false", GPUS="2")[1] if call[0].endswith("join.py")]
    assert not compose_config("join", settings_of(join)).report
    assert not composed(run_eval("report=false")[1][0]).report


def test_several_processes_need_neither_checkpoint_nor_gpu(run_eval):
    code, calls, _ = run_eval(GPUS="2")
    assert code == 0 and [composed(call).shard for call in evaluations(calls)] == ["0/2", "1/2"]


def test_only_the_default_output_is_written_anew_without_being_asked(run_eval):
    assert composed(run_eval()[1][0]).overwrite
    for options in (["out=x.json"], ["resume=true"], ["out=x.json", "resume=true"]):
        config = composed(run_eval(*options)[1][0])
        assert not config.overwrite and config.resume == ("resume=true" in options), options
    results = run_eval.root / "results"
    results.mkdir()
    for name in ("x.json", "x.trajectories.jsonl"):
        (results / name).write_text("")
        code, calls, out = run_eval("ckpt", f"out={results}/x.json", GPUS="2")
        assert code == 2 and not calls and "is there already; say resume=true" in out
        (results / name).unlink()
    (results / "x.trajectories.jsonl").write_text("")
    assert len(run_eval("ckpt", f"out={results}/x.json", "resume=true", GPUS="2")[1]) == 3


def test_data_on_the_command_line_is_not_cut_to_the_embedded_benchmarks_size(run_eval):
    config = composed(run_eval("data=refcoco", "data.root=/d", SPLIT="testB")[1][0])
    assert (config.data.dataset, config.data.limit, config.data.split) == ("refcoco", None, "testB")


def test_a_checkpoint_whose_folder_looks_like_an_override(run_eval, tmp_path):
    folder = tmp_path / "lr=1e-5"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen", "visual": {}}')
    config = composed(run_eval(str(folder))[1][0])
    assert "Agent" in config.policy._target_ and config.mllm.path == str(folder)


def test_visible_gpus_are_counted_and_named(run_eval):
    _, calls, _ = run_eval("ckpt", CUDA_VISIBLE_DEVICES="4,6")
    assert [call[-1] for call in evaluations(calls)] == [f"CUDA_VISIBLE_DEVICES={number}" for number in (4, 6)]


def test_hidden_gpus_stay_hidden_from_several_processes_too(run_eval):
    code, calls, _ = run_eval(CUDA_VISIBLE_DEVICES="", GPUS="2")
    assert code == 0 and [call[-1] for call in evaluations(calls)] == ["CUDA_VISIBLE_DEVICES="] * 2


def test_a_part_that_fails_fails_the_whole(run_eval):
    code, calls, out = run_eval("ckpt", "fail_me=1", GPUS="2")
    assert code == 2 and "a part failed" in out and not any(call[0].endswith("join.py") for call in calls)
    assert run_eval("ckpt", GPUS="two")[0] == 2
    assert "names 1" in run_eval("ckpt", GPUS="2", CUDA_VISIBLE_DEVICES="0")[2]


def test_one_device_is_one_process_and_hidden_gpus_stay_hidden(run_eval):
    for device in ("device=cpu", "device=cuda:1"):
        code, calls, _ = run_eval("ckpt", device, CUDA_VISIBLE_DEVICES="0,1")
        assert code == 0 and len(calls) == 1 and device in calls[0]
    _, calls, _ = run_eval("ckpt", CUDA_VISIBLE_DEVICES="")
    assert len(calls) == 1 and calls[0][-1] == "CUDA_VISIBLE_DEVICES="

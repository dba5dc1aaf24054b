"""The commands as a user runs them: end to end, wrong input, kill and resume."""

import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

import segagent.entry
from segagent.configuration import check_types, compose_config, load_named
from segagent.data.predictions import read_predictions
from segagent.data.trajectories import read_trajectories
from segagent.entry import beside, claim_output, expand_checkpoints, run_entry
from segagent.mllm.testing import write_nano

ROOT = Path(__file__).resolve().parents[1]


def command(script, *arguments):
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


def call(script, *arguments, code=0):
    done = subprocess.run(command(script, *arguments), capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr + done.stdout
    return done


@pytest.fixture
def photos(tmp_path):
    """Three pictures with a bright object each, as a mask folder."""
    for name in ("images", "masks"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    for stem in ("a", "b", "c"):
        image = random.integers(0, 90, (48, 64, 3), dtype=np.uint8)
        mask = np.zeros((48, 64), np.uint8)
        mask[10:34, 14:44] = 255
        image[mask > 0] += 140
        Image.fromarray(image).save(tmp_path / "photos" / "images" / f"{stem}.png")
        Image.fromarray(mask).save(tmp_path / "photos" / "masks" / f"{stem}.png")
    return tmp_path / "photos"


def test_simulate_on_a_folder_of_photographs(photos, tmp_path):
    out = tmp_path / "run" / "traj.jsonl"
    done = call(
        "scripts/simulate.py", "data=mask_folders", f"data.root={photos}", f"out={out}", "batch_size=2",
        f"official_out={tmp_path / 'official.json'}",
    )  # fmt: skip
    trajectories = list(read_trajectories(out))
    assert [t.sample_id for t in trajectories] == ["a", "b", "c"]
    assert all(t.final_iou > 0.9 for t in trajectories), "bright on dark is easy"
    assert len(json.loads((tmp_path / "official.json").read_text())["data"]) == 3
    metrics = json.loads((tmp_path / "run" / "traj.metrics.json").read_text())
    assert metrics["n"] == 3 and metrics["noc90"] <= 3 and "NoC           80: 1.00" in done.stdout
    assert "max_clicks: 20" in (tmp_path / "run" / "traj.config.yaml").read_text()


def test_evaluate_leaves_everything_beside_its_output(tmp_path):
    out = tmp_path / "results" / "oracle.json"
    settings = ("data.limit=6", "policy=oracle", "segmenter=graphcut", "rollout.max_clicks=3", f"out={out}")
    call("scripts/evaluate.py", *settings)
    names = {path.name for path in out.parent.iterdir()}
    assert names == {f"oracle.{end}" for end in ("json", "metrics.json", "config.yaml", "html", "trajectories.jsonl")}
    metrics = json.loads((out.parent / "oracle.metrics.json").read_text())
    for key in [
        "ciou",
        "giou",
        "miou",
        "p50",
        "p70",
        "p90",
        "boundary_iou",
        "noc80",
        "noc85",
        "noc90",
        "n",
        "n_unparsable",
        "ciou_by_step",
    ]:
        assert key in metrics, key
    assert metrics["n"] == len(list(read_predictions(out))) == 6
    scored = call("eval_result_iou.py", "--input_json", out, "--out", tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["ciou"] == metrics["ciou"] and f"{100 * metrics['ciou']:.2f}" in scored.stdout
    refused = call("scripts/evaluate.py", *settings, code=2)
    assert "is there already; say resume=true to go on, or overwrite=true" in refused.stderr
    before = out.read_bytes()
    call("scripts/evaluate.py", *settings, "overwrite=true")
    assert out.read_bytes() == before


def test_killed_with_nine_and_resumed_is_the_run_that_was_not(tmp_path):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    settings = ("data=refshapes", "data.limit=24", "simulate.max_clicks=4", "batch_size=2", "policy=noisy_oracle")
    call("scripts/simulate.py", *settings, f"out={whole}")
    process = subprocess.Popen(command("scripts/simulate.py", *settings, f"out={killed}"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed.exists() and killed.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < killed.read_bytes().count(b"\n") < 24, "killed in the middle"
    call("scripts/simulate.py", *settings, f"out={killed}", "resume=true")
    assert killed.read_bytes() == whole.read_bytes()
    changed = call("scripts/simulate.py", *settings[:-1], "policy=random", f"out={killed}", "resume=true", code=2)
    assert "cannot resume with other settings: policy._target_" in changed.stderr


def test_a_search_is_evaluated_by_the_mask_it_returns(tmp_path):
    out = tmp_path / "greedy.json"
    search = ("policy=greedy", "proposer=noisy_oracle", "proposer.flip=0.3", "reward=true_iou", "search.k=2")
    size = ("data.limit=4", "data.size=128", "segmenter=graphcut", "segmenter.max_pixels=4000", "rollout.max_clicks=3")
    done = call("scripts/evaluate.py", *search, *size, f"out={out}")
    metrics = json.loads((tmp_path / "greedy.metrics.json").read_text())
    assert metrics["protocol"] == "best_predicted" and metrics["prm_mae"] == 0 and "best so far" in done.stdout
    assert metrics["search_segmenter_calls"] == metrics["search_policy_calls"] == 3
    assert metrics["search_clicks"] <= 4 * 3 * 2 and metrics["best_ciou_by_step"][-1] == metrics["ciou"]
    small = ("data.limit=2", *size[1:3], "simulate.max_clicks=3", f"out={tmp_path / 'lines.jsonl'}")
    call("scripts/simulate.py", *search, *small)
    written = json.loads((tmp_path / "lines.metrics.json").read_text())
    assert written["protocol"] == "best_predicted" and written["n"] == 2, "whichever command rolled it out"
    records = list(read_predictions(out))
    assert all(record["candidates"] and record["extras"]["returned"] <= 3 for record in records)
    wrong = call("scripts/evaluate.py", "policy=greedy", *size, f"out={tmp_path / 'x.json'}", code=2)
    assert "no model given" in wrong.stderr


@pytest.mark.parametrize("name", ["a b", "lr=1e-5", 'a"b', "back\\slash", "ends\\", 'both\\"', "K\u00f6ln", "a,b(c)"])
def test_the_folder_of_a_checkpoint_may_have_any_name(tmp_path, name):
    folder = tmp_path / name
    write_nano(folder)
    config = compose_config("evaluate", [*expand_checkpoints([f"mllm={folder}"]), "out=x"])
    OmegaConf.resolve(config)
    assert config.mllm.path == str(folder)


def test_shards_joined_are_one_run(tmp_path):
    settings = ("data.limit=5", "segmenter=graphcut", "rollout.max_clicks=2")
    call("scripts/evaluate.py", *settings, f"out={tmp_path / 'whole.json'}")
    for index in range(2):
        part = (f"out={tmp_path / f'part{index}.json'}", f"shard={index}/2", "report=false")
        call("scripts/evaluate.py", *settings, *part)
    parts = f"parts=[{tmp_path / 'part0.json'},{tmp_path / 'part1.json'}]"
    call("scripts/join.py", f"out={tmp_path / 'joined.json'}", parts)
    for end in (".json", ".trajectories.jsonl"):
        assert (tmp_path / f"joined{end}").read_bytes() == (tmp_path / f"whole{end}").read_bytes()
    metrics = [json.loads((tmp_path / f"{name}.metrics.json").read_text()) for name in ("whole", "joined")]
    # The report is that of one run, but for the clock and the file's name.
    pages = [
        (tmp_path / f"{name}.html").read_text().replace(f"{name}.json", "NAME.json").replace(f"{name}: ", "NAME: ")
        for name in ("whole", "joined")
    ]
    clocks = [f"<td>{one['seconds']:.4f}</td>" for one in metrics]  # the digits alone may stand in a drawing, too
    assert all(clock in page for clock, page in zip(clocks, pages, strict=True))
    lines = [page.replace(clock, "CLOCK").splitlines() for clock, page in zip(clocks, pages, strict=True)]
    assert [pair for pair in zip(*lines, strict=True) if pair[0] != pair[1]] == []
    for one in metrics:
        one.pop("seconds")
    assert metrics[0] == metrics[1]
    call("scripts/join.py", f"out={tmp_path / 'joined.json'}", parts, "overwrite=true", "report=false")
    assert not list(tmp_path.glob("*.set-aside")) and not list(tmp_path.glob("*.partial"))
    swapped = call(
        "scripts/join.py", f"out={tmp_path / 'x.json'}", f"parts=[{tmp_path / 'part1.json'},{tmp_path / 'part0.json'}]",
        code=2,
    )  # fmt: skip
    assert "shard 1/2" in swapped.stderr and "in order" in swapped.stderr
    over = call("scripts/join.py", f"out={tmp_path / 'part0.json'}", parts, "overwrite=true", code=2)
    assert "out is one of the parts" in over.stderr
    kept = {index: (tmp_path / f"part{index}.config.yaml").read_text() for index in range(2)}
    for index, text in kept.items():  # files that came from elsewhere may not say what is run here
        foreign = text.replace("segagent.data.refshapes.RefShapes", "builtins.print")
        (tmp_path / f"part{index}.config.yaml").write_text(foreign)
    told = call("scripts/join.py", f"out={tmp_path / 'x.json'}", parts, code=2)
    assert "part0.config.yaml: data is of builtins.print, which is none of configs/data" in told.stderr
    for index, text in kept.items():
        (tmp_path / f"part{index}.config.yaml").write_text(text)
    lines = (tmp_path / "part1.trajectories.jsonl").read_text().splitlines(True)
    (tmp_path / "part1.trajectories.jsonl").write_text("".join(lines[:-1]))
    cut = call("scripts/join.py", f"out={tmp_path / 'x.json'}", parts, code=2)
    assert "part1.json: 2 of 3 samples are done and 0 skipped; go on with resume=true" in cut.stderr
    assert not (tmp_path / "x.trajectories.jsonl").exists()


def test_shards_without_a_sample_and_shards_of_other_runs(tmp_path):
    settings = ("data.limit=2", "data.size=128", "segmenter=graphcut", "rollout.max_clicks=1", "report=false")

    def part(name, shard, *more, code=0):
        return call("scripts/evaluate.py", *settings, *more, f"out={tmp_path / name}.json", f"shard={shard}", code=code)

    assert "no sample is of shard 0/3" in part("s0", "0/3").stdout
    part("s1", "1/3")
    part("s2", "2/3")
    parts = ",".join(f"{tmp_path / name}.json" for name in ("s0", "s1", "s2"))
    call("scripts/join.py", f"out={tmp_path / 'all.json'}", f"parts=[{parts}]", "report=false")
    assert json.loads((tmp_path / "all.metrics.json").read_text())["n"] == 2
    lines = (tmp_path / "s1.trajectories.jsonl").read_bytes()
    over = call("scripts/join.py", f"out={tmp_path / 's1.jsonl'}", f"parts=[{parts}]", "overwrite=true", code=2)
    assert "shares its files" in over.stderr and (tmp_path / "s1.trajectories.jsonl").read_bytes() == lines
    none = call("scripts/join.py", f"out={tmp_path / 'x.json'}", code=2)
    assert "parts: none given" in none.stderr
    part("other", "2/3", "seed=1")
    mixed = parts.replace("s2.json", "other.json")
    assert (
        "has other settings than"
        in call("scripts/join.py", f"out={tmp_path / 'x.json'}", f"parts=[{mixed}]", code=2).stderr
    )
    (tmp_path / "s2.metrics.json").unlink()
    assert "is not finished" in call("scripts/join.py", f"out={tmp_path / 'x.json'}", f"parts=[{parts}]", code=2).stderr
    (tmp_path / "s2.config.yaml").unlink()
    gone = call("scripts/join.py", f"out={tmp_path / 'x.json'}", f"parts=[{parts}]", code=2)
    assert "is not an evaluation of this repository" in gone.stderr


def truncate_first(photos):
    path = photos / "images" / "a.png"
    path.write_bytes(path.read_bytes()[:2000])


def shrink_first_mask(photos):
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(photos / "masks" / "a.png")


def empty_first_mask(photos):
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(photos / "masks" / "a.png")


@pytest.mark.parametrize(
    "break_it, message",
    [
        (truncate_first, "a.png: broken image"),
        (shrink_first_mask, "a.png: mask is [8, 8] but"),
        (empty_first_mask, "a.png: the mask marks no object"),
        (lambda photos: (photos / "masks" / "a.png").unlink(), "no mask for"),
    ],
    ids=["truncated", "size", "empty", "missing"],
)
def test_broken_photographs_end_with_one_clear_line(photos, tmp_path, break_it, message):
    break_it(photos)
    settings = ("data=mask_folders", f"data.root={photos}", f"out={tmp_path / 't.jsonl'}")
    done = call("scripts/simulate.py", *settings, code=2)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line and "Traceback" not in done.stderr


def test_or_are_skipped_reported_and_seen_in_the_exit_code(photos, tmp_path):
    truncate_first(photos)
    out = tmp_path / "t.jsonl"
    done = call(
        "scripts/simulate.py", "data=mask_folders", f"data.root={photos}", f"out={out}", "on_error=skip", code=1
    )
    assert "skipped: " in done.stderr and len(list(read_trajectories(out))) == 2
    assert json.loads((tmp_path / "t.metrics.json").read_text())["n_skipped"] == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        (["out=x.jsonl", "simulate.max_click=3"], "max_click"),
        (["out=x.jsonl", "data=refshape"], "refshape"),
        (["out=x.jsonl", "data.subset=refshapes*"], "refshapes*"),
        (["out=x.jsonl", "shard=3/2"], "0 <= i < n"),
        (["out=x.jsonl", "simulate.tau_stop=90"], "tau_stop=90"),
        (["out=x.jsonl", "data=coco", "data.images=."], "data.annotations"),
        (["out=x.jsonl", "data=coco", "data.images=.", "data.annotations=none.json"], "none.json: no such file"),
        ([], "out: not given"),
        (["out=/dev/null/x.jsonl"], "/dev/null"),
        (["out=x.jsonl", "resume=true", "overwrite=true"], "exclude each other"),
        (["out=x.jsonl", "official_out=y.json", "init=box"], "clicks from empty only (init=box)"),
        (["out=x.jsonl", "init=boxes"], "init=boxes: choose empty, box, random_points, mask"),
        (["out=x.jsonl", "+data.colour=red"], "unexpected keyword argument 'colour'"),
        (["out=x.jsonl", "data.subset=the man's"], "need quotes of their own: \"KEY='VALUE'\""),
        (["out=x.jsonl", "segmenter=simpleclick_nano", "segmenter.device=null"], "device=None cannot be used here"),
    ],
)
def test_wrong_settings_end_with_one_clear_line(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("scripts/simulate.py", *settings, code=2)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "protocol, message", [("official", "eval_result_iou.py --protocol official"), ("best", "'best' is none")]
)
def test_a_wrong_protocol_is_refused_before_the_run(protocol, message, tmp_path):
    done = call("scripts/evaluate.py", f"protocol={protocol}", f"out={tmp_path / 'x.json'}", code=2)
    assert message in done.stderr and not list(tmp_path.iterdir())


def test_help_lists_the_settings_and_the_groups():
    done = call("scripts/simulate.py", "--help")
    assert "max_clicks: 20" in done.stdout and "policy=agent|beam|box|box_agent|center|greedy" in done.stdout


def test_visualize_draws_one_sample(photos, tmp_path):
    out = tmp_path / "t.jsonl"
    call("scripts/simulate.py", "data=mask_folders", f"data.root={photos}", f"out={out}")
    for name, images in (("run", []), ("folder", [f"images={photos / 'images'}"])):
        picture = tmp_path / f"{name}.png"
        call("scripts/visualize.py", f"trajectories={out}", "sample=b", f"out={picture}", *images)
    same = [Image.open(tmp_path / f"{name}.png").convert("RGB") for name in ("run", "folder")]
    assert same[0].width > 128 and np.array_equal(*map(np.asarray, same))
    numbered = tmp_path / "mscoco"
    file = photos / "images" / "mscoco/images/train2014/COCO_train2014_000000000007.jpg"
    file.parent.mkdir(parents=True)
    Image.open(photos / "images" / "b.png").save(file, quality=100)
    (tmp_path / "n.jsonl").write_text(out.read_text().replace('"image_name":"b.png"', '"image_name":7'))
    call(
        "scripts/visualize.py", f"trajectories={tmp_path / 'n.jsonl'}", "sample=b", f"out={numbered}.png",
        f"images={photos / 'images'}",
    )  # fmt: skip
    of_number = np.asarray(Image.open(f"{numbered}.png").convert("RGB")).astype(int)
    assert np.abs(of_number - np.asarray(same[0])).mean() < 10, "released files name pictures by their number"
    config = tmp_path / "t.config.yaml"
    said = config.read_text()
    for target in ("os.system", "segagent.data.trajectories.TrajectoryWriter"):
        config.write_text(said.replace("segagent.data.mask_folders.MaskFolders", target))
        strange = call("scripts/visualize.py", f"trajectories={out}", "sample=b", f"out={picture}", code=2)
        assert f"data is of {target}, which is none of configs/data" in strange.stderr
    wrong = call("scripts/visualize.py", f"trajectories={out}", "sample=z", f"out={picture}", code=2)
    assert "no sample 'z' among 3" in wrong.stderr
    (tmp_path / "e.json").write_text("[]")
    (tmp_path / "e.trajectories.jsonl").write_text(out.read_text())
    wrong = call("scripts/visualize.py", f"trajectories={tmp_path / 'e.json'}", f"out={picture}", code=2)
    assert f"are predictions; say trajectories={tmp_path / 'e.trajectories.jsonl'}" in wrong.stderr


def test_a_full_disk_loses_nothing(tmp_path):
    whole, small = tmp_path / "whole.jsonl", tmp_path / "small.jsonl"
    settings = ("data=refshapes", "data.limit=6", "simulate.max_clicks=3", "batch_size=2")
    call("scripts/simulate.py", *settings, f"out={whole}")
    room = whole.stat().st_size // 2

    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    full = subprocess.run(
        command("scripts/simulate.py", *settings, f"out={small}"),
        capture_output=True,
        text=True,
        preexec_fn=limit_file_size,
    )
    assert full.returncode == 2 and "error: " in full.stderr and "Traceback" not in full.stderr
    assert "small.jsonl" in full.stderr and "resume=true" in full.stderr
    assert 0 < small.stat().st_size <= room and whole.read_bytes().startswith(small.read_bytes())
    call("scripts/simulate.py", *settings, f"out={small}", "resume=true")
    assert small.read_bytes() == whole.read_bytes()


def test_an_interrupt_and_a_defect_have_exit_codes_of_their_own(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["simulate.py", "out=x.jsonl"])
    for raised, code, told in (
        (KeyboardInterrupt, 130, "go on with resume=true"),
        (ZeroDivisionError("a defect"), 3, "ZeroDivisionError: a defect"),
        (ValueError("unsound"), 2, "error: unsound"),
    ):

        def main(config, raised=raised):
            raise raised

        with pytest.raises(SystemExit) as ended:
            run_entry(main, "simulate", "about")
        assert ended.value.code == code and told in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["simulate.py", "--config", "data.limit=3"])
    with pytest.raises(SystemExit) as ended:
        run_entry(main, "simulate", "about")
    assert ended.value.code == 0 and OmegaConf.create(capsys.readouterr().out).data.limit == 3


def test_files_of_one_run_are_not_another_runs(tmp_path):
    """What stands beside an output belongs to it alone, and goes when it is begun anew."""
    size = ("data.limit=2", "data.size=128", "segmenter=graphcut")
    made = ("scripts/simulate.py", *size, "simulate.max_clicks=1")
    call(*made, f"out={tmp_path / 'a.jsonl'}")
    other = call("scripts/evaluate.py", *size, "policy=oracle", f"out={tmp_path / 'a.json'}", code=2)
    assert "a.config.yaml: is of the run with out=" in other.stderr
    own = call(*made, f"out={tmp_path / 'b.jsonl'}", f"official_out={tmp_path / 'b.jsonl'}", code=2)
    assert "is a file of out=" in own.stderr
    assert beside("r/tau_0.5", ".json") != beside("r/tau_0.7", ".json") and beside("r/a.jsonl", ".x") == Path("r/a.x")
    call("scripts/evaluate.py", *size, "policy=oracle", "rollout.max_clicks=1", f"out={tmp_path / 'e.json'}")
    config = OmegaConf.load(tmp_path / "e.config.yaml")
    config.overwrite = True
    made = {path.name for path in tmp_path.glob("e.*")} - {"e.config.yaml"}
    claim_output(tmp_path / "e.json", config, tmp_path / "e.trajectories.jsonl", grows=True)
    left = {path.name for path in tmp_path.glob("e.*")}
    old = {f"{name}.set-aside" for name in {*made, "e.config.yaml"}}
    assert left == {"e.config.yaml", *old}, "no figures under settings of others"
    (tmp_path / "e.json.old").write_text("kept by somebody")
    call("scripts/evaluate.py", *size, "policy=oracle", "rollout.max_clicks=1", f"out={tmp_path / 'e.json'}")
    assert {path.name for path in tmp_path.glob("e.*")} == {"e.config.yaml", "e.json.old", *made}
    moved = OmegaConf.create({"out": str(tmp_path / "sft"), "resume": True, "overwrite": False})
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "train.csv").touch()
    OmegaConf.save({**moved, "out": "runs/sft_v1.2"}, tmp_path / "sft" / "train.config.yaml")
    claim_output(tmp_path / "sft" / "train.csv", moved, tmp_path / "sft" / "train.csv")  # a renamed folder


def test_names_that_look_like_numbers_stay_as_they_are():
    given = ["sample=2007_000033", "out=20240501", "data.images=2024_05", "mllm.path=1e5", "data.limit=2_0", "seed=7"]
    assert expand_checkpoints(given) == [
        'sample="2007_000033"', 'out="20240501"', 'data.images="2024_05"', 'mllm.path="1e5"', "data.limit=2_0", "seed=7"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "entry, given, message",
    [
        ("evaluate", "overwrite=no", "overwrite='no': say true or false"),
        ("evaluate", "report=off", "report='off': say true or false"),
        ("evaluate", "batch_size=x", "batch_size='x': a whole number, such as"),
        ("evaluate", "batch_size=2.5", "batch_size=2.5: a whole number"),
        ("evaluate", "rollout.max_clicks=seven", "rollout.max_clicks='seven': a whole number"),
        ("evaluate", "seed=true", "seed=True: a whole number"),
        ("evaluate", "out=null", "out: not given; say out="),
        ("simulate", "simulate.tau_stop=high", "simulate.tau_stop='high': a number"),
        ("train", "train.frozen=vision", "train.frozen='vision': a list, such as"),
        ("train", "train.lr=fast", "train.lr='fast': a number"),
        ("annotate", "mode=7", "mode=7: a text"),
        ("visualize", "side=x", "side='x': a whole number"),
    ],
)
def test_settings_of_another_type_than_the_default_are_refused(entry, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_types(entry, [given], compose_config(entry, [given]))


@pytest.mark.parametrize(
    "entry, given",
    [
        ("evaluate", ["data=coco", "data.annotations=a.json", "data.images=d", "data.limit=3", "policy=oracle"]),
        ("evaluate", ["search.stop_reward=0.9", "segmenter=graphcut", "seed=3", "report=false", "data.limit=null"]),
        ("train", ["train=paper_qwen", "train.epochs=0.5", "train.steps=null", "train.lr=1"]),
        ("train", ["data.trajectories=null", "generated.share=1", "device=0"]),
        ("evaluate", ["segmenter=sam", "segmenter.path=x", "segmenter.cache_bytes=4e9"]),
        ("tables", ["parts=[table1]", "training.steps=3", "hard_limit=null"]),
    ],
)
def test_settings_of_the_right_type_are_taken(entry, given):
    check_types(entry, given, compose_config(entry, given))


def test_a_description_may_hold_any_letter():
    for text in ("the cup, left", "what's this", "cup (left)", "ein grüner Apfel", "杯子", "7", 'the "A"'):
        (given,) = expand_checkpoints([f"text={text}"])
        assert compose_config("annotate", [given]).text == text
    assert expand_checkpoints(["text=null", "text='a cup'"]) == ["text=null", "text='a cup'"]


def test_help_lists_the_groups_that_a_command_has(capsys, monkeypatch):
    for entry, there, absent in (
        ("simulate", "segmenter=", "train="),
        ("compare", "Settings", "data="),
        ("train", "train=", "policy="),
    ):
        monkeypatch.setattr(sys, "argv", [entry, "--help"])
        with pytest.raises(SystemExit):
            run_entry(lambda config: 0, entry, "About.")
        groups = capsys.readouterr().out.split("and defaults")[0]
        assert there in groups and f"  {absent}" not in groups


def test_nobody_is_told_to_resume_what_cannot_be(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.json").write_text("x")
    config = OmegaConf.create({"out": str(tmp_path / "a.json"), "resume": False, "overwrite": False})
    with pytest.raises(ValueError, match=r"is there already; say overwrite=true to begin anew"):
        claim_output(tmp_path / "a.json", config, tmp_path / "a.json", resumable=False)

    def interrupted(config):
        raise KeyboardInterrupt

    for entry, told in (("compare", False), ("evaluate", True)):
        monkeypatch.setattr(sys, "argv", [entry, "out=x", *(["data=refshapes"] if told else [])])
        with pytest.raises(SystemExit) as ended:
            run_entry(interrupted, entry, "About.")
        assert ended.value.code == 130 and ("resume=true" in capsys.readouterr().err) is told


@pytest.fixture(autouse=True)
def other_processes_may_go_on(monkeypatch):
    """A command holds its names as long as its process, which here goes on with other tests."""
    monkeypatch.setattr("segagent.entry._held", None)


def simulated(tmp_path, **settings):
    return OmegaConf.create(
        {"out": str(tmp_path / "a.jsonl"), "resume": False, "overwrite": False, "seed": 0, **settings}
    )


def test_a_command_that_loads_its_models_already_holds_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("segagent.entry._held", {})
    first, lines = simulated(tmp_path), tmp_path / "a.jsonl"
    claim_output(lines, first, lines, grows=True)
    claim_output(lines, first, lines, grows=True)  # the same process may
    held = segagent.entry._held
    monkeypatch.setattr("segagent.entry._held", {})  # as another process
    with pytest.raises(BlockingIOError, match=r"a\.config\.yaml: another run is writing to it"):
        claim_output(lines, simulated(tmp_path, seed=1), lines, grows=True)
    assert OmegaConf.load(tmp_path / "a.config.yaml").seed == 0
    for file in held.values():
        file.close()
    claim_output(lines, simulated(tmp_path, seed=1), lines, grows=True)
    assert OmegaConf.load(tmp_path / "a.config.yaml").seed == 1


def test_lines_set_aside_for_a_run_that_never_began_are_gone_on_with(tmp_path):
    lines = tmp_path / "a.jsonl"
    claim_output(lines, simulated(tmp_path), lines, grows=True)
    lines.write_text("a line\n")
    claim_output(lines, simulated(tmp_path, overwrite=True, seed=7), lines, grows=True)
    assert not lines.exists()
    claim_output(lines, simulated(tmp_path, resume=True, seed=7), lines, grows=True)
    assert not lines.exists(), "another run's are not in its way"
    claim_output(lines, simulated(tmp_path, resume=True), lines, grows=True)
    assert lines.read_text() == "a line\n" and not list(tmp_path.glob("*.set-aside"))


@pytest.mark.parametrize(
    "setting, message",
    [
        ("seed=-1", "seed=-1: a whole number, 0 or more"),
        ("batch_size=null", "batch_size=null: give a whole number"),
        ("rollout.max_clicks=null", "rollout.max_clicks=null: give a whole number"),
        ("rollout.patience=abc", "rollout.patience='abc': a number, or null"),
    ],
)
def test_numbers_that_no_run_can_do_without(setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_types("evaluate", ["out=x", setting], compose_config("evaluate", ["out=x", setting]))


@pytest.mark.parametrize(
    "added, message",
    [
        ("+limt=1", "limt: no such setting; limit?"),
        ("+rollout.max_click=1", "rollout.max_click: no such setting; max_clicks?"),
        ("++filter.xyz=1", r"filter.xyz: no such setting \(--help lists all\)"),
        ("+mllm.extra.top_k=5", None),
        ("++limit=3", None),
    ],
)
def test_a_setting_that_nobody_reads_is_refused(added, message):
    given = ["mllm=endpoint", "mllm.path=m", added]
    config = compose_config("annotate", given)
    if message is None:
        check_types("annotate", given, config)
        return
    with pytest.raises(ValueError, match=message):
        check_types("annotate", given, config)


def test_other_names_of_keys(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "segmenter=simpleclick_huge", "batch_size=3", "--config"])
    with pytest.raises(SystemExit):
        run_entry(
            lambda _: 0, "train_segmenter", "", aliases={"segmenter": "network", "batch_size": "train.batch_size"}
        )
    config = OmegaConf.create(capsys.readouterr().out)
    assert config.train.batch_size == 3 and config.network == load_named("network", "simpleclick_huge")


@pytest.fixture
def evaluate():
    spec = importlib.util.spec_from_file_location("evaluate", ROOT / "scripts" / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "policy, asked",
    [("oracle", False), ("center", False), ("agent", True), ("box_agent", True), ("greedy", True)],
)
def test_a_model_that_nobody_asks_is_told(evaluate, capsys, policy, asked):
    evaluate.tell_unused(compose_config("evaluate", ["out=x", "mllm=nano", f"policy={policy}"]))
    assert ("is not asked by policy=" not in capsys.readouterr().err) == asked
    evaluate.tell_unused(compose_config("evaluate", ["out=x", f"policy={policy}"]))
    assert not capsys.readouterr().err, "none is named"


@pytest.mark.parametrize(
    "policy, given, told",
    [
        ("noisy_oracle", ["search.k=4"], "search.k: not read, policy=NoisyOracle makes no search"),
        ("sampling_agent", ["search.temperature=0.5"], ""),  # its own
        ("agent", ["reward=expected_iou", "search.width=1"], "search.width, reward: not read, policy=Agent"),
        ("greedy", ["reward=true_iou", "search.k=4"], ""),
        ("agent", ["device=cpu", "seed=3"], ""),
    ],
)
def test_a_search_that_nobody_makes_is_told(evaluate, capsys, policy, given, told):
    evaluate.tell_unused(compose_config("evaluate", ["out=x", f"policy={policy}", *given]))
    said = capsys.readouterr().err
    assert told in said and bool(told) == bool(said)


def test_the_best_predicted_mask_is_a_searchs(evaluate, tmp_path):
    given = [f"out={tmp_path / 'x.json'}", "mllm=nano", "policy=agent", "protocol=best_predicted"]
    with pytest.raises(ValueError, match=r"protocol=best_predicted: .* say policy=greedy search.k=1"):
        evaluate.main(compose_config("evaluate", given))
    assert not list(tmp_path.iterdir())


def test_lines_are_not_put_back_under_a_run_that_loads_its_models(tmp_path, monkeypatch):
    monkeypatch.setattr("segagent.entry._held", {})
    lines = tmp_path / "a.jsonl"
    claim_output(lines, simulated(tmp_path), lines, grows=True)
    lines.write_text("a line\n")
    claim_output(lines, simulated(tmp_path, overwrite=True, seed=7), lines, grows=True)  # and now it loads
    monkeypatch.setattr("segagent.entry._held", {})  # as another process
    with pytest.raises(BlockingIOError, match="another run is writing to it"):
        claim_output(lines, simulated(tmp_path, resume=True), lines, grows=True)
    assert not lines.exists() and OmegaConf.load(tmp_path / "a.config.yaml").seed == 7
    assert (tmp_path / "a.jsonl.set-aside").read_text() == "a line\n"


@pytest.mark.parametrize(
    "word, expanded",
    [
        ("images=/tmp/Größe (1), a=b", 'images="/tmp/Größe (1), a=b"'),
        ("data.annotations=a\\,b.json", "data.annotations=a\\,b.json"),
        ("parts=[a,b]", "parts=[a,b]"),
        ("trajectories=[a.jsonl,b.jsonl]", "trajectories=[a.jsonl,b.jsonl]"),
        ("masks=null", "masks=null"),
        ("masks=NULL", "masks=NULL"),
        ("out='x y'", "out='x y'"),
        ("sample=2007_000033", 'sample="2007_000033"'),
    ],
)
def test_names_of_files_are_taken_as_they_stand(word, expanded):
    assert expand_checkpoints([word]) == [expanded]

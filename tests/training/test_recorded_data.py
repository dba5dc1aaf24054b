"""What a training learns from where its command names no data: the settings that earlier commands left."""

import json

import pytest
from omegaconf import OmegaConf

from segagent.configuration import compose_config
from segagent.entry import expand_checkpoints
from segagent.improvement.folder import RoundFolder
from segagent.mllm.families import model_folder
from segagent.mllm.testing import write_nano
from segagent.training.recorded_data import data_of_training, data_of_trajectories

SIMULATED = ["data=refshapes", "data.split=train", "data.subset=refshapes-thin", "data.limit=6"]
NANO = ["segmenter=simpleclick_nano", "segmenter.threshold=0.4"]


def record(folder, name="a", entry="simulate", words=SIMULATED, **more):
    """A file of trajectories, or a folder of a training, with the settings of the command that made it."""
    folder.mkdir(exist_ok=True)
    config = compose_config(entry, [*words, "out=x"])
    config.data = OmegaConf.merge(config.data, more)
    OmegaConf.save(config, folder / f"{name}.config.yaml")
    return folder / f"{name}.jsonl"


def completed(entry, complete, *given):
    given = expand_checkpoints([*given, "out=x"])
    config = compose_config(entry, given)
    OmegaConf.resolve(config)
    return complete(config, given)


@pytest.mark.parametrize("name", ["a", "a.trajectories"])
def test_trajectories_say_what_they_were_simulated_on(tmp_path, capsys, name):
    lines = record(tmp_path).with_name(f"{name}.jsonl")
    config = completed("train", data_of_trajectories, f"data.trajectories={lines}")
    assert (config.data.subset, config.data.limit, config.data.trajectories) == ("refshapes-thin", 6, str(lines))
    assert f"data: as in {tmp_path / 'a.config.yaml'} (split train)" in capsys.readouterr().err
    held_out = record(tmp_path, "v", split="val")
    completed("train", data_of_trajectories, f"data.trajectories={held_out}")
    assert "(split val: what is learnt from is no measure any more" in capsys.readouterr().err
    both = completed("train", data_of_trajectories, f"data.trajectories=[{lines},{tmp_path / 'unknown.jsonl'}]")
    assert both.data.subset == "refshapes-thin" and len(both.data.trajectories) == 2


def test_a_limit_is_of_trajectories_and_not_of_the_pictures_they_need(tmp_path):
    lines = record(tmp_path)
    for entry, complete in (("train", data_of_trajectories), ("export", data_of_trajectories)):
        config = completed(entry, complete, f"data.trajectories={lines}", "data.limit=3")
        assert (config.data.subset, config.data.limit, config.limit) == ("refshapes-thin", 6, 3)
    assert completed("train", data_of_trajectories, f"data.trajectories={lines}").limit is None


@pytest.mark.parametrize("named", ["data=refshapes_mix", "data.subset=refshapes+", "data=refshapes,data.limit=3"])
def test_a_command_that_names_data_is_left_as_it_is(tmp_path, named):
    lines = record(tmp_path)
    config = completed("train", data_of_trajectories, f"data.trajectories={lines}", *named.split(","))
    assert config == completed("train", lambda config, _: config, f"data.trajectories={lines}", *named.split(","))


def test_nothing_is_known_of_no_trajectories_and_of_strange_ones(tmp_path):
    for given in ("null", str(tmp_path / "b.jsonl")):
        assert completed("train", data_of_trajectories, f"data.trajectories={given}").data.subset == "refshapes"


def test_files_of_different_data_are_refused(tmp_path):
    first = record(tmp_path)
    second = record(tmp_path, "b", words=["data=refshapes", "data.split=train"])
    with pytest.raises(ValueError, match=r"data: that of .*a.config.yaml is not that of .*b.config.yaml; say data="):
        completed("train", data_of_trajectories, f"data.trajectories=[{first},{second}]")


@pytest.mark.parametrize("part", ["data", "segmenter"])
def test_a_file_from_elsewhere_does_not_say_what_is_run_here(tmp_path, part):
    lines = record(tmp_path)
    config = OmegaConf.load(tmp_path / "a.config.yaml")
    config[part]._target_ = "os.system"
    OmegaConf.save(config, tmp_path / "a.config.yaml")
    with pytest.raises(ValueError, match=f"a.config.yaml: {part} is of os.system, which is none of configs/{part}"):
        completed("train", data_of_trajectories, f"data.trajectories={lines}")


def test_a_model_says_what_it_was_trained_on(tmp_path, capsys):
    run = tmp_path / "sft"
    write_nano(run / "best")
    lines = record(tmp_path)
    record(run, "train", entry="train", words=[*SIMULATED, f"data.trajectories={lines}"])
    for folder in (run, run / "best"):
        config = completed("improve", data_of_training, f"mllm={folder}")
        assert config.mllm.path == str(run / "best") and json.dumps(str(run)) not in capsys.readouterr().err
        assert (config.data.subset, config.data.trajectories) == ("refshapes-thin", str(lines))
    other = completed("improve", data_of_training, f"mllm={run}", "data.trajectories=d.jsonl")
    assert (other.data.subset, other.data.trajectories) == ("refshapes-thin", "d.jsonl")
    named = completed("improve", data_of_training, f"mllm={run}", "data=refshapes_mix")
    assert named.data.trajectories is None and "datasets" in named.data
    assert completed("improve", data_of_training, "mllm=nano").data.subset == "refshapes"


def test_a_run_that_is_gone_on_with_keeps_its_data(tmp_path, capsys):
    """Whatever lies beside the trajectories by now, and whatever the defaults have become."""
    record(tmp_path / "run", "train", entry="train", words=["data=refshapes_mix", "data.trajectories=x"])
    lines, out = record(tmp_path), f"out={tmp_path / 'run'}"
    given = [f"data.trajectories={lines}", "resume=true"]
    config = compose_config("train", [*given, out])
    OmegaConf.resolve(config)
    kept = data_of_trajectories(config, [*given, out])
    assert "datasets" in kept.data and kept.data.trajectories == str(lines) and not capsys.readouterr().err
    config.resume = False
    assert data_of_trajectories(config, given).data.subset == "refshapes-thin"


@pytest.mark.parametrize("entry, complete", [("train", data_of_trajectories), ("improve", data_of_training)])
def test_clicks_are_carried_out_as_in_the_trajectories(tmp_path, capsys, entry, complete):
    """Not on the device of then, which may be another machine's; and not where the command says who clicks."""
    lines = record(tmp_path, words=[*SIMULATED, *NANO, "device=cuda:3"])
    given = f"data.trajectories={lines}"
    config = completed(entry, complete, given, "device=cpu")
    assert (config.segmenter.threshold, config.segmenter.device) == (0.4, "cpu")
    assert f"segmenter: as in {tmp_path / 'a.config.yaml'} (SimpleClick)\n" in capsys.readouterr().err
    with_data = completed(entry, complete, given, "data=refshapes_mix")
    assert with_data.segmenter.threshold == 0.4 and "datasets" in with_data.data
    graphcut = completed(entry, complete, given, "segmenter=graphcut", "segmenter.passes=1")
    assert graphcut.segmenter.passes == 1
    default = completed(entry, complete, f"data.trajectories={tmp_path / 'unknown.jsonl'}")
    assert default.segmenter == completed(entry, lambda config, _: config).segmenter


def test_the_segmenter_of_s_0s_trajectories_rolls_out(tmp_path):
    run = tmp_path / "sft"
    write_nano(run / "best")
    lines = record(tmp_path, words=[*SIMULATED, "segmenter=graphcut", "segmenter.passes=3"])
    record(run, "train", entry="train", words=[*SIMULATED, f"data.trajectories={lines}"])
    assert completed("improve", data_of_training, f"mllm={run}").segmenter.passes == 3


def test_segmenters_that_differ_are_told_and_the_default_one_clicks(tmp_path, capsys):
    first = record(tmp_path, words=[*SIMULATED, *NANO])
    elsewhere = record(tmp_path, "c", words=[*SIMULATED, *NANO, "device=cuda:3"])
    assert (
        completed("train", data_of_trajectories, f"data.trajectories=[{first},{elsewhere}]").segmenter.device == "auto"
    )
    second = record(tmp_path, "b", words=[*SIMULATED, "segmenter=graphcut"])
    config = completed("improve", data_of_training, f"data.trajectories=[{first},{second}]")
    assert config.segmenter.threshold == 0.49
    said = capsys.readouterr().err
    assert f"segmenter: that of {tmp_path / 'a.config.yaml'} is not that of {tmp_path / 'b.config.yaml'}" in said


def test_a_run_that_is_gone_on_with_keeps_its_segmenter(tmp_path, capsys):
    record(tmp_path / "run", "improve", entry="improve", words=["data=refshapes", "segmenter=graphcut"])
    lines, out = record(tmp_path, words=[*SIMULATED, *NANO]), f"out={tmp_path / 'run'}"
    given = [f"data.trajectories={lines}", "resume=true"]
    config = compose_config("improve", [*given, "mllm=nano", out])
    OmegaConf.resolve(config)
    assert "passes" in data_of_training(config, [*given, out]).segmenter and "segmenter" not in capsys.readouterr().err


def test_the_folder_of_an_improvement_means_the_model_of_its_last_round(tmp_path):
    for number in (1, 2, 10):
        write_nano(RoundFolder(tmp_path, number).model)
    (tmp_path / "round_11" / "train").mkdir(parents=True)
    (tmp_path / "round_x" / "train" / "best").mkdir(parents=True)
    assert model_folder(tmp_path) == RoundFolder(tmp_path, 10).model
    assert completed("improve", data_of_training, f"mllm={tmp_path}").mllm.path == str(model_folder(tmp_path))
    write_nano(tmp_path / "best")
    assert model_folder(tmp_path) == tmp_path / "best"

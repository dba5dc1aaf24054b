"""What wandb is told, offline."""

import pytest
import wandb

from segagent.training.tracking import Tracker


def tracker(folder, mode):
    return Tracker(mode=mode, project="tests", folder=folder, settings={"seed": 1})


def test_offline_a_run_goes_on_with_its_identity(tmp_path):
    for loss in (0.5, 0.25):
        with tracker(tmp_path, "offline") as told:
            told.log(1, {"train/loss": loss})
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    identity = (tmp_path / "wandb_run_id.txt").read_text()
    assert runs and all(run.name.endswith(identity) for run in runs)
    tracker(tmp_path, "offline").forget()
    assert not (tmp_path / "wandb_run_id.txt").exists(), "a run that begins anew is another one"
    assert any(b"train/loss" in file.read_bytes() for file in (tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_disabled_leaves_nothing_and_other_modes_are_refused(tmp_path):
    with tracker(tmp_path / "run", "disabled") as told:
        told.log(1, {"train/loss": 0.5})
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"wandb\.mode='on': choose auto, offline, online, disabled"):
        tracker(tmp_path, "on")


def test_a_key_without_a_way_out_is_offline(tmp_path, monkeypatch, caplog):
    def unreachable(**settings):
        raise wandb.errors.AuthenticationError("could not reach the server")

    monkeypatch.setattr(wandb, "login", unreachable)
    with tracker(tmp_path, "auto") as told:
        told.log(1, {"train/loss": 0.5})
    assert list((tmp_path / "wandb").glob("offline-run-*")) and "could not reach the server" in caplog.text
    monkeypatch.setattr(wandb, "init", unreachable)
    with pytest.raises(ValueError, match=r"wandb.mode=online: could not reach the server; say wandb.mode=offline"):
        tracker(tmp_path, "online").__enter__()

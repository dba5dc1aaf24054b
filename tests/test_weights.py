"""What ships: found by name, described, small."""

import hashlib

import numpy as np
import pytest

from segagent.data.refshapes import RefShapes
from segagent.environment import Environment
from segagent.mllm.osprey import Osprey
from segagent.policies.agent import Agent
from segagent.segmenters.graphcut import GraphCut
from segagent.weights import checkpoint_path, shipped


def test_a_path_wins_over_a_name_and_neither_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = shipped()[0]
    assert checkpoint_path(name).joinpath("model.safetensors").is_file()
    (tmp_path / name).mkdir()
    assert checkpoint_path(name).resolve() == tmp_path / name
    with pytest.raises(ValueError, match=r"nothing: no such checkpoint file or folder, and none of that name ships \("):
        checkpoint_path("nothing")


def test_every_checkpoint_has_a_card_with_its_hash_and_all_fit_in_25_mb():
    total = 0
    for name in shipped():
        weights = checkpoint_path(name) / "model.safetensors"
        card = (checkpoint_path(name) / "README.md").read_text()
        assert hashlib.sha256(weights.read_bytes()).hexdigest() in card, name
        total += weights.stat().st_size
    assert 0 < total <= 25e6


def test_the_shipped_policy_clicks_on_what_is_asked_for():
    samples = list(RefShapes(split="val", limit=40))
    agent = Agent(mllm=Osprey.from_checkpoint("segagent_nano", device="cpu"))
    states = Environment(segmenter=GraphCut()).start_batch(samples)
    actions = [row[0] for row in agent.propose(states)]
    right = [
        action.click is not None and action.click.is_positive and sample.target[action.click.y, action.click.x]
        for action, sample in zip(actions, samples, strict=True)
    ]
    assert np.mean(right) > 0.6, "of 200 samples the card tells"
    assert all(action.predicted_iou is not None for action in actions)

"""Every fast path against the plain one, with real networks in float32: the same texts, the same masks."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from segagent.data.trajectories import trajectory_to_json
from segagent.environment import Environment, stable_generator, to_trajectory
from segagent.mllm import testing
from segagent.mllm.osprey import Osprey
from segagent.policies.agent import Agent
from segagent.policies.mcts import Mcts
from segagent.policies.reward_model import PredictedIou
from segagent.policies.search import Beam
from segagent.rollout import rollout
from segagent.segmenters.simpleclick import SimpleClick
from segagent.segmenters.simpleclick_vit import SimpleClickConfig, SimpleClickNet
from segagent.types import Action, Click, EndReason


class Drawn(Agent):
    """Random weights say nothing readable: what is done is drawn from their text, one in six times an end."""

    def read(self, state, prefix, completion):
        random = stable_generator(state.sample.sample_id, state.clicks, completion.text)
        facts = {"text": completion.text, "predicted_iou": float(random.random()), "log_prob": -len(completion.text)}
        if random.random() < 1 / 6:
            return Action(end=EndReason.FINISHED, **facts)
        x, y = int(random.integers(state.sample.width)), int(random.integers(state.sample.height))
        return Action(click=Click(x, y, bool(random.random() < 0.7)), **facts)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano")
    testing.write_nano(folder)
    config = SimpleClickConfig(
        image_size=64, embed_dim=32, depth=4, num_heads=2, out_dims=(8, 8, 8, 8), head_channels=8
    )
    torch.manual_seed(0)
    return Osprey.from_checkpoint(folder, device="cpu", max_batch=4), SimpleClickNet(config)


@pytest.fixture
def loop(networks):
    def make(**settings):
        segmenter = SimpleClick(network=networks[1], min_crop_size=20, max_batch=5, device="cpu")
        agent = Drawn(mllm=networks[0], max_new_tokens=6, **settings)
        return agent, Environment(segmenter=segmenter, max_clicks=4)

    return make


def written(batches):
    return [json.dumps(trajectory_to_json(trajectory)) for batch in batches for trajectory in batch]


SAMPLED = {"temperature": 1.0, "seed": 3}
CANDIDATES = {**SAMPLED, "greedy_first": True}


@pytest.mark.parametrize(
    "settings, search",
    [
        ({}, lambda agent: agent),
        (SAMPLED, lambda agent: agent),
        (CANDIDATES, lambda agent: Beam(proposer=agent, reward=PredictedIou(), k=3)),
        (SAMPLED, lambda agent: Beam(proposer=agent, reward=PredictedIou(statistic="mean"), k=2, width=2)),
        (CANDIDATES, lambda agent: Mcts(proposer=agent, reward=PredictedIou(), k=2, budget=5)),
    ],
    ids=["greedy", "sampled", "search", "beam", "mcts"],
)
def test_many_samples_at_once_are_as_each_alone(loop, dataset_of, settings, search):
    dataset, lines = dataset_of(9), []
    for size in (1, 4, 9):
        agent, environment = loop(**settings)
        lines.append(written(rollout(dataset, policy=search(agent), environment=environment, batch_size=size)))
    assert lines[0] == lines[1] == lines[2]
    texts = {step["text"] for line in lines[0] for step in json.loads(line)["steps"]}
    assert len(texts) > 4 and len({len(json.loads(line)["steps"]) for line in lines[0]}) > 1, "nothing to tell apart"


def plain_loop():
    """The plain loop of the benchmark, which is no package."""
    path = Path(__file__).parents[1] / "benchmarks" / "rollout_plain.py"
    spec = importlib.util.spec_from_file_location("rollout_plain", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PlainLoop


def test_they_are_as_the_plain_loop_makes_them(loop, dataset_of, tmp_path):
    dataset, (agent, environment) = dataset_of(6), loop()
    plain = plain_loop()(agent=agent, environment=environment, k=1, folder=tmp_path)
    alone = written([[to_trajectory(plain.run(sample)) for sample in dataset]])
    assert written(rollout(dataset, policy=agent, environment=environment, batch_size=4)) == alone


def test_the_plain_search_returns_its_best_mask(loop, dataset_of, tmp_path):
    agent, environment = loop(**CANDIDATES)
    plain = plain_loop()(agent=agent, environment=environment, k=3, folder=tmp_path)
    states = [plain.run(sample) for sample in dataset_of(8)]
    assert all(0 <= state.extras["returned"] <= len(state.steps) for state in states)
    assert max(len(state.steps) for state in states) > 1

"""Weights of the evidence: fitted right, measured on pictures that they were not fitted to, printed as settings."""

import json

import numpy as np
import pytest

from segagent.configuration import build, compose_config
from segagent.policies.second_opinion import WEIGHED


@pytest.fixture
def benchmark(benchmark_file):
    return benchmark_file("second_opinion")


def test_the_weights_that_made_the_labels_are_found_again(benchmark):
    random = np.random.default_rng(0)
    values = random.random((20_000, 2)) * [1.0, 5.0]
    odds = -1.0 + 4.0 * values[:, 0] - 0.5 * values[:, 1]
    right = random.random(len(odds)) < 1 / (1 + np.exp(-odds))
    assert benchmark.fit(values, right) == pytest.approx([-1.0, 4.0, -0.5], abs=0.15)


def test_a_picture_is_judged_by_what_was_fitted_without_it(benchmark):
    image = np.repeat(np.arange(20), 3)
    values, right = np.eye(20)[image], image % 2 == 0
    own = benchmark.fit(values, right)
    assert ((own[0] + values @ own[1:] > 0) == right).all(), "known pictures give themselves away"
    unseen = benchmark.cross_validated(values, right, image)
    assert np.abs(unseen).max() < 1 and ((unseen > 0) == right).mean() < 0.7


def test_from_pictures_to_settings(benchmark, tmp_path, monkeypatch, capsys):
    from segagent.mllm.testing import write_nano

    write_nano(tmp_path / "nano")
    words = [f"mllm={tmp_path / 'nano'}", "data.size=128", "segmenter=graphcut", "device=cpu", "reward.attempts=3"]
    counts = ["--samples", "10", "--share", "0.5", "--batch-size", "4", "--out", str(tmp_path / "f.json")]
    monkeypatch.setattr("sys.argv", ["second_opinion.py", *counts, *words, "proposer.max_new_tokens=4"])
    benchmark.main()
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["n"] == 10 and 1 < figures["n_bad"] < 9 and figures["asked"]["data_seed"] == 6
    assert all(0 < value <= 1 for value in figures["precision_at_recall_90"].values())
    printed = capsys.readouterr().out.splitlines()[-1].split()
    config = compose_config("evaluate", ["policy=greedy", "reward=second_opinion", "mllm=nano", "out=x", *printed])
    assert build(config.reward).weights == figures["weights"] and set(figures["weights"]) == {"constant", *WEIGHED}

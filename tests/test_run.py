"""The loop over a dataset: shards, resume, broken samples."""

import itertools

import pytest
from omegaconf import OmegaConf

from segagent.configuration import compose_config
from segagent.data.trajectories import TrajectoryWriter, read_trajectories
from segagent.engines.work import run_config
from segagent.entry import claim_output, differing_settings
from segagent.environment import Environment
from segagent.policies.simulated import NoisyOracle
from segagent.run import parse_shard, run, shard_indices, who


@pytest.fixture
def do(tmp_path, discs):
    def _do(dataset, name="t.jsonl", **settings):
        environment = Environment(segmenter=discs, max_clicks=4)
        policy = settings.pop("policy", NoisyOracle())
        return run(dataset, policy=policy, environment=environment, out=tmp_path / name, **settings)

    _do.root = tmp_path
    return _do


def test_shards_joined_are_one_run_byte_for_byte(do, dataset_of):
    dataset = dataset_of(13)
    do(dataset, "whole.jsonl", batch_size=5)
    for index in range(3):
        do(dataset, f"{index}.jsonl", shard=f"{index}/3", batch_size=2)
    joined = b"".join((do.root / f"{index}.jsonl").read_bytes() for index in range(3))
    assert joined == (do.root / "whole.jsonl").read_bytes()


class Killed(BaseException):
    """Like a kill: nothing in the package may catch it."""


class Mortal(NoisyOracle):
    def __init__(self, lives):
        super().__init__()
        self.lives = lives

    def propose(self, states, num_candidates=1):
        self.lives -= 1
        if self.lives < 0:
            raise Killed
        return super().propose(states, num_candidates)


@pytest.mark.parametrize("lives", [0, 5, 13])
@pytest.mark.parametrize("cut", [0, 37])
def test_a_killed_run_resumes_without_losing_or_repeating(do, dataset_of, lives, cut):
    dataset = dataset_of(13)
    do(dataset, "whole.jsonl")
    with pytest.raises(Killed):
        do(dataset, policy=Mortal(lives), batch_size=3)
    path = do.root / "t.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    summary = do(dataset, resume=True, batch_size=4)
    assert path.read_bytes() == (do.root / "whole.jsonl").read_bytes()
    assert summary.resumed + summary.written == 13


def test_a_finished_run_has_nothing_to_resume(do, dataset_of):
    do(dataset_of(3))
    assert do(dataset_of(3), resume=True).written == 0


def test_resuming_with_other_data_is_refused(do, dataset_of):
    do(dataset_of(4))
    with pytest.raises(ValueError, match="holds 2 samples that this run does not have"):
        do(dataset_of(2), resume=True)


class Broken(list):
    def sample_id(self, index):
        return f"s{index}"

    def __getitem__(self, index):
        if index == 3:
            raise ValueError("photo.jpg: broken image")
        return super().__getitem__(index)


def test_a_broken_sample_stops_the_run_and_what_was_done_stays(do, dataset_of):
    with pytest.raises(ValueError, match=r"photo.jpg: broken image"):
        do(Broken(dataset_of(6)))
    assert [t.sample_id for t in read_trajectories(do.root / "t.jsonl")] == ["s0", "s1", "s2"]


def test_or_is_skipped_and_reported(do, dataset_of, capsys):
    summary = do(Broken(dataset_of(6)), on_error="skip", batch_size=4)
    assert summary.skipped == ["photo.jpg: broken image"] and summary.written == 5
    assert "skipped: photo.jpg" in capsys.readouterr().err


def test_wrong_settings(do, dataset_of):
    with pytest.raises(ValueError, match="choose stop or skip"):
        do(dataset_of(2), on_error="ignore")
    for shard in ("2/2", "1", "a/b", "-1/2", "0/0"):
        with pytest.raises(ValueError, match=r"write i/n with 0 <= i < n"):
            parse_shard(shard)


def test_blocks_cover_everything_once_whatever_the_numbers():
    for total, count in itertools.product(range(12), range(1, 9)):
        blocks = [list(shard_indices(total, f"{index}/{count}")) for index in range(count)]
        assert list(itertools.chain(*blocks)) == list(range(total))
        assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def test_processes_of_a_launcher_do_not_all_do_the_whole(monkeypatch):
    config = compose_config("evaluate", ["out=x.json"])
    assert who(config) == "Oracle with SimpleClick"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"started 2 times by a launcher .* shard=i/n"):
        run_config(config, config.rollout, "x.jsonl", "evaluate")


def test_settings_that_change_no_result_may_change_when_a_run_goes_on():
    old = {"device": "auto", "policy": {"mllm": {"device": "auto", "max_batch": 32}}, "on_error": "stop", "seed": 0}
    new = {"device": "cpu", "policy": {"mllm": {"device": "cpu", "max_batch": 8}}, "on_error": "skip", "seed": 1}
    old["segmenter"] = {"memory_bytes": 2**30, "embed_batch": 4, "cache_bytes": 1}
    new["segmenter"] = {"memory_bytes": 2**20, "embed_batch": 1, "cache_bytes": 2}
    assert differing_settings(*map(OmegaConf.create, (old, new))) == ["seed (0 then, 1 now)"]


def test_lines_of_another_run_never_stand_beside_the_settings_of_this_one(tmp_path):
    out, lines = tmp_path / "p.json", tmp_path / "p.trajectories.jsonl"

    def claim(seed, **changes):
        given = {"out": str(out), "seed": seed, "resume": False, "overwrite": False}
        claim_output(out, OmegaConf.create(given | changes), lines, grows=True)

    claim(0)
    lines.write_text("of seed 0")
    with pytest.raises(ValueError, match="is there already; say resume=true"):
        claim(1)
    claim(1, overwrite=True)  # and the run ends before it begins
    claim(1, resume=True)
    assert not lines.exists() and lines.with_name(lines.name + ".set-aside").read_text() == "of seed 0"
    with TrajectoryWriter(lines):
        assert {path.name for path in tmp_path.iterdir()} == {lines.name, "p.config.yaml", "p.config.yaml.set-aside"}
    assert OmegaConf.load(tmp_path / "p.config.yaml.set-aside").seed == 0, "of the lines that were set aside"
    lines.unlink()
    out.write_text("predictions of somebody")
    with pytest.raises(ValueError, match=r"p.json: is there already"):
        claim(1)
    with pytest.raises(ValueError, match=r"p.json: cannot be gone on with"):
        claim(1, resume=True)

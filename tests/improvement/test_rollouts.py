"""Rollouts shared out over processes and shards, by whichever engine: one file, each sample once, in order."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier

import pytest
from omegaconf import OmegaConf

from segagent.engines.work import RolloutWork
from segagent.entry import beside
from segagent.improvement.rollouts import check_parts, part_of, roll_out_shared
from segagent.run import shard_indices

WHOLE = "".join(f"{sample}\n" for sample in range(10))


@dataclass
class Numbers:
    """An engine that writes the numbers of the samples, and goes on with what is there."""

    calls: list = field(default_factory=list)

    def roll_out(self, work, out, shard="0/1"):
        self.calls.append(shard)
        done = out.read_text().count("\n") if out.exists() else 0
        with out.open("a") as file:
            file.writelines(
                f"{work.samples[index]}\n" for index in list(shard_indices(len(work.samples), shard))[done:]
            )


@dataclass
class Process:
    barrier: Barrier
    num_processes: int = 1
    process_index: int = 0

    @property
    def is_main_process(self):
        return self.process_index == 0

    def wait_for_everyone(self):
        self.barrier.wait(timeout=20)


def roll_out(out, count=1):
    """By `count` processes; the shards that the engine was asked for."""
    engine, barrier, empty = Numbers(), Barrier(count), OmegaConf.create({})
    work = RolloutWork(empty, empty, empty, empty, "empty", 2, 0, "stop", "numbers", samples=range(10))
    with ThreadPoolExecutor(count) as pool:
        jobs = [pool.submit(roll_out_shared, engine, work, out, Process(barrier, count, k)) for k in range(count)]
        for job in jobs:
            job.result()
    assert out.read_text() == WHOLE and [path.name for path in out.parent.iterdir()] == [out.name]
    return sorted(engine.calls)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "rollouts.jsonl"


def test_one_process_writes_the_file_itself_and_goes_on_with_it(out):
    assert roll_out(out) == ["0/1"]
    out.write_text(WHOLE[:6])
    assert roll_out(out) == ["0/1"]


def test_processes_share_and_the_first_one_joins(out):
    assert roll_out(out, 3) == ["0/3", "1/3", "2/3"]
    assert roll_out(out, 3) == ["0/1"], "joined already: nothing is shared out again"


@pytest.mark.parametrize("count", [1, 3])
def test_shards_begun_elsewhere_are_finished_by_however_many(out, count):
    part_of(out, "3/4").write_text("7\n")
    beside(part_of(out, "3/4"), ".config.yaml").write_text("seed: 0\n")
    assert roll_out(out, count) == ["0/4", "1/4", "2/4", "3/4"]


def test_a_kill_while_parts_are_tidied_up_repeats_nothing(out):
    out.write_text(WHOLE)
    part_of(out, "3/4").write_text("7\n8\n9\n")
    assert roll_out(out, 2) == []


def test_parts_that_do_not_fit_together_are_refused(out):
    part_of(out, "1/2").write_text("5\n")
    beside(part_of(out, "1/2"), ".config.yaml").write_text("seed: 0\nshard: 1/2\n")
    check_parts(out, OmegaConf.create({"seed": 0, "shard": "0/1"}))
    with pytest.raises(ValueError, match=r"1-of-2.jsonl: has other settings: seed \(0 then, 3 now\)"):
        check_parts(out, OmegaConf.create({"seed": 3, "shard": "0/1"}))
    part_of(out, "1/3").write_text("3\n")
    with pytest.raises(ValueError, match="holds parts of 2 and 3 shards"):
        roll_out(out)

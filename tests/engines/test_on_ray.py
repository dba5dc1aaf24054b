"""engine=ray: the bytes of a local run, whoever is lost on the way. A cluster of two nodes on this machine."""

import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from segagent.annotation.job import annotate_config
from segagent.configuration import compose_config, load_named
from segagent.engines.in_process import InProcess
from segagent.engines.on_ray import OnRay
from segagent.engines.ray_crew import Crew
from segagent.engines.segmenter_host import RemoteSegmenter, SegmenterHost, SegmenterLostError
from segagent.engines.work import run_config, work_of
from segagent.improvement.rounds import Improvement
from segagent.segmenters import GraphCut
from segagent.types import Box

COUNT, BROKEN = 24, 5


@pytest.fixture(scope="module")
def cluster():
    """(the cluster, its second node): two nodes of one CPU; this process and tests that need one node use the first."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install -e '.[ray]'")
    from ray.cluster_utils import Cluster

    # Read by Ray's own processes. Workers would otherwise stand back behind whatever else the machine does, and a node
    # be missed 15 seconds after it is gone.
    quick = pytest.MonkeyPatch()
    quick.setenv("RAY_worker_niceness", "0")
    quick.setenv("RAY_health_check_period_ms", "500")
    size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    second = cluster.add_node(**size)
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()
    quick.undo()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A mask folder; one picture is broken."""
    root = tmp_path_factory.mktemp("photos")
    for name in ("images", "masks"):
        (root / name).mkdir()
    random = np.random.default_rng(0)
    for index in range(COUNT):
        mask = np.zeros((40, 56), np.uint8)
        mask[8 : 26 + index % 5, 10 : 30 + index] = 255
        image = random.integers(0, 90, (40, 56, 3), dtype=np.uint8)
        image[mask > 0] += 140
        Image.fromarray(image).save(root / "images" / f"p{index:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"p{index:02}.png")
    (root / "images" / f"p{BROKEN:02}.png").write_bytes(b"no picture")
    return root


def settings(photos, out, *more):
    common = ("segmenter=graphcut", "policy=noisy_oracle", "device=cpu", "batch_size=2", "on_error=skip", f"out={out}")
    config = compose_config("simulate", ["data=mask_folders", f"data.root={photos}", *common, *more])
    OmegaConf.resolve(config)
    return config


def simulate(photos, out, *more):
    config = settings(photos, out, *more)
    return run_config(config, config.simulate, out, "simulate")[1]


def by(cluster):
    return "engine=ray", f"engine.address={cluster.address}", "engine.block=2"


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """(file, summary) of a run without Ray."""
    out = tmp_path_factory.mktemp("whole") / "t.jsonl"
    return out, simulate(photos, out)


def test_a_node_killed_in_the_middle_leaves_the_bytes_of_a_local_run(
    cluster, photos, whole, tmp_path, monkeypatch, capfd
):
    """Both nodes are at work, one of them is killed with what it does, and the other one does that too."""
    import ray

    (cluster, second), out, killed = cluster, tmp_path / "t.jsonl", []
    fill_up, give = Crew.fill_up, Crew.give

    def both_begin(crew):
        fill_up(crew)
        if not crew.idle and not crew.at_work:
            assert len(crew.coming) == 2, "as many as there is room for"
            ray.wait([*crew.coming], num_returns=2, timeout=300)

    def give_and_kill(crew, number, samples):
        give(crew, number, samples)
        if len(crew.at_work) == 2 and out.stat().st_size and not killed:
            cluster.remove_node(second, allow_graceful=False)
            killed.append(number)
            deadline = time.monotonic() + 120
            while sum(node["Alive"] for node in ray.nodes()) > 1 and time.monotonic() < deadline:
                time.sleep(0.05)

    monkeypatch.setattr(Crew, "fill_up", both_begin)
    monkeypatch.setattr(Crew, "give", give_and_kill)
    summary = simulate(photos, out, *by(cluster))
    assert killed and killed[0] < COUNT / 2 - 3, "in the middle"
    assert "lost a worker at block" in capfd.readouterr().err
    assert out.read_bytes() == whole[0].read_bytes()
    assert summary.written == whole[1].written == COUNT - 1
    assert summary.skipped == whole[1].skipped and summary.statistics == whole[1].statistics


KILLED = """
import os, signal, sys
from omegaconf import OmegaConf
from segagent.data.trajectories import TrajectoryWriter
from segagent.engines.work import run_config

write, calls = TrajectoryWriter.write_lines, []

def write_and_die(writer, lines):
    write(writer, lines)
    calls.append(lines)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)

TrajectoryWriter.write_lines = write_and_die
config = OmegaConf.load(sys.argv[1])
run_config(config, config.simulate, config.out, "simulate")
"""


def test_a_killed_driver_resumes_without_losing_or_repeating(cluster, photos, whole, tmp_path):
    cluster, out = cluster[0], tmp_path / "t.jsonl"
    OmegaConf.save(settings(photos, out, *by(cluster)), tmp_path / "settings.yaml")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "settings.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    lines = whole[0].read_bytes().splitlines(keepends=True)
    assert out.read_bytes() == b"".join(lines[: 4 * 2 - 1]), "a prefix; one of the pictures is broken"
    summary = simulate(photos, out, *by(cluster), "resume=true")
    assert out.read_bytes() == whole[0].read_bytes() and (summary.resumed, summary.written) == (7, COUNT - 1 - 7)


def test_a_killed_worker_and_a_picture_that_stops_the_run(cluster, photos, tmp_path, monkeypatch):
    """A subset of the samples, in its own order, as improve.py asks for: the error and the file of a local run."""
    import ray

    cluster, killed = cluster[0], []
    give = Crew.give

    def give_and_kill(crew, number, samples):
        worker = crew.idle[-1].actor
        give(crew, number, samples)
        if number == 1 and not killed:
            killed.append(worker)
            ray.kill(worker)

    monkeypatch.setattr(Crew, "give", give_and_kill)
    config = settings(photos, "unused", "on_error=stop", "simulate.max_clicks=4")
    work = work_of(config, config.simulate, "simulate")
    with pytest.raises(OSError, match=r"lost a worker 1 times at block 1 \(engine.attempts\), .* resume=true"):
        OnRay(address=cluster.address, block=2, attempts=1).roll_out(work, tmp_path / "once")
    killed.clear()
    work = replace(work, samples=[9, 3, 7, 2, 1, BROKEN, 8, 4])
    files = []
    for name, engine in {"local": InProcess(), "ray": OnRay(address=cluster.address, block=2)}.items():
        with pytest.raises(ValueError, match=rf"p{BROKEN:02}.png: not an image"):
            engine.roll_out(work, tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert killed and files[0] == files[1] and files[0].count(b"\n") == 5


def test_segmenters_of_their_own_one_of_them_killed(cluster, photos, whole, tmp_path, monkeypatch, capfd):
    """Three workers, two segmenters; a segmenter that dies is begun anew, the block done again by the same worker."""
    import ray

    cluster, served = cluster[0], []
    give = Crew.give

    def dies_when_asked(host):
        host.segmenter.predict = lambda *given: os._exit(1)

    def give_and_kill(crew, number, samples):
        host = crew.idle[-1].host
        if number == 3 and not crew.losses[3]:
            ray.get(host.__ray_call__.remote(dies_when_asked))
        give(crew, number, samples)
        served.append((len(crew.hosts), crew.hosts.index(host)))

    monkeypatch.setattr(Crew, "give", give_and_kill)
    fifths = ("engine.cpus_per_worker=0.2", "engine.cpus_per_segmenter=0.2")
    numbers = ("engine.workers=3", "engine.segmenters=2", "engine.block=2")
    out = tmp_path / "t.jsonl"
    summary = simulate(photos, out, *by(cluster), *fifths, *numbers)
    told = capfd.readouterr().err
    assert "lost a segmenter at block" in told and "lost a worker" not in told
    assert set(served) == {(2, 0), (2, 1)}, "both are asked"
    assert out.read_bytes() == whole[0].read_bytes()
    assert summary.skipped == whole[1].skipped and summary.statistics == whole[1].statistics


def test_a_segmenter_of_its_own_that_cannot_be_loaded_ends_the_run(cluster, photos, tmp_path):
    alone = ("engine.cpus_per_worker=0.5", "engine.cpus_per_segmenter=0.5", "engine.segmenters=1")
    with pytest.raises(ValueError, match="max_pixels=3: at least 64"):
        simulate(photos, tmp_path / "t.jsonl", *by(cluster[0]), *alone, "segmenter.max_pixels=3")


def test_annotate_works_on_the_cluster_too(cluster, photos, tmp_path):
    made = []
    for name, engine in {"local": (), "ray": by(cluster[0])}.items():
        given = (f"images={photos / 'images'}", f"truth={photos / 'masks'}", "text=cup", "include=p0", "device=cpu")
        search = ("segmenter=graphcut", "policy@proposer=noisy_oracle", "reward=true_iou", "search.k=2")
        config = compose_config(
            "annotate", [*given, *search, "rollout.max_clicks=2", f"out={tmp_path / name}", *engine]
        )
        OmegaConf.resolve(config)
        figures, _ = annotate_config(config)
        assert figures["n"] == 9 and figures["n_skipped"] == 1
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file() and path.suffix != ".yaml"]
        made.append({path.relative_to(tmp_path / name).as_posix(): path.read_bytes() for path in files})
    assert made[0] == made[1] and len(made[0]) == 9 + 3


def test_more_than_a_node_has_is_refused(cluster, photos, tmp_path):
    with pytest.raises(ValueError, match=r"no node has room for a worker of 1.0 CPUs and 2 GPUs; choose engine.cpus"):
        simulate(photos, tmp_path / "t.jsonl", *by(cluster[0]), "engine.gpus_per_worker=2")
    with pytest.raises(ValueError, match=r"of 1.0 CPUs and 0 GPUs beside 9 segmenters of 1.0 CPUs and 0 GPUs; choose"):
        simulate(photos, tmp_path / "t.jsonl", *by(cluster[0]), "engine.segmenters=9")


def test_an_address_where_no_cluster_is(cluster, photos, tmp_path):
    with pytest.raises(OSError, match=r"engine.address=127.0.0.1:1: no Ray cluster answers"):
        simulate(photos, tmp_path / "t.jsonl", "engine=ray", "engine.address='127.0.0.1:1'")


def test_processes_of_accelerate_do_not_wait_for_a_cluster():
    config = compose_config("improve", ["out=x", "mllm=nano", "engine=ray"])
    with pytest.raises(ValueError, match=r"engine: accelerate's processes .*shard=0/2"):
        Improvement(config, SimpleNamespace(num_processes=2))


def test_without_ray_it_says_what_to_install(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"engine=ray: Ray is not installed; pip install -e '.\[ray\]'"):
        simulate(photos, tmp_path / "t.jsonl", "engine=ray")
    (tmp_path / "t.jsonl").write_text("hours of work")
    with pytest.raises(ValueError, match="Ray is not installed"):
        simulate(photos, tmp_path / "t.jsonl", "engine=ray", "overwrite=true")
    assert (tmp_path / "t.jsonl").read_text() == "hours of work"


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"segmenters": 0},
        {"block": 0},
        {"ahead": 0},
        {"attempts": 0},
        {"cpus_per_worker": 0},
        {"cpus_per_segmenter": 0},
        {"gpus_per_worker": -1},
        {"gpus_per_segmenter": -1},
    ],
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match=rf"engine\.{next(iter(wrong))}="):
        OnRay(**wrong)


@pytest.mark.parametrize("entry", ["simulate", "evaluate", "improve", "annotate", "complexity", "filtering"])
def test_every_entry_that_rolls_out_takes_every_engine(entry):
    for name in ("in_process", "ray"):
        assert compose_config(entry, [f"engine={name}"]).engine == load_named("engine", name)


# --- the driver alone, with workers in this process: these run where Ray is not installed ---------------------------


class Lost(Exception):
    pass


class TaskError(Exception):
    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class FakeRay:
    """As much of `ray` as the driver uses. Calls run when they are waited for, the newest first, so that blocks come
    back out of order; the worker of the n-th block that is done is lost for n in `dies`."""

    exceptions = SimpleNamespace(RayError=Lost, RayTaskError=TaskError)

    def __init__(self, cpus=2, dies=()):
        self.cpus, self.dies, self.done, self.results = cpus, set(dies), 0, {}

    def is_initialized(self):
        return True

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": float(self.cpus)}}]

    def put(self, value):
        return value

    def kill(self, worker):
        pass

    def remote(self, kind):
        def made(*given):
            return _Actor(self, kind(*given))

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=made))

    def wait(self, calls, num_returns=1, timeout=None):
        if calls and not any(call in self.results for call in calls):
            self.results[calls[-1]] = calls[-1].run()
        return [call for call in calls if call in self.results][:num_returns], []

    def get(self, call):
        if isinstance(self.results[call], Exception):
            raise self.results[call]
        return self.results[call]


class _Actor:
    def __init__(self, ray, held):
        self.ray, self.held = ray, held

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *given: _Call(self.ray, getattr(self.held, name), given, name))


class _Call:
    def __init__(self, ray, call, given, name):
        self.ray, self.call, self.given, self.name = ray, call, given, name

    def run(self):
        self.ray.done += self.name == "do"
        if self.name == "do" and self.ray.done in self.ray.dies:
            return Lost("worker died")
        try:
            return self.call(*self.given)
        except (ValueError, OSError) as error:
            return TaskError(error)


def test_lost_workers_and_blocks_out_of_order_leave_the_bytes_of_a_local_run(
    photos, whole, tmp_path, monkeypatch, capfd
):
    monkeypatch.setitem(sys.modules, "ray", FakeRay(dies={2, 3}))
    summary = simulate(photos, tmp_path / "t.jsonl", "engine=ray", "engine.block=2")
    assert (tmp_path / "t.jsonl").read_bytes() == whole[0].read_bytes()
    assert summary.skipped == whole[1].skipped and "lost a worker at block" in capfd.readouterr().err


def test_a_cut_file_is_gone_on_with_by_the_driver(photos, whole, tmp_path, monkeypatch):
    content, out = whole[0].read_bytes(), tmp_path / "t.jsonl"
    OmegaConf.save(settings(photos, out, "engine=ray", "engine.block=2"), tmp_path / "t.config.yaml")
    out.write_bytes(content[: len(content) // 2])
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    summary = simulate(photos, out, "engine=ray", "engine.block=2", "resume=true")
    assert out.read_bytes() == content and summary.resumed > 0


def test_the_driver_gives_up_and_refuses_as_it_says(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay(dies=range(1, 50)))
    with pytest.raises(OSError, match=r"lost a worker \d times at block \d \(engine.attempts\), .* resume=true"):
        simulate(photos, tmp_path / "a.jsonl", "engine=ray", "engine.block=2", "engine.attempts=2")
    monkeypatch.setitem(sys.modules, "ray", FakeRay(cpus=0))
    with pytest.raises(ValueError, match="no node has room for a worker"):
        simulate(photos, tmp_path / "b.jsonl", "engine=ray")


# --- a segmenter in another process, without a cluster ----------------------------------------------------------------


class Thing:
    def __init__(self, score):
        self.score = score


class Segmenter:
    """Its embeddings can be watched: the n-th has score n, None where it is odd. It counts pictures."""

    accepts_boxes, waives_click_points = False, "a stand-in"

    def __init__(self):
        self.pictures, self.alive, self.asked_with = 0, weakref.WeakSet(), None

    def statistics(self):
        return {"pictures": self.pictures}

    def embed(self, images):
        made = [Thing(None if number % 2 else number) for number in range(self.pictures, self.pictures + len(images))]
        self.pictures += len(images)
        self.alive.update(made)
        return made

    def predict(self, *given):
        self.asked_with = given
        return [], []


@pytest.fixture
def host():
    host = SegmenterHost(None, ".")
    host.segmenter = Segmenter()
    return host


def asker(host, name):
    return RemoteSegmenter(lambda method, *given: getattr(host, method)(*given), name)


def test_what_is_dropped_while_a_call_is_under_way_goes_with_the_next_one(host):
    held, calls = [], []

    def ask(method, *given):
        calls.append(given)
        held.clear()
        return getattr(host, method)(*given)

    remote = RemoteSegmenter(ask, "one")
    held += remote.embed([0])
    number = held[0].number
    rest = [remote.embed([1]), remote.embed([2])]
    assert [given[1] for given in calls[-2:]] == [[], [number]] and len(host.segmenter.alive) == len(rest)


def test_what_no_asker_holds_is_let_go_by_the_host_and_nothing_else(host):
    one, other = asker(host, "one"), asker(host, "other")
    first, second, third = one.embed([0, 1, 2])
    kept = other.embed([3])
    del first, second
    one.embed([])
    assert sorted(thing.score or -1 for thing in host.segmenter.alive) == [-1, 2], "third, and that of the other"
    later = one.embed([4, 5])
    one.predict([third, later[0]], [[], []], [None, later[1]], [None, Box(0, 0, 1, 1)])
    embeddings, _, memory, boxes = host.segmenter.asked_with
    assert [thing.score for thing in embeddings] == [2, 4] and memory[0] is None and memory[1].score is None
    assert boxes == [None, Box(0, 0, 1, 1)]
    host.forget("other")
    assert len(host.segmenter.alive) == 3 and kept[0].number != later[0].number
    with pytest.raises(SegmenterLostError, match="begun anew"):
        other.embed([6])


def test_only_a_thing_with_a_score_has_one_at_the_asker(host):
    zero, none, two = asker(host, "one").embed([0, 1, 2])
    assert (zero.score, two.score) == (0, 2) and not hasattr(none, "score")


def test_each_asker_counts_what_it_asked_for(host):
    one, other = asker(host, "one"), asker(host, "other")
    one.embed([0, 1])
    other.embed([2])
    one.embed([3])
    assert (one.statistics(), other.statistics()) == ({"pictures": 3}, {"pictures": 1})


def test_handles_of_before_a_new_beginning_are_void(host):
    one = asker(host, "one")
    (before,) = one.embed([0])
    one.begin()
    (after,) = one.embed([1])
    number = before.number
    with pytest.raises(SegmenterLostError, match="no longer has"):
        one.predict([before], [[]], [None])
    del before
    one.embed([])
    assert number != after.number and len(host.segmenter.alive) == 1
    one.predict([after], [[]], [None])


def test_a_host_builds_its_segmenter_once_and_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    host = SegmenterHost(OmegaConf.create({"_target_": f"{GraphCut.__module__}.GraphCut"}), str(tmp_path / "there"))
    assert host.begin("one") == (GraphCut.accepts_boxes, GraphCut.waives_click_points)
    assert os.getcwd() == str(tmp_path / "there")
    built = host.segmenter
    host.begin("other")
    assert host.segmenter is built

"""The embedding cache: each picture once, in memory, on disk, with several writers, damage and a bound."""

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from segagent.configuration import compose_config
from segagent.data.trajectories import read_trajectories
from segagent.entry import beside
from segagent.environment import Environment
from segagent.policies.simulated import NoisyOracle
from segagent.run import run
from segagent.segmenters.embedding_cache import EmbeddingCache, pixel_key, weights_key
from segagent.types import Click

NUMBERS = 1000  # of float32 in an embedding of `Encoder`: 4000 bytes in memory, a little over 2000 on disk


def picture(seed, size=(20, 30)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


class Encoder:
    """Stands for a network: two tensors from an image's mean; counts the images it sees."""

    def __init__(self):
        self.seen = 0

    def __call__(self, images):
        for image in images:
            self.seen += 1
            mean = float(image.mean())
            yield torch.full((NUMBERS - 1,), mean), torch.tensor([mean / 3])


@pytest.fixture
def cache_of(tmp_path):
    def make(**options):
        facts = {"memory_bytes": 0, "folder": tmp_path / "cache", "folder_bytes": 10**9, "maker": lambda: "weights"}
        return EmbeddingCache(**{**facts, "device": torch.device("cpu"), **options})

    make.folder = tmp_path / "cache"
    return make


def entries(folder):
    return sorted(folder.glob("*/*.embedding"))


def test_equal_pictures_are_embedded_once_within_and_between_calls(cache_of):
    cache, encoder = cache_of(folder=None, memory_bytes=10**6), Encoder()
    first = cache.embed([picture(0), picture(1), picture(0)], encoder)
    again = cache.embed([picture(1), picture(2)], encoder)
    assert encoder.seen == 3
    assert torch.equal(first[0][0], first[2][0]) and torch.equal(first[1][0], again[0][0])
    assert cache.statistics() == {
        "embed_images": 5,
        "embed_memory_hits": 2,
        "embed_disk_hits": 0,
        "embed_computed": 3,
        "embed_damaged": 0,
    }
    assert first[0][0].dtype == torch.float32, "without a folder nothing is rounded"


def test_memory_is_bounded_by_bytes_and_forgets_the_least_recently_used(cache_of):
    cache, encoder = cache_of(folder=None, memory_bytes=3 * 4 * NUMBERS), Encoder()
    for seed in (0, 1, 2, 0, 3):  # 0 is used again, so that 1 must go
        cache.embed([picture(seed)], encoder)
    assert encoder.seen == 4
    cache.embed([picture(0), picture(2), picture(3)], encoder)
    assert encoder.seen == 4
    cache.embed([picture(1)], encoder)
    assert encoder.seen == 5
    small = cache_of(folder=None, memory_bytes=4 * NUMBERS - 1)
    small.embed([picture(0)], encoder)
    small.embed([picture(0)], encoder)
    assert encoder.seen == 7, "what is larger than the bound is not kept"


def test_pixels_and_shape_make_the_key():
    image = picture(0)
    changed = image.copy()
    changed[3, 4, 1] ^= 1
    assert pixel_key(image) == pixel_key(np.asfortranarray(image))
    assert len({pixel_key(image), pixel_key(changed), pixel_key(image.reshape(30, 20, 3))}) == 3


def test_weights_make_the_folder():
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    before = weights_key(network, "a")
    assert before == weights_key(network, "a") != weights_key(network, "b")
    with torch.no_grad():
        network.weight[0, 0] += 1e-7
    assert weights_key(network, "a") != before


def test_the_disk_gives_back_bit_for_bit_what_the_first_run_handed_out(cache_of):
    encoder = Encoder()
    first = cache_of().embed([picture(0), picture(1)], encoder)
    second_cache = cache_of()
    second = second_cache.embed([picture(0), picture(1)], encoder)
    assert encoder.seen == 2 and second_cache.counts.embed_disk_hits == 2
    for before, after in zip(first, second, strict=True):
        assert [part.dtype for part in after] == [torch.float16] * 2
        assert all(torch.equal(*parts) for parts in zip(before, after, strict=True))
    other = cache_of(maker=lambda: "other weights")
    other.embed([picture(0)], encoder)
    assert encoder.seen == 3


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def nonsense(path):
    path.write_bytes(b"not a tensor file at all" * 50)


@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty, nonsense])
def test_a_damaged_entry_is_computed_again_and_replaced(cache_of, damage):
    encoder = Encoder()
    (expected,) = cache_of().embed([picture(0)], encoder)
    damage(*entries(cache_of.folder))
    cache = cache_of()
    (again,) = cache.embed([picture(0)], encoder)
    assert torch.equal(again[0], expected[0]) and encoder.seen == 2
    assert cache.counts.embed_damaged == 1 and cache.counts.embed_disk_hits == 0
    cache_of().embed([picture(0)], encoder)
    assert encoder.seen == 2


def test_the_folder_is_bounded_and_forgets_the_least_recently_used(cache_of):
    encoder = Encoder()
    cache_of().embed([picture(0)], encoder)
    (entry,) = entries(cache_of.folder)
    bound = 3 * entry.stat().st_size + 10
    cache = cache_of(folder_bytes=bound)
    for seed in (1, 2, 0, 3):
        cache.embed([picture(seed)], encoder)
        for path in entries(cache_of.folder):  # file times are too coarse for a fast test
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 10))
        assert sum(path.stat().st_size for path in entries(cache_of.folder)) <= bound
    assert encoder.seen == 4
    cache.embed([picture(0), picture(2), picture(3)], encoder)
    assert encoder.seen == 4
    cache.embed([picture(1)], encoder)
    assert encoder.seen == 5


def test_making_room_touches_nothing_but_entries(cache_of):
    folder = cache_of.folder / "sam_vit_l"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(5000))
    old = folder / "x.embedding-partial"
    fresh = folder / "y.embedding-partial"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cache_of(folder_bytes=0).embed([picture(0)], Encoder())
    assert (folder / "model.safetensors").stat().st_size == 5000
    assert entries(cache_of.folder) == []
    assert fresh.exists() and not old.exists(), "leftovers of killed writers go, those of living ones stay"


def test_a_full_disk_is_reported_once_and_the_run_goes_on(cache_of, monkeypatch, caplog):
    def no_room(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", no_room)
    cache, encoder = cache_of(), Encoder()
    with caplog.at_level(logging.WARNING):
        assert len(cache.embed([picture(0), picture(1)], encoder)) == 2
    assert [record.message.count("No space left") for record in caplog.records] == [1]


def test_nor_does_a_folder_that_cannot_be_made_end_it(cache_of, monkeypatch, caplog):
    cache, encoder = cache_of(), Encoder()

    def no_room(path, *arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", no_room)
    with caplog.at_level(logging.WARNING):
        assert len(cache.embed([picture(0), picture(1)], encoder)) == 2
    assert encoder.seen == 2 and any("No space left" in record.message for record in caplog.records)


WRITER = """
import sys, itertools, numpy as np, torch
from segagent.segmenters.embedding_cache import EmbeddingCache
cache = EmbeddingCache(memory_bytes=0, folder=sys.argv[1], folder_bytes=int(sys.argv[2]), maker=lambda: "weights",
                       device=torch.device("cpu"))
def compute(images):
    for image in images:
        yield (torch.full((400_000,), float(image.mean())),)
for turn in itertools.count():
    seed = turn % 12
    image = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for path in list((cache.folder / "weights").glob("*")) if turn % 5 == 4 else ():
        path.unlink(missing_ok=True)  # so that entries are written over and over
    cache.embed([image], compute)
    print(cache.counts.embed_damaged, flush=True)
"""


@pytest.mark.slow
def test_killed_writers_leave_no_broken_entry(cache_of):
    """Two processes write the same entries into one folder, at its bound, and are killed in the middle of it."""
    bound = 8 * 800_000
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(cache_of.folder), str(bound)], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for writer in writers:
            for _ in range(20):
                assert writer.stdout.readline() == b"0\n", "no process ever reads a broken entry"
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
    cache = cache_of(folder_bytes=bound)
    cache.embed([picture(seed) for seed in range(12)], lambda images: ((torch.zeros(4),) for _ in images))
    assert cache.counts.embed_damaged == 0
    assert cache.counts.embed_disk_hits + cache.counts.embed_computed == 12


def test_bounds_below_zero_are_refused(cache_of):
    with pytest.raises(ValueError, match="memory_bytes=-1, cache_bytes=1000000000: at least 0"):
        cache_of(memory_bytes=-1)


# --- in a run ---------------------------------------------------------------------------------------------------------


def count_encoder_calls(segmenter):
    calls = []
    segmenter.network.vision_encoder.register_forward_pre_hook(lambda *given: calls.append(1), with_kwargs=True)
    return calls


def test_twenty_expressions_of_one_image_need_one_embedding(tiny_sam, dataset_of, sample_of, tmp_path):
    """Even where the samples do not know that they show one picture, and come in many batches."""
    segmenter = tiny_sam("sam")
    calls = count_encoder_calls(segmenter)
    image, target = sample_of(0).image, sample_of(0).target
    dataset = dataset_of(20, image=image, target=target, image_key=None)
    environment = Environment(segmenter=segmenter, max_clicks=3)
    summary = run(dataset, policy=NoisyOracle(), environment=environment, out=tmp_path / "t.jsonl", batch_size=3)
    assert summary.written == 20 and len(calls) == 1
    assert summary.statistics["embed_computed"] == 1 and summary.statistics["embed_memory_hits"] == 19


@pytest.mark.parametrize("name", ["sam", "sam_hq", "sam2", "sam3_tracker"])
def test_a_second_run_with_a_warm_disk_embeds_nothing_and_is_equal(tiny_sam, dataset_of, tmp_path, name):
    def go(out):
        segmenter = tiny_sam(name, cache=tmp_path / "cache")
        calls = count_encoder_calls(segmenter)
        environment = Environment(segmenter=segmenter, max_clicks=3)
        summary = run(dataset_of(5), policy=NoisyOracle(), environment=environment, out=tmp_path / out, batch_size=2)
        return len(calls), summary.statistics

    assert go("cold.jsonl")[0] == 5
    calls, counts = go("warm.jsonl")
    assert calls == 0 and counts["embed_disk_hits"] == 5
    assert (tmp_path / "warm.jsonl").read_bytes() == (tmp_path / "cold.jsonl").read_bytes()
    assert len(list(read_trajectories(tmp_path / "warm.jsonl"))) == 5


def test_members_and_weights_do_not_share_entries(tiny_sam, tmp_path):
    for name in ("sam", "sam_hq", "sam2"):
        tiny_sam(name, cache=tmp_path).embed([picture(0)])
    changed = tiny_sam("sam", cache=tmp_path)
    with torch.no_grad():
        changed.network.vision_encoder.neck.conv1.weight += 0.1
    changed.embed([picture(0)])
    assert changed.statistics()["embed_computed"] == 1
    assert len(entries(tmp_path)) == 4
    again = tiny_sam("sam", cache=tmp_path)
    (embedding,) = again.embed([picture(0)])
    again.predict([embedding], [[Click(3, 3)]], [None])
    assert again.statistics()["embed_disk_hits"] == 1


def entry(script, *overrides):
    """Runs a command's `main` in this process; the imports of a new one would take longer than the work."""
    path = Path(__file__).parents[2] / "scripts" / f"{script}.py"
    spec = importlib.util.spec_from_file_location(f"entry_{script}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = compose_config(script, list(overrides))
    OmegaConf.resolve(config)
    assert module.main(config) == 0
    return json.loads(beside(config.out, ".metrics.json").read_text())


def test_hit_rates_reach_the_metrics_of_runs_and_of_joined_shards(tiny_sam, tmp_path):
    tiny_sam("sam").network.save_pretrained(tmp_path / "weights")
    settings = [
        "segmenter=sam",
        f"segmenter.path={tmp_path / 'weights'}",
        f"segmenter.cache={tmp_path / 'cache'}",
        "data.limit=4",
        "rollout.max_clicks=2",
        "report=false",
        "boundary=false",
        "device=cpu",
    ]
    parts = [tmp_path / f"part{index}.json" for index in range(2)]
    cold = [entry("evaluate", *settings, f"out={part}", f"shard={index}/2") for index, part in enumerate(parts)]
    for metrics in cold:
        assert metrics["embed_computed"] == metrics["embed_images"] > 0
        assert metrics["embed_disk_hit_rate"] == metrics["embed_memory_hit_rate"] == 0
    joined = entry("join", f"out={tmp_path / 'joined.json'}", f"parts=[{parts[0]},{parts[1]}]")
    assert joined["embed_computed"] == cold[0]["embed_computed"] + cold[1]["embed_computed"]
    assert joined["embed_disk_hit_rate"] == 0
    warm = entry("evaluate", *settings, f"out={tmp_path / 'warm.json'}")
    assert (warm["embed_computed"], warm["embed_disk_hit_rate"]) == (0, 1)
    assert (tmp_path / "warm.json").read_bytes() == (tmp_path / "joined.json").read_bytes()


def test_an_entry_that_may_only_be_read_is_as_good(cache_of, monkeypatch):
    cache_of().embed([picture(1)], Encoder())

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr("segagent.segmenters.embedding_cache.os.utime", refuse)
    again, encoder = cache_of(), Encoder()
    again.embed([picture(1)], encoder)
    assert encoder.seen == 0 and again.statistics()["embed_damaged"] == 0

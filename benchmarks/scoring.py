"""How fast and how small the scorer is, against a plain one that decodes masks and counts with histograms.

python benchmarks/scoring.py --out scoring.json       # speed, same process, equal numbers checked
python benchmarks/scoring.py --memory                 # peak memory of scoring a file of about 1 GB
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pycocotools
from pycocotools import mask as coco_mask

from segagent.data.predictions import read_predictions
from segagent.metrics import score
from segagent.metrics.official import chosen_index, keep_scored, read_announced

HEIGHT, WIDTH, MASKS = 480, 640, 7


def blob(random: np.random.Generator, center: np.ndarray, radius: float, wave: np.ndarray) -> np.ndarray:
    """A closed curve of radius `radius * wave(angle)` about `center` (x, y), filled; `[H, W]` bool."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    down, right = rows - center[1], columns - center[0]
    angle = np.arctan2(down, right)
    jitter = random.normal(0, 0.01, 8)
    scale = 1 + sum((wave[k, 0] + jitter[k]) * np.cos((k + 1) * angle + wave[k, 1]) for k in range(8))
    return np.hypot(down, right) < radius * scale


def families(count: int, seed: int) -> list[list[dict]]:
    """`count` times [target, mask 1, ..., mask 7] as RLE: the masks come closer to the target click by click."""
    random, result = np.random.default_rng(seed), []
    for _ in range(count):
        center, radius = random.uniform((150, 120), (490, 360)), random.uniform(30, 130)
        wave = np.stack([random.normal(0, 0.25 / np.arange(2, 10)), random.uniform(0, 2 * np.pi, 8)], 1)
        masks = [blob(random, center, radius, wave)]
        for step in range(MASKS):
            shift = random.normal(0, 12 / (1 + step), 2)
            masks.append(blob(random, center + shift, radius * (1 + random.normal(0, 0.2 / (1 + step))), wave))
        encoded = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
        result.append([{"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()} for rle in encoded])
    return result


def records(count: int, seed: int = 0) -> Iterator[dict]:
    """Official records; masks are drawn 500 at most and then used again under other names and texts."""
    drawn = families(min(count, 500), seed)
    random = np.random.default_rng([seed, 1])
    for index in range(count):
        target, *masks = drawn[index % len(drawn)]
        announced = random.integers(0, 1000, MASKS) / 10
        yield {
            "img_path": f"train2014/COCO_train2014_{index // 3:012d}.jpg",
            "masks": None,
            "height": HEIGHT,
            "width": WIDTH,
            "qas": [],
            "caption": [f"the thing number {index}"],
            "coor": None,
            "relative_coor": None,
            "is_positive": None,
            "click_id": 0,
            "gt_mask": target,
            "pred_list": [
                {
                    "click_id": step,
                    "clicks": {"is_positive": True, "coords": [100, 200]},
                    "used_box": None,
                    "mask": mask,
                    "outputs": f"Current IOU: {iou}, Positive point: (0.512, 0.313)",
                }
                for step, (mask, iou) in enumerate(zip(masks, announced, strict=True))
            ],
            "outputs": None,
        }


def write_file(path: Path, items: Iterator[dict]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for index, record in enumerate(items):
            file.write((", " if index else "[") + json.dumps(record))
        file.write("]")


def plain_counts(mask: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    """(I, U) of the object class as the released scorer counts: two float32 copies, three 2-bin histograms."""
    mask, target = mask.astype(np.float32).ravel(), target.astype(np.float32).ravel()
    shared = mask[mask == target]
    areas = [np.histogram(values, bins=2, range=(0, 1))[0] for values in (shared, mask, target)]
    return int(areas[0][1]), int(areas[1][1] + areas[2][1] - areas[0][1])


def plain_score(items: list[dict], every_mask: bool) -> list[tuple[int, int]]:
    """(I, U) of the mask that the released scorer chooses, per record, or of all masks."""
    result = []
    for record in items:
        target = coco_mask.decode(record["gt_mask"])
        chosen = chosen_index(read_announced([item["outputs"] for item in record["pred_list"]]))
        wanted = record["pred_list"] if every_mask else record["pred_list"][chosen : chosen + 1]
        result += [plain_counts(coco_mask.decode(item["mask"]), target) for item in wanted]
    return result


def timed(actions: dict[str, tuple[Callable[[], object], int]], repeats: int) -> list[dict]:
    """Runs every action once per round, so that a busy spell of the machine meets all of them. The integer beside an
    action is the number of predictions it scores."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, (action, _) in actions.items():
            begin = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - begin)
    return [describe(name, seconds[name], count) for name, (_, count) in actions.items()]


def describe(name: str, seconds: list[float], count: int) -> dict:
    """Microseconds a prediction: median, least and most of the repeats; printed too."""
    each = [1e6 * value / count for value in seconds]
    row = {"name": name, "median_us": statistics.median(each), "min_us": min(each), "max_us": max(each), "n": count}
    print(
        f"{name:<52}{row['median_us']:10.1f} us a prediction  ({row['min_us']:.1f} .. {row['max_us']:.1f}, n={count})"
    )
    return row


def assert_equal(path: Path, items: list[dict]) -> None:
    """Our counts and official sums against the plain scorer's. Raises `RuntimeError` when one differs."""
    scores = score(items, bootstrap=0, where=str(path))
    table, official = scores.counted.table, scores.official()
    place = table.starts + 1 + official.chosen
    ours = list(zip(table.intersection[place].tolist(), table.union[place].tolist(), strict=True))
    after = np.setdiff1d(np.arange(table.area.size), table.starts)
    every = list(zip(table.intersection[after].tolist(), table.union[after].tolist(), strict=True))
    if ours != plain_score(items, False) or every != plain_score(items, True):
        raise RuntimeError("the plain scorer counts other pixels")
    print(f"equal numbers on {len(items)} predictions ({len(every)} masks)")


def speed(count: int, subset: int, repeats: int) -> dict:
    """Times all variants on one file. The plain scorer runs on `subset` predictions, its cost is linear."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.json"
        write_file(path, records(count))
        items = list(read_predictions(path))
        length = statistics.mean(len(item["mask"]["counts"]) for item in items[0:500:7] for item in item["pred_list"])
        print(f"{count} predictions of {WIDTH}x{HEIGHT}, {MASKS} masks each, RLE of {length:.0f} characters on average")
        assert_equal(path, items[:subset])
        # The list is the benchmark's own; the garbage collector must not walk it on the scorer's account.
        gc.collect()
        gc.freeze()
        few = items[:subset]
        actions = {
            "ours: file, checks, all masks": (lambda: score(read_predictions(path)), count),
            "ours: the same and final metrics, 1000 resamples": (lambda: full(path), count),
            "ours: records in memory, checks, all masks": (lambda: score(items), count),
            "ours: file, checks, official protocol's one mask": (lambda: officially(read_predictions(path)), count),
            "ours: records in memory, the same one mask": (lambda: officially(items), count),
            "plain: records in memory, 1 mask": (lambda: plain_score(few, False), subset),
            "plain: records in memory, all masks": (lambda: plain_score(few, True), subset),
        }
        rows = timed(actions, repeats)
    file, _, memory, file_one, memory_one, one, every = (
        row["min_us"] for row in rows
    )  # the least: other work on the machine only adds
    factors = {
        "all masks each, ours from memory": every / memory,
        "all masks each, ours with file reading": every / file,
        "the official protocol's one mask each, ours from memory": one / memory_one,
        "the official protocol's one mask each, ours with file reading": one / file_one,
        "all masks against the plain scorer's one, ours from memory": one / memory,
        "all masks against the plain scorer's one, ours with file reading": one / file,
    }
    for name, factor in factors.items():
        print(f"{factor:7.1f} times as fast: {name}")
    print(f"(the plain scorer was measured on {subset} predictions and extrapolated per prediction)")
    return {"rle_characters": length, "rows": rows, "times_as_fast": factors}


def officially(items: Iterable[dict]) -> float:
    return score(keep_scored(items), "official", bootstrap=0).official().class_iou


def full(path: Path) -> dict:
    return score(read_predictions(path)).metrics()


def memory(megabytes: int) -> dict:
    """Peak resident memory of a process that scores a file of `megabytes` MB."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.json"
        sample = sum(len(json.dumps(record)) + 2 for record in records(200)) / 200
        count = int(megabytes * 1e6 / sample)
        write_file(path, records(count))
        size = path.stat().st_size / 1e6
        begin = time.perf_counter()
        code = (
            "import resource, sys; from segagent.data.predictions import read_predictions as r; "
            "from segagent.metrics import score; s = score(r(sys.argv[1])); m = s.metrics(); s.official(); "
            "print(m['n'], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - begin
    scored, kilobytes = map(int, done.stdout.split())
    print(f"{size:.0f} MB, {scored} predictions: peak {kilobytes / 1024:.0f} MiB, {seconds:.1f} s")
    return {"file_mb": size, "predictions": scored, "peak_mib": kilobytes / 1024, "seconds": seconds}


def machine() -> dict:
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"cpu": cpu, "cores": os.cpu_count(), "own_mib": own, **versions, "pycocotools": version(pycocotools)}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def version(module: object) -> str:
    from importlib import metadata

    return metadata.version(module.__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=int, default=5000)
    parser.add_argument("--subset", type=int, default=300, help="predictions that the plain scorer is measured on")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the file for --memory")
    parser.add_argument("--out", help="write the figures as JSON")
    options = parser.parse_args()
    result = {"machine": machine()}
    print(result["machine"])
    if options.memory:
        result["memory"] = memory(options.megabytes)
    else:
        result["speed"] = speed(options.predictions, options.subset, options.repeats)
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""SimpleClick on many states at once against the plain loop over them: milliseconds a click, and the ratio.

    python benchmarks/simpleclick_batch.py [--checkpoint simpleclick_nano | --network simpleclick_large]
        [--states 64] [--batch-sizes 4 16] [--repeats 5] [--device auto] [--threads 1] [--out FILE.json] [KEY=VALUE...]

Each state is a picture of refshapes at its second click, a crop of its own. Loop and batches take turns within one run,
so that a machine that slows down slows both; the ratio is of medians, with the least and the most of the repeats.
--network: a published size with random weights instead of a checkpoint; time does not depend on the weights.
settings: of the segmenter (configs/segmenter/simpleclick.yaml), key=value.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from segagent.configuration import build, load_named
from segagent.data.refshapes import RefShapes
from segagent.masks import next_click
from segagent.segmenters.simpleclick import SimpleClick
from segagent.training.vit_init import fresh_network

SIZES = (256, 200, 320)  # sides of the pictures, in turn; the first alone with --one-size
SETTINGS = ("target_size", "threshold", "with_flip", "zoom_threshold", "expansion", "min_crop_size", "precision")


def make_states(segmenter: SimpleClick, count: int, sizes: tuple[int, ...]) -> list[tuple]:
    """(embedding, clicks, memory) of `count` pictures before their second click."""
    states = []
    for number in range(count):
        sample = RefShapes(subset="refshapes", split="train", seed=7, size=sizes[number % len(sizes)])[number]
        embeddings = segmenter.embed([sample.image])
        first = next_click(sample.target, np.zeros_like(sample.target))
        (mask,), (memory,) = segmenter.predict(embeddings, [[first]], [None])
        second = next_click(sample.target, mask, [(first.x, first.y)])
        states.append((embeddings[0], [first, second] if second else [first], memory))
    return states


def predict(segmenter: SimpleClick, states: list[tuple], batch_size: int) -> None:
    for start in range(0, len(states), batch_size):
        segmenter.predict(*map(list, zip(*states[start : start + batch_size], strict=True)))


def seconds(call: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(
    segmenter: SimpleClick, states: list[tuple], batch_sizes: list[int], repeats: int
) -> dict[int, list[float]]:
    """Milliseconds a click of each repeat, by batch size; 1 is the loop."""
    times: dict[int, list[float]] = {size: [] for size in (1, *batch_sizes)}
    for repeat in range(repeats + 1):
        for size, found in times.items():
            spent = seconds(lambda size=size: predict(segmenter, states, size), segmenter.device)
            if repeat:  # the first round warms up
                found.append(1000 * spent / len(states))
    return times


def make_segmenter(arguments: argparse.Namespace) -> SimpleClick:
    options = dict(OmegaConf.from_dotlist(arguments.settings))
    unknown = set(options) - set(SETTINGS)
    if unknown:
        raise SystemExit(f"error: {sorted(unknown)[0]}: settings are {', '.join(SETTINGS)}")
    if arguments.network:
        network = fresh_network(build(load_named("network", arguments.network)), 0)
        return SimpleClick(network=network, device=arguments.device, **options)
    return SimpleClick.from_checkpoint(arguments.checkpoint, device=arguments.device, **options)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="simpleclick_nano")
    parser.add_argument("--network", help="name in configs/network, with random weights")
    parser.add_argument("--states", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 16, 32])
    parser.add_argument("--one-size", action="store_true", help=f"pictures of {SIZES[0]} pixels a side only")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("settings", nargs="*")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    segmenter = make_segmenter(arguments)
    states = make_states(segmenter, arguments.states, SIZES[:1] if arguments.one_size else SIZES)
    times = measure(segmenter, states, arguments.batch_sizes, arguments.repeats)
    name = torch.cuda.get_device_name() if segmenter.device.type == "cuda" else platform.processor() or "CPU"
    rows = []
    for size, found in times.items():
        ratios = np.array(times[1]) / np.array(found)
        rows.append(
            {"batch_size": size, "ms": float(np.median(found)), "ms_least": min(found), "ms_most": max(found)}
            | {"ratio": float(np.median(ratios)), "ratio_least": ratios.min(), "ratio_most": ratios.max()}
        )
        print(
            f"batch {size:3}  {rows[-1]['ms']:8.2f} ms a click ({min(found):.2f} .. {max(found):.2f})  "
            f"{rows[-1]['ratio']:.2f} times the loop ({ratios.min():.2f} .. {ratios.max():.2f})"
        )
    machine = f"{name}, {os.cpu_count()} cores, {arguments.threads} threads"
    print(machine)
    if arguments.out:
        facts = {key: value for key, value in vars(arguments).items() if key != "out"}
        arguments.out.write_text(json.dumps({"machine": machine, **facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

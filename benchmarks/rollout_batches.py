"""Samples per second of the whole loop, by batch size: one process, same samples, same weights.

    python benchmarks/rollout_batches.py --samples 64 --batch-sizes 1 32 --repeats 3 --out runs/batches.json

Samples are drawn beforehand; what is timed is embed, propose, segment, judge and RLE, not reading or writing files. The
trajectories of all batch sizes are compared byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from segagent.configuration import build, compose_config
from segagent.data.trajectories import trajectory_to_json
from segagent.environment import Environment
from segagent.rollout import rollout
from segagent.types import Sample


def machine() -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def timed(samples: Sequence[Sample], batch_size: int, config: DictConfig) -> tuple[float, str]:
    """(seconds, all trajectories as JSON) of one rollout with a fresh segmenter."""
    environment = Environment(segmenter=build(config.segmenter), **config.rollout)
    policy = build(config.policy)
    began = time.perf_counter()
    batches = list(rollout(samples, policy=policy, environment=environment, batch_size=batch_size))
    seconds = time.perf_counter() - began
    return seconds, json.dumps([trajectory_to_json(trajectory) for batch in batches for trajectory in batch])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings as of scripts/evaluate.py, e.g. segmenter=graphcut")
    arguments = parser.parse_args()
    config = compose_config("evaluate", ["out=unused", *arguments.overrides])
    dataset = build(config.data)
    samples = [dataset[index] for index in range(arguments.samples)]
    rates: dict[int, list[float]] = {size: [] for size in arguments.batch_sizes}
    written = set()
    for _ in range(arguments.repeats):
        for size in arguments.batch_sizes:
            seconds, text = timed(samples, size, config)
            rates[size].append(len(samples) / seconds)
            written.add(text)
    first = statistics.median(rates[arguments.batch_sizes[0]])
    rows = [
        {
            "batch_size": size,
            "samples_per_second": statistics.median(values),
            "spread": [min(values), max(values)],
            "ratio_to_first": statistics.median(values) / first,
        }
        for size, values in rates.items()
    ]
    result = {
        "machine": machine(),
        "samples": len(samples),
        "overrides": arguments.overrides,
        "equal": len(written) == 1,
        "rows": rows,
    }
    for row in rows:
        low, high = row["spread"]
        print(
            f"batch {row['batch_size']:3d}: {row['samples_per_second']:7.2f} samples/s "
            f"({low:.2f} to {high:.2f}), ratio {row['ratio_to_first']:.2f}"
        )
    print(f"trajectories equal for all batch sizes: {result['equal']}; {result['machine']['cpu']}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

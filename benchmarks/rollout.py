"""The rollout against the plain loop of the released evaluation, side by side: same weights, same samples, one process.

    python benchmarks/rollout.py mllm=FOLDER --samples 32 --repeats 3 --out benchmarks/results/rollout.json
    python benchmarks/rollout.py mllm=FOLDER --drawn            # weights that say nothing readable
    python benchmarks/rollout.py --seven-billion --device cuda  # Qwen2.5-VL-7B and SimpleClick ViT-L, random weights

Two settings: 7 clicks by the agent alone, and 11 clicks of greedy search with 3 candidates. `rollout_plain.py` says
what the plain loop does. Both write their trajectories to a file; samples are drawn beforehand. Each repeat runs the
two one after the other and gives one ratio; CPU time beside it says how much of a ratio is work that was saved and how
much cores that were not idle. Where time goes and what was counted come from one more run of each, with sections around
their parts. `--fast` adds a row with further settings, such as a lower precision. At batch size 1 ours is run once, to
see that the trajectories are the same, log-probabilities aside; with one candidate they must be the plain loop's too.

--drawn: replies of random weights cannot be read, so the model writes as many tokens as a real reply has, and the click
is drawn from the text (most often inside the target), the predicted IoU too. Every loop then makes all its clicks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from clock import SECTIONS, Clock
from rollout_plain import PlainLoop
from segmenters import Peak, machine, simpleclick
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from segagent.configuration import build, compose_config
from segagent.data.trajectories import TrajectoryWriter, trajectory_to_json
from segagent.entry import expand_checkpoints
from segagent.environment import Environment, stable_generator, to_trajectory
from segagent.mllm.base import MLLM, Completion
from segagent.mllm.local import LocalMLLM
from segagent.mllm.testing_vlm import write_tiny_checkpoint
from segagent.mllm.transformers_vlm import TransformersVLM
from segagent.policies.agent import Agent
from segagent.policies.reward_model import PredictedIou
from segagent.policies.search import Beam
from segagent.rollout import rollout
from segagent.segmenters.base import ClickSegmenter
from segagent.types import Action, Click, Sample, State, Trajectory

SETTINGS = {"7x1": (7, 1), "11x3": (11, 3)}  # clicks T, candidates K
PHOTO = (480, 640)  # refshapes is enlarged to this for the 7B shape


class DrawnAgent(Agent):
    """An agent whose replies are noise: what it does is drawn from their text, the sample and the clicks so far."""

    def read(self, state: State, prefix: str, completion: Completion) -> Action:
        random = stable_generator("drawn", state.sample.sample_id, state.clicks, completion.text)
        inside = random.random() < 0.7 and state.sample.target.any()
        rows, columns = np.nonzero(state.sample.target == inside)
        place = int(random.integers(len(rows)))
        click = Click(int(columns[place]), int(rows[place]), bool(inside))
        return Action(click=click, text=completion.text, predicted_iou=float(random.random()), source="drawn")


@dataclass(frozen=True)
class Parts:
    """What both loops are made of."""

    mllm: MLLM
    segmenter: ClickSegmenter
    drawn: bool
    reply_tokens: int

    def agent(self, k: int) -> Agent:
        kind = DrawnAgent if self.drawn else Agent
        return kind(
            mllm=self.mllm,
            temperature=1.0 if k > 1 else 0.0,
            greedy_first=k > 1,
            max_new_tokens=self.reply_tokens if self.drawn else 64,
        )


def load(overrides: list[str], drawn: bool) -> Parts:
    config = compose_config("evaluate", ["out=unused", *expand_checkpoints(overrides)])
    if config.mllm is None:
        raise SystemExit("rollout.py: no model given; say mllm=FOLDER, or --seven-billion")
    mllm = build(config.mllm)
    return Parts(mllm, build(config.segmenter), drawn, reply_tokens(mllm))


def reply_tokens(mllm: MLLM) -> int:
    """Tokens of a reply of the dialogue, its end not counted."""
    dialogue = Agent(mllm=mllm).dialogue
    seen = {"seen": (640, 480)} if dialogue.absolute else {}
    text = dialogue.format(
        width=640, height=480, click=Click(123, 234), predicted_iou=0.85 if dialogue.iou else None, **seen
    )
    tokenizer = mllm.tokenizer if isinstance(mllm, LocalMLLM) else mllm.processor.tokenizer
    return len(tokenizer.encode(text))


def seven_billion(device: str, tiny: bool) -> Parts:
    """Qwen2.5-VL-7B's shape and SimpleClick ViT-L, random weights; tiny: both tiny, to see that it works."""
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_checkpoint("qwen2_5_vl", folder)
        mllm = TransformersVLM.from_checkpoint(
            folder, dialogue="paper", device=device, min_pixels=3136, max_pixels=1003520
        )
    if not tiny:
        small = mllm.network.config
        text = small.text_config.to_dict() | {
            "hidden_size": 3584,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "intermediate_size": 18944,
            "max_position_embeddings": 32768,
            "vocab_size": 152064,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "layer_types": None,
        }
        text.pop("head_dim", None)
        vision = small.vision_config.to_dict() | {
            "depth": 32,
            "hidden_size": 1280,
            "num_heads": 16,
            "intermediate_size": 3420,
            "out_hidden_size": 3584,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "window_size": 112,
        }
        ids = {name: getattr(small, name) for name in vars(small) if name.endswith("_token_id")}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
        with torch.device(device):
            network = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
        network.generation_config = mllm.network.generation_config
        mllm.network = network.eval()
    return Parts(mllm, simpleclick(tiny, device), True, 24)


def enlarged(sample: Sample) -> Sample:
    """The sample at the size of a photograph."""
    image = cv2.resize(sample.image, PHOTO[::-1], interpolation=cv2.INTER_CUBIC)
    target = cv2.resize(sample.target.astype(np.uint8), PHOTO[::-1], interpolation=cv2.INTER_NEAREST).view(bool)
    return Sample(sample_id=sample.sample_id, image=image, text=sample.text, target=target, image_name="drawn")


# --- the two loops ----------------------------------------------------------------------------------------------------


def plain(parts: Parts, samples: list[Sample], clicks: int, k: int, folder: Path, clock: Clock | None) -> list:
    environment, agent = Environment(segmenter=parts.segmenter, max_clicks=clicks), parts.agent(k)
    loop = PlainLoop(agent=agent, environment=environment, k=k, folder=folder)
    if clock:
        clock.watch(agent, parts.segmenter)
        clock.around(loop, "through_file", "files")
    made = []
    with TrajectoryWriter(folder / "plain.jsonl", overwrite=True) as writer:
        if clock:
            clock.around(writer, "write", "files")
        for sample in samples:
            made.append(to_trajectory(loop.run(sample)))
            writer.write(made[-1:])
    return made


def ours(
    parts: Parts, samples: list[Sample], clicks: int, k: int, folder: Path, clock: Clock | None, batch_size: int
) -> list[Trajectory]:
    environment, agent = Environment(segmenter=parts.segmenter, max_clicks=clicks), parts.agent(k)
    policy = agent if k == 1 else Beam(proposer=agent, reward=PredictedIou(), k=k)
    if clock:
        clock.watch(agent, parts.segmenter)
    made = []
    with TrajectoryWriter(folder / "ours.jsonl", overwrite=True) as writer:
        if clock:
            clock.around(writer, "write", "files")
        for batch in rollout(samples, policy=policy, environment=environment, batch_size=batch_size):
            writer.write(batch)
            made += batch
    return made


def timed(run: Callable[[Clock | None], list], device: str) -> dict:
    """Seconds, those of the CPU (all threads) and peak memory of one run, and what it made."""
    peak, began, cpu = Peak(device), time.perf_counter(), time.process_time()
    made = run(None)
    if device == "cuda":
        torch.cuda.synchronize()
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    return spent | {"peak_mib": peak.read(), "made": made}


def split(run: Callable[[Clock | None], list], count: int) -> dict:
    """Milliseconds by section and counts, both per sample."""
    with Clock() as clock:
        run(clock)
    return {
        "milliseconds": {name: 1000 * clock.seconds[name] / count for name in SECTIONS},
        "counts": {name: number / count for name, number in clock.counts.items()},
    }


def lines(made: list[Trajectory]) -> list[str]:
    return [json.dumps(trajectory_to_json(trajectory)) for trajectory in made]


def agreement(first: list[str], second: list[str]) -> dict:
    """equal: whether two loops' trajectories are the same but for the log-probabilities of their texts, which are sums
    of float32 and written with three decimals; log_prob: the largest difference of these, None where there are none."""
    made = []
    for written in (first, second):
        records = [json.loads(line) for line in written]
        made.append((records, [step.pop("log_prob", None) for record in records for step in record["steps"]]))
    (records, told), (other_records, other_told) = made
    equal = records == other_records
    differences = [abs(a - b) for a, b in zip(told, other_told, strict=False) if None not in (a, b)]
    return {"equal": equal, "log_prob": max(differences) if equal and differences else None}


def middle(values: list[float]) -> dict:
    return {"median": statistics.median(values), "spread": [min(values), max(values)]}


def measure(
    loops: dict[str, Callable[[Clock | None], list]], count: int, repeats: int, device: str, show: Callable
) -> dict:
    """Figures of each loop; ratios are to the first one, within a repeat."""
    runs: dict[str, list[dict]] = {name: [] for name in loops}
    for _ in range(repeats):
        for name, run in loops.items():
            runs[name].append(timed(run, device))
    first = [one["seconds"] for one in runs[next(iter(loops))]]
    rows = {}
    for name, run in loops.items():
        rows[name] = {
            "samples_per_second": middle([count / one["seconds"] for one in runs[name]]),
            "ratio": middle([base / one["seconds"] for base, one in zip(first, runs[name], strict=True)]),
            "cpu_milliseconds": middle([1000 * one["cpu_seconds"] / count for one in runs[name]]),
            "peak_mib": runs[name][-1]["peak_mib"],
            "clicks_per_sample": sum(len(made.steps) for made in runs[name][-1]["made"]) / count,
            **split(run, count),
        }
        show(name, rows[name])
    return {"rows": rows, "made": {name: lines(one[-1]["made"]) for name, one in runs.items()}}


def show(name: str, row: dict) -> None:
    rate, ratio = row["samples_per_second"], row["ratio"]
    peak = "unknown" if row["peak_mib"] is None else f"{row['peak_mib']:.0f} MiB"
    print(
        f"  {name}: {rate['median']:.2f} samples/s ({rate['spread'][0]:.2f} to {rate['spread'][1]:.2f}), "
        f"{1000 / rate['median']:.0f} ms a sample, {row['cpu_milliseconds']['median']:.0f} of CPU; "
        f"{ratio['median']:.2f} times the plain loop "
        f"({ratio['spread'][0]:.2f} to {ratio['spread'][1]:.2f}); peak {peak}"
    )
    print("    ms a sample: " + ", ".join(f"{key} {value:.1f}" for key, value in row["milliseconds"].items()))
    print("    a sample: " + ", ".join(f"{key} {value:.1f}" for key, value in row["counts"].items()), flush=True)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--threads", type=int, help="CPU threads of the networks; by default torch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--drawn", action="store_true", help="random weights: clicks are drawn")
    parser.add_argument("--seven-billion", action="store_true", help="Qwen2.5-VL-7B shaped, random weights")
    parser.add_argument("--tiny", action="store_true", help="with --seven-billion: tiny networks, to try it")
    parser.add_argument("--fast", nargs="+", metavar="SETTING", help="of one more row, e.g. mllm.dtype=bfloat16")
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings as of scripts/evaluate.py, e.g. mllm=FOLDER")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device).type
    given = [f"device={arguments.device}", *arguments.overrides]
    dataset = build(compose_config("evaluate", ["out=unused", *expand_checkpoints(given)]).data)
    samples = [dataset[index] for index in range(arguments.samples)]
    if arguments.seven_billion:
        samples = [enlarged(sample) for sample in samples]
        parts = seven_billion(arguments.device, arguments.tiny)
    else:
        parts = load(given, arguments.drawn)
    fast = load([*given, *arguments.fast], arguments.drawn) if arguments.fast else None
    network = parts.mllm.network
    result = {
        "machine": machine(device),
        "samples": len(samples),
        "picture": list(samples[0].image.shape[:2]),
        "batch_size": arguments.batch_size,
        "repeats": arguments.repeats,
        "overrides": arguments.overrides,
        "mllm": {"parameters": sum(p.numel() for p in network.parameters()), "dtype": str(network.dtype)},
        "segmenter": type(parts.segmenter).__name__,
        "replies": "drawn" if parts.drawn else "read",
        "settings": [],
    }
    count = len(samples)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for clicks, k in (SETTINGS[name] for name in arguments.settings):
            loops = {
                "plain": lambda clock, t=clicks, k=k: plain(parts, samples, t, k, folder, clock),
                "ours": lambda clock, t=clicks, k=k: ours(parts, samples, t, k, folder, clock, arguments.batch_size),
            }
            if fast:
                loops["ours, " + " ".join(arguments.fast)] = lambda clock, t=clicks, k=k: ours(
                    fast, samples, t, k, folder, clock, arguments.batch_size
                )
            for run in (plain, ours):  # buffers, kernels, caches of the libraries
                run(parts, samples[:1], clicks, k, folder, None, *([1] if run is ours else []))
            print(f"T={clicks}, K={k}")
            measured = measure(loops, count, arguments.repeats, device, show)
            made = measured["made"]
            alone = lines(ours(parts, samples, clicks, k, folder, None, 1))
            equal = {"batch 1": agreement(alone, made["ours"])}
            if k == 1:
                equal["plain"] = agreement(made["plain"], made["ours"])
            for name, found in equal.items():
                told = "" if found["log_prob"] is None else f"; log-probabilities within {found['log_prob']:.3f}"
                print(f"  trajectories equal to those of {name}: {found['equal']}{told}")
            result["settings"].append({"clicks": clicks, "k": k, "equal": equal, "rows": measured["rows"]})
    print(
        f"{count} samples of {samples[0].width}x{samples[0].height}, batch {arguments.batch_size}; {result['machine']}"
    )
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

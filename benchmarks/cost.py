"""GPUs, hours, storage and money that annotation takes, from measured figures or from a model's size (docs/scale.md).

    python benchmarks/cost.py --gpu-price 2 --storage-price 20
    python benchmarks/cost.py --gpu-price 2 --storage-price 20 --samples-per-second 1.7 --out runs/cost.json

Without `--samples-per-second` (of benchmarks/rollout.py, on one GPU) the time of a mask is counted, not measured: per
stage its arithmetic, of decoding the reading of weights and key-value cache where that takes longer, divided by
`--efficiency`.

    states   = 1 + T K      pictures with a mask that the model sees: the start, and K outcomes of each of T clicks
    replies  = K states     each judges the mask and proposes a click; `tokens` long, `--batch-size` at a time
    tower    = 2 P_tower patches states / peak
    prompt   = 2 P_decoder prompt states / peak
    decode   = replies tokens max(2 P_decoder / peak, (2 P_decoder / batch + kv prompt) / bandwidth)
    segment  = 2 P_segmenter segmenter_tokens passes T K / peak

Prices and efficiency are inputs, not findings. The simulated annotator's CPU hours come from results/: seconds a click,
and clicks a mask.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from segagent.data.published import ORIGINS

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Task:
    """name: of the row. masks, pictures: how many."""

    name: str
    masks: int
    pictures: int


def refcoco(name: str, train: bool) -> Task:
    """All expressions of RefCOCO, RefCOCO+ (unc) and RefCOCOg (umd); a picture counts in each."""
    splits = [split for data in ("refcoco", "refcoco+", "refcocog") for split in ORIGINS[data].splits if split.samples]
    chosen = [split for split in splits if (split.settings["split"] == "train") == train]
    return Task(name, sum(split.samples for split in chosen), sum(split.images for split in chosen))


TASKS = (
    refcoco("RefCOCO family, val and test", train=False),
    refcoco("RefCOCO family, rollouts on train", train=True),
    Task("COCO-size, 10^6 masks", 10**6, 118_287),
    Task("10^9 pictures, one mask each", 10**9, 10**9),
)


def seconds_a_mask(given: argparse.Namespace) -> dict[str, float]:
    """Stage -> seconds of one GPU for one mask, by the formulas above."""
    peak, bandwidth = given.peak_tflops * 1e12, given.bandwidth * 1e12
    states = 1 + given.clicks * given.k
    decoder, tower, segmenter = (1e9 * p for p in (given.decoder, given.tower, given.segmenter))
    token = max(2 * decoder / peak, (2 * decoder / given.batch_size + given.kv_bytes * given.prompt) / bandwidth)
    stages = {
        "tower": 2 * tower * given.patches * states / peak,
        "prompt": 2 * decoder * given.prompt * states / peak,
        "decode": given.k * states * given.tokens * token,
        "segment": 2 * segmenter * given.segmenter_tokens * given.passes * given.clicks * given.k / peak,
    }
    return {stage: seconds / given.efficiency for stage, seconds in stages.items()}


def row(task: Task, seconds: float, given: argparse.Namespace) -> dict[str, float | str]:
    """Figures of a task. seconds: of one GPU, for one mask."""
    hours = task.masks * seconds / 3600
    lines, pictures = task.masks * given.line_bytes / 1e12, task.pictures * given.picture_bytes / 1e12
    gpus = max(1, -(-hours // given.deadline))
    return {
        "task": task.name,
        "masks": task.masks,
        "gpu_hours": hours,
        "gpus": gpus,
        "hours": hours / gpus,
        "trajectories_tb": lines,
        "pictures_tb": pictures,
        "read_mb_per_second": task.pictures * given.picture_bytes / 1e6 / (hours / gpus * 3600),
        "written_mb_per_second": task.masks * given.line_bytes / 1e6 / (hours / gpus * 3600),
        "gpu_cost": hours * given.gpu_price,
        "storage_cost_a_month": (lines + pictures) * given.storage_price,
    }


def simulated_hours(masks: int) -> float:
    """Core hours of the simulated annotator with graphcut to 90 % IoU, at the figures measured on photographs."""
    measured = json.loads((RESULTS / "click_segmenter_iseg.json").read_text())
    clicks = measured["groups"]["all"]["noc90"]
    return masks * (measured["embed_seconds"]["mean"] + clicks * measured["click_seconds"]["mean"]) / 3600


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gpu-price", type=float, required=True, help="of one GPU for an hour")
    add("--storage-price", type=float, required=True, help="of one TB for a month")
    add("--samples-per-second", type=float, help="of one GPU, measured; the counted time is left aside")
    add("--efficiency", type=float, default=0.35, help="share of the ceilings that is reached; an assumption")
    add("--deadline", type=float, default=24, help="hours; how many GPUs follows")
    add("--clicks", type=int, default=7, help="T")
    add("--k", type=int, default=1, help="candidates per click")
    add("--batch-size", type=int, default=32)
    add("--peak-tflops", type=float, default=989, help="bf16, dense; of an H100 SXM by its data sheet")
    add("--bandwidth", type=float, default=3.35, help="TB/s; the same")
    add("--decoder", type=float, default=7.62, help="billion parameters; of Qwen2.5-VL-7B")
    add("--tower", type=float, default=0.68, help="billion parameters; the same")
    add("--patches", type=int, default=1564, help="of 640x480 in squares of 14 pixels")
    add("--prompt", type=int, default=491, help="tokens: a quarter of the patches, and 100 of text")
    add("--tokens", type=int, default=25, help="of a reply")
    add("--kv-bytes", type=float, default=57_344, help="of a token: 2 x 28 layers x 4 heads x 128 x 2 bytes")
    add("--segmenter", type=float, default=0.323, help="billion parameters; of SimpleClick ViT-L, counted")
    add("--segmenter-tokens", type=int, default=784, help="448x448 in squares of 16")
    add("--passes", type=int, default=2, help="of the segmenter for a click: its input and its mirror image")
    add("--line-bytes", type=float, default=5_570, help="of a trajectory; measured, docs/scale.md")
    add("--picture-bytes", type=float, default=160_000, help="a JPEG of 640x480; an assumption")
    add("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    stages = seconds_a_mask(given)
    counted = given.samples_per_second is None
    seconds = sum(stages.values()) if counted else 1 / given.samples_per_second
    rows = [row(task, seconds, given) for task in TASKS]
    shares = ", ".join(f"{stage} {1000 * value:.0f}" for stage, value in stages.items())
    source = f"counted at {given.efficiency:.0%} of the ceilings: {shares}" if counted else "measured"
    print(f"{1000 * seconds:.0f} ms of one GPU a mask, T={given.clicks} K={given.k} ({source})\n")
    heads = (
        "GPU hours",
        "GPUs",
        "hours",
        "lines TB",
        "pictures TB",
        "MB/s in",
        "MB/s out",
        "GPU cost",
        "store/month",
    )
    print(f"{'':36}" + "".join(f"{head:>12}" for head in heads))
    for figures in rows:
        values = [value for name, value in figures.items() if name not in ("task", "masks")]
        print(f"{figures['task']:36}" + "".join(f"{value:12,.{0 if value >= 100 else 2}f}" for value in values))
    cpu = {task.name: simulated_hours(task.masks) for task in TASKS}
    told = "; ".join(f"{name}: {hours:,.0f}" for name, hours in cpu.items())
    print(f"\nsimulated annotator with graphcut, core hours at the measured seconds a click: {told}")
    if given.out:
        inputs = {name: value for name, value in vars(given).items() if name != "out"}
        result = {"inputs": inputs, "stages": stages, "counted": counted, "rows": rows, "simulated_core_hours": cpu}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""How many clicks does a segmenter need, and how long does one take? The simulated annotator on a folder of masks.

    python benchmarks/click_segmenter.py --images DIR --masks DIR [--void-value 128] [--segmenter graphcut]
        [--max-clicks 20] [--limit N] [--group REGEX] [--out FILE.json]

Protocol: from an empty mask, clicks of `segagent.masks.next_click` until the IoU reaches 0.9 or the limit. NoC85 and
NoC90 are the mean numbers of clicks to IoU 0.85 and 0.90; the limit where it is never reached. Void never counts.
`--group` also prints both for the names that match and those that do not. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy reads it

import cv2
import numpy as np
from omegaconf import OmegaConf

from segagent.configuration import build, load_named
from segagent.data.mask_folders import MaskFolders
from segagent.masks import iou, next_click
from segagent.segmenters.base import ClickSegmenter
from segagent.types import Sample

LEVELS = (0.85, 0.90)


def machine() -> str:
    """CPU model and number of cores."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        model = found.group(1) if found else model
    return f"{model}, {os.cpu_count()} cores, one thread used"


def click_through(segmenter: ClickSegmenter, sample: Sample, max_clicks: int) -> dict:
    """One photograph: `{name, height, width, embed_seconds, click_seconds: [...], ious: [...]}`, one IoU per click."""
    start = time.perf_counter()
    embeddings = segmenter.embed([sample.image])
    record = {"name": sample.sample_id, "height": sample.height, "width": sample.width}
    record |= {"embed_seconds": time.perf_counter() - start, "click_seconds": [], "ious": []}
    mask, memories, clicks = np.zeros(sample.target.shape, bool), [None], []
    while len(clicks) < max_clicks and (not clicks or record["ious"][-1] < LEVELS[-1]):
        click = next_click(sample.target, mask, [(c.x, c.y) for c in clicks], sample.void)
        if click is None:
            break
        clicks.append(click)
        start = time.perf_counter()
        (mask,), memories = segmenter.predict(embeddings, [clicks], memories)
        record["click_seconds"].append(time.perf_counter() - start)
        record["ious"].append(iou(mask, sample.target, sample.void))
    return record


def clicks_needed(ious: Sequence[float], level: float, max_clicks: int) -> int | None:
    """Number of the first click whose IoU reaches `level`, None when none of `max_clicks` does."""
    return next((number for number, value in enumerate(ious[:max_clicks], 1) if value >= level), None)


def summarize(records: Sequence[dict], max_clicks: int) -> dict:
    """Flat figures of a set of photographs: n, noc and never-reached counts per level, mean IoU of the first click."""
    figures = {"n": len(records)}
    for level in LEVELS:
        needed = [clicks_needed(record["ious"], level, max_clicks) for record in records]
        figures[f"noc{level * 100:.0f}"] = float(np.mean([max_clicks if k is None else k for k in needed]))
        figures[f"never{level * 100:.0f}"] = needed.count(None)
    figures["first_iou"] = float(np.mean([record["ious"][0] for record in records]))
    return figures


def timings(seconds: Sequence[float]) -> dict:
    quantiles = {"min": 0, "median": 50, "p95": 95}
    return {"mean": float(np.mean(seconds))} | {k: float(np.percentile(seconds, q)) for k, q in quantiles.items()}


def print_report(report: dict) -> None:
    for name, figures in report["groups"].items():
        print(
            f"{name:24} n {figures['n']:4}  NoC85 {figures['noc85']:5.2f} (never {figures['never85']})  "
            f"NoC90 {figures['noc90']:5.2f} (never {figures['never90']})  first click IoU {figures['first_iou']:.3f}"
        )
    for name in ("click_seconds", "embed_seconds"):
        print(f"{name:24} " + "  ".join(f"{key} {value:.4f}" for key, value in report[name].items()))
    print(report["machine"])


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of photographs")
    parser.add_argument("--masks", required=True, help="folder of masks with the same names")
    parser.add_argument("--void-value", type=int, help="value of mask pixels that never count")
    parser.add_argument("--segmenter", default="graphcut", help="name in configs/segmenter")
    parser.add_argument("settings", nargs="*", help="settings of the segmenter, key=value: max_pixels=20000")
    parser.add_argument("--max-clicks", type=int, default=20)
    parser.add_argument("--limit", type=int, help="only the first N photographs")
    parser.add_argument("--group", help="regular expression over names, for figures of two parts")
    parser.add_argument("--out", type=Path, help="JSON with all figures and each photograph's IoUs")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    cv2.setNumThreads(1)
    samples = MaskFolders(
        images=arguments.images, masks=arguments.masks, void_value=arguments.void_value, limit=arguments.limit
    )
    config = load_named("segmenter", arguments.segmenter)
    OmegaConf.set_struct(config, True)
    config = OmegaConf.merge(
        config, {"device": "auto"} if "device" in config else {}, OmegaConf.from_dotlist(arguments.settings)
    )
    segmenter = build(config)
    records = [click_through(segmenter, samples[k], arguments.max_clicks) for k in range(len(samples))]
    parts = {"all": records}
    if arguments.group:
        matches = [bool(re.search(arguments.group, record["name"])) for record in records]
        parts[f"matching {arguments.group}"] = [r for r, hit in zip(records, matches, strict=True) if hit]
        parts["not matching"] = [r for r, hit in zip(records, matches, strict=True) if not hit]
    report = {
        "segmenter": dict(config),
        "machine": machine(),
        "max_clicks": arguments.max_clicks,
        "groups": {name: summarize(part, arguments.max_clicks) for name, part in parts.items() if part},
        "click_seconds": timings([second for record in records for second in record["click_seconds"]]),
        "embed_seconds": timings([record["embed_seconds"] for record in records]),
        "photographs": records,
    }
    print_report(report)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Compares two runs over the same samples: is B better than A, by how much, and where.

    python evaltools/compare.py results/A.json results/B.json
    python evaltools/compare.py results/A.json results/B.json out=results/ab.json images=DIR pictures=20

Prints cIoU, gIoU and mIoU of both with a 95% interval of the difference (paired bootstrap over images), wins, losses
and ties; writes the same to `out`, and beside it NAME.html with the biggest changes as pictures: target, A's mask, B's
mask. Samples are matched by `sample_id`, in foreign files by image name and caption (equal ones in their order); those
of one file only are counted and told.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from omegaconf import DictConfig

from segagent.configuration import quoted
from segagent.data.images import load_image, resolve_inside
from segagent.data.predictions import read_predictions
from segagent.data.segagent_json import image_path_of
from segagent.entry import beside, run_entry, write_text
from segagent.masks import decode_rle, polygons_to_mask
from segagent.metrics import MissingKeyError, Scores, score
from segagent.metrics.paired import Pairs, biggest_changes, compare, pair
from segagent.metrics.protocols import own_protocol, step_of
from segagent.metrics.table import percent
from segagent.overlay import overlay_mask
from segagent.report.page import write_page

GREEN, RED, BLUE = (0, 200, 0), (230, 30, 30), (40, 90, 230)
# Pixels between the panels of a strip.
GAP = 8


def key_of(record: dict) -> str:
    """What a sample is matched by."""
    return str(record.get("sample_id") or f"{record['img_path']}: {caption_of(record)}")


def caption_of(record: dict) -> str:
    captions = record.get("caption")
    return str(captions[0]) if captions and isinstance(captions, list) else ""


def read_run(path: str, protocol: str | None) -> tuple[Scores, list[str]]:
    """(scores, key of each sample) of a predictions file, in one pass. protocol: None for the file's own."""
    keys: list[str] = []
    seen: Counter[str] = Counter()
    records = iter(read_predictions(path))
    first = next(records, None)
    protocol = protocol or own_protocol(first)

    def noted() -> Any:
        for record in records if first is None else itertools.chain([first], records):
            if "img_path" in record:  # a record without it is refused by the scorer, by name
                key = key_of(record)
                seen[key] += 1
                # RefCOCO says the same of two objects of one picture now and then; ids of ours must differ.
                keys.append(key if record.get("sample_id") or seen[key] == 1 else f"{key} ({seen[key]})")
            yield record

    try:
        scores = score(noted(), protocol, bootstrap=0, where=path)
    except MissingKeyError as error:
        raise ValueError(str(error)) from None
    if not len(scores):
        raise ValueError(f"{path}: no record to compare")
    return scores, keys


def mask_of(record: dict, number: int) -> np.ndarray:
    """`[H, W]` bool: mask `number` of a record, 0 the initial one."""
    rle = record.get("init_mask") if number == 0 else record["pred_list"][number - 1]["mask"]
    return np.zeros((record["height"], record["width"]), bool) if rle is None else decode_rle(rle)


def target_of(record: dict) -> np.ndarray:
    target = record["gt_mask"]
    if isinstance(target, list):
        return polygons_to_mask(target, record["height"], record["width"])
    return np.zeros((record["height"], record["width"]), bool) if target is None else decode_rle(target)


def photo_of(record: dict, folders: list[Path]) -> np.ndarray:
    """The photograph where it can be found and has the record's size, else grey, `[H, W, 3]` uint8."""
    size = (record["height"], record["width"])
    for folder in folders:
        try:
            found = load_image(resolve_inside(folder, image_path_of(record.get("image_name", record["img_path"]))))
        except (ValueError, OSError):
            continue
        if found.shape[:2] == size:
            return found
    return np.full((*size, 3), 128, np.uint8)


def strip(records: tuple[dict, dict], numbers: tuple[int, int], folders: list[Path], width: int = 320) -> bytes:
    """PNG: target (green), A's mask (red), B's mask (blue), side by side."""
    photo = photo_of(records[0], folders)
    masks = [target_of(records[0]), *(mask_of(*pair) for pair in zip(records, numbers, strict=True))]
    panels = [overlay_mask(photo, mask, color) for mask, color in zip(masks, (GREEN, RED, BLUE), strict=True)]
    height = max(1, round(photo.shape[0] * width / photo.shape[1]))
    scaled = [cv2.resize(panel, (width, height), interpolation=cv2.INTER_AREA) for panel in panels]
    gap = np.full((height, GAP, 3), 255, np.uint8)
    picture = np.concatenate([scaled[0], gap, scaled[1], gap, scaled[2]], axis=1)
    sound, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert sound
    return data.tobytes()


def chosen_records(path: str, wanted: set[int]) -> dict[int, dict]:
    """Index -> record of the few samples that are drawn; the file is streamed."""
    return {index: record for index, record in enumerate(read_predictions(path)) if index in wanted}


def draw_changes(config: DictConfig, runs: tuple[Scores, Scores], pairs: Pairs, summary: str) -> str:
    """The HTML page: `summary` in its lines, then the biggest changes."""
    shown = biggest_changes(pairs, config.pictures)
    records = [
        chosen_records(path, set(index[shown].tolist()))
        for path, index in ((config.a, pairs.first), (config.b, pairs.second))
    ]
    chosen = [run.chosen() for run in runs]
    folders = [Path(config.images)] if config.images else [Path(config.a).parent, Path(".")]
    rows = []
    for k in shown.tolist():
        first, second = int(pairs.first[k]), int(pairs.second[k])
        both = records[0][first], records[1][second]
        picture = base64.b64encode(strip(both, (int(chosen[0][first]), int(chosen[1][second])), folders)).decode()
        a, b = (100 * value for value in pairs.iou[k])
        title = html.escape(f"{both[0].get('sample_id') or both[0]['img_path']}: {caption_of(both[0])}")
        rows.append(f"<h3>{b - a:+.1f} ({a:.1f} to {b:.1f})  {title}</h3><img src='data:image/png;base64,{picture}'>")
    head = html.escape(f"A {config.a}, B {config.b}")
    style = "<style>body{font:14px sans-serif;margin:2em}img{max-width:100%}</style>"
    legend = "<p>Target (green), mask of A (red), mask of B (blue); IoU in percent, gains first.</p>"
    top = f"<h1>{head}</h1><pre>{html.escape(summary)}</pre>{legend}"
    return f"<!doctype html><meta charset='utf-8'><title>compare</title>{style}{top}{''.join(rows)}\n"


def format_result(result: dict[str, Any]) -> str:
    lines = [f"samples {result['n']} on {result['n_images']} images"]
    for name in ("ciou", "giou", "miou"):
        values = "  ".join(f"{which.upper()} {percent(result[f'{name}_{which}'])}" for which in "ab")
        line = f"{name[0]}IoU  {values}  B - A {percent(result[f'{name}_diff'])}"
        if f"{name}_low" in result:
            bounds = f"{percent(result[f'{name}_low'])} .. {percent(result[f'{name}_high'])}"
            chance = result[f"{name}_p"]
            line += f"  95% interval {bounds}  p {'-' if chance is None else f'{chance:.4f}'}"
        lines.append(line)
    lines.append(f"B wins {result['wins']}, loses {result['losses']}, ties {result['ties']}; p {result['sign_p']:.4f}")
    return "\n".join(lines)


def main(config: DictConfig) -> int:
    if not (config.a and config.b):
        raise ValueError("two predictions files are needed: compare.py A.json B.json")
    if config.protocol is not None:
        step_of(config.protocol)
    if config.protocol == "official":
        raise ValueError("protocol=official drops samples, which cannot be paired: choose final, oracle, step:N, ...")
    for name in ("resamples", "pictures", "margin"):
        if config[name] < 0:
            raise ValueError(f"{name}={config[name]}: give 0 or more")
    if config.images and not Path(config.images).is_dir():
        raise ValueError(f"images={config.images}: no such folder; name that of the pictures, or leave it out")
    out = Path(config.out)
    made = [out, *([beside(out, ".html")] if config.pictures else [])]
    for path in made:
        if path.resolve() in (Path(config.a).resolve(), Path(config.b).resolve()):
            raise ValueError(f"{path}: is one of the files that are compared; choose another out=")
        if path.exists() and not config.overwrite:
            raise ValueError(f"{path}: is there already; say overwrite=true, or another out=")
    (first, keys_a), (second, keys_b) = (read_run(path, config.protocol) for path in (config.a, config.b))
    pairs = pair((first, second), (keys_a, keys_b))
    result = compare(pairs, margin=config.margin, resamples=config.resamples, seed=config.seed)
    result |= {"a": config.a, "b": config.b, "margin": config.margin}
    result |= {"protocol_a": first.protocol, "protocol_b": second.protocol}
    result |= {"n_only_a": len(keys_a) - result["n"], "n_only_b": len(keys_b) - result["n"]}
    out.parent.mkdir(parents=True, exist_ok=True)
    summary = format_result(result)
    if config.pictures:
        write_page(beside(out, ".html"), draw_changes(config, (first, second), pairs, summary))
    write_text(out, json.dumps(result, indent=1) + "\n")
    print(f"A {config.a} ({first.protocol})\nB {config.b} ({second.protocol})\n{summary}")
    for which in "ab":
        if result[f"n_only_{which}"]:
            told = f"{result[f'n_only_{which}']} samples are in {which.upper()} only and are left out"
            print(told, file=sys.stderr)
    if config.pictures:
        print(f"pictures {beside(out, '.html')}")
    return 0


def positional(arguments: list[str]) -> list[str]:
    """The first two words without `=`, or that are files, are `a` and `b`."""
    names, settings = iter(("a", "b")), []
    for argument in arguments:
        is_setting = ("=" in argument and not Path(argument).is_file()) or argument.startswith("-")
        name = None if is_setting else next(names, None)
        settings.append(argument if name is None else f"{name}={quoted(argument)}")
    return settings


if __name__ == "__main__":
    sys.argv[1:] = positional(sys.argv[1:])
    run_entry(main, "compare", __doc__)

"""Predictions JSON -> metrics, on any CPU, without torch. Definitions and keys: docs/scoring.md.

python eval_result_iou.py --input_json results/val.json                       # the last mask, or what a search returned
python eval_result_iou.py --input_json results/val.json --protocol official   # the released scorer, bit for bit
python eval_result_iou.py --input_json pred_refcoco+_val.json --eval_all_splits --out metrics.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from segagent.data.predictions import read_predictions
from segagent.metrics import PROTOCOLS, MissingKeyError, Scores, score
from segagent.metrics.official import OfficialScore, keep_scored, write_official
from segagent.metrics.protocols import own_protocol
from segagent.metrics.published_rows import format_table
from segagent.metrics.side_by_side import format_side_by_side, format_subgroups, side_by_side, subgroups
from segagent.metrics.table import format_metrics, percent

if TYPE_CHECKING:
    import numpy as np

# The order in which the released scorer goes through them.
SPLITS = (
    *("refcocog_val", "refcoco_val", "refcoco_testA", "refcoco_testB"),
    *("refcoco+_val", "refcoco+_testA", "refcoco+_testB", "refcocog_test"),
)
FIRST_SPLIT = "refcoco+_val"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input_json", required=True, metavar="F", help="predictions file")
    add(
        "--click_id",
        type=int,
        metavar="N",
        help="score the mask after N actions (0: the initial one; the last where there are fewer); "
        "with --protocol official an index into pred_list instead, as Python counts (0: after the first action)",
    )
    add(
        "--protocol",
        help=f"which mask is scored: {', '.join(PROTOCOLS)}; default: final, of a search best_predicted",
    )
    add("--eval_all_splits", action="store_true", help=f"also the files named like F with {FIRST_SPLIT} replaced")
    add("--visualize", action="store_true", help="write pictures of targets and scored masks into X_visualize/")
    add("--visualize_limit", type=int, default=50, metavar="N", help="at most N pictures, worst first; default 50")
    add("--boundary", action="store_true", help="boundary IoU too (decodes the scored masks: slow)")
    add(
        "--side_by_side", action="store_true", help="the field's other conventions too: instance level, LISA, GRES, ..."
    )
    add("--subgroups", action="store_true", help="by object size, category, length of the expression, actions used")
    add(
        "--click_limit",
        type=int,
        metavar="N",
        help="actions that the run allowed, for NoC; default: as in F's .config.yaml, else the most in F",
    )
    add("--bootstrap", type=int, default=1000, metavar="N", help="resamples of the 95%% intervals, 0 for none")
    add("--seed", type=int, default=0, help="seed of the resamples")
    add("--out", metavar="FILE", help="write the metrics as JSON")
    add("--cuda_device", default="0", help="accepted for old command lines and ignored: scoring runs on the CPU")
    return parser.parse_args(arguments)


def protocol_of(options: argparse.Namespace, first: dict | None) -> str:
    """The protocol that --protocol and --click_id name together, or that of the first record where they name none.
    Raises `ValueError` when they contradict."""
    if options.click_id is None and options.protocol is None:
        return own_protocol(first)
    if options.click_id is None or options.protocol == "official":
        return options.protocol
    if options.protocol not in (None, "final"):
        raise ValueError(
            f"--click_id {options.click_id} and --protocol {options.protocol} both say which mask is scored: give one"
        )
    if options.click_id < 0:
        raise ValueError(f"--click_id {options.click_id}: only --protocol official counts from the end; give 0 or more")
    return f"step:{options.click_id}"


def recorded_limit(path: Path) -> int | None:
    """The actions that the run allowed, from the settings that scripts/evaluate.py left beside its predictions."""
    file = path.with_name(f"{path.stem}.config.yaml")
    if not file.is_file():
        return None
    try:
        allowed = OmegaConf.select(OmegaConf.load(file), "rollout.max_clicks")
    except (YAMLError, OmegaConfBaseException):
        raise ValueError(f"{file}: no settings of a run; remove it, or give --click_limit") from None
    return allowed if isinstance(allowed, int) else None


def score_file(path: Path, options: argparse.Namespace) -> tuple[Scores, dict[str, Any]]:
    """Scores one file, prints its table, writes what the options ask for."""
    if options.protocol == "official" and (options.side_by_side or options.subgroups):
        raise ValueError(
            "--protocol official prints the released scorer's two numbers only: leave it out, and --side_by_side shows "
            "them beside the others"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the predictions file in it")
    if options.protocol == "official" and path.is_file():
        # Old rows must not outlive a run that fails; the released scorer leaves the bare header too.
        write_official(path, [], "", options.click_id)
    records = iter(read_predictions(path))
    first = next(records, None)
    records = records if first is None else itertools.chain([first], records)
    protocol = protocol_of(options, first)
    if protocol == "official" and options.click_id is None and not options.visualize:
        records = keep_scored(records)
    scores = score(
        records,
        protocol,
        click_limit=recorded_limit(path) if options.click_limit is None else options.click_limit,
        boundary=options.boundary,
        bootstrap=options.bootstrap,
        seed=options.seed,
        where=str(path),
    )
    if protocol == "official":
        metrics = score_officially(path, scores, options.click_id)
    else:
        metrics = scores.metrics()
        print(f"{path}  (protocol {protocol})\n{format_metrics(metrics)}")
        if protocol == "best_predicted" and own_protocol(first) != protocol:
            print("note           no search: nobody judged the masks after the last clicks, so they are never taken")
        print(compare_with_official(scores))
        if options.side_by_side:
            metrics["side_by_side"] = side_by_side(scores)
            print(f"\n{format_side_by_side(metrics['side_by_side'])}")
        if options.subgroups:
            metrics["subgroups"] = subgroups(scores)
            print(f"\n{format_subgroups(metrics['subgroups'])}")
    if options.visualize:
        folder = visualize(path, scores, options.visualize_limit, options.click_id)
        print(f"pictures      {folder}/")
    return scores, metrics


def score_officially(path: Path, scores: Scores, click_id: int | None) -> dict[str, Any]:
    try:
        result = scores.official(click_id)
    except (IndexError, TypeError) as error:  # kinds that the released scorer dies of; here they carry a sentence
        raise ValueError(f"{path}: {error}") from None
    write_official(path, result.rows, result.text, click_id)
    metrics = scores.official_metrics(result, click_id)
    print(f"{path}  (protocol official, click_id {click_id})")
    print(result.text, end="")
    print(f"samples: {metrics['n']} of {len(scores)}; dropped without a mask: {metrics['n_dropped']}")
    return metrics


def compare_with_official(scores: Scores) -> str:
    """One line: what the released scorer would print for this file, and why it differs."""
    try:
        result: OfficialScore = scores.official()
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return f"official       none: {error}"
    table = scores.counted.table
    dropped = result.chosen < 0
    elsewhere = int(((result.chosen + 1 != scores.chosen()) & ~dropped).sum())
    void = int((table.raw_target != table.target).sum())
    if not (dropped.any() or elsewhere):
        reason = "the same masks" + (f", but it counts void pixels ({void} samples)" if void else "")
    else:
        reason = f"it drops {int(dropped.sum())} samples and scores another mask in {elsewhere} of {len(scores)}"
    return f"official       cIoU {percent(result.class_iou)}  gIoU {percent(result.global_iou)}   ({reason})"


def visualize(path: Path, scores: Scores, limit: int, click_id: int | None) -> Path:
    """Writes `X_visualize/RANK_INDEX_IOU.png`, target left and scored mask right, worst first; returns the folder."""
    import numpy as np

    if scores.protocol == "official":
        chosen = scores.official(click_id).chosen + 1
        table = scores.counted.table
        ious = np.where(chosen > 0, table.iou[table.starts + chosen], np.nan)
    else:
        chosen, ious = scores.chosen(), scores.ious()
    # Dropped samples (NaN) sort last and are cut off.
    worst = np.argsort(ious, kind="stable")[: min(max(0, limit), int(np.isfinite(ious).sum()))]
    rank_of = {int(index): rank for rank, index in enumerate(worst)}
    folder = path.with_name(path.stem + "_visualize")
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[0-9]*_[0-9]*_iou*.png"):
        old.unlink()
    for index, record in enumerate(read_predictions(path)):
        if index in rank_of:
            name = f"{rank_of[index]:04d}_{index:06d}_iou{100 * ious[index]:06.2f}.png"
            write_picture(folder / name, record, int(chosen[index]), path.parent)
    return folder


def masks_to_show(record: dict, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(target, mask `number`) of a record, `[H, W]` bool each."""
    import numpy as np

    from segagent.masks import decode_rle, polygons_to_mask

    height, width, target = record["height"], record["width"], record["gt_mask"]
    shown = record.get("init_mask") if number == 0 else record["pred_list"][number - 1]["mask"]
    if isinstance(target, list):
        truth = polygons_to_mask(target, height, width)
    else:
        truth = np.zeros((height, width), bool) if target is None else decode_rle(target)
    return truth, np.zeros((height, width), bool) if shown is None else decode_rle(shown)


def write_picture(path: Path, record: dict, number: int, beside: Path) -> None:
    """Target (green) and mask `number` (red) side by side, on the photo where it can be read and fits, else on grey."""
    import cv2
    import numpy as np

    from segagent.data.images import load_image, resolve_inside
    from segagent.data.segagent_json import image_path_of
    from segagent.overlay import overlay_mask

    target, mask = masks_to_show(record, number)
    photo = np.full((*target.shape, 3), 128, np.uint8)
    name = image_path_of(record.get("image_name", record["img_path"]))
    for root in (Path(), beside):
        try:
            found = load_image(resolve_inside(root, name))
        except (ValueError, OSError):
            continue
        if found.shape == photo.shape:
            photo = found
            break
    panels = [overlay_mask(photo, shown, color) for shown, color in ((target, (0, 200, 0)), (mask, (230, 30, 30)))]
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(panels, axis=1), cv2.COLOR_RGB2BGR))


def split_paths(path: Path) -> dict[str, Path]:
    """Split -> file, named like `path` with the split's name in place of `refcoco+_val`; whether there or not."""
    if FIRST_SPLIT not in path.name:
        raise ValueError(f"--eval_all_splits replaces {FIRST_SPLIT!r} in the file name, and {path.name!r} has none")
    everywhere = {split: Path(str(path).replace(FIRST_SPLIT, split)) for split in SPLITS}
    in_name = {split: path.with_name(path.name.replace(FIRST_SPLIT, split)) for split in SPLITS}
    # Folders may be named after splits too; which of both holds is seen from the disk.
    return {split: everywhere[split] if everywhere[split].is_file() else in_name[split] for split in SPLITS}


def score_all_splits(path: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    paths = split_paths(path)
    found = {split: file for split, file in paths.items() if file.is_file()}
    if not found:
        raise FileNotFoundError(f"none of the eight split files is there, {paths[FIRST_SPLIT]} for one")
    results = {}
    for split, file in found.items():
        _, results[split] = score_file(file, options)
        print()
    print(f"{'split':<16}{'cIoU':>7}{'gIoU':>8}{'n':>8}")
    for split, metrics in results.items():
        print(f"{split:<16} {percent(metrics['ciou'])}  {percent(metrics['giou'])}{metrics['n']:>8}")
    for split in paths:
        if split not in found:
            print(f"{split:<16}  missing: {paths[split]}")
    print(f"\nTable 1 of the paper\n{format_table({split: metrics['ciou'] for split, metrics in results.items()})}")
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with one line on stderr when the input cannot be scored."""
    options = parse_arguments(arguments)
    path = Path(options.input_json)
    try:
        inputs = split_paths(path).values() if options.eval_all_splits else [path]
        if options.out and Path(options.out).resolve() in [one.resolve() for one in inputs]:
            raise ValueError(f"--out {options.out}: is a predictions file that is read; name another one")
        metrics = score_all_splits(path, options) if options.eval_all_splits else score_file(path, options)[1]
        if options.out:
            Path(options.out).parent.mkdir(parents=True, exist_ok=True)
            Path(options.out).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"eval_result_iou: {named}", file=sys.stderr)
        return 2
    except (ValueError, MissingKeyError) as error:
        print(f"eval_result_iou: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

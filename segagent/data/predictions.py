"""Trajectory <-> predictions JSON, the layout of the released evaluation (keys: docs/scoring.md).

The official keys keep the official conventions (points as `[y, x]`, an announced IoU in percent inside the text); our
extra keys beside them are in the units of types.py. Files are read and written one record at a time, so a file of any
size needs the memory of its longest record. Written bytes depend on the trajectories only: no clock, no host.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from segagent.data.json_stream import read_records
from segagent.masks import encode_rle, normalize_rle, polygons_to_mask
from segagent.types import Action, Box, Click, EndReason, InitKind, Step, Trajectory


def read_predictions(path: str | Path) -> Iterator[dict]:
    """Streams the records of a predictions file as they stand, unchecked but for being JSON objects.

    The file may be one line, pretty-printed or one record per line, inside `[...]` or without it (JSON lines).
    Raises `OSError` when it cannot be opened, `ValueError` naming file, record and character when it is malformed or
    cut off.
    """
    return read_records(path)


def empty_rle(height: int, width: int) -> dict:
    """RLE of the all-zero `[height, width]` mask."""
    return normalize_rle({"size": [height, width], "counts": [height * width]})


def _click_to_official(click: Click | None) -> dict | None:
    return None if click is None else {"is_positive": click.is_positive, "coords": [click.y, click.x]}


def _box_to_list(box: Box | None) -> list[int] | None:
    return None if box is None else [box.x0, box.y0, box.x1, box.y1]


def _known(**values: Any) -> dict:
    return {key: value for key, value in values.items() if value is not None}


def _item(trajectory: Trajectory, index: int) -> dict:
    """One entry of `pred_list`: official keys, then what we know more.

    `pred_iou` belongs to the mask of this entry, so it is what the *next* action announced.
    """
    step, steps = trajectory.steps[index], trajectory.steps
    box = _box_to_list(step.action.box)
    item = {
        "click_id": index,
        "clicks": _click_to_official(step.action.click),
        "used_box": trajectory.extras.get("used_boxes", {}).get(str(index), box),
        "mask": step.mask,
        "outputs": step.action.text,
    }
    item |= _known(
        iou=step.iou_after,
        pred_iou=steps[index + 1].action.predicted_iou if index + 1 < len(steps) else None,
        log_prob=step.action.log_prob,
    )
    if step.action.source != "policy":
        item["source"] = step.action.source
    if not step.kept:
        item["kept"] = False
    before = steps[index - 1].iou_after if index else trajectory.init_iou
    if step.iou_before != before:
        item["iou_before"] = step.iou_before
    return item


def prediction_record(trajectory: Trajectory) -> dict:
    """The record of one trajectory; every value is plain JSON.

    `extras["pred_iou"]` (predicted IoU of the last mask) and `extras["candidates"]` become keys of the record; other
    extras stay together under `extras`.
    """
    items = [_item(trajectory, index) for index in range(len(trajectory.steps))]
    record = {
        "img_path": str(trajectory.image_name),
        "masks": None,
        "height": trajectory.height,
        "width": trajectory.width,
        "qas": [],
        "caption": [trajectory.text],
        "coor": None,
        "relative_coor": None,
        "is_positive": None,
        "click_id": 0,
        "gt_mask": trajectory.target,
        "pred_list": items,
        "outputs": items[-1]["outputs"] if items else None,
        "sample_id": trajectory.sample_id,
        "end_reason": None if trajectory.end_reason is None else trajectory.end_reason.value,
        "init": _known(
            kind=trajectory.init.value,
            box=_box_to_list(trajectory.init_box),
            clicks=[_click_to_official(click) for click in trajectory.init_clicks] or None,
            iou=trajectory.init_iou,
            pred_iou=trajectory.steps[0].action.predicted_iou if trajectory.steps else None,
        ),
    }
    # What the official layout cannot hold, and only where it says something.
    record |= _known(iou=trajectory.final_iou, void=trajectory.void, end_text=trajectory.end_text)
    record |= _known(object_id=trajectory.object_id, category=trajectory.category, seconds=trajectory.seconds)
    if trajectory.init_mask != empty_rle(trajectory.height, trajectory.width):
        record["init_mask"] = trajectory.init_mask
    if not isinstance(trajectory.image_name, str):
        record["image_name"] = trajectory.image_name
    return record | _extras_to_keys(trajectory.extras)


def _extras_to_keys(extras: dict) -> dict:
    lifted = _known(pred_iou=extras.get("pred_iou"), candidates=extras.get("candidates"))
    rest = {key: value for key, value in extras.items() if key not in {*lifted, "used_boxes"}}
    return lifted | ({"extras": rest} if rest else {})


def _rle(value: Any, key: str, height: int, width: int) -> dict:
    rle = normalize_rle(value, f"key '{key}'")
    if rle["size"] != [height, width]:
        raise ValueError(f"key '{key}': mask size {rle['size']} but the record says {[height, width]}")
    return rle


def _target(value: Any, height: int, width: int) -> dict | None:
    """`gt_mask` in any official form: RLE, list of polygons, null."""
    if value is None:
        return None
    if isinstance(value, list):
        return encode_rle(polygons_to_mask(value, height, width))
    return _rle(value, "gt_mask", height, width)


def _click(value: dict) -> Click:
    row, column = value["coords"]
    return Click(int(column), int(row), bool(value["is_positive"]))


def _step(record: dict, index: int, iou_before: float | None, announced: float | None) -> Step:
    item = record["pred_list"][index]
    clicks, box = item["clicks"], item.get("used_box")
    if clicks is None and box is None:
        raise ValueError(f"pred_list[{index}] has neither clicks nor used_box: there is no action to read")
    action = Action(
        click=None if clicks is None else _click(clicks),
        # A foreign record may hold both; the click is the action then (see `_foreign_boxes`).
        box=Box(*(int(side) for side in box)) if clicks is None else None,
        text=item.get("outputs"),
        predicted_iou=announced,
        log_prob=item.get("log_prob"),
        source=item.get("source", "policy"),
    )
    mask = _rle(item["mask"], f"pred_list[{index}].mask", int(record["height"]), int(record["width"]))
    return Step(action, mask, item.get("iou_before", iou_before), item.get("iou"), bool(item.get("kept", True)))


def _steps(record: dict) -> tuple[Step, ...]:
    """Steps in order; an action's announcement and its `iou_before` stand at the entry before it."""
    before, steps = record.get("init") or {}, []
    for index, item in enumerate(record["pred_list"]):
        steps.append(_step(record, index, before.get("iou"), before.get("pred_iou")))
        before = item
    return tuple(steps)


def _keys_to_extras(record: dict) -> dict:
    """The way back of `_extras_to_keys`; boxes that stand beside a click are kept as they are."""
    boxes = {
        str(index): item["used_box"]
        for index, item in enumerate(record["pred_list"])
        if item["clicks"] is not None and item.get("used_box") is not None
    }
    lifted = _known(pred_iou=record.get("pred_iou"), candidates=record.get("candidates"), used_boxes=boxes or None)
    return lifted | record.get("extras", {})


def trajectory_from_prediction(record: dict) -> Trajectory:
    """The way back from `prediction_record`; official files without our keys work, what they do not say is None.

    There the sample id is image name and caption, the first mask is all zero, and announced IoUs stay in the texts
    (dialogue.py reads them). Raises `ValueError` that names the key when something is off.
    """
    try:
        return _trajectory(record)
    except KeyError as error:
        raise ValueError(f"key {error} is missing: not a prediction record (keys: docs/scoring.md)") from None
    except TypeError as error:
        raise ValueError(f"not a prediction record ({error}; keys: docs/scoring.md)") from None


def _trajectory(record: dict) -> Trajectory:
    height, width, init = int(record["height"]), int(record["width"]), record.get("init") or {}
    captions = record["caption"] or [""]
    text = captions if isinstance(captions, str) else captions[0]
    end_reason, void, init_mask = record.get("end_reason"), record.get("void"), record.get("init_mask")
    return Trajectory(
        sample_id=record.get("sample_id") or f"{record['img_path']}: {text}",
        image_name=record.get("image_name", record["img_path"]),
        height=height,
        width=width,
        text=text,
        target=_target(record["gt_mask"], height, width),
        void=None if void is None else _rle(void, "void", height, width),
        init=InitKind(init.get("kind", InitKind.EMPTY)),
        init_mask=empty_rle(height, width) if init_mask is None else _rle(init_mask, "init_mask", height, width),
        init_box=Box(*init["box"]) if "box" in init else None,
        init_clicks=tuple(_click(click) for click in init.get("clicks", ())),
        init_iou=init.get("iou"),
        steps=_steps(record),
        end_reason=None if end_reason is None else EndReason(end_reason),
        end_text=record.get("end_text"),
        object_id=record.get("object_id"),
        category=record.get("category"),
        seconds=record.get("seconds"),
        extras=_keys_to_extras(record),
    )


def write_predictions(path: str | Path, trajectories: Iterable[Trajectory]) -> int:
    """Writes a JSON array, one record per line; returns how many. The file appears whole or not at all.

    It is written beside `path` and renamed at the end; on any error what stood at `path` before still stands.
    """
    path, count = Path(path), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write("[")
            for trajectory in trajectories:
                # ASCII escapes: a reply may hold lone surrogates, which UTF-8 cannot write.
                line = json.dumps(prediction_record(trajectory), separators=(",", ":"))
                file.write((",\n" if count else "\n") + line)
                count += 1
            file.write("\n]\n")
        # mkstemp makes files private; a result file has the rights that any new file gets.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return count

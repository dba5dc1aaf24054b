"""The released trajectory JSON (SegAgent-Data) <-> Trajectory.

Layout: `{"info": ..., "data": [{image_name, height, width, gt_ann: {object_id, caption, segmentation, bbox, area},
clicks_list: [{idx, coor: [y, x], is_positive, mask, box, area, iou}]}]}`; boxes are xywh, evaluation files have no
`clicks_list`. `image_name` may be a COCO train2014 id, a name without suffix (.jpg is meant) or a path.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from segagent.data.images import IMAGE_SUFFIXES
from segagent.masks import encode_rle, normalize_rle
from segagent.types import Action, Click, EndReason, InitKind, Step, Trajectory

log = logging.getLogger(__name__)


# A point in a name may also stand elsewhere than before a suffix.
_SUFFIXES = IMAGE_SUFFIXES | {".jfif", ".jpe", ".gif", ".avif", ".heic", ".heif", ".jp2", ".ppm", ".pgm", ".tga"}


def is_refclef(path: str | Path) -> bool:
    """Whether numbers in a released file are pictures of ImageCLEF; the released evaluation tells by the name, too."""
    return "refclef" in Path(path).name


def image_path_of(image_name: str | int, *, refclef: bool = False) -> str:
    """The path that a released `image_name` means, relative to the image root; a number is that of a picture of COCO,
    in files of RefCLEF of one of ImageCLEF's."""
    if isinstance(image_name, int) and refclef:
        return f"saiapr_tc-12/{image_name // 1000:02d}/images/{image_name}.jpg"
    if isinstance(image_name, int):
        return f"mscoco/images/train2014/COCO_train2014_{image_name:012d}.jpg"
    return image_name if Path(image_name).suffix.lower() in _SUFFIXES else f"{image_name}.jpg"


def _region(rle: dict) -> tuple[list[float], int]:
    """(box xywh, area in pixels) of an RLE, as the released files write them."""
    coded = {"size": rle["size"], "counts": rle["counts"].encode("ascii")}
    return coco_mask.toBbox(coded).tolist(), int(coco_mask.area(coded))


def _click_record(index: int, step: Step) -> dict:
    box, area = _region(step.mask)
    click = step.action.click
    return {
        "idx": index,
        "coor": [click.y, click.x],
        "is_positive": click.is_positive,
        "mask": step.mask,
        "box": box,
        "area": area,
        "iou": step.iou_after,
    }


def official_record(trajectory: Trajectory) -> dict:
    """One entry of `data`. Steps that were not kept stay out, as in the published files.

    Raises `ValueError` for what the layout cannot say: no target, a start other than the empty mask, a box action.
    """
    name = f"sample {trajectory.sample_id!r}"
    if trajectory.target is None:
        raise ValueError(f"{name}: has no target mask; the released trajectory JSON needs one")
    if trajectory.init is not InitKind.EMPTY or any(step.action.click is None for step in trajectory.steps):
        raise ValueError(
            f"{name}: starts from {trajectory.init} or uses a box; the released JSON holds clicks from empty only"
        )
    box, area = _region(trajectory.target)
    target = {
        "object_id": trajectory.object_id,
        "caption": trajectory.text,
        "segmentation": trajectory.target,
        "bbox": box,
        "area": area,
    }
    kept = [step for step in trajectory.steps if step.kept]
    return {
        "image_name": trajectory.image_name,
        "height": trajectory.height,
        "width": trajectory.width,
        "gt_ann": target,
        "clicks_list": [_click_record(index, step) for index, step in enumerate(kept)],
    }


def write_official(path: str | Path, trajectories: Iterable[Trajectory]) -> int:
    """Writes the released layout, one record a line, whole or not at all; returns how many."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, count = path.with_name(path.name + ".partial"), 0
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write('{"info": {"args": {}}, "data": [')
            for trajectory in trajectories:
                file.write(",\n" if count else "\n")
                file.write(json.dumps(official_record(trajectory), ensure_ascii=False))
                count += 1
            file.write("\n]}\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _steps(record: dict, height: int, width: int, where: str, before: float) -> tuple[Step, ...]:
    """before: IoU of the empty mask that the clicks start from."""
    steps = []
    for index, entry in enumerate(record.get("clicks_list", ())):
        y, x = entry["coor"]
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"{where}: click {index} at coor [{y}, {x}] lies outside the {width}x{height} image")
        mask = normalize_rle(entry["mask"], f"{where}, clicks_list[{index}].mask")
        if list(mask["size"]) != [height, width]:
            raise ValueError(
                f"{where}, clicks_list[{index}].mask: size {list(mask['size'])}, the record says {[height, width]}"
            )
        action = Action(click=Click(int(x), int(y), bool(entry["is_positive"])), source="official")
        steps.append(Step(action, mask, before, entry["iou"]))
        before = entry["iou"]
    return tuple(steps)


def _trajectories(record: dict, index: int, where: str) -> Iterator[Trajectory]:
    """One per caption: a record with n captions is n samples."""
    height, width, target = record["height"], record["width"], record["gt_ann"]
    if not (isinstance(height, int) and isinstance(width, int)):
        raise ValueError(f"{where}: height {height!r}, width {width!r}: expected whole numbers")
    captions = target["caption"]
    captions = [captions] if isinstance(captions, str) else captions or []
    if not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"{where}: gt_ann.caption is {captions!r}: expected a text or a list of texts")
    rle = normalize_rle(target["segmentation"], f"{where}, gt_ann.segmentation")
    if rle["size"] != [height, width]:
        raise ValueError(f"{where}: gt_ann.segmentation has size {rle['size']} but the record says {[height, width]}")
    empty_iou = 0.0 if _region(rle)[1] else 1.0
    steps = _steps(record, height, width, where, empty_iou)
    for number, caption in enumerate(captions):
        yield Trajectory(
            sample_id=str(index) if number == 0 else f"{index}#{number}",
            image_name=record["image_name"],
            height=height,
            width=width,
            text=caption,
            target=rle,
            void=None,
            init=InitKind.EMPTY,
            init_mask=encode_rle(np.zeros((height, width), bool)),
            init_iou=empty_iou,
            steps=steps,
            end_reason=EndReason.OUT_OF_CLICKS if steps else None,
            object_id=target.get("object_id"),
        )


def read_official(path: str | Path) -> Iterator[Trajectory]:
    """Trajectories of a released file, one per caption; evaluation files give trajectories without steps.

    Raises `ValueError` naming file, record and key when something is off.
    """
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise ValueError(f"{path}: key 'data' with a list is missing: not a released trajectory file")
    silent = 0
    for index, record in enumerate(content["data"]):
        where = f"{path}: record {index}"
        try:
            yield from _trajectories(record, index, where)
            silent += not record["gt_ann"]["caption"]
        except KeyError as error:
            raise ValueError(f"{where}: key {error} is missing") from None
        except TypeError as error:
            raise ValueError(f"{where}: not laid out as a released record ({error})") from None
    if silent:
        log.warning("%s: %d records have no caption and are no samples", path, silent)

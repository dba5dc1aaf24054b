"""Finished trajectories -> files that other tools read: COCO JSON, PNG masks, the ranking of a filter, its page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from segagent.annotation.choice import returned, returned_mask, returned_rle, returned_score
from segagent.annotation.suspicion import Suspicion
from segagent.data.coco import read_instances
from segagent.data.images import resolve_inside
from segagent.entry import write_text
from segagent.masks import decode_rle, encode_rle, mask_to_polygons, polygons_to_mask
from segagent.types import Trajectory

_OF_FILTER = ("suspicious", "bad_probability")  # keys of an annotation that say what a filter found


def write_masks(folder: Path, trajectories: Sequence[Trajectory]) -> None:
    """`folder/SAMPLE_ID.png` each, 255 on the object."""
    for trajectory in trajectories:
        path = resolve_inside(folder, f"{trajectory.sample_id}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        written, data = cv2.imencode(".png", returned_mask(trajectory).astype(np.uint8) * 255)
        if not written:
            raise ValueError(f"{path}: a mask of {trajectory.height}x{trajectory.width} cannot be written as PNG")
        path.write_bytes(data.tobytes())


def segmentation_of(rle: dict, polygons: bool) -> Any:
    """The mask in COCO's words. Polygons only where they draw exactly this mask: holes and the empty mask stay RLE."""
    if not polygons:
        return rle
    mask = decode_rle(rle)
    outlines = mask_to_polygons(mask)
    exact = bool(outlines) and bool((polygons_to_mask(outlines, *mask.shape) == mask).all())
    return outlines if exact else encode_rle(mask)


def _facts(trajectory: Trajectory, polygons: bool) -> dict[str, Any]:
    """The keys of an annotation that say what its mask is."""
    rle = returned_rle(trajectory)
    coded = {"size": rle["size"], "counts": rle["counts"].encode("ascii")}
    return {
        "segmentation": segmentation_of(rle, polygons),
        "bbox": coco_mask.toBbox(coded).tolist(),
        "area": int(coco_mask.area(coded)),
        "iscrowd": 0,
    }


def new_coco(trajectories: Sequence[Trajectory], polygons: bool) -> dict[str, Any]:
    """A COCO file of pictures that had none: one annotation per sample, its text as `caption`, one category."""
    pictures: dict[str, dict] = {}
    annotations = []
    for number, trajectory in enumerate(trajectories, 1):
        name = str(trajectory.image_name)
        size = {"height": trajectory.height, "width": trajectory.width}
        picture = pictures.setdefault(name, {"id": len(pictures) + 1, "file_name": name, **size})
        facts = {"id": number, "image_id": picture["id"], "category_id": 1, "caption": trajectory.text}
        annotations.append(facts | _facts(trajectory, polygons) | _judgement(trajectory))
    return {
        "images": list(pictures.values()),
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }


def _judgement(trajectory: Trajectory) -> dict[str, Any]:
    return {"sample_id": trajectory.sample_id, "predicted_iou": returned_score(trajectory)}


def _rank(trajectory: Trajectory) -> float:
    """Its predicted IoU; what was not judged comes after a 0."""
    score = returned_score(trajectory)
    return -1.0 if score is None else score


def changed_coco(path: Path, trajectories: Sequence[Trajectory], *, polygons: bool, mode: str) -> dict[str, Any]:
    """The COCO file at `path` with what was found of its annotations; every other key and id stays.

    An annotation with several descriptions has several samples: the mask that is predicted best counts. Only masks that
    changed are written anew. annotate: annotations that nobody worked on are left out; else they stay as they are. Of
    the others goes what an earlier filter said of them.
    """
    content = read_instances(path)
    best: dict[Any, Trajectory] = {}
    for trajectory in trajectories:
        rival = best.get(trajectory.object_id)
        if rival is None or _rank(trajectory) > _rank(rival):
            best[trajectory.object_id] = trajectory
    annotations = []
    for entry in content["annotations"]:
        found = best.get(entry.get("id"))
        if found is None:
            annotations += [] if mode == "annotate" else [entry]
            continue
        entry = {key: value for key, value in entry.items() if key not in _OF_FILTER}
        keeps = mode == "filter" or (mode == "refine" and returned(found) == 0)
        annotations.append(entry | ({} if keeps else _facts(found, polygons)) | _judgement(found))
    return content | {"annotations": annotations}


def mark_suspicious(
    content: dict[str, Any], trajectories: Sequence[Trajectory], suspicion: Suspicion, *, numbered: bool = False
) -> None:
    """Adds `suspicious` and `bad_probability` to the annotations that the samples are of.

    numbered: of `new_coco`, whose ids are not those of the objects.
    """
    rows = zip(trajectories, suspicion.flagged.tolist(), suspicion.chances.tolist(), strict=True)
    by_sample = {trajectory.sample_id: (trajectory.object_id, flag, chance) for trajectory, flag, chance in rows}
    for entry in content["annotations"]:
        owner, flag, chance = by_sample.get(entry.get("sample_id"), (None, None, None))
        # One that nobody worked on may bear the name that another has here.
        if flag is not None and (numbered or owner in (None, entry["id"])):
            entry["suspicious"] = flag
            entry["bad_probability"] = None if np.isnan(chance) else chance


def ranking(trajectories: Sequence[Trajectory], suspicion: Suspicion) -> str:
    """CSV, the most suspicious first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample_id", "image", "text", "predicted_iou", "bad_probability", "suspicious", "true_iou"])
    for place in suspicion.order.tolist():
        one, chance = trajectories[place], suspicion.chances[place]
        told = [one.sample_id, one.image_name, one.text, _shown(one.extras.get("pred_iou"))]
        told += ["" if np.isnan(chance) else _shown(float(chance)), int(suspicion.flagged[place])]
        writer.writerow([*told, _shown(one.init_iou)])
    return text.getvalue()


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def write_sheet(
    path: Path,
    trajectories: Sequence[Trajectory],
    suspicion: Suspicion,
    *,
    shown: int,
    summary: dict[str, Any],
    load_image: Callable[[Trajectory], np.ndarray],
) -> None:
    """The page of the flagged masks, most suspicious first, `shown` at most; of the lowest ranked where none can be
    flagged."""
    from segagent.report.contact_sheet import Card, write_contact_sheet  # brings matplotlib

    places = suspicion.order.tolist()
    if suspicion.flagged.any():
        places = [place for place in places if suspicion.flagged[place]]
    cards = []
    for place in places[:shown]:
        trajectory, chance = trajectories[place], suspicion.chances[place]
        said = trajectory.extras.get("pred_iou")
        facts = [f"predicted IoU {said:.3f}" if said is not None else "not judged"]
        facts += [] if np.isnan(chance) else [f"bad with probability {chance:.2f}"]
        facts += [] if trajectory.init_iou is None else [f"true IoU {trajectory.init_iou:.3f}"]
        cards.append(Card(trajectory, decode_rle(trajectory.init_mask), tuple(facts)))
    write_contact_sheet(path, title="Suspicious annotations", summary=summary, cards=cards, load_image=load_image)


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n")

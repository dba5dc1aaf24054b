"""COCO instances JSON, with run-length masks (exact) and the expressions of each object as its `caption`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pycocotools import mask as coco_mask

from segagent.data.coco import read_instances, segmentation_to_mask
from segagent.data.formats.base import group_by_object, group_by_picture, need_target, numbered, object_trajectory
from segagent.types import Trajectory

log = logging.getLogger(__name__)


class CocoFile:
    """One annotation per object: samples of one picture with equal `object_id` and target are one, their texts a list.

    Cannot say: clicks, void pixels. Polygons are read and drawn as COCO draws them. crowd: what crowd regions are, see
    `Coco`: objects like the others (`sample`), or left out (`leave_out`), which is told. Keys beside COCO's: `caption`,
    `sample_ids`, `object_id`. path: the file. images: not needed.
    """

    holds = ("texts", "categories")

    def __init__(self, *, path: str, images: str | None = None, crowd: str = "leave_out") -> None:
        if crowd not in ("leave_out", "sample"):
            raise ValueError(f"crowd={crowd!r}: choose leave_out or sample")
        self.path, self.crowd = Path(path), crowd
        self.categories: list[str] = []

    def read(self) -> Iterator[Trajectory]:
        content = read_instances(self.path)
        pictures = {entry["id"]: entry for entry in content["images"]}
        categories = {entry["id"]: entry["name"] for entry in content.get("categories", [])}
        self.categories[:] = [categories[number] for number in sorted(categories, key=_in_order)]
        told = len({entry["image_id"] for entry in content["annotations"]} & pictures.keys())
        if told < len(pictures):
            log.warning("%s: %d pictures without annotations are left out", self.path, len(pictures) - told)
        crowds = sum(bool(entry.get("iscrowd")) for entry in content["annotations"])
        if crowds and self.crowd == "leave_out":
            log.warning("%s: %d crowd regions are left out; crowd=sample takes them", self.path, crowds)
        for entry in content["annotations"]:
            where = f"{self.path}: annotation {entry.get('id')}"
            if entry.get("iscrowd") and self.crowd == "leave_out":
                continue
            try:
                yield from _objects(entry, pictures, categories, where)
            except KeyError as error:
                raise ValueError(f"{where}: {error} is missing") from None

    def write(self, trajectories: Iterable[Trajectory]) -> int:
        groups = group_by_picture(trajectories)
        members = [trajectory for group in groups.values() for trajectory in group]
        named = numbered((trajectory.category or "object" for trajectory in members), self.categories)
        categories = {name: number for number, name in enumerate(named, 1)}
        images, annotations = [], []
        for number, (name, group) in enumerate(groups.items(), 1):
            first = group[0]
            images.append({"id": number, "file_name": name, "height": first.height, "width": first.width})
            if not isinstance(first.image_name, str) or first.image_name != name:
                images[-1]["image_name"] = first.image_name
            for expressions in group_by_object(group):
                annotations.append(_annotation(expressions, len(annotations) + 1, number, categories))
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in categories.items()],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
        os.replace(partial, self.path)
        return len(members)


def _in_order(number: object) -> tuple[bool, object]:
    """Ids are numbers, or texts."""
    return isinstance(number, str), number


def _objects(entry: dict, pictures: dict, categories: dict, where: str) -> Iterator[Trajectory]:
    picture = pictures[entry["image_id"]]
    target = segmentation_to_mask(entry["segmentation"], picture["height"], picture["width"], where)
    category = categories.get(entry.get("category_id"))
    captions = entry.get("caption") or [category or "object"]
    captions = [captions] if isinstance(captions, str) else captions
    name = f"{entry['id']}"
    ids = entry.get("sample_ids") or [name if k == 0 else f"{name}#{k}" for k in range(len(captions))]
    for sample_id, caption in zip(ids, captions, strict=True):
        yield object_trajectory(
            target,
            sample_id=sample_id,
            image_name=picture.get("image_name", picture["file_name"]),
            text=caption,
            object_id=entry.get("object_id", entry["id"]),
            category=category,
        )


def _annotation(expressions: list[Trajectory], number: int, image: int, categories: dict[str, int]) -> dict:
    first = expressions[0]
    rle = need_target(first)
    coded = {"size": rle["size"], "counts": rle["counts"].encode("ascii")}
    return {
        "id": number,
        "image_id": image,
        "category_id": categories[first.category or "object"],
        "segmentation": rle,
        "bbox": coco_mask.toBbox(coded).tolist(),
        "area": int(coco_mask.area(coded)),
        "iscrowd": 0,
        "caption": [expression.text for expression in expressions],
        "sample_ids": [expression.sample_id for expression in expressions],
        "object_id": first.object_id,
    }

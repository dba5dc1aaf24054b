"""COCO instances JSON + a folder of images -> samples. Polygons, RLE, crowd regions, void masks."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from segagent.data.base import first
from segagent.data.images import load_image, load_label_map, resolve_inside
from segagent.masks import decode_rle, normalize_rle, polygons_to_mask
from segagent.types import Box, Sample

log = logging.getLogger(__name__)


def segmentation_to_mask(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    """COCO `segmentation` (polygons, compressed or plain RLE) -> `[height, width]` bool.

    Raises `ValueError` that begins with `where` when it is broken or of another size.
    """
    if isinstance(segmentation, dict):
        rle = normalize_rle(segmentation, where)
        if list(rle["size"]) != [height, width]:
            raise ValueError(f"{where}: RLE size {list(rle['size'])} but the image entry says {[height, width]}")
        return decode_rle(rle, where)
    if isinstance(segmentation, list):
        try:
            return polygons_to_mask(segmentation, height, width)
        except ValueError as error:
            raise ValueError(f"{where}: broken polygons ({error})") from None
        except TypeError:
            raise ValueError(f"{where}: broken polygons: expected [[x0, y0, x1, y1, ...], ...]") from None
    raise ValueError(f"{where}: segmentation is {type(segmentation).__name__}; expected polygons or an RLE")


def read_instances(path: Path) -> dict:
    """A COCO instances file: images with `id` and `file_name`, annotations with `id`, `image_id` and `segmentation`.

    What its entries must have is checked here, once, for all who read such a file; LVIS's images get a `file_name`.
    Raises `ValueError` naming file, entry and key.
    """
    if not path.is_file():
        what = "a folder; name the JSON file in it" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: {what}")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    missing = [key for key in ("images", "annotations") if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"{path}: key {missing[0]!r} is missing: not a COCO instances file")
    _check_entries(content["images"], ("id",), f"{path}: image")
    _check_entries(content["annotations"], ("id", "image_id", "segmentation"), f"{path}: annotation", repeats=False)
    _check_entries(content.get("categories", []), ("id", "name"), f"{path}: category")
    for entry in content["annotations"]:
        box = entry.get("bbox") or [0.0] * 4
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))):
            raise ValueError(f"{path}: annotation {entry['id']}: bbox {box}: expected [x, y, width, height]")
        said = entry.get("caption") or []
        for caption in said if isinstance(said, list) else [said]:
            if not isinstance(caption, str):
                raise ValueError(f"{path}: annotation {entry['id']}: caption {caption!r}: expected a text")
    images = [_with_file_name(entry, path) for entry in content["images"]]
    checked = content | {"images": images}
    if "categories" in content:  # of digits, names are numbers
        checked["categories"] = [entry | {"name": str(entry["name"])} for entry in content["categories"]]
    return checked


def _is_finite(side: Any) -> bool:
    return isinstance(side, (int, float)) and math.isfinite(side)


def _check_entries(entries: Any, keys: tuple[str, ...], where: str, *, repeats: bool = True) -> None:
    """repeats: whether an entry may be there again, word for word, as pictures are in files put together."""
    if not isinstance(entries, list):
        raise ValueError(f"{where}: expected a list of them")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{where} number {number}: expected a JSON object")
        missing = [key for key in keys if key not in entry]
        if missing:
            raise ValueError(f"{where} {entry.get('id', f'number {number}')}: key {missing[0]!r} is missing")
    known: dict[str, dict] = {}
    for entry in entries:
        name = json.dumps(entry["id"])
        first = known.setdefault(name, entry)
        if first is not entry and not (repeats and first == entry):
            raise ValueError(f"{where} id {name} is there twice; ids must be unique")


def _with_file_name(entry: dict, path: Path) -> dict:
    """LVIS entries have no `file_name`, but an address that ends with it: .../train2017/000000391895.jpg."""
    if not isinstance(entry.get("file_name", ""), str):
        raise ValueError(f"{path}: image {entry['id']}: file_name {entry['file_name']!r}: expected a text")
    if "file_name" in entry:
        return entry
    if "coco_url" not in entry:
        raise ValueError(f"{path}: image {entry.get('id')} has neither 'file_name' nor 'coco_url'")
    return entry | {"file_name": "/".join(entry["coco_url"].rsplit("/", 2)[-2:])}


class Coco:
    """Every (annotation, description) pair of a COCO or LVIS instances file is one sample.

    annotations: the JSON file. images: folder that `file_name` is relative to (of LVIS: COCO's, with `train2017/` and
    `val2017/` in it). text: `category` uses the category's name; `caption` uses the annotation's own `caption` (a text
    or a list: one sample each). void_masks: folder of `STEM.png` label maps; pixels equal to `void_value` never count.
    crowd: `void` (what lies in crowd regions of a category and not in the target does not count for its objects there,
    as in COCO's own rule for detections; they are no samples), `sample` or `leave_out`. include: regular expression
    that the file name must match somewhere (None: all).
    allow_empty: accept annotations without a pixel. Raises `ValueError` naming file and annotation id on anything that
    is not sound.
    """

    def __init__(
        self,
        *,
        annotations: str,
        images: str,
        text: str = "category",
        void_masks: str | None = None,
        void_value: int = 128,
        crowd: str = "void",
        include: str | None = None,
        allow_empty: bool = False,
        limit: int | None = None,
    ) -> None:
        if text not in ("category", "caption"):
            raise ValueError(f"data.text={text!r}: choose category or caption")
        if crowd not in ("void", "sample", "leave_out"):
            raise ValueError(f"data.crowd={crowd!r}: choose void, sample or leave_out")
        if not Path(images).is_dir():
            raise ValueError(f"{images}: no such folder (data.images)")
        if void_masks is not None and not Path(void_masks).is_dir():
            raise ValueError(f"{void_masks}: no such folder (data.void_masks)")
        self._path, self._images, self._text = Path(annotations), Path(images), text
        self._void_masks, self._void_value, self._allow_empty = void_masks, void_value, allow_empty
        content = read_instances(self._path)
        self._image_entries = {entry["id"]: entry for entry in content["images"]}
        self._categories = {entry["id"]: entry["name"] for entry in content.get("categories", [])}
        crowds = [entry for entry in content["annotations"] if entry.get("iscrowd") and crowd != "sample"]
        self._crowds: dict[tuple, list[dict]] = {}
        for entry in crowds if crowd == "void" else ():
            self._crowds.setdefault((entry["image_id"], entry.get("category_id")), []).append(entry)
        if crowds:
            told = "count as void and are no samples" if crowd == "void" else "are left out"
            log.warning("%s: %d crowd regions %s", self._path, len(crowds), told)
        self._samples = [
            (entry, number, description)
            for entry in content["annotations"]
            if not (entry.get("iscrowd") and crowd != "sample") and self._included(entry, include)
            for number, description in enumerate(self._describe(entry))
        ]
        if not self._samples:
            raise ValueError(f"{self._path}: no annotation to work on (include and crowd leave some out)")
        self._samples = first(self._samples, limit)
        self._last: tuple[Path, np.ndarray] | None = None

    def _included(self, entry: dict, pattern: str | None) -> bool:
        image = self._image_entries.get(entry["image_id"])  # an unknown image is reported by _describe
        return pattern is None or image is None or re.search(pattern, image["file_name"]) is not None

    def _describe(self, entry: dict) -> list[str]:
        where = f"{self._path}: annotation {entry['id']}"
        if entry["image_id"] not in self._image_entries:
            raise ValueError(f"{where}: image_id {entry['image_id']} is not among the images")
        if self._text == "caption":
            captions = entry.get("caption", [])
            captions = [captions] if isinstance(captions, str) else captions
            if not captions:
                raise ValueError(f"{where}: has no 'caption'; say data.text=category, or add one")
            if not all(caption.strip() for caption in captions):
                raise ValueError(f"{where}: an empty 'caption'; say data.text=category, or mend it")
            return list(captions)
        if entry.get("category_id") not in self._categories:
            raise ValueError(f"{where}: category_id {entry.get('category_id')} is not among the categories")
        return [self._categories[entry["category_id"]]]

    def __len__(self) -> int:
        return len(self._samples)

    def sample_id(self, index: int) -> str:
        entry, number, _ = self._samples[index]
        return f"{entry['id']}" if number == 0 else f"{entry['id']}#{number}"

    def picture_path(self, index: int) -> Path:
        """The file of a sample's picture, which need not be there."""
        entry = self._samples[index][0]
        return resolve_inside(self._images, self._image_entries[entry["image_id"]]["file_name"])

    def _load(self, path: Path) -> np.ndarray:
        """Consecutive samples often share a picture: the last one is kept."""
        if self._last is None or self._last[0] != path:
            self._last = (path, load_image(path))
        return self._last[1]

    def _void(self, entry: dict, name: str, target: np.ndarray) -> np.ndarray | None:
        """Of the target itself a crowd region takes nothing; a void mask does."""
        void, (height, width) = None, target.shape
        for crowd in self._crowds.get((entry["image_id"], entry.get("category_id")), []):
            where = f"{self._path}: annotation {crowd['id']}"
            region = segmentation_to_mask(crowd["segmentation"], height, width, where) & ~target
            void = region if void is None else void | region
        if self._void_masks is not None:
            path = resolve_inside(self._void_masks, Path(name).with_suffix(".png").as_posix())
            labels = load_label_map(path)
            if labels.shape != (height, width):
                raise ValueError(f"{path}: void mask is {list(labels.shape)} but the image is {[height, width]}")
            region = labels == self._void_value
            void = region if void is None else void | region
        return void

    def __getitem__(self, index: int) -> Sample:
        entry, _, text = self._samples[index]
        where = f"{self._path}: annotation {entry['id']}"
        image_entry = self._image_entries[entry["image_id"]]
        path = resolve_inside(self._images, image_entry["file_name"])
        image = self._load(path)
        height, width = image.shape[:2]
        if (image_entry.get("height", height), image_entry.get("width", width)) != (height, width):
            said = [image_entry.get("height"), image_entry.get("width")]
            raise ValueError(f"{path}: the picture is {[height, width]} but {self._path.name} says {said}")
        target = segmentation_to_mask(entry["segmentation"], height, width, where)
        void = self._void(entry, image_entry["file_name"], target)
        if void is not None:
            target = target & ~void
        if not target.any() and not self._allow_empty:
            raise ValueError(
                f"{where}: empty target; remove the annotation, or say on_error=skip or data.allow_empty=true"
            )
        return Sample(
            sample_id=self.sample_id(index),
            image=image,
            text=text,
            target=target,
            void=void,
            box=read_box(entry, height, width),
            image_name=image_entry["file_name"],
            image_key=str(path),
            object_id=entry["id"],
            category=self._categories.get(entry.get("category_id")),
        )


def read_box(entry: dict, height: int, width: int) -> Box | None:
    """COCO xywh floats -> the pixels they touch, cut to the image; None when there is none or it is empty."""
    if not entry.get("bbox"):
        return None
    x, y, w, h = entry["bbox"]
    x0, y0 = max(0, int(np.floor(x))), max(0, int(np.floor(y)))
    x1, y1 = min(width, int(np.ceil(x + w))), min(height, int(np.ceil(y + h)))
    return Box(x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

"""RefCOCO, RefCOCO+, RefCOCOg, RefCLEF and gRefCOCO as their publishers lay them out -> samples.

Layout (lichengunc/refer; LISA's `refer_seg` is the same tree one folder deeper; gRefCOCO's `grefs(unc).json`):

    root/[refer_seg/]DATASET/refs(SPLIT_BY).p       list of {ref_id, ann_id, image_id, category_id, split, sentences}
    root/[refer_seg/]DATASET/instances.json         COCO instances: images, annotations, categories
    root/[refer_seg/]images/mscoco/images/train2014/COCO_train2014_*.jpg
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from segagent.data.base import first
from segagent.data.coco import read_box, read_instances, segmentation_to_mask
from segagent.data.images import load_image, resolve_inside
from segagent.data.plain_pickle import read_plain_pickle
from segagent.types import Box, Sample

log = logging.getLogger(__name__)

# Where images lie below the root, in the trees that are in use; the first is the publisher's.
COCO_FOLDERS = ("images/mscoco/images/train2014", "mscoco/images/train2014", "images/train2014", "train2014")
CLEF_FOLDERS = ("images/saiapr_tc-12", "saiapr_tc-12")
BASES = ("", "refer_seg", "data")
NO_TARGET = -1


def find_folder(roots: Iterable[Path], names: Iterable[str], what: str) -> Path:
    """The first of `roots`/`names` that is a folder. Raises `ValueError` that lists all that were tried."""
    tried = [root / name if name else root for root in roots for name in names]
    for path in tried:
        if path.is_dir():
            return path
    raise ValueError(f"{tried[0]}: no such folder: {what}; looked for {', '.join(map(str, tried))}")


def in_split(found: str, wanted: str) -> bool:
    """Whether a ref of split `found` belongs to `wanted`: `testA` has those of `testAB` too, `test` all test splits.

    That is the publisher's rule (RefCLEF's Berkeley partition names splits so).
    """
    if found == wanted or wanted == "all":
        return True
    if not found.startswith("test"):
        return False
    return wanted == "test" or (len(wanted) == 5 and wanted.startswith("test") and wanted[-1] in found[4:])


def read_refs(folder: Path, split_by: str, names: tuple[str, ...]) -> tuple[Path, list[dict]]:
    """(file, refs) of the first of `names` that is there. Raises `ValueError` naming what is missing or off."""
    tried = [folder / name.format(split_by) for name in names]
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        there = ", ".join(sorted(found.name for found in folder.glob("*refs(*"))) or "none"
        raise ValueError(f"{tried[0]}: no such file (data.split_by={split_by}); files of refs there: {there}")
    if path.suffix == ".json":
        try:
            refs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
    else:
        refs = read_plain_pickle(path)
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise ValueError(f"{path}: expected a list of refs (dicts)")
    for index, ref in enumerate(refs):
        missing = [key for key in ("ref_id", "ann_id", "image_id", "split", "sentences") if key not in ref]
        if missing:
            raise ValueError(f"{path}: ref {index}: key {missing[0]!r} is missing")
        if not isinstance(ref["split"], str) or not isinstance(ref["sentences"], list):
            raise ValueError(f"{path}: ref {index}: split must be a text and sentences a list")
    twice = [key for key, count in Counter(ref["ref_id"] for ref in refs).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: ref_id {twice[0]} is there twice; ids must be unique")
    silent = sum(not ref["sentences"] for ref in refs)
    if silent:
        log.warning("%s: %d refs have no sentence and are no samples", path, silent)
    return path, refs


def annotation_mask(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    """A `segmentation` -> `[height, width]` bool. RefCLEF writes a list of RLEs, everything else what COCO writes."""
    if isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], dict):
        parts = [segmentation_to_mask(rle, height, width, where) for rle in segmentation]
        return np.logical_or.reduce(parts)
    return segmentation_to_mask(segmentation, height, width, where)


class Referring:
    """Every (object, expression) pair of a split is one sample.

    root: see the layout above. dataset: refcoco, refcoco+, refcocog, refclef or grefcoco. split_by: who cut the splits
    (unc, umd, google, berkeley). split: train, val, test, testA, testB, or all. level: `expression`, or `instance` (the
    first expression of each object only). images: folder of the pictures, None to look in the known places.
    Of gRefCOCO an expression may mean no object (target all zero) or many (their union).
    Sample ids are the ref's, with `#k` for its further expressions; `object_id` is the annotation's id (a list of them
    where there are many). Raises `ValueError` naming path, ref or annotation for anything missing or unsound.
    """

    def __init__(
        self,
        *,
        root: str,
        dataset: str = "refcoco",
        split_by: str = "unc",
        split: str = "val",
        level: str = "expression",
        images: str | None = None,
        limit: int | None = None,
    ) -> None:
        if level not in ("expression", "instance"):
            raise ValueError(f"data.level={level!r}: choose expression or instance")
        if not Path(root).is_dir():
            raise ValueError(f"{root}: no such folder (data.root)")
        general, bases = dataset == "grefcoco", [Path(root) / base for base in BASES]
        # Some archives write refcocog with a capital G.
        folder = find_folder(bases, (dataset, dataset.replace("cocog", "cocoG")), f"the files of {dataset}")
        names = ("grefs({}).json", "grefs({}).p") if general else ("refs({}).p", "refs({}).json")
        self._refs_path, refs = read_refs(folder, split_by, names)
        self._instances_path = folder / "instances.json"
        content = read_instances(self._instances_path)
        self._image_entries = {entry["id"]: entry for entry in content["images"]}
        self._annotations = {entry["id"]: entry for entry in content["annotations"]}
        self._categories = {entry["id"]: entry["name"] for entry in content.get("categories", [])}
        places = CLEF_FOLDERS if dataset == "refclef" else COCO_FOLDERS
        self._images = (
            find_folder([folder.parent, Path(root)], places, f"the pictures of {dataset} (or say data.images=DIR)")
            if images is None
            else find_folder([Path(images)], ("",), "data.images")
        )
        self._samples = [
            (ref, number)
            for ref in refs
            if in_split(ref["split"], split)
            for number in range(len(ref["sentences"]) if level == "expression" else min(1, len(ref["sentences"])))
        ]
        if not self._samples:
            there = ", ".join(sorted({ref["split"] for ref in refs}))
            raise ValueError(f"{self._refs_path}: no ref of split {split!r} (data.split); it has {there or 'no ref'}")
        self._samples = first(self._samples, limit)
        self._general = general
        self._last: tuple[Path, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._samples)

    def sample_id(self, index: int) -> str:
        ref, number = self._samples[index]
        return f"{ref['ref_id']}" if number == 0 else f"{ref['ref_id']}#{number}"

    def object_key(self, index: int) -> Any:
        """What the sample's object is counted by: all expressions of one ref are of one object."""
        return self._samples[index][0]["ref_id"]

    def image_key(self, index: int) -> Any:
        """What the sample's picture is counted by."""
        return self._samples[index][0]["image_id"]

    def picture_path(self, index: int) -> Path:
        """The file of a sample's picture, which need not be there."""
        return self._find_image(self._image_entry(self._samples[index][0]))

    def _image_entry(self, ref: dict) -> dict:
        if ref["image_id"] not in self._image_entries:
            raise ValueError(f"{self._instances_path}: image {ref['image_id']} of ref {ref['ref_id']} is not there")
        return self._image_entries[ref["image_id"]]

    def _find_image(self, entry: dict) -> Path:
        path = resolve_inside(self._images, entry["file_name"])
        stem = Path(entry["file_name"]).stem
        if path.is_file() or not stem.isdigit():
            return path
        # ImageCLEF's own archive keeps pictures by thousands: 19579.jpg lies in 19/images/.
        nested = self._images / f"{int(stem) // 1000:02d}" / "images" / entry["file_name"]
        return nested if nested.is_file() else path

    def _load(self, path: Path) -> np.ndarray:
        if self._last is None or self._last[0] != path:
            self._last = (path, load_image(path))
        return self._last[1]

    def _target(self, ref: dict, height: int, width: int) -> tuple[np.ndarray, list[dict]]:
        """(`[H, W]` bool, the annotations it is made of; none where the expression means nothing)."""
        ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        target, annotations = np.zeros((height, width), bool), []
        for number in ids:
            if number == NO_TARGET:
                continue
            where = f"{self._instances_path}: annotation {number}"
            if number not in self._annotations:
                raise ValueError(f"{where} of ref {ref['ref_id']} is not there")
            if self._general and self._annotations[number].get("iscrowd"):
                continue  # as in gRefCOCO's own loader
            annotations.append(self._annotations[number])
            mask = annotation_mask(annotations[-1]["segmentation"], height, width, where)
            if not mask.any():
                raise ValueError(f"{where}: an object without a pixel")
            target |= mask
        return target, annotations

    def __getitem__(self, index: int) -> Sample:
        ref, number = self._samples[index]
        entry = self._image_entry(ref)
        path = self._find_image(entry)
        image = self._load(path)
        height, width = image.shape[:2]
        if (entry.get("height", height), entry.get("width", width)) != (height, width):
            said = [entry.get("height"), entry.get("width")]
            raise ValueError(f"{path}: the picture is {[height, width]} but {self._instances_path} says {said}")
        target, annotations = self._target(ref, height, width)
        categories = {self._categories.get(annotation.get("category_id")) for annotation in annotations}
        return Sample(
            sample_id=self.sample_id(index),
            image=image,
            text=read_sentence(ref["sentences"][number], f"{self._refs_path}: ref {ref['ref_id']}"),
            target=target,
            box=_only_box(annotations, height, width),
            image_name=entry["file_name"],
            image_key=str(path),
            object_id=ref["ann_id"],
            category=categories.pop() if len(categories) == 1 else None,
        )


def read_sentence(sentence: Any, where: str) -> str:
    """The expression, as it was cleaned (`sent`) or written (`raw`)."""
    text = (sentence.get("sent") or sentence.get("raw")) if isinstance(sentence, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: a sentence without text ('sent' or 'raw')")
    return text.strip()


def _only_box(annotations: list[dict], height: int, width: int) -> Box | None:
    return read_box(annotations[0], height, width) if len(annotations) == 1 else None

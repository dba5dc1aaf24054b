"""Referring datasets as parquet files, the way the Hub stores them -> samples.

Two forms are in use, told apart by their columns (one row per object, all expressions in it):

`lmms-lab/RefCOCO` and its kin    image {bytes, path}, answer [text], segmentation [x, y, ...], bbox, question_id
`jxu124/refcoco` and its kin      sentences [{sent, raw}], raw_anns (JSON), raw_image_info (JSON), ref_id, image_path;
                                  without pictures: those lie in `images`

Only rows that are asked for are read; a row group is held at a time.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet

from segagent.data.base import first
from segagent.data.coco import segmentation_to_mask
from segagent.data.images import load_image, resolve_inside
from segagent.data.referring import COCO_FOLDERS, find_folder, read_sentence
from segagent.masks import bounding_box
from segagent.types import Sample

EMBEDDED = ("image", "answer", "segmentation")
LINKED = ("sentences", "raw_anns", "raw_image_info")


def list_files(root: Path, split: str) -> list[Path]:
    """`**/SPLIT-*.parquet` or `**/SPLIT/*.parquet` below `root`, sorted. Raises `ValueError` with what there is."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder (data.root)")
    files = sorted(root.rglob("*.parquet"))
    found = [path for path in files if split in (path.stem, path.stem.split("-")[0], path.parent.name)]
    if not found:
        there = ", ".join(sorted({path.stem.split("-")[0] for path in files})) or "no parquet file"
        raise ValueError(f"{root}: no file {split}-*.parquet or {split}/*.parquet (data.split); there: {there}")
    return found


class HubParquet:
    """root: the downloaded folder. split: as its files are named (`val`, `testA`; some say `validation`).
    level: `expression`, or `instance` (the first expression of each row). images: folder of the pictures, for files
    that do not hold them. Raises `ValueError` naming file and row for anything missing or unsound.
    """

    def __init__(
        self,
        *,
        root: str,
        split: str = "val",
        level: str = "expression",
        images: str | None = None,
        limit: int | None = None,
    ) -> None:
        if level not in ("expression", "instance"):
            raise ValueError(f"data.level={level!r}: choose expression or instance")
        self._files = list_files(Path(root), split)
        stems = Counter(path.stem for path in self._files)
        twice = [path for path in self._files if stems[path.stem] > 1]
        if twice:  # ids are made of the names
            raise ValueError(f"{twice[0]} and {twice[1]}: have one name; data.root is to be the folder of one dataset")
        self._linked = _is_linked(self._files[0])
        self._images = None
        if self._linked:
            roots = [Path(root)] if images is None else [Path(images)]
            names = COCO_FOLDERS if images is None else ("", *COCO_FOLDERS)
            self._images = find_folder(roots, names, "these files hold no pictures; say data.images=DIR")
        self._samples: list[tuple[int, int, int, int]] = []  # file, row group, row in it, expression
        for number, path in enumerate(self._files):
            self._add_file(number, path, level)
        self._samples = first(self._samples, limit)
        if not self._samples:
            raise ValueError(f"{self._files[0]}: no row with an expression")
        self._group: tuple[tuple[int, int], pyarrow.Table] | None = None

    def _add_file(self, number: int, path: Path, level: str) -> None:
        column = "sentences" if self._linked else "answer"
        try:
            with parquet.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    for row, texts in enumerate(file.read_row_group(group, columns=[column])[column].to_pylist()):
                        count = len(_listed(texts)) if level == "expression" else min(1, len(_listed(texts)))
                        self._samples += [(number, group, row, expression) for expression in range(count)]
        except (pyarrow.ArrowException, OSError, KeyError) as error:
            raise ValueError(f"{path}: not a whole parquet file of this form ({error}); fetch it again") from None

    def __len__(self) -> int:
        return len(self._samples)

    def sample_id(self, index: int) -> str:
        number, group, row, expression = self._samples[index]
        name = f"{self._files[number].stem}/{group}/{row}"
        return name if expression == 0 else f"{name}#{expression}"

    def object_key(self, index: int) -> Any:
        """What the sample's object is counted by: a row is an object."""
        return self._samples[index][:3]

    def picture_path(self, index: int) -> Path | None:
        """The file of a sample's picture, which need not be there; None where the rows hold the pictures."""
        return self._linked_path(*self._row(index)) if self._linked else None

    def _row(self, index: int) -> tuple[dict, str]:
        """(row, where it is, for messages)."""
        number, group, row, _ = self._samples[index]
        path = self._files[number]
        if self._group is None or self._group[0] != (number, group):
            try:
                with parquet.ParquetFile(path) as file:
                    self._group = ((number, group), file.read_row_group(group))
            except (pyarrow.ArrowException, OSError) as error:
                raise ValueError(f"{path}: row group {group} cannot be read ({error}); fetch it again") from None
        return self._group[1].slice(row, 1).to_pylist()[0], f"{path}: row {row} of group {group}"

    def __getitem__(self, index: int) -> Sample:
        row, where = self._row(index)
        expression = self._samples[index][3]
        try:
            facts = self._linked_facts(row, where) if self._linked else _embedded_facts(row, where)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{where}: not laid out as expected ({error!r})") from None
        image, segmentation = facts.pop("image"), facts.pop("segmentation")
        target = segmentation_to_mask(segmentation, *image.shape[:2], where)
        if not target.any():
            raise ValueError(f"{where}: empty target")
        sentences = row["sentences"] if self._linked else [{"sent": text} for text in _listed(row["answer"])]
        return Sample(
            sample_id=self.sample_id(index),
            image=image,
            text=read_sentence(sentences[expression], where),
            target=target,
            box=bounding_box(target),
            **facts,
        )

    def _linked_path(self, row: dict, where: str) -> Path:
        try:
            return resolve_inside(self._images, json.loads(row["raw_image_info"])["file_name"])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{where}: not laid out as expected ({error!r})") from None

    def _linked_facts(self, row: dict, where: str) -> dict[str, Any]:
        annotation, entry = json.loads(row["raw_anns"]), json.loads(row["raw_image_info"])
        path = self._linked_path(row, where)
        image = load_image(path)
        if (entry["height"], entry["width"]) != image.shape[:2]:
            said = [entry["height"], entry["width"]]
            raise ValueError(f"{path}: the picture is {list(image.shape[:2])} but {where} says {said}")
        return {
            "image": image,
            "segmentation": annotation["segmentation"],
            "image_name": entry["file_name"],
            "image_key": str(path),
            "object_id": row["ann_id"],
        }


def _listed(texts: Any) -> list:
    """A column of texts, or of lists of them."""
    return [texts] if isinstance(texts, str) else texts or []


def _is_linked(path: Path) -> bool:
    try:
        columns = set(parquet.read_schema(path).names)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a parquet file ({error}); fetch it again") from None
    if columns.issuperset(LINKED):
        return True
    if columns.issuperset(EMBEDDED):
        return False
    raise ValueError(f"{path}: columns {', '.join(sorted(columns))}: need {', '.join(EMBEDDED)} or {', '.join(LINKED)}")


def _embedded_facts(row: dict, where: str) -> dict[str, Any]:
    data = row["image"]["bytes"]
    if not data:
        raise ValueError(f"{where}: the row holds no picture")
    segmentation = row["segmentation"]
    if segmentation and not isinstance(segmentation[0], list):
        segmentation = [segmentation]
    name = row.get("file_name") or row["image"].get("path") or where
    return {
        "image": load_image(where, io.BytesIO(data)),
        "segmentation": segmentation,
        "image_name": name,
        "image_key": hashlib.sha256(data).hexdigest(),  # names of files are those of other folders' files too
        "object_id": row.get("question_id"),
    }

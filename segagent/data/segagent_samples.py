"""Official SegAgent-Data JSON as an evaluation source: its targets and captions -> samples; its clicks are not used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segagent.data.base import first
from segagent.data.images import load_image, resolve_inside
from segagent.data.segagent_json import image_path_of, is_refclef, read_official
from segagent.masks import bounding_box, decode_rle
from segagent.types import Sample, Trajectory


def name_unknown(entries: Iterable[Trajectory]) -> Iterator[Trajectory]:
    """The released evaluation's rule: a record whose first caption is `Unknown` has one only, the picture's path
    without its last six characters (`bag_01.jpg` -> `bag_`).
    """
    named = None
    for entry in entries:
        record = entry.sample_id.split("#")[0]
        if entry.sample_id == record and entry.text == "Unknown":
            named = record
            yield replace(entry, text=image_path_of(entry.image_name)[:-6])
        elif record != named:
            yield entry


class SegAgentJson:
    """Every caption of every record is one sample, in the order of the file.

    annotations: the JSON file. images: folder that `image_name` is relative to (a COCO id means
    `mscoco/images/train2014/COCO_train2014_ID.jpg` in it, in a file whose name holds `refclef` a picture of ImageCLEF).
    include: regular expression that the path must match somewhere. unknown: what a caption `Unknown` means: itself
    (`text`), or what the released evaluation makes of it (`name`, see `name_unknown`). Raises `ValueError` naming file
    and record.
    """

    def __init__(
        self,
        *,
        annotations: str,
        images: str,
        include: str | None = None,
        unknown: str = "text",
        limit: int | None = None,
    ) -> None:
        if unknown not in ("text", "name"):
            raise ValueError(f"data.unknown={unknown!r}: choose text or name")
        if not Path(annotations).is_file():
            raise ValueError(f"{annotations}: no such file (data.annotations)")
        if not Path(images).is_dir():
            raise ValueError(f"{images}: no such folder (data.images)")
        self._path, self._images = annotations, images
        self._refclef = is_refclef(annotations)
        entries = read_official(annotations)
        self._entries = [
            replace(entry, steps=())  # its clicks are not used
            for entry in (name_unknown(entries) if unknown == "name" else entries)
            if include is None or re.search(include, self._place(entry))
        ]
        if not self._entries:
            raise ValueError(f"{annotations}: no record to work on (data.include={include!r})")
        self._entries = first(self._entries, limit)
        self._last: tuple[Path, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def sample_id(self, index: int) -> str:
        return self._entries[index].sample_id

    def object_key(self, index: int) -> Any:
        """What the sample's object is counted by: a record is an object."""
        return self._entries[index].sample_id.split("#")[0]

    def image_key(self, index: int) -> Any:
        """What the sample's picture is counted by."""
        return self._entries[index].image_name

    def picture_path(self, index: int) -> Path:
        """The file of a sample's picture, which need not be there."""
        return resolve_inside(self._images, self._place(self._entries[index]))

    def _place(self, entry: Trajectory) -> str:
        return image_path_of(entry.image_name, refclef=self._refclef)

    def __getitem__(self, index: int) -> Sample:
        entry, path = self._entries[index], self.picture_path(index)
        if self._last is None or self._last[0] != path:
            self._last = (path, load_image(path))
        image = self._last[1]
        if image.shape[:2] != (entry.height, entry.width):
            said, found = [entry.height, entry.width], list(image.shape[:2])
            raise ValueError(f"{path}: the picture is {found} but record {entry.sample_id} of {self._path} says {said}")
        target = decode_rle(entry.target, f"{self._path}: record {entry.sample_id}")
        return Sample(
            sample_id=entry.sample_id,
            image=image,
            text=entry.text,
            target=target,
            box=bounding_box(target),
            image_name=entry.image_name,
            image_key=str(path),
            object_id=entry.object_id,
        )

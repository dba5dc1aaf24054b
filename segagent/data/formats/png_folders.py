"""PNG masks: `masks/NAME.png` (255 object, 128 void, 0 else), `texts.json`, and `images/NAME.*` beside; what
`data=mask_folders data.void_value=128` reads."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from segagent.data.formats.base import find_picture, need_target, object_trajectory, picture_path
from segagent.data.images import load_label_map, resolve_inside
from segagent.data.mask_folders import list_pictures, split_labels
from segagent.masks import decode_rle
from segagent.types import Trajectory

OBJECT, VOID = 255, 128


def file_name(sample_id: str) -> str:
    """A sample id as a file name: characters that some file system refuses become `_`."""
    return re.sub(r"[^\w.+-]", "_", sample_id)


class PngFolders:
    """One mask per sample. `texts.json` holds its text, `objects.json` the id, picture, object id and category.

    Cannot say: clicks. Where `objects.json` says nothing of a mask, its picture is the one of its name in `images`, or
    in images/ beside the masks. path: folder with masks/ in it. images: folder of the pictures, to copy them to images/
    when writing (one per sample); None: masks and texts only.
    """

    holds = ("void pixels", "texts", "categories")

    def __init__(self, *, path: str, images: str | None = None) -> None:
        self.path = Path(path)
        self.images = images

    def read(self) -> Iterator[Trajectory]:
        masks = list_pictures(self.path / "masks")
        texts, objects = self._json("texts.json"), self._json("objects.json")
        for stem, path in masks.items():
            target, void = split_labels(load_label_map(path), path, None, VOID)
            facts = {"sample_id": stem, "image_name": None, "object_id": None, "category": None}
            facts |= objects.get(stem, {})
            if facts["image_name"] is None:
                facts["image_name"] = self._picture(stem, path)
            text = texts.get(stem, stem.replace("_", " "))
            yield object_trajectory(target, text=text, void=void if void.any() else None, **facts)

    def _picture(self, stem: str, mask: Path) -> str:
        """The picture's path; where there is none, a name of its own, that of the mask."""
        folder = self.path / "images" if self.images is None else Path(self.images)
        try:
            return find_picture(folder, stem).relative_to(folder).as_posix()
        except ValueError:
            return mask.relative_to(self.path / "masks").as_posix()

    def _json(self, name: str) -> dict:
        path = self.path / name
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
        if not isinstance(content, dict):
            raise ValueError(f"{path}: expected a JSON object with an entry per mask")
        return content

    def write(self, trajectories: Iterable[Trajectory]) -> int:
        (self.path / "masks").mkdir(parents=True, exist_ok=True)
        texts: dict[str, str] = {}
        objects: dict[str, dict] = {}
        for trajectory in trajectories:
            name = file_name(trajectory.sample_id)
            if name in texts:
                raise ValueError(f"sample {trajectory.sample_id!r}: two samples would be written to {name}.png")
            labels = np.where(decode_rle(need_target(trajectory)), OBJECT, 0).astype(np.uint8)
            if trajectory.void is not None:
                labels[decode_rle(trajectory.void)] = VOID
            Image.fromarray(labels).save(self.path / "masks" / f"{name}.png")
            texts[name] = trajectory.text
            objects[name] = {
                "sample_id": trajectory.sample_id,
                "image_name": trajectory.image_name,
                "object_id": trajectory.object_id,
                "category": trajectory.category,
            }
            if self.images is not None:
                self._copy(trajectory, name)
        for stem, content in (("texts", texts), ("objects", objects)):
            (self.path / f"{stem}.json").write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        return len(texts)

    def _copy(self, trajectory: Trajectory, name: str) -> None:
        source = resolve_inside(self.images, picture_path(trajectory))
        if not source.is_file():
            raise ValueError(f"{source}: no such image file (images=DIR)")
        (self.path / "images").mkdir(exist_ok=True)
        shutil.copyfile(source, self.path / "images" / f"{name}{source.suffix}")

"""ReasonSeg (LISA): `root/SPLIT/*.jpg`, each with a LabelMe-like `.json` beside it -> samples.

A file holds `text` (instructions), `is_sentence`, and `shapes` of points `[[x, y], ...]`. Shapes are drawn largest
first, outline included; a label with "ignore" in it marks void pixels, `flag` is a leftover without meaning, every
other label is the target. A later (smaller) shape covers what it lies on, so an ignored hole in a target is a hole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segagent.data.base import first
from segagent.data.images import load_image
from segagent.masks import FARTHEST, bounding_box
from segagent.types import Sample

TARGET, IGNORE = 1, 255


def read_annotation(path: Path) -> dict:
    """The JSON, in UTF-8 or, as some of the published files are, in Windows' code page 1252.

    Raises `ValueError` naming the file and the key that is missing.
    """
    content = None
    for encoding in ("utf-8", "cp1252"):
        try:
            content = json.loads(path.read_text(encoding=encoding))
            break
        except UnicodeDecodeError:
            continue
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
    missing = [key for key in ("text", "is_sentence", "shapes") if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"{path}: key {missing[0]!r} is missing: not an annotation of ReasonSeg")
    texts = [content["text"]] if isinstance(content["text"], str) else content["text"]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{path}: 'text' holds no instruction, or an empty one")
    return content | {"text": texts}


def _outline(shape: Any, where: str) -> tuple[str, np.ndarray]:
    """(label, corners `[N, 1, 2]` int32) of a shape; fractions are cut off, as the publisher does."""
    try:
        corners = np.asarray(shape["points"], float)
        label = str(shape["label"]).lower()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: broken ({error!r}); expected a label and points [[x, y], ...]") from None
    if corners.ndim != 2 or corners.shape[1] != 2 or not np.isfinite(corners).all():
        raise ValueError(f"{where}: points are {list(corners.shape)} numbers; expected [[x, y], ...]")
    if np.abs(corners).max() > FARTHEST:
        raise ValueError(f"{where}: a point at {corners[np.abs(corners).max(1).argmax()].tolist()}; expected pixels")
    return label, corners.astype(np.int32)[:, None]


def draw_shapes(shapes: list, height: int, width: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """(target, void), `[height, width]` bool each."""
    outlines = [_outline(shape, f"{where}: shape {number}") for number, shape in enumerate(shapes)]
    drawn = [(label, _fill(corners, height, width)) for label, corners in outlines if label != "flag"]
    labels = np.zeros((height, width), np.uint8)
    # Of equal areas the later one comes first, as in the publisher's reversed sort.
    for label, region in sorted(reversed(drawn), key=lambda pair: -int(pair[1].sum())):
        labels[region] = IGNORE if "ignore" in label else TARGET
    return labels == TARGET, labels == IGNORE


def _fill(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    region = np.zeros((height, width), np.uint8)
    cv2.polylines(region, [corners], True, 1, 1)
    cv2.fillPoly(region, [corners], 1)
    return region.view(bool)


class ReasonSeg:
    """root: folder with SPLIT/ in it (or ReasonSeg/SPLIT/). split: train, val, test. texts: `first` instruction of each
    picture (how the published numbers are made) or `all` (one sample each). `category` of a sample is `sentence` or
    `phrase`. Raises `ValueError` naming the file for anything missing or unsound.
    """

    def __init__(self, *, root: str, split: str = "val", texts: str = "first", limit: int | None = None) -> None:
        if texts not in ("first", "all"):
            raise ValueError(f"data.texts={texts!r}: choose first or all")
        tried = [Path(root) / split, Path(root) / "ReasonSeg" / split, Path(root) / "reason_seg/ReasonSeg" / split]
        folder = next((path for path in tried if path.is_dir()), None)
        if folder is None:
            raise ValueError(f"{tried[0]}: no such folder; looked for {', '.join(map(str, tried))}")
        self._entries: list[tuple[Path, int, dict]] = []
        for path in sorted(folder.glob("[!.]*.json")):
            content = read_annotation(path)
            count = len(content["text"]) if texts == "all" else 1
            self._entries += [(path, number, content) for number in range(count)]
        alone = [path for path in sorted(folder.glob("[!.]*.jpg")) if not path.with_suffix(".json").is_file()]
        if alone:
            raise ValueError(f"{alone[0]}: no annotation (.json) beside it ({len(alone)} pictures have none)")
        if not self._entries:
            raise ValueError(f"{folder}: holds no annotation (*.json)")
        self._entries = list(first(self._entries, limit))

    def __len__(self) -> int:
        return len(self._entries)

    def sample_id(self, index: int) -> str:
        path, number, _ = self._entries[index]
        return path.stem if number == 0 else f"{path.stem}#{number}"

    def object_key(self, index: int) -> Any:
        """What the sample's object is counted by."""
        return self._entries[index][0].stem

    image_key = object_key

    def picture_path(self, index: int) -> Path:
        """The file of a sample's picture, which need not be there."""
        return self._entries[index][0].with_suffix(".jpg")

    def __getitem__(self, index: int) -> Sample:
        path, number, content = self._entries[index]
        picture = self.picture_path(index)
        image = load_image(picture)
        target, void = draw_shapes(content["shapes"], *image.shape[:2], str(path))
        if not target.any():
            raise ValueError(f"{path}: no shape marks a target")
        return Sample(
            sample_id=self.sample_id(index),
            image=image,
            text=content["text"][number].strip(),
            target=target,
            void=void if void.any() else None,
            box=bounding_box(target),
            image_name=f"{path.parent.name}/{picture.name}",
            image_key=str(picture),
            object_id=path.stem,
            category="sentence" if content["is_sentence"] else "phrase",
        )

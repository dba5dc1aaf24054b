"""LabelMe: a folder of `STEM.json`, one per picture, with a shape for every part of an object.

A mask that polygons can say exactly is written as polygons, all of one object under one `group_id`; any other one as a
shape of type `mask` (LabelMe 5.2 and later): a box and the pixels in it as a PNG in base64.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segagent.data.formats.base import (
    flat_names,
    group_by_object,
    group_by_picture,
    need_target,
    object_trajectory,
    read_text,
)
from segagent.data.mask_folders import is_hidden
from segagent.masks import bounding_box, decode_rle, mask_to_polygons, polygons_to_mask
from segagent.types import Trajectory


class LabelMeFolder:
    """A shape's `label` is the category (or the text), its `description` the text, of several a line each.

    Cannot say: clicks, void pixels, sample and object ids (they become STEM/NUMBER and the group's number), empty
    targets (refused). Shapes without `group_id` are objects of their own. LabelMe looks for `imagePath` from the folder
    of its JSON file: it is written so, and read into a path below `images`. path: folder of the JSON files. images: of
    the pictures; None: `path`.
    """

    holds = ("texts", "categories")

    def __init__(self, *, path: str, images: str | None = None) -> None:
        self.path, self.images, self.given = Path(path), Path(path if images is None else images), images is not None
        if self.given and not self.images.is_dir():
            raise ValueError(f"images={images}: no such folder; LabelMe's files say where the pictures are")

    def read(self) -> Iterator[Trajectory]:
        found = sorted(self.path.glob("*.json")) if self.path.is_dir() else []
        files = [path for path in found if not is_hidden(path, self.path)]
        if not files:
            raise ValueError(f"{self.path}: no such folder, or no *.json in it")
        for path in files:
            try:
                content = json.loads(read_text(path))
                yield from _objects(content, path, self._picture(str(content["imagePath"]), path))
            except KeyError as error:
                raise ValueError(f"{path}: key {error} is missing: not a LabelMe file") from None
            except TypeError as error:
                raise ValueError(f"{path}: not laid out as LabelMe does ({error})") from None
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}: not JSON ({error})") from None

    def _picture(self, named: str, path: Path) -> str:
        """`imagePath` of a file -> path below `images`: what it means where that is there, else the file of that path,
        or that name, below `images`. Raises `ValueError` where `images` has none of them and it leads elsewhere."""
        named = named.replace("\\", "/")
        root, place = (Path(os.path.abspath(there)) for there in (self.images, path.parent / named))
        means = [place.relative_to(root).as_posix()] if place.is_relative_to(root) else []
        below = [name for name in (named, Path(named).name) if not ({".."} & set(Path(name).parts) or ":" in name)]
        below = [name for name in below if not Path(name).is_absolute()]
        there = [name for name in (*means, *below) if (root / name).is_file()]
        if not there and not means and self.given:
            raise ValueError(f"{path}: imagePath {named!r} is not below {self.images} (images=DIR, of the pictures)")
        return [*there, *means, Path(named).name][0]

    def write(self, trajectories: Iterable[Trajectory]) -> int:
        groups = group_by_picture(trajectories)
        names = flat_names(groups)
        self.path.mkdir(parents=True, exist_ok=True)
        for picture, group in groups.items():
            shapes = [shape for number, made in enumerate(group_by_object(group)) for shape in _shapes(made, number)]
            content = {
                "version": "5.2.1",
                "flags": {},
                "shapes": shapes,
                "imagePath": Path(os.path.relpath(self.images / picture, self.path)).as_posix(),
                "imageData": None,
                "imageHeight": group[0].height,
                "imageWidth": group[0].width,
            }
            (self.path / f"{names[picture]}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return sum(map(len, groups.values()))


def _shapes(expressions: list[Trajectory], group: int) -> list[dict]:
    """Of one object."""
    trajectory = expressions[0]
    mask = decode_rle(need_target(trajectory))
    box = bounding_box(mask)
    if box is None:
        raise ValueError(f"sample {trajectory.sample_id!r}: an empty target, which LabelMe cannot say")
    common = {
        "label": trajectory.category or trajectory.text,
        "description": "\n".join(" ".join(expression.text.split("\n")) for expression in expressions),
        "group_id": group,
        "flags": {},
    }
    polygons = mask_to_polygons(mask)
    if (polygons_to_mask(polygons, *mask.shape) == mask).all():
        return [
            {**common, "points": [list(pair) for pair in zip(flat[::2], flat[1::2], strict=True)]}
            | {"shape_type": "polygon", "mask": None}
            for flat in polygons
        ]
    buffer = io.BytesIO()
    Image.fromarray(mask[box.y0 : box.y1, box.x0 : box.x1].astype(np.uint8) * 255).convert("1").save(buffer, "PNG")
    # LabelMe's box of a mask shape names its last row and column, not one past them.
    corners = [[float(box.x0), float(box.y0)], [float(box.x1 - 1), float(box.y1 - 1)]]
    coded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return [{**common, "points": corners, "shape_type": "mask", "mask": coded}]


def _draw(shape: dict, height: int, width: int, where: str) -> np.ndarray:
    kind, points = shape.get("shape_type", "polygon"), np.asarray(shape["points"], float)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"{where}: points are not [[x, y], ...]")
    try:
        if kind == "polygon":
            return polygons_to_mask([points.ravel().tolist()], height, width)
        if kind == "rectangle":
            (x0, y0), (x1, y1) = points.min(0), points.max(0)
            return polygons_to_mask([[x0, y0, x1, y0, x1, y1, x0, y1]], height, width)
        if kind == "mask":
            return _paste(shape["mask"], points, height, width)
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}: broken ({error})") from None
    raise ValueError(f"{where}: shape_type {kind!r} has no area here; polygon, rectangle and mask have")


def _paste(coded: str, points: np.ndarray, height: int, width: int) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))).convert("L")) > 0
    x, y = (int(side) for side in points[0])
    if x < 0 or y < 0 or y + pixels.shape[0] > height or x + pixels.shape[1] > width:
        raise ValueError(f"a mask of {list(pixels.shape)} at [{x}, {y}] does not fit into {[height, width]}")
    mask = np.zeros((height, width), bool)
    mask[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    return mask


def _objects(content: dict, path: Path, picture: str) -> Iterator[Trajectory]:
    height, width = int(content["imageHeight"]), int(content["imageWidth"])
    objects: dict[Any, list[int]] = {}
    for number, shape in enumerate(content["shapes"]):
        group = shape.get("group_id")
        objects.setdefault(("alone", number) if group is None else (group, shape["label"]), []).append(number)
    for index, numbers in enumerate(objects.values()):
        shapes = [content["shapes"][number] for number in numbers]
        parts = [_draw(shape, height, width, f"{path}: shape {k}") for shape, k in zip(shapes, numbers, strict=True)]
        said = [line for line in (shapes[0].get("description") or "").split("\n") if line.strip()]
        for number, text in enumerate(said or [shapes[0]["label"]]):
            yield object_trajectory(
                np.logical_or.reduce(parts),
                sample_id=f"{path.stem}/{index}" + (f"#{number}" if number else ""),
                image_name=picture,
                text=text,
                object_id=index,
                category=shapes[0]["label"],
            )

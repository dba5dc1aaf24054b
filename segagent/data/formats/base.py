"""What every file format is, and objects without clicks as trajectories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segagent.data.images import IMAGE_SUFFIXES, image_size
from segagent.data.predictions import empty_rle
from segagent.data.segagent_json import image_path_of
from segagent.masks import encode_rle
from segagent.types import InitKind, Trajectory


class FileFormat(Protocol):
    """path: the file or folder. images: folder of the pictures, where the format needs their sizes or copies them.

    `read` raises `ValueError` naming file and place for what is unsound, `write` for what cannot be said in the format;
    it returns how many trajectories it wrote. holds: which of the facts that
    scripts/convert.py counts survive in the format. categories: of formats that number them, their names in that order:
    what `read` found, and what `write` begins with, so that files of one data set (train, val) agree; may be missing.
    """

    holds: tuple[str, ...]

    def read(self) -> Iterator[Trajectory]: ...

    def write(self, trajectories: Iterable[Trajectory]) -> int: ...


def object_trajectory(
    target: np.ndarray, *, sample_id: str, image_name: str | int, text: str, **facts: Any
) -> Trajectory:
    """An object nobody has clicked yet: `[H, W]` bool target, empty start, no steps.

    facts: further fields of `Trajectory` (object_id, category, void as `[H, W]` bool or None).
    """
    height, width = target.shape
    void = facts.pop("void", None)
    return Trajectory(
        sample_id=sample_id,
        image_name=image_name,
        height=height,
        width=width,
        text=text,
        target=encode_rle(target),
        void=None if void is None else encode_rle(void),
        init=InitKind.EMPTY,
        init_mask=empty_rle(height, width),
        init_iou=0.0 if target.any() else 1.0,
        **facts,
    )


def read_text(path: Path) -> str:
    """A text file in UTF-8. Raises `ValueError` naming it when it is none."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error})") from None


def need_target(trajectory: Trajectory) -> dict:
    """Its target as RLE. Raises `ValueError` when there is none."""
    if trajectory.target is None:
        raise ValueError(f"sample {trajectory.sample_id!r}: has no target mask, and this format holds nothing else")
    return trajectory.target


def picture_path(trajectory: Trajectory) -> str:
    """The picture's path relative to the image root; a COCO id becomes the path it stands for."""
    return image_path_of(trajectory.image_name)


def group_by_picture(trajectories: Iterable[Trajectory]) -> dict[str, list[Trajectory]]:
    """Picture path -> its trajectories, both in order of appearance. Raises `ValueError` for unequal sizes."""
    groups: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        group = groups.setdefault(picture_path(trajectory), [])
        if group and (group[0].height, group[0].width) != (trajectory.height, trajectory.width):
            raise ValueError(
                f"sample {trajectory.sample_id!r}: another size than {group[0].sample_id!r} on one picture"
            )
        group.append(trajectory)
    return groups


def group_by_object(group: Iterable[Trajectory]) -> list[list[Trajectory]]:
    """Samples of one picture -> one list per object; an object id that is None says nothing."""
    objects: list[list[Trajectory]] = []
    for trajectory in group:
        same = (
            found
            for found in objects
            if trajectory.object_id is not None
            and (found[0].object_id, found[0].target, found[0].category)
            == (trajectory.object_id, trajectory.target, trajectory.category)
        )
        home = next(same, None)
        if home is None:
            objects.append([trajectory])
        else:
            home.append(trajectory)
    return objects


def numbered(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Categories in the order of their numbers: known ones as they are, then the others, sorted."""
    return [*dict.fromkeys(known), *sorted(set(names) - set(known))]


def flat_names(paths: Iterable[str]) -> dict[str, str]:
    """Picture path -> its file name without folders and suffix. Raises `ValueError` when two become one."""
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for path in paths:
        names[path] = Path(path).stem
        twin = owners.setdefault(names[path], path)
        if twin != path:
            raise ValueError(f"{twin} and {path} have one name, and this format has one file per name")
    return names


def find_picture(folder: Path, stem: str) -> Path:
    """`folder/stem.SUFFIX`. Raises `ValueError` when there is none."""
    for suffix in sorted(IMAGE_SUFFIXES):
        for path in (folder / f"{stem}{suffix}", folder / f"{stem}{suffix.upper()}"):
            if path.is_file():
                return path
    raise ValueError(f"{folder / stem}: no picture of this name ({', '.join(sorted(IMAGE_SUFFIXES))})")


def picture_size(folder: Path, stem: str) -> tuple[Path, int, int]:
    """(path, height, width) of the picture with this name, without decoding it."""
    path = find_picture(folder, stem)
    return path, *image_size(path)

"""YOLO segmentation: `labels/NAME.txt`, a line `CLASS x y x y ...` per object (corners in [0, 1]), and `data.yaml`.

NAME is the picture's path, so that `labels/` has the folders of `images/`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from segagent.data.formats.base import (
    group_by_object,
    group_by_picture,
    need_target,
    numbered,
    object_trajectory,
    picture_size,
    read_text,
)
from segagent.data.images import resolve_inside
from segagent.data.mask_folders import is_hidden
from segagent.masks import decode_rle, mask_to_polygons, polygons_to_mask
from segagent.types import Trajectory

log = logging.getLogger(__name__)


def join_parts(polygons: list[list[float]]) -> np.ndarray:
    """Polygons of one object -> one `[N, 2]` outline, parts joined by bridges of no width.

    The format has one outline per object. Each further part is entered and left at the corner that lies nearest to the
    outline so far, over the same two points, so that the bridge covers no pixel.
    """
    outline = np.asarray(polygons[0], float).reshape(-1, 2)
    for flat in polygons[1:]:
        part = np.asarray(flat, float).reshape(-1, 2)
        apart = ((outline[:, None] - part[None]) ** 2).sum(-1)
        at, corner = np.unravel_index(int(apart.argmin()), apart.shape)
        loop = np.concatenate([part[corner:], part[: corner + 1]])
        outline = np.concatenate([outline[: at + 1], loop, outline[at:]])
    return outline


class YoloSegFolder:
    """path: folder with labels/ and data.yaml in it. images: folder of the pictures (their size and suffix), None for
    `path/images`; pictures are neither copied nor needed to write.

    An object with several texts is one line. Cannot say: clicks, void pixels, texts other than the category, ids, holes
    (they are filled, and told), empty targets (refused). Bridges between parts may add pixels when drawn again: then
    what is read is close to what was written, not equal, and told too.
    """

    holds = ("categories",)

    def __init__(self, *, path: str, images: str | None = None) -> None:
        self.path = Path(path)
        self.images = self.path / "images" if images is None else Path(images)
        self.categories: list[str] = []

    def read(self) -> Iterator[Trajectory]:
        names = self._names()
        self.categories[:] = [names[number] for number in sorted(names)]
        files = [path for path in sorted((self.path / "labels").rglob("*.txt")) if not is_hidden(path, self.path)]
        if not files:
            raise ValueError(f"{self.path / 'labels'}: no such folder, or no *.txt in it")
        for path in files:
            stem = path.relative_to(self.path / "labels").with_suffix("").as_posix()
            picture, height, width = picture_size(self.images, stem)
            for number, line in enumerate(read_text(path).splitlines()):
                if line.strip():
                    where = f"{path}, line {number + 1}"
                    category, target = _read_line(line, names, height, width, where)
                    yield object_trajectory(
                        target,
                        sample_id=f"{stem}/{number}",
                        image_name=picture.relative_to(self.images).as_posix(),
                        text=category,
                        object_id=number,
                        category=category,
                    )

    def _names(self) -> dict[int, str]:
        path = self.path / "data.yaml"
        if not path.is_file():
            raise ValueError(f"{path}: no such file; it names the classes")
        try:
            names = OmegaConf.to_container(OmegaConf.load(path))["names"]
        except Exception as error:
            raise ValueError(f"{path}: key 'names' with the classes cannot be read ({error})") from None
        return dict(enumerate(names)) if isinstance(names, list) else {int(key): name for key, name in names.items()}

    def _label_paths(self, pictures: Iterable[str]) -> dict[str, Path]:
        """Picture -> its file of labels, in the folders below labels/ that the picture has below images/."""
        paths: dict[str, Path] = {}
        owners: dict[Path, str] = {}
        for picture in pictures:
            paths[picture] = resolve_inside(self.path / "labels", Path(picture).with_suffix(".txt").as_posix())
            twin = owners.setdefault(paths[picture], picture)
            if twin != picture:
                raise ValueError(f"{twin} and {picture} have one name, and this format has one file per name")
        return paths

    def write(self, trajectories: Iterable[Trajectory]) -> int:
        groups = group_by_picture(trajectories)
        paths = self._label_paths(groups)
        members = [trajectory for group in groups.values() for trajectory in group]
        classes = numbered((trajectory.category or trajectory.text for trajectory in members), self.categories)
        (self.path / "labels").mkdir(parents=True, exist_ok=True)
        total = changed = 0
        for picture, group in groups.items():
            lines = []
            for expressions in group_by_object(group):
                line, exact = _write_line(expressions[0], classes)
                lines.append(line)
                changed += not exact
            total += len(lines)
            paths[picture].parent.mkdir(parents=True, exist_ok=True)
            paths[picture].write_text("".join(lines), encoding="utf-8")
        # Without `path`: Ultralytics takes the folder of the file then, and for "." the one it is called in.
        content = {"train": "images", "val": "images", "names": dict(enumerate(classes))}
        OmegaConf.save(OmegaConf.create(content), self.path / "data.yaml")
        if changed:
            log.warning("%s: %d of %d masks have holes or parts that YOLO cannot say", self.path, changed, total)
        return len(members)


def _write_line(trajectory: Trajectory, classes: list[str]) -> tuple[str, bool]:
    """(line, whether drawing it gives the same mask)."""
    mask = decode_rle(need_target(trajectory))
    polygons = mask_to_polygons(mask)
    if not polygons:
        raise ValueError(f"sample {trajectory.sample_id!r}: an empty target, which YOLO cannot say")
    outline = join_parts(polygons)
    size = np.array([trajectory.width, trajectory.height], float)
    # Nine digits: corners come back within a millionth of a pixel.
    numbers = " ".join(f"{value:.9f}" for value in (outline / size).ravel())
    exact = bool((polygons_to_mask([outline.ravel().tolist()], *mask.shape) == mask).all())
    return f"{classes.index(trajectory.category or trajectory.text)} {numbers}\n", exact


def _read_line(line: str, names: dict[int, str], height: int, width: int, where: str) -> tuple[str, np.ndarray]:
    parts = line.split()
    try:
        number, values = int(parts[0]), np.asarray(parts[1:], float)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; expected CLASS x y x y ...") from None
    if number not in names:
        raise ValueError(f"{where}: class {number} is not named in data.yaml ({', '.join(map(str, names))})")
    if values.size < 6 or values.size % 2:
        raise ValueError(f"{where}: {values.size} numbers: need x, y of at least 3 corners (4 numbers are a box)")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{where}: corners are shares of the sides, in [0, 1]")
    corners = np.round(values.reshape(-1, 2) * (width, height), 5)
    return names[number], polygons_to_mask([corners.ravel().tolist()], height, width)

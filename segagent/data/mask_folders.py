"""A folder of photographs and a folder of masks with the same file names -> samples."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np

from segagent.data.base import first
from segagent.data.images import IMAGE_SUFFIXES, OTHER_SUFFIXES, load_image, load_label_map
from segagent.types import Sample

log = logging.getLogger(__name__)

_PREVIEWS = (".gif", ".jfif")  # often made of the picture beside them


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a part of the path below `folder` begins with a dot: such files are of systems and tools, as macOS leaves
    them beside every other, and Jupyter in folders of its own."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def list_pictures(folder: Path) -> dict[str, Path]:
    """Stem relative to the folder -> path of every picture below it, in sorted order.

    Pictures of kinds that cannot be read are told.
    Raises `ValueError` when the folder is missing or empty, or two pictures differ in their suffix only.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    unread: Counter[str] = Counter()
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if is_hidden(path, folder) or path.is_dir():
            continue
        if suffix in OTHER_SUFFIXES:
            unread[suffix] += 1
        if suffix not in IMAGE_SUFFIXES:
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found and (suffix in _PREVIEWS) != (found[stem].suffix.lower() in _PREVIEWS):
            kept, dropped = (found[stem], path) if suffix in _PREVIEWS else (path, found[stem])
            log.warning("%s: %s is left out beside %s", folder, dropped.name, kept.name)
            found[stem] = kept
            continue
        if stem in found:
            raise ValueError(f"{folder}: {found[stem].name} and {path.name} have one name; keep one of them")
        found[stem] = path
    if unread:
        told = ", ".join(f"{count} of {suffix}" for suffix, count in sorted(unread.items()))
        log.warning("%s: pictures that cannot be read are left out (%s); save them as JPEG or PNG", folder, told)
    if not found:
        raise ValueError(f"{folder}: holds no picture ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def split_labels(
    labels: np.ndarray, path: Path, threshold: int | None, void_value: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """`[H, W]` integer labels -> (target, void), `[H, W]` bool; void is None when `void_value` is None.

    Without `threshold` every non-zero pixel that is not void is the object, provided that only one such value occurs;
    soft edges or several labels are refused with `ValueError` rather than guessed at.
    """
    void = None if void_value is None else labels == void_value
    if threshold is not None:
        target = labels >= threshold
    else:
        target = labels != 0
        values = np.unique(labels[target if void is None else target & ~void])
        if values.size > 1:
            raise ValueError(
                f"{path}: object values {values[:6].tolist()}{'...' if values.size > 6 else ''} in one mask; say "
                "data.void_value=V for the pixels that do not count, or data.threshold=T for soft masks"
            )
    return (target if void is None else target & ~void), void


class MaskFolders:
    """`root/images` and `root/masks` (or any two folders) -> one sample per picture.

    root, images, masks: give `root`, or both others. texts: JSON file `{stem or file name: description}`; without it
    `text` describes every picture, where `{stem}` stands for the file's name. threshold: values from it on are the
    object (soft masks). void_value: this value marks pixels that never count. include: regular expression
    that the file name must match somewhere (None: all). allow_empty: accept masks without object.
    Raises `ValueError` naming the file when a partner, a text or the object is missing, or the sizes differ.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        images: str | None = None,
        masks: str | None = None,
        texts: str | None = None,
        text: str = "{stem}",
        threshold: int | None = None,
        void_value: int | None = None,
        include: str | None = None,
        allow_empty: bool = False,
        limit: int | None = None,
    ) -> None:
        if root is None and (images is None or masks is None):
            raise ValueError(
                "mask_folders: give data.root=DIR (with images/ and masks/), or data.images and data.masks"
            )
        image_folder = Path(images or Path(root) / "images")
        self._image_paths = {
            stem: path
            for stem, path in list_pictures(image_folder).items()
            if include is None or re.search(include, path.name)
        }
        if not self._image_paths:
            raise ValueError(f"{image_folder}: no picture's name matches data.include={include!r}")
        mask_folder = Path(masks or Path(root) / "masks")
        self._mask_paths = list_pictures(mask_folder)
        alone = [str(path) for stem, path in self._image_paths.items() if stem not in self._mask_paths]
        if alone:
            raise ValueError(f"{mask_folder}: no mask for {alone[0]} ({len(alone)} pictures have none)")
        self._stems = list(first(list(self._image_paths), limit))
        self._texts = None if texts is None else _read_texts(Path(texts))
        self._text, self._threshold, self._void_value, self._allow_empty = text, threshold, void_value, allow_empty
        if self._texts is not None:
            for stem in self._stems:
                self._describe(stem)

    def _describe(self, stem: str) -> str:
        if self._texts is None:
            return self._text.replace("{stem}", Path(stem).name.replace("_", " "))
        for key in (stem, self._image_paths[stem].name):
            if key in self._texts:
                return self._texts[key]
        raise ValueError(f"data.texts: no description for {stem!r}; add it, or give data.text for all")

    def __len__(self) -> int:
        return len(self._stems)

    def sample_id(self, index: int) -> str:
        return self._stems[index]

    def __getitem__(self, index: int) -> Sample:
        stem = self._stems[index]
        image_path, mask_path = self._image_paths[stem], self._mask_paths[stem]
        image, labels = load_image(image_path), load_label_map(mask_path)
        if labels.shape != image.shape[:2]:
            raise ValueError(f"{mask_path}: mask is {list(labels.shape)} but {image_path} is {list(image.shape[:2])}")
        target, void = split_labels(labels, mask_path, self._threshold, self._void_value)
        if not target.any() and not self._allow_empty:
            raise ValueError(f"{mask_path}: the mask marks no object; remove it, or say data.allow_empty=true")
        return Sample(
            sample_id=stem,
            image=image,
            text=self._describe(stem),
            target=target,
            void=void,
            image_name=image_path.name if "/" not in stem else f"{stem}{image_path.suffix}",
            image_key=str(image_path),
        )


def _read_texts(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file (data.texts)")
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"{path}: expected a JSON object {{name: description}}")
    return texts

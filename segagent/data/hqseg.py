"""The folders of HQSeg-44K that are test beds of high precision: DIS5K and ThinObject5K -> samples.

    DIS5K/DIS-TR|DIS-VD|DIS-TE1..4/im/*.jpg, gt/*.png         1#Accessories#1#Bag#2339506821_83cf9f1d22_o.jpg
    ThinObject5K/images_train|images_test/*.jpg, masks_train|masks_test/*.png

Neither set has expressions; an object is described by the category that its file's name tells.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

from segagent.data.mask_folders import MaskFolders
from segagent.types import Sample

# Soft edges of the published masks are cut where SAM-HQ's own evaluation does: what is above 128 is the object.
MIDDLE = 129


def dis_category(stem: str) -> str | None:
    """`1#Accessories#1#Bag#2339...` -> `bag`; None when the name is not of this form."""
    parts = stem.split("#")
    return _words(parts[3]) if len(parts) >= 5 and _words(parts[3]) else None


def leading_words(stem: str) -> str | None:
    """The words that a file's name begins with, `fishing_rod_0012` -> `fishing rod`; None when it begins otherwise."""
    found = re.match(r"[A-Za-z]+(?:[ _-]+[A-Za-z]+)*", stem)
    return _words(found[0]) if found and len(found[0]) > 1 else None


def _words(name: str) -> str:
    """CamelCase and underscores -> words in lower case."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.split(r"[\s_-]+", apart)).strip().lower()


class _Folders(ABC):
    """A pair of folders whose pictures describe themselves; `text` may hold `{category}` and `{stem}`."""

    def __init__(self, images: Path, masks: Path, text: str, texts: str | None, limit: int | None) -> None:
        for folder in (images, masks):
            if not folder.is_dir():
                raise ValueError(f"{folder}: no such folder (data.root, data.split)")
        self._inner = MaskFolders(images=str(images), masks=str(masks), texts=texts, threshold=MIDDLE, limit=limit)
        self._folder, self._text, self._told = images, text, texts is not None
        if not self._told:
            for index in range(len(self)):
                self._describe(index)

    @abstractmethod
    def _category(self, stem: str) -> str | None:
        """What the file's name says that it shows; None where it says nothing."""

    def _describe(self, index: int) -> str:
        stem = self._inner.sample_id(index)
        category = self._category(stem)
        if category is None and "{category}" in self._text:
            raise ValueError(
                f"{self._folder / stem}: the file's name tells no category; say data.texts=FILE (JSON "
                "{name: description}), or data.text=TEXT without {category}"
            )
        return self._text.replace("{category}", category or "").replace("{stem}", stem)

    def __len__(self) -> int:
        return len(self._inner)

    def sample_id(self, index: int) -> str:
        return self._inner.sample_id(index)

    def object_key(self, index: int) -> Any:
        """What the sample's object is counted by."""
        return self._inner.sample_id(index)

    image_key = object_key

    def __getitem__(self, index: int) -> Sample:
        sample = self._inner[index]
        text = sample.text if self._told else self._describe(index)
        return replace(sample, text=text, category=self._category(sample.sample_id), object_id=sample.sample_id)


class Dis5k(_Folders):
    """root: folder with DIS-VD/ and so on in it (or DIS5K/ with them). split: DIS-TR, DIS-VD, DIS-TE1 to DIS-TE4.
    text: description, `{category}` is the file's. texts: JSON file `{name: description}` instead. Raises `ValueError`
    naming what is missing.
    """

    def __init__(
        self,
        *,
        root: str,
        split: str = "DIS-VD",
        text: str = "{category}",
        texts: str | None = None,
        limit: int | None = None,
    ) -> None:
        base = next((Path(root) / name for name in ("DIS5K",) if (Path(root) / name).is_dir()), Path(root))
        super().__init__(base / split / "im", base / split / "gt", text, texts, limit)

    def _category(self, stem: str) -> str | None:
        return dis_category(stem)


class ThinObject5k(_Folders):
    """root: folder with images_test/ and masks_test/ in it (or ThinObject5K/ with them). split: train or test.
    Else as `Dis5k`; a category is the words that a file's name begins with.
    """

    def __init__(
        self,
        *,
        root: str,
        split: str = "test",
        text: str = "{category}",
        texts: str | None = None,
        limit: int | None = None,
    ) -> None:
        places = ("ThinObject5K", "thin_object_detection/ThinObject5K")
        base = next((Path(root) / name for name in places if (Path(root) / name).is_dir()), Path(root))
        super().__init__(base / f"images_{split}", base / f"masks_{split}", text, texts, limit)

    def _category(self, stem: str) -> str | None:
        return leading_words(stem)

"""A folder of pictures that nobody has annotated yet, with what is asked for in each -> samples without a target."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from pathlib import Path

import numpy as np

from segagent.data.base import first
from segagent.data.images import load_image, load_label_map, resolve_inside
from segagent.data.mask_folders import list_pictures
from segagent.types import Sample


class PictureFolder:
    """Every (picture, text) pair is one sample, by its path in the folder: `sub/a`, and `sub/a#1` for a second text.

    images: the folder. Texts come from one of: text, one for all pictures; texts, a file, JSON `{name: text or list}`
    or CSV with the columns `image` and `text` (names are paths in the folder, with or without suffix; pictures that
    the file does not name are no samples, and counted in `unnamed`); neither: `NAME.txt` beside each picture, a line
    per text. masks: folder of given masks, `SAMPLE_ID.png` each, whose non-zero pixels are the object. truth: the same
    of the true ones, to measure by. include: regular expression that the path must match somewhere. Raises
    `ValueError` naming file and key.
    """

    def __init__(
        self,
        *,
        images: str,
        text: str | None = None,
        texts: str | None = None,
        masks: str | None = None,
        truth: str | None = None,
        include: str | None = None,
        limit: int | None = None,
    ) -> None:
        if text is not None and texts is not None:
            raise ValueError("text and texts exclude each other: one for all pictures, or a file")
        for name, folder in (("masks", masks), ("truth", truth)):
            if folder is not None and not Path(folder).is_dir():
                raise ValueError(f"{folder}: no such folder ({name})")
        self.root, self._masks, self._truth = Path(images), masks, truth
        there = list_pictures(self.root)
        found = {
            stem: path
            for stem, path in there.items()
            if include is None or re.search(include, path.relative_to(self.root).as_posix())
        }
        if not found:
            raise ValueError(f"{images}: no picture's path matches include={include!r}")
        said = None if texts is None else read_texts(Path(texts), there)
        self.unnamed = 0 if said is None else sum(stem not in said for stem in found)
        self._entries: list[tuple[str, Path, int, str]] = []
        for stem, path in found.items():
            if text is not None:
                rows = [text]
            else:
                rows = _beside(path) if said is None else said.get(stem, [])
            self._entries += [(stem, path, number, row) for number, row in enumerate(rows)]
        self._entries = list(first(self._entries, limit))
        if not self._entries:
            raise ValueError(f"{texts}: names none of the {len(found)} pictures in {images}")
        ids = [self.sample_id(index) for index in range(len(self))]
        if len(set(ids)) < len(ids):
            twice = next(one for place, one in enumerate(ids) if one in ids[:place])
            raise ValueError(f"{images}: two samples would be called {twice!r}; rename a picture")
        self._last: tuple[Path, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def sample_id(self, index: int) -> str:
        stem, _, number, _ = self._entries[index]
        return stem if number == 0 else f"{stem}#{number}"

    def __getitem__(self, index: int) -> Sample:
        _, path, _, text = self._entries[index]
        if self._last is None or self._last[0] != path:
            self._last = (path, load_image(path))
        image = self._last[1]
        return Sample(
            sample_id=self.sample_id(index),
            image=image,
            text=text,
            target=self._mask(self._truth, index, image),
            mask=self._mask(self._masks, index, image),
            image_name=path.relative_to(self.root).as_posix(),
            image_key=str(path),
        )

    def _mask(self, folder: str | None, index: int, image: np.ndarray) -> np.ndarray | None:
        if folder is None:
            return None
        path = resolve_inside(folder, f"{self.sample_id(index)}.png")
        labels = load_label_map(path)
        if labels.shape != image.shape[:2]:
            raise ValueError(f"{path}: mask is {list(labels.shape)} but the picture is {list(image.shape[:2])}")
        return labels != 0


def _beside(path: Path) -> list[str]:
    """The texts of a picture from the file beside it."""
    file = path.with_suffix(".txt")
    if not file.is_file():
        raise ValueError(
            f"{file}: no such file, and neither text nor texts is given: what is asked for in {path.name}?"
        )
    lines = [line.strip() for line in _text(file).splitlines()]
    if not any(lines):
        raise ValueError(f"{file}: holds no text")
    return [line for line in lines if line]


def _text(path: Path) -> str:
    """UTF-8, with or without the mark that some editors put first."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None


def read_texts(path: Path, pictures: dict[str, Path]) -> dict[str, list[str]]:
    """A JSON or CSV file of texts (see `PictureFolder`) -> stem: its texts, in the order of the file.

    pictures: stem -> path, those that may be named. Raises `ValueError` naming file and line or key for what is
    unsound, a name that is no picture included.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file (texts)")
    text = _text(path)
    said: dict[str, list[str]] = {}
    # macOS writes an accent as a letter of its own, which most editors do not.
    stems = {unicodedata.normalize("NFC", stem): stem for stem in pictures}
    for where, name, row in _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text):
        if not name.strip():
            raise ValueError(f"{path}: {where}: no picture is named")
        composed = unicodedata.normalize("NFC", name)
        stem = next((stems[word] for word in (composed, str(Path(composed).with_suffix(""))) if word in stems), None)
        if stem is None:
            raise ValueError(f"{path}: {where}: {name!r} is none of the {len(pictures)} pictures of the folder")
        if not isinstance(row, str) or not row.strip():
            raise ValueError(f"{path}: {where}: no text for {name!r}")
        said.setdefault(stem, []).append(row.strip())
    return said


def _json_rows(path: Path, text: str) -> list[tuple[str, str, object]]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); a file that ends with .csv is read as CSV") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object {{name: text or list of texts}}")
    return [
        (f"key {name!r}", name, row)
        for name, rows in content.items()
        for row in (rows if isinstance(rows, list) else [rows])
    ]


def _csv_rows(path: Path, text: str) -> list[tuple[str, str, object]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = {"image", "text"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"{path}: column {min(missing)!r} is missing; the first line is image,text, with a comma between"
            )
        rows = []
        for row in reader:
            if None in row:  # what has no column
                raise ValueError(
                    f"{path}: line {reader.line_num}: more fields than columns; a text with a comma goes in quotes"
                )
            rows.append((f"line {reader.line_num}", row["image"] or "", row["text"]))
        return rows
    except csv.Error as error:  # such as a quote that is never closed
        raise ValueError(f"{path}: after line {reader.line_num}: not CSV ({error})") from None

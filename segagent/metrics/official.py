"""The released scorer's arithmetic, bit for bit: which mask it takes, its float32 sums, its rows and files.

Its rules, told by what it computes (recorded cases: tests/fixtures/eval_result_iou): without a click id it reads an IoU
out of every reply, takes the place k of the first maximum and scores mask k-1 (0 when k is 0); samples without any mask
are dropped; consecutive samples of one image form a group. docs/scoring.md lists what follows from that.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from segagent.metrics.protocols import Table

REQUIRED_KEYS = ("masks", "click_id", "img_path", "height", "width", "gt_mask", "caption", "pred_list")
HEADER = ["image_name", "mask_idx", "iou", "caption"]
MARK = "Current IOU: "
_EPSILON = np.float32(1e-5)


class MissingKeyError(KeyError):
    """A `KeyError` whose text is a sentence (the plain one prints its repr)."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass
class OfficialFacts:
    """What this protocol needs of the samples beside their pixel counts; one entry per sample.

    chosen: index into `pred_list` without a click id, -1 when the list is empty. problem: what the released scorer
    stops at first, if anything.
    """

    image: list[str] = field(default_factory=list)
    caption: list[str] = field(default_factory=list)
    size: list[tuple[int, int]] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    problem: Exception | None = None


@dataclass(frozen=True, eq=False)
class OfficialScore:
    """class_iou, global_iou: float32 values as floats. rows: of the CSV, without header.

    chosen: index into `pred_list` per sample, -1 = dropped.
    """

    class_iou: float
    global_iou: float
    rows: list[list[str]]
    chosen: np.ndarray

    @property
    def text(self) -> str:
        return f"class_iou: {self.class_iou}\nglobal_iou: {self.global_iou}\n"


def read_announced(outputs: Sequence[str | None]) -> list[float] | None:
    """Numbers that the released scorer reads out of the replies, as written (percent); None when one cannot be read.

    Between the last mark and the next comma; if that fails for one reply, for all up to "P" and then up to "N".
    No reply counts 0; `float` decides what a number is, so "nan" and "1e2" are.
    """
    try:
        return [0.0 if text is None else float(text.split(MARK)[-1].split(",")[0]) for text in outputs]
    except (ValueError, AttributeError):
        pass
    try:
        return [0.0 if text is None else float(text.split(MARK)[-1].split("P")[0].split("N")[0]) for text in outputs]
    except (ValueError, AttributeError):
        return None


def chosen_index(announced: Sequence[float] | None) -> int:
    """Index into `pred_list`: the one before the first maximum, since an announced IoU is of the mask before the click.

    A NaN counts as the maximum; nothing readable counts as all equal; an empty list gives -1.
    """
    if announced is None:
        return 0
    if not announced:
        return -1
    unequal = next((index for index, value in enumerate(announced) if math.isnan(value)), None)
    place = announced.index(max(announced)) if unequal is None else unequal
    return max(place - 1, 0)


def keep_scored(records: Iterable[dict]) -> Iterator[dict]:
    """The records with only that mask in `pred_list` which the released scorer scores when no click_id is given.

    Scoring them under `official` gives the same numbers for a fraction of the work: the other masks are not looked at.
    A record that it would drop or stop at stays whole.
    """
    for record in records:
        try:
            items = record["pred_list"]
            index = chosen_index(read_announced([item["outputs"] for item in items]))
            yield record | {"pred_list": [items[index]]}
        except (KeyError, IndexError, TypeError):
            yield record


def _pick(facts: OfficialFacts, table: Table, click_id: int | None) -> np.ndarray:
    """Index into `pred_list` per sample, -1 = dropped. Raises `IndexError` where Python's indexing does."""
    lengths = table.counts - 1
    if click_id is None:
        return np.array(facts.chosen, np.int64)
    outside = np.flatnonzero((click_id >= lengths) | (click_id < -lengths))
    if outside.size:
        first = int(outside[0])
        raise IndexError(
            f"record {first}: pred_list has {lengths[first]} masks, there is no index {click_id} ({outside.size} such "
            "records); the official protocol cannot score them, the others count their last mask"
        )
    return np.where(click_id < 0, click_id + lengths, click_id)


def _check_sizes(facts: OfficialFacts, members: Sequence[int]) -> None:
    sizes = sorted({facts.size[index] for index in members})
    if len(sizes) > 1:
        raise ValueError(
            f"image {facts.image[members[0]]!r}: consecutive records {members[0]} to {members[-1]} have sizes {sizes}; "
            "the official protocol stacks the masks of an image, so they must be equal"
        )


def score_official(facts: OfficialFacts, table: Table, click_id: int | None = None) -> OfficialScore:
    """Scores as the released scorer does; all sums run in float32 in its order.

    Raises the exceptions it raises, with a sentence: `KeyError` when a record lacks a key, `IndexError` when a list has
    no mask `click_id`, `TypeError` when no sample is left; `ValueError` when the sizes of one image differ.
    """
    if facts.problem is not None:
        raise facts.problem
    chosen = _pick(facts, table, click_id)
    place = table.starts + 1 + np.maximum(chosen, 0)
    kept = np.flatnonzero(chosen >= 0)
    if not kept.size:
        raise TypeError("no sample is left to score: every pred_list is empty (the honest protocols count them)")
    shared = table.raw_intersection[place[kept]].astype(np.float32)
    union = table.raw_area[place[kept]].astype(np.float32) + table.raw_target[kept].astype(np.float32) - shared
    ious = shared / (union + _EPSILON)
    rows: list[list[str]] = []
    total_shared = total_union = total_iou = np.float32(0)
    numbered = enumerate(kept.tolist())
    for image, group in groupby(numbered, key=lambda pair: facts.image[pair[1]]):
        ranks, members = zip(*group, strict=True)
        _check_sizes(facts, members)
        name = image.split("/")[-1]
        own = slice(ranks[0], ranks[-1] + 1)
        mean = _running(np.stack([ious[own], (union[own] == 0).astype(np.float32)], 1).ravel()) / np.float32(len(ranks))
        rows += [
            [name, str(index), str(iou), facts.caption[member]]
            for index, (iou, member) in enumerate(zip(ious[own].tolist(), members, strict=True))
        ]
        rows.append([name, "-1", str(float(mean)), ""])
        total_shared += _running(shared[own])
        total_union += _running(union[own])
        total_iou += mean * np.float32(len(ranks))
    return OfficialScore(
        class_iou=float(total_shared / (total_union + _EPSILON)),
        global_iou=float(total_iou / np.float32(kept.size + 1e-5)),
        rows=rows,
        chosen=chosen,
    )


def _running(values: np.ndarray) -> np.float32:
    """Sum in order in float32 (`sum` adds in pairs and rounds otherwise)."""
    return np.cumsum(values, dtype=np.float32)[-1]


def official_paths(predictions: str | Path, click_id: int | None) -> tuple[Path, Path]:
    """(csv, txt) that the released scorer writes for `X.json`."""
    stem = str(predictions).removesuffix(".json") + f"_clicknew2{click_id}"
    return Path(stem + ".csv"), Path(f"{stem}_click{click_id}.txt")


def write_official(predictions: str | Path, rows: Sequence[Sequence[str]], text: str, click_id: int | None) -> None:
    """Writes both files, over older ones; only the CSV (and no old text file) when there is no `text`."""
    csv_path, text_path = official_paths(predictions, click_id)
    with open(csv_path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])
    if text:
        text_path.write_text(text, encoding="utf-8")
    else:
        text_path.unlink(missing_ok=True)

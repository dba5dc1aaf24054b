"""Prediction records -> pixel counts of all their masks, in one pass and without decoding.

Records come in small batches so that checking their RLEs costs a few NumPy passes per batch; nothing of a record is
kept but numbers and names.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np

from segagent.metrics.official import MARK, REQUIRED_KEYS, MissingKeyError, OfficialFacts, chosen_index, read_announced
from segagent.metrics.protocols import Table, choose
from segagent.metrics.rle import common, empty_counts, intersections, measure, pixel_counts, repair

_BATCH = 16
# Every wording of the released models and of the paper; the number is in percent.
_ANNOUNCED = re.compile(r"Current m?IOU: *([-+.\deE]+)", re.IGNORECASE)
_REQUIRED = frozenset(REQUIRED_KEYS)


@dataclass
class Collected:
    """What `collect` gathers. unparsable, null_target: `[n]` flags. image: number of each sample's image, `[n]`.

    boundary: boundary IoU of the scored mask, `[n]`, empty when not asked for. object: number of each sample's object,
    `[n]`: samples of one image with equal `object_id`, or without one, with equal targets. words: length of its
    expression, `[n]`. category: of its object, "" where the file does not say. first_click: `[n]`, 1 where the first
    action is a click on what is missing or a negative one on what is surplus, 0 where it is another click, NaN where
    it is none.
    """

    table: Table
    facts: OfficialFacts
    image: np.ndarray
    unparsable: np.ndarray
    null_target: np.ndarray
    boundary: np.ndarray
    object: np.ndarray
    words: np.ndarray
    category: list[str]
    first_click: np.ndarray


@dataclass
class _Entry:
    """One record while its batch is worked on. masks: RLE dicts, initial mask first where there is one.

    target: RLE dict, all zero for a null one.
    """

    record: dict
    where: str
    size: list[int]
    masks: list[dict]
    has_init: bool
    target: dict
    void: dict | None

    @property
    def count(self) -> int:
        """Masks in the table: an initial mask that is not in the file is all zero and still counts."""
        return len(self.masks) + (not self.has_init)

    @property
    def rles(self) -> list[Any]:
        return [self.target, *self.masks] if self.void is None else [self.target, *self.masks, self.void]

    def put(self, place: int, rle: dict) -> None:
        """Replaces entry `place` of `rles`."""
        if place == 0:
            self.target = rle
        elif place <= len(self.masks):
            self.masks[place - 1] = rle
        else:
            self.void = rle

    def key(self, place: int) -> str:
        """The record's key of entry `place` of `rles`."""
        if place == 0:
            return "'gt_mask'"
        if place > len(self.masks):
            return "'void'"
        item = place - 1 - self.has_init
        return "'init_mask'" if item < 0 else f"'pred_list[{item}].mask'"


@dataclass
class Collector:
    """Takes batches of records, keeps numbers."""

    where: str
    boundary_protocol: str | None = None
    facts: OfficialFacts = field(default_factory=OfficialFacts)
    tables: list[Table] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    image: list[int] = field(default_factory=list)
    unparsable: list[bool] = field(default_factory=list)
    null_target: list[bool] = field(default_factory=list)
    boundary: list[float] = field(default_factory=list)
    objects: dict[tuple, int] = field(default_factory=dict)
    object: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    category: list[str] = field(default_factory=list)
    first_click: list[float] = field(default_factory=list)

    def add(self, records: Sequence[dict]) -> None:
        entries = [self._entry(record, len(self.image) + rank) for rank, record in enumerate(records)]
        areas = _areas(entries)
        self.first_click += _first_clicks(entries, areas)
        self.tables.append(_count(entries, areas, [self._note(entry) for entry in entries]))
        if self.boundary_protocol is not None:
            numbers = choose(self.tables[-1], self.boundary_protocol)
            self.boundary += [_boundary(entry, int(number)) for entry, number in zip(entries, numbers, strict=True)]

    def _entry(self, record: dict, index: int) -> _Entry:
        where = f"{self.where}, record {index}"
        try:
            if "sample_id" in record:
                where += f" (sample {record['sample_id']!r})"
            size = [record["height"], record["width"]]
            if not (isinstance(size[0], int) and isinstance(size[1], int) and min(size) > 0):
                raise ValueError(f"{where}: height and width are {size}; they must be positive whole numbers")
            caption = record.get("caption")
            if caption is not None and not isinstance(caption, list):
                raise ValueError(f"{where}, key 'caption': {caption!r} is no list of texts")
            masks = [item["mask"] for item in record["pred_list"]]
            init, target, _ = record.get("init_mask"), record["gt_mask"], record["img_path"]
            if init is not None:
                masks.insert(0, init)
            if target is None:
                target = empty_counts(*size)
            elif isinstance(target, list):
                target = _polygons(target, size, where)
            return _Entry(record, where, size, masks, init is not None, target, record.get("void"))
        except KeyError as error:
            raise MissingKeyError(f"{where}: key {error} is missing (keys: docs/scoring.md)") from None
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{where}: not a prediction record ({error}; keys: docs/scoring.md)") from None

    def _note(self, entry: _Entry) -> list[float]:
        """Names and flags of a record go to the lists; returns what is announced of each of its masks."""
        record, items = entry.record, entry.record["pred_list"]
        index = len(self.image)
        image = str(record["img_path"])
        self.image.append(self.images.setdefault(image, len(self.images)))
        reason = record.get("end_reason")
        # A foreign file has no reasons; there only an unreadable first reply leaves no mask at all.
        self.unparsable.append(reason == "unparsable" or (reason is None and not items))
        self.null_target.append(record["gt_mask"] is None)
        outputs = [item.get("outputs") for item in items]
        percent = read_announced(outputs)
        facts = self.facts
        facts.image.append(image)
        caption = record.get("caption")
        facts.caption.append(str(caption[0]) if caption else "")
        self.words.append(len(facts.caption[-1].split()))
        self.category.append(sys.intern(str(record.get("category") or "")))
        # The hash stands for the target itself, which would be kept for nothing else.
        identity = record.get("object_id")
        identity = hash(entry.target["counts"]) if identity is None else str(identity)
        self.object.append(self.objects.setdefault((self.image[-1], identity), len(self.objects)))
        facts.size.append((entry.size[0], entry.size[1]))
        facts.chosen.append(chosen_index(percent))
        if facts.problem is None:
            facts.problem = _missing(record, items, f"{self.where}, record {index}")
        return _announced(record, items, outputs, percent, entry.where)

    def finish(self) -> Collected:
        empty = np.zeros(0, np.int64)
        table = Table.join(self.tables) if self.tables else Table(*([empty] * 5), np.zeros(0), *([empty] * 2))
        flags = np.array(self.unparsable, bool), np.array(self.null_target, bool)
        return Collected(
            table,
            self.facts,
            np.array(self.image, np.int64),
            *flags,
            boundary=np.array(self.boundary),
            object=np.array(self.object, np.int64),
            words=np.array(self.words, np.int64),
            category=self.category,
            first_click=np.array(self.first_click),
        )


def _missing(record: dict, items: list[dict], where: str) -> Exception | None:
    """What the released scorer would stop at in this record."""
    if not _REQUIRED <= record.keys():
        key = next(key for key in REQUIRED_KEYS if key not in record)
        return MissingKeyError(f"{where}: key {key!r} is missing, and the official protocol needs it")
    for item in items:
        if "outputs" not in item:
            return MissingKeyError(f"{where}: an entry of pred_list lacks 'outputs', the official protocol needs it")
    return None if record["caption"] else IndexError(f"{where}: caption is empty, the official protocol needs one")


def _announced(
    record: dict, items: list[dict], outputs: list[Any], percent: list[float] | None, where: str
) -> list[float]:
    """Predicted IoU of each mask, initial one first, in `[0, 1]`; NaN where none.

    A reply announces the IoU of the mask before its action: reply j+1 (here `outputs[j]`) that of mask j. Our key
    `pred_iou` of an entry is that of its own mask, exact where a text is rounded, and goes before it. Where a search
    chose the mask (`returned` in its extras) its rewards are all that counts: the texts may speak of another number.
    percent: the numbers that were read out of the outputs already.
    """
    extras = record.get("extras")
    if isinstance(extras, dict) and "returned" in extras:
        values = [np.nan] * (len(items) + 1)
    else:
        read = [None] * len(outputs) if percent is None else percent
        values = [
            number / 100 if number is not None and text and MARK in text and 0 <= number <= 100 else _from_text(text)
            for text, number in zip(outputs, read, strict=True)
        ]
        values.append(_from_text(record.get("end_text")))
    init = record.get("init")
    known = [init.get("pred_iou") if isinstance(init, dict) else None, *(item.get("pred_iou") for item in items)]
    known[-1] = known[-1] if record.get("pred_iou") is None else record["pred_iou"]
    for place, value in enumerate(known):
        if value is not None:
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ValueError(
                    f"{where}, key 'pred_iou': {value!r} is no IoU; our keys are in [0, 1], not in percent"
                )
            values[place] = float(value)
    return values


def _from_text(text: Any) -> float:
    """The IoU that a reply announces, NaN when there is none or it is no percentage."""
    found = _ANNOUNCED.findall(text) if isinstance(text, str) else None
    if not found:
        return np.nan
    try:
        percent = float(found[-1])
    except ValueError:
        return np.nan
    return percent / 100 if 0 <= percent <= 100 else np.nan


def _polygons(polygons: list, size: list[int], where: str) -> dict:
    from segagent.masks import encode_rle, polygons_to_mask  # OpenCV behind it is not needed for other files

    try:
        return encode_rle(polygons_to_mask(polygons, *size))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}, key 'gt_mask': {error}") from None


def _areas(entries: Sequence[_Entry]) -> np.ndarray:
    """Checks every RLE of a batch, puts a repaired one in its place, returns the areas in the order of `rles`."""
    rles, counts, pixels, lengths = [], [], [], []
    for entry in entries:
        own, size = entry.rles, entry.size
        rles += own
        counts += [
            rle["counts"] if type(rle) is dict and rle.get("size") == size and type(rle.get("counts")) is str else ""
            for rle in own
        ]
        lengths.append(len(own))
        pixels.append(size[0] * size[1])
    area, sound = measure(counts, np.repeat(np.array(pixels, np.int64), lengths))
    if not sound.all():
        tops = np.cumsum(lengths)
        for bad in np.flatnonzero(~sound).tolist():
            rank = int(np.searchsorted(tops, bad, side="right"))
            entry, place = entries[rank], bad - int(tops[rank]) + lengths[rank]
            mended = repair(rles[bad], *entry.size, f"{entry.where}, key {entry.key(place)}")
            entry.put(place, mended)
            area[bad] = measure([mended["counts"]], np.array([pixels[rank]]))[0][0]
    return area


def _count(entries: Sequence[_Entry], areas: np.ndarray, announced: list[list[float]]) -> Table:
    """The batch's part of the table; `areas` in the order of all entries' `rles`."""
    is_target, is_mask, present = [], [], []
    for entry in entries:
        held, void = len(entry.masks), [False] * (entry.void is not None)
        is_target += [True, *[False] * held, *void]
        is_mask += [False, *[True] * held, *void]
        present += [True] * held if entry.has_init else [False, *[True] * held]
    counts = np.array([entry.count for entry in entries], np.int64)
    owner = np.repeat(np.arange(len(entries)), counts)[present]
    target, own = areas[is_target], areas[is_mask]
    area, shared = np.zeros((2, len(present)), np.int64)
    area[present] = own
    shared[present] = intersections(
        [mask["counts"] for entry in entries for mask in entry.masks],
        own,
        owner,
        [entry.target["counts"] for entry in entries],
        target,
        [entry.size[0] for entry in entries],
    )
    flat = np.fromiter(chain.from_iterable(announced), np.float64, len(present))
    table = Table(counts, shared, area, shared, area, flat, target, target)
    return table if all(entry.void is None for entry in entries) else _without_void(table, entries)


def _without_void(table: Table, entries: Sequence[_Entry]) -> Table:
    """The same with intersections, areas and targets less their void pixels: |A - V| = |A| - |A & V|."""
    shared, area, target = table.intersection.copy(), table.area.copy(), table.target.copy()
    for rank, (entry, start) in enumerate(zip(entries, table.starts.tolist(), strict=True)):
        if entry.void is None:
            continue
        own = slice(start + (not entry.has_init), start + entry.count)
        masks = [mask["counts"] for mask in entry.masks]
        both = common(entry.target, entry.void)
        for column, other in ((area, entry.void), (shared, both)):
            other_area = measure([other["counts"]], np.array([entry.size[0] * entry.size[1]]))[0]
            zeros = np.zeros(len(masks), np.int64)
            column[own] -= intersections(
                masks, table.raw_area[own], zeros, [other["counts"]], other_area, entry.size[:1]
            )
        target[rank] -= other_area[0]
    return replace(table, intersection=shared, area=area, target=target)


def _first_clicks(entries: Sequence[_Entry], areas: np.ndarray) -> list[float]:
    """See `Collected.first_click`; areas in the order of all entries' `rles`."""
    starts = np.cumsum([0, *(len(entry.rles) for entry in entries)])
    clicks = {rank: click for rank, entry in enumerate(entries) if (click := _first_click(entry)) is not None}
    pixels = {rank: pixel_counts(y, x, *entries[rank].size) for rank, (y, x, _) in clicks.items()}
    in_target = _holding(entries, pixels, areas[starts[list(pixels)]], 0)
    begun = {rank: pixel for rank, pixel in pixels.items() if entries[rank].has_init}
    in_mask = _holding(entries, begun, areas[starts[list(begun)] + 1], 1)
    voided = {rank: pixel for rank, pixel in pixels.items() if entries[rank].void is not None}
    in_void = _holding(entries, voided, areas[starts[1:][list(voided)] - 1], -1)
    right = [np.nan] * len(entries)
    for rank, (_, _, is_positive) in clicks.items():
        target, mask = in_target[rank], in_mask.get(rank, False)
        hit = target and not mask if is_positive else mask and not target
        right[rank] = float(hit and not in_void.get(rank, False))
    return right


def _first_click(entry: _Entry) -> tuple[int, int, bool] | None:
    """(y, x, is_positive) of the first action; None where it is no click in the picture."""
    items, (height, width) = entry.record["pred_list"], entry.size
    click = items[0].get("clicks") if items else None
    try:
        y, x = (int(value) for value in click["coords"])
        is_positive = bool(click["is_positive"])
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
    return (y, x, is_positive) if 0 <= y < height and 0 <= x < width else None


def _holding(entries: Sequence[_Entry], pixels: dict[int, str], areas: np.ndarray, place: int) -> dict[int, bool]:
    """Whether mask `place` of an entry's `rles`, of these areas, holds the pixel; by rank of the entry."""
    masks = [entries[rank].rles[place]["counts"] for rank in pixels]
    heights = [entries[rank].size[0] for rank in pixels]
    one = np.ones(len(masks), np.int64)
    shared = intersections(list(pixels.values()), one, np.arange(len(masks)), masks, areas, heights)
    return dict(zip(pixels, (shared > 0).tolist(), strict=True))


def _boundary(entry: _Entry, number: int) -> float:
    """Boundary IoU of mask `number` of a sample; decodes that mask only."""
    from segagent.masks import boundary_iou, decode_rle  # OpenCV behind it is not needed without boundaries

    zeros = np.zeros(entry.size, bool)
    place = number if entry.has_init else number - 1
    mask = zeros if place < 0 else decode_rle(entry.masks[place])
    return boundary_iou(mask, decode_rle(entry.target), None if entry.void is None else decode_rle(entry.void))


def collect(records: Iterable[dict], where: str, boundary_protocol: str | None = None) -> Collected:
    """One pass over the records. where: the file's name for messages. boundary_protocol: also decode the mask that it
    scores. Raises `ValueError` (broken mask, no record) and `KeyError` (missing key) naming record and key."""
    collector, stream = Collector(where, boundary_protocol), iter(records)
    while batch := list(islice(stream, _BATCH)):
        collector.add(batch)
    return collector.finish()

"""Areas and intersections of compressed RLE masks, many at once, without decoding any.

pycocotools walks two run lists until both are used up; when their sums differ it walks forever. So every RLE is checked
here before it gets there: all of a batch in a few NumPy passes, since one call per mask would cost more than the
scoring.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

# Six base-32 digits: longer ones cannot be in an image, and sums of shorter ones stay inside int32 as maskApi's do.
_MOST_DIGITS = 6
_WIDER_THAN_ANY = 1 << 30


def _numbers(digits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Characters `[c]` uint8 (0..63) -> (numbers `[m]` int32, places of the characters that do not end a number,
    indices of overlong numbers).

    COCO maskApi `rleToString`: base 32, least digit first, bit 5 = the number goes on, bit 4 of the last digit = sign.
    Nearly every number is one character, so all are read as such and the few others mended.
    """
    last = digits < 32
    numbers = (((digits & 31) ^ 16).view(np.int8) - np.int8(16))[last].astype(np.int32)
    going_on = np.flatnonzero(~last)
    if not going_on.size:
        return numbers, going_on, going_on
    number = going_on - np.arange(going_on.size)
    first = np.flatnonzero(np.diff(number, prepend=-1))
    lengths = np.diff(first, append=going_on.size)
    place = np.arange(going_on.size) - np.repeat(first, lengths)
    lower = np.add.reduceat((digits[going_on] & 31).astype(np.int64) << (5 * np.minimum(place, _MOST_DIGITS)), first)
    owner = number[first]
    numbers[owner] = (numbers[owner].astype(np.int64) << (5 * np.minimum(lengths, _MOST_DIGITS))) + lower
    return numbers, going_on, owner[lengths >= _MOST_DIGITS]


def _runs(numbers: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Undoes the differences: run k > 2 of an RLE is its number k plus its run k-2. `[m]` int32.

    One running sum with stride 2 goes over the whole batch; what it carries into an RLE is taken off again. That is the
    sum at `starts - 1` for odd k and the sum at `starts` for even k > 0 (run 2 is not a difference to run 0).
    """
    runs = numbers.copy()
    for parity in (0, 1):
        np.cumsum(runs[parity::2], out=runs[parity::2], dtype=np.int32)
    before, own = np.where(starts > 0, runs[starts - 1], 0), runs[starts]
    for parity in (0, 1):
        lengths = (stops - parity + 1) // 2 - (starts - parity + 1) // 2
        runs[parity::2] -= np.repeat(np.where(starts % 2 == parity, own, before), lengths)
    runs[starts] = numbers[starts]
    return runs


def _strided_sums(runs: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Sums of each RLE's runs at even and at odd places of the batch, `[2, n]` int64."""
    sums = np.zeros((2, starts.size), np.int64)
    for parity in (0, 1):
        view = runs[parity::2]
        begin, end = (starts - parity + 1) // 2, (stops - parity + 1) // 2
        some = begin < end  # `reduceat` reads one element where there is none
        if some.any():
            sums[parity, some] = np.add.reduceat(view, begin[some], dtype=np.int64)
    return sums


def measure(counts: Sequence[str], pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compressed counts of n masks and their numbers of pixels `[n]` -> (areas `[n]` int64, sound `[n]` bool).

    Sound: every character is in the alphabet, no number is cut off or overlong, no run is negative, no run but the
    first is zero (legal, but pycocotools stops early at two of them), and the runs sum to the pixels. Only sound masks
    may go to pycocotools; the area of another means nothing.
    """
    sound = np.array([len(text) > 0 for text in counts], bool)
    if not sound.all():  # NumPy's segment arithmetic below needs one number in every segment
        areas = np.zeros(len(counts), np.int64)
        some = np.flatnonzero(sound)
        if some.size:
            areas[some], sound[some] = measure([counts[index] for index in some], pixels[some])
        return areas, sound
    if not counts:
        return np.zeros(0, np.int64), sound
    digits = np.frombuffer("".join(counts).encode("ascii", "replace"), np.uint8) - np.uint8(48)
    tops = np.cumsum(np.fromiter(map(len, counts), np.int64, len(counts)))
    if digits.max() > 63 or (digits[tops - 1] > 31).any():
        return _measure_apart(counts, pixels)
    numbers, going_on, overlong = _numbers(digits)
    stops = tops - np.searchsorted(going_on, tops)
    starts = np.concatenate([[0], stops[:-1]])
    runs = _runs(numbers, starts, stops)
    sums = _strided_sums(runs, starts, stops)
    sound &= sums.sum(0) == pixels
    wrong = np.flatnonzero(runs <= 0)
    owner = np.searchsorted(stops, wrong, side="right")
    sound[owner[(runs[wrong] < 0) | (wrong != starts[owner])]] = False
    sound[np.searchsorted(stops, overlong, side="right")] = False
    return np.where(starts % 2 == 0, sums[1], sums[0]), sound


def _measure_apart(counts: Sequence[str], pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`measure` when a character or the end of some mask is broken: those are set aside, the others measured."""
    sound = np.array([_readable(text) for text in counts], bool)
    areas, some = np.zeros(len(counts), np.int64), np.flatnonzero(sound)
    if some.size:
        areas[some], sound[some] = measure([counts[index] for index in some], pixels[some])
    return areas, sound


def _readable(text: str) -> bool:
    codes = text.encode("ascii", "replace")
    return bool(codes) and min(codes) >= 48 and max(codes) <= 111 and codes[-1] < 80


def repair(value: Any, height: int, width: int, where: str) -> dict:
    """Any RLE (uncompressed, unusual, broken) -> one that `measure` calls sound.

    Raises `ValueError` that begins with `where` when it is broken or of another size.
    """
    from segagent.masks import normalize_rle  # OpenCV behind it is not needed for sound files

    rle = normalize_rle(value, where)
    if rle["size"] != [height, width]:
        raise ValueError(
            f"{where}: mask size {rle['size']} but the record says {[height, width]}; "
            "masks must cover the image they were predicted on"
        )
    # Through pixels: an RLE with runs of zero length is legal, but only its canonical form is safe to intersect.
    rle = coco_mask.encode(coco_mask.decode(rle))
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def intersections(
    masks: Sequence[str],
    areas: np.ndarray,
    owner: np.ndarray,
    targets: Sequence[str],
    target_areas: np.ndarray,
    heights: Sequence[int],
) -> np.ndarray:
    """Pixels that each of m sound masks shares with the target of its sample, `[m]` int64.

    owner: index into the n `targets` for each mask, `[m]`; areas `[m]`, target_areas `[n]`: pixels; heights: `[n]`.
    One call to pycocotools for a batch, since the fixed cost of a call is as high as that of three masks. It gives
    q = I / (A + B - I) in float64, so I = q (A + B) / (1 + q), exact once rounded (areas below 2^32, error 1e-15).
    """
    if not masks:
        return np.zeros(0, np.int64)
    # pycocotools pairs every mask with every target but skips pairs of unequal size. It uses the width for nothing else
    # than a bound on the left side of a bounding box, so here it tells the samples apart.
    sizes = [[height, _WIDER_THAN_ANY + index] for index, height in enumerate(heights)]
    marked = [{"size": sizes[index], "counts": text} for index, text in zip(owner.tolist(), masks, strict=True)]
    others = [{"size": size, "counts": text} for size, text in zip(sizes, targets, strict=True)]
    quotients = coco_mask.iou(marked, others, [0] * len(others))[np.arange(len(masks)), owner]
    return np.rint(quotients * (areas + target_areas[owner]) / (1 + quotients)).astype(np.int64)


def common(first: dict, second: dict) -> dict:
    """RLE of the pixels in both sound masks."""
    rle = coco_mask.merge([first, second], intersect=True)
    return {"size": first["size"], "counts": rle["counts"].decode("ascii")}


@lru_cache(maxsize=64)
def empty_counts(height: int, width: int) -> dict:
    """RLE of the all-zero mask; the dict is shared, do not change it."""
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def pixel_counts(y: int, x: int, height: int, width: int) -> str:
    """Counts of the mask of one pixel."""
    before = x * height + y
    runs = [before, 1, height * width - before - 1]
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": runs if runs[-1] else runs[:-1]}, height, width)
    return rle["counts"].decode("ascii")

"""Algebra of `[H, W]` bool masks: IoU, boxes, RLE and polygons both ways, error regions, the simulated next click.

In: NumPy arrays, RLE dicts. Out: the same, and plain numbers. No files, no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from segagent.types import Box, Click

# Extremes of (3x3 chamfer distance) / (Euclidean distance) over all directions, for OpenCV's weights 0.955 (straight)
# and 1.3693 (diagonal): 0.955 along an axis, sqrt(0.955^2 + (1.3693 - 0.955)^2) where the quotient is flat.
_CHAMFER_LOW, _CHAMFER_HIGH = 0.955, 1.0411


def _check_mask(name: str, mask: np.ndarray) -> None:
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"{name} is {mask.dtype} {list(mask.shape)}; masks are bool [H, W], cast with `mask > 0`")


def iou(mask: np.ndarray, target: np.ndarray, void: np.ndarray | None = None) -> float:
    """Intersection over union of two `[H, W]` bool masks, in `[0, 1]`; void pixels are not counted.

    Two masks without any counted pixel agree: 1.0. Raises `ValueError` on another dtype or unequal shapes.
    """
    _check_mask("mask", mask)
    _check_mask("target", target)
    if mask.shape != target.shape:
        raise ValueError(f"mask is {list(mask.shape)} but target is {list(target.shape)}: they must cover one image")
    intersection, union = mask & target, mask | target
    if void is not None:
        intersection, union = intersection & ~void, union & ~void
    total = int(np.count_nonzero(union))
    return int(np.count_nonzero(intersection)) / total if total else 1.0


def boundary(mask: np.ndarray, dilation_ratio: float = 0.02) -> np.ndarray:
    """Pixels of `mask` within `dilation_ratio` of the image diagonal from its border, `[H, W]` bool.

    The inner band of Boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562): d = round(ratio * diagonal), at least
    1, erosions with a 3x3 square; the image border counts as background.
    """
    _check_mask("mask", mask)
    height, width = mask.shape
    distance = max(1, int(round(dilation_ratio * np.hypot(height, width))))
    padded = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return mask & (eroded == 0)


def boundary_iou(
    mask: np.ndarray, target: np.ndarray, void: np.ndarray | None = None, dilation_ratio: float = 0.02
) -> float:
    """IoU of the two `boundary` bands, in `[0, 1]`."""
    return iou(boundary(mask, dilation_ratio), boundary(target, dilation_ratio), void)


def bounding_box(mask: np.ndarray) -> Box | None:
    """Tight box of a `[H, W]` bool mask, None when it is empty."""
    _check_mask("mask", mask)
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    return Box(x, y, x + width, y + height) if width and height else None


def box_to_mask(box: Box, height: int, width: int) -> np.ndarray:
    """The box filled, `[height, width]` bool; the part outside the image is cut off."""
    mask = np.zeros((height, width), bool)
    mask[max(0, box.y0) : max(0, box.y1), max(0, box.x0) : max(0, box.x1)] = True
    return mask


def encode_rle(mask: np.ndarray) -> dict:
    """`[H, W]` bool -> COCO compressed RLE `{"size": [H, W], "counts": str}` (JSON-ready)."""
    _check_mask("mask", mask)
    rle = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def normalize_rle(rle: dict, where: str = "RLE") -> dict:
    """Compressed or uncompressed COCO RLE -> compressed, checked to cover its size exactly.

    Raises `ValueError` that begins with `where` (file and key) when it is broken; pycocotools would read past it.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: not an RLE ({error!r}); expected {{'size': [H, W], 'counts': ...}}") from None
    if isinstance(counts, (list, tuple)):
        runs = np.asarray(counts)
        if height <= 0 or width <= 0 or (runs.size and runs.min() < 0) or runs.sum() != height * width:
            raise ValueError(
                f"{where}: broken RLE: runs sum to {runs.sum()}, size {height}x{width} needs {height * width}"
            )
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": [int(run) for run in runs]}, height, width)
        return {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    text = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
    total, broken = _sum_runs(text)
    if height <= 0 or width <= 0 or broken or total != height * width:
        reason = broken or f"runs sum to {total}, size {height}x{width} needs {height * width}"
        raise ValueError(f"{where}: broken RLE: {reason}; the counts begin with {text[:20]!r}")
    return {"size": [height, width], "counts": text}


def _sum_runs(counts: str) -> tuple[int, str]:
    """Total of a compressed RLE's runs and, if it cannot be read, why.

    Format (COCO maskApi `rleFrString`): base 32 digits + 48, bit 5 = continue, bit 4 of the last = sign; from the third
    run on each number is the difference to the run two before.
    """
    digits = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if digits.size and (digits.min() < 0 or digits.max() > 63):
        return 0, "a character outside the alphabet '0'..'o'"
    ends = np.flatnonzero((digits & 32) == 0)
    if digits.size and (not ends.size or ends[-1] != digits.size - 1):
        return 0, "cut off in the middle of a number"
    if not digits.size:
        return 0, "no runs"
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        return 0, "a run longer than any image"
    place = np.arange(digits.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((digits & 31) << (5 * place), starts)
    numbers -= np.where(digits[ends] & 16, np.int64(1) << (5 * lengths), 0)
    runs = np.zeros_like(numbers)
    runs[:3] = numbers[:3]
    # Run k > 2 is numbers[k] + run k-2: two interleaved running sums, that of the odd places starting at run 1 and
    # that of the even places at run 2 (run 0 is outside, as in maskApi).
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    if runs.min() < 0:
        return 0, "a negative run"
    return int(runs.sum()), ""


def decode_rle(rle: dict, where: str = "RLE") -> np.ndarray:
    """COCO RLE, compressed or not -> `[H, W]` bool. Raises `ValueError` when it is broken."""
    return coco_mask.decode(normalize_rle(rle, where)).astype(bool)


def polygons_to_mask(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """COCO polygons `[[x0, y0, x1, y1, ...], ...]` in pixels -> `[height, width]` bool, drawn as COCO draws them."""
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon with {len(polygon)} numbers: need x, y of at least 3 corners")
    if not polygons:
        return np.zeros((height, width), bool)
    rles = coco_mask.frPyObjects([list(map(float, polygon)) for polygon in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(rles)).astype(bool)


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """`[H, W]` bool -> outer COCO polygons along pixel edges, one per 4-connected part, flat `[x, y, ...]` floats.

    Holes cannot be said in COCO polygons and are filled; keep RLE where they matter.
    """
    _check_mask("mask", mask)
    # Each pixel becomes a 2x2 block of a doubled grid, so that a one-pixel part still has an outline with area.
    doubled = np.repeat(np.repeat(mask.view(np.uint8), 2, 0), 2, 1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in contours:
        corners = contour[:, 0, :]
        # An even coordinate 2p is the left/upper edge p of its pixel, an odd one 2p+1 the right/lower edge p+1.
        polygons.append(((corners + 1) // 2).astype(float).ravel().tolist())
    return [polygon for polygon in polygons if len(polygon) >= 6]


def error_regions(
    target: np.ndarray, mask: np.ndarray, void: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(false negatives, false positives) of `mask`, `[H, W]` bool each; void pixels are in neither."""
    _check_mask("target", target)
    _check_mask("mask", mask)
    if mask.shape != target.shape:
        raise ValueError(f"mask is {list(mask.shape)} but target is {list(target.shape)}: they must cover one image")
    missing, surplus = target & ~mask, mask & ~target
    if void is not None:
        _check_mask("void", void)
        missing, surplus = missing & ~void, surplus & ~void
    return missing, surplus


def squared_distances(region: np.ndarray) -> np.ndarray:
    """Exact squared Euclidean distance of every pixel to the nearest pixel outside `region`, `[H, W]` int64.

    What lies beyond the image counts as outside.
    """
    padded = cv2.copyMakeBorder(region.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    # The accelerated (IPP) transform is off by an ulp, which would flip ties; the switch is per thread.
    accelerated = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    finally:
        cv2.ipp.setUseIPP(accelerated)
    return np.rint(distance.astype(np.float64) ** 2).astype(np.int64)


def _deepest(region: np.ndarray, excluded: Iterable[tuple[int, int]]) -> tuple[float, int, int]:
    """(depth, x, y) of the deepest pixel of `region` that is not excluded; depth 0 when there is none.

    Depth is the float32 root of the exact squared distance (what the recorded reference compares); ties go to the
    first pixel in row-major order. A chamfer transform, exact up to a known factor, finds the few pixels that can
    win; only their surroundings get the exact transform.
    """
    box = bounding_box(region)
    if box is None:
        return 0.0, 0, 0
    crop = cv2.copyMakeBorder(
        region[box.y0 : box.y1, box.x0 : box.x1].view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0
    )
    chamfer = cv2.distanceTransform(crop, cv2.DIST_L2, 3)
    for x, y in excluded:
        if box.x0 <= x < box.x1 and box.y0 <= y < box.y1:
            chamfer[y - box.y0 + 1, x - box.x0 + 1] = 0
    highest = float(chamfer.max())
    if highest == 0:
        return 0.0, 0, 0
    candidates = chamfer >= highest * (_CHAMFER_LOW / _CHAMFER_HIGH) * 0.999
    x, y, width, height = cv2.boundingRect(candidates.view(np.uint8))
    reach = int(np.ceil(highest / _CHAMFER_LOW)) + 1
    top, left = max(0, y - reach), max(0, x - reach)
    window = (slice(top, y + height + reach), slice(left, x + width + reach))
    depth = np.sqrt(squared_distances(crop[window].view(bool)).astype(np.float32))
    depth[~candidates[window]] = 0
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return float(depth[row, column]), box.x0 + left + int(column) - 1, box.y0 + top + int(row) - 1


def next_click(
    target: np.ndarray,
    mask: np.ndarray,
    excluded: Iterable[tuple[int, int]] = (),
    void: np.ndarray | None = None,
) -> Click | None:
    """F_sim, the simulated annotator (paper, Alg. 3): the deepest point of the deeper error region.

    target, mask, void: `[H, W]` bool; void pixels never count. excluded: `(x, y)` of earlier clicks, never chosen
    again. The click is positive when the deepest missing pixel lies strictly deeper than the deepest surplus one.
    Depth is the Euclidean distance to the nearest pixel outside the region or the image; ties go to the first pixel
    in row-major order. None when no error pixel is left to click.
    """
    missing, surplus = error_regions(target, mask, void)
    excluded = tuple(excluded)
    missing_depth, missing_x, missing_y = _deepest(missing, excluded)
    surplus_depth, surplus_x, surplus_y = _deepest(surplus, excluded)
    if missing_depth == surplus_depth == 0:
        return None
    if missing_depth > surplus_depth:
        return Click(missing_x, missing_y, True)
    return Click(surplus_x, surplus_y, False)

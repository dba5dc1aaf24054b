"""Algebra of `[H, W]` bool masks: IoU, boxes, RLE and polygons both ways, error regions, the simulated next click.

In: NumPy arrays, RLE dicts. Out: the same, and plain numbers. No files, no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from segagent import depth
from segagent.types import Box, Click

# A polygon's corner, in pixels from the origin: no picture is so wide. OpenCV's drawing overflows a little beyond, and
# pycocotools takes memory for every pixel that an outline passes, and dies where there is none.
FARTHEST = 30_000


def _check_mask(name: str, mask: np.ndarray) -> None:
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"{name} is {mask.dtype} {list(mask.shape)}; masks are bool [H, W], cast with `mask > 0`")


def _check_pair(target: np.ndarray, mask: np.ndarray, void: np.ndarray | None) -> None:
    named = {"target": target, "mask": mask} if void is None else {"target": target, "mask": mask, "void": void}
    for name, array in named.items():
        _check_mask(name, array)
        if array.shape != target.shape:
            raise ValueError(
                f"{name} is {list(array.shape)} but target is {list(target.shape)}: they must cover one image"
            )


def iou(mask: np.ndarray, target: np.ndarray, void: np.ndarray | None = None) -> float:
    """Intersection over union of two `[H, W]` bool masks, in `[0, 1]`; void pixels are not counted.

    Two masks without any counted pixel agree: 1.0. Raises `ValueError` on another dtype or unequal shapes.
    """
    _check_pair(target, mask, void)
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
    distance = max(1, round(dilation_ratio * np.hypot(height, width)))
    padded = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return mask & (eroded == 0)


def boundary_iou(
    mask: np.ndarray, target: np.ndarray, void: np.ndarray | None = None, dilation_ratio: float = 0.02
) -> float:
    """IoU of the two `boundary` bands, in `[0, 1]`; what is void is cut off both masks first."""
    _check_pair(target, mask, void)
    if void is not None:
        mask, target = mask & ~void, target & ~void
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
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    runs, broken = _read_runs(counts) if isinstance(counts, str) else _check_runs(counts)
    if not broken and (height <= 0 or width <= 0 or int(runs.sum()) != height * width):
        broken = f"runs sum to {int(runs.sum())}, size {height}x{width} needs {height * width}"
    if broken:
        raise ValueError(f"{where}: broken RLE: {broken}; the counts begin with {counts!r:.24}")
    if not isinstance(counts, str):
        packed = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
        counts = packed["counts"].decode("ascii")
    return {"size": [height, width], "counts": counts}


def _check_runs(counts: object) -> tuple[np.ndarray, str]:
    """(runs `[N]` int64, what is wrong with them) of an uncompressed RLE."""
    runs = np.asarray(counts)
    if runs.ndim != 1 or not runs.size or runs.dtype.kind not in "iu":
        return np.zeros(0, np.int64), "counts are neither text nor a list of integers"
    return runs.astype(np.int64), "a negative run" if runs.min() < 0 else ""


def _read_runs(counts: str) -> tuple[np.ndarray, str]:
    """(runs `[N]` int64, why they cannot be read) of a compressed RLE.

    Format (COCO maskApi `rleFrString`): base 32 digits + 48, bit 5 = continue, bit 4 of the last = sign; from the
    fourth number on each is the difference to the run two before.
    """
    nothing = np.zeros(0, np.int64)
    digits = np.frombuffer(counts.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    if not digits.size:
        return nothing, "no runs"
    if digits.min() < 0 or digits.max() > 63:
        return nothing, "a character outside the alphabet '0'..'o'"
    if digits[-1] & 32:
        return nothing, "cut off in the middle of a number"
    ends = np.flatnonzero(digits < 32)
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > 7:
        return nothing, "a run longer than any image"
    starts = ends - lengths + 1
    place = np.arange(digits.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & 31) << (5 * place), starts)
    runs -= np.where(digits[ends] & 16, np.int64(1) << (5 * lengths), 0)
    # Two interleaved running sums, one from run 1 over the odd places, one from run 2 over the even ones.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs, "a negative run" if runs.min() < 0 else ""


def decode_rle(rle: dict, where: str = "RLE") -> np.ndarray:
    """COCO RLE, compressed or not -> `[H, W]` bool. Raises `ValueError` when it is broken."""
    return np.ascontiguousarray(coco_mask.decode(normalize_rle(rle, where))).view(bool)


def polygons_to_mask(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """COCO polygons `[[x0, y0, x1, y1, ...], ...]` in pixels -> `[height, width]` bool, drawn as COCO draws them."""
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon with {len(polygon)} numbers: need x, y of at least 3 corners")
        if not (np.abs(np.asarray(polygon, float)) <= FARTHEST).all():  # of NaN neither
            raise ValueError(f"a polygon with a corner that is no pixel: give numbers within {FARTHEST} of 0")
    if not polygons:
        return np.zeros((height, width), bool)
    rles = coco_mask.frPyObjects([list(map(float, polygon)) for polygon in polygons], height, width)
    return np.ascontiguousarray(coco_mask.decode(coco_mask.merge(rles))).view(bool)


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """`[H, W]` bool -> outer COCO polygons along pixel edges, one per 8-connected part, flat `[x, y, ...]` floats.

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
    _check_pair(target, mask, void)
    missing, surplus = target & ~mask, mask & ~target
    if void is not None:
        missing, surplus = missing & ~void, surplus & ~void
    return missing, surplus


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
    _check_pair(target, mask, void)
    box = bounding_box(target ^ mask)
    if box is None:
        return None
    crop = (slice(box.y0, box.y1), slice(box.x0, box.x1))
    height, width = box.y1 - box.y0, box.x1 - box.x0
    target, mask = np.ascontiguousarray(target)[crop], np.ascontiguousarray(mask)[crop]
    # A sign without pixels, as the surplus of an empty mask, costs nothing.
    pairs = [(a, b) for a, b in ((target, mask), (mask, target)) if cv2.hasNonZero(a.view(np.uint8))]
    stack = np.zeros((len(pairs), *depth.padded_shape(height, width)), bool)
    for region, pair in zip(stack.view(np.uint8)[:, 1 : height + 1, 1 : width + 1], pairs, strict=True):
        high, low = (array.view(np.uint8) for array in pair)
        cv2.subtract(high, low, dst=region)  # saturates at 0: high & ~low, in place, four times as fast
        if void is not None:
            cv2.subtract(region, void[crop].view(np.uint8), dst=region)
    inside = [(y - box.y0 + 1, x - box.x0 + 1) for x, y in excluded if box.y0 <= y < box.y1 and box.x0 <= x < box.x1]
    found = depth.deepest(stack, inside)
    if not found.squared:
        return None
    return Click(box.x0 + found.column - 1, box.y0 + found.row - 1, pairs[found.region][0] is target)

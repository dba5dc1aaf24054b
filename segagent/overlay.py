"""Mask, outline and clicks painted on a picture: the model's view and human pictures alike.

In and out: `[H, W, 3]` uint8 RGB. Nothing here changes its input.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

from segagent.masks import bounding_box
from segagent.types import Click

Color = tuple[int, int, int]

MASK_COLOR: Color = (0, 255, 0)
OUTLINE_COLOR: Color = (255, 196, 0)
# Told apart by shape (plus, minus) and by lightness as well as by hue, so that no colour vision is needed.
_POSITIVE, _NEGATIVE = (0, 112, 32), (232, 32, 48)
_WHITE, _BLACK, _PAPER, _INK = (255, 255, 255), (0, 0, 0), (250, 250, 250), (40, 40, 40)
_FONT = cv2.FONT_HERSHEY_SIMPLEX  # of numbers
_SIZE, _WEIGHT = 13, 400  # of captions


def check_image(image: np.ndarray) -> None:
    """Raises `ValueError` unless `image` is `[H, W, 3]` uint8."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {list(image.shape)}; pictures are uint8 [H, W, 3] RGB")


def _check_pair(image: np.ndarray, mask: np.ndarray) -> None:
    check_image(image)
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask is {list(mask.shape)} but the image {list(image.shape[:2])}: they must cover one image")


def overlay_mask(image: np.ndarray, mask: np.ndarray, color: Color = MASK_COLOR, alpha: float = 0.5) -> np.ndarray:
    """The image with `image * (1 - alpha) + color * alpha` where `mask` is True, computed in float64 and truncated.

    image: `[H, W, 3]` uint8. mask: `[H, W]` bool. color: RGB, 0..255. alpha: 0 (image) .. 1 (colour).
    """
    _check_pair(image, mask)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it is the share of the colour, 0 to 1")
    out = np.array(image, order="C")
    box = bounding_box(mask)
    if box is None:
        return out
    # A pixel has 256 values per channel, so the float64 formula is needed 768 times, not once per pixel.
    levels = np.arange(256, dtype=np.float64)[:, None] * (1 - alpha) + np.asarray(color, np.float64) * alpha
    crop = (slice(box.y0, box.y1), slice(box.x0, box.x1))
    painted = cv2.LUT(out[crop], levels.astype(np.uint8)[None])
    cv2.copyTo(painted, np.ascontiguousarray(mask[crop]).view(np.uint8), out[crop])
    return out


def draw_outline(
    image: np.ndarray, mask: np.ndarray, color: Color = OUTLINE_COLOR, thickness: int | None = None
) -> np.ndarray:
    """The image with the border of `mask`, holes included, in `color` between two dark hairlines.

    mask: `[H, W]` bool. thickness: pixels, by default 1 per 250 pixels of the longer side, at least 2.
    """
    _check_pair(image, mask)
    out = np.array(image, order="C")
    thickness = thickness or max(2, round(max(image.shape[:2]) / 250))
    contours, _ = cv2.findContours(np.ascontiguousarray(mask).view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(out, contours, -1, _BLACK, thickness + 2)
    cv2.drawContours(out, contours, -1, color, thickness)
    return out


def draw_clicks(
    image: np.ndarray, clicks: Sequence[Click], radius: int | None = None, first_number: int = 1
) -> np.ndarray:
    """The image with a plus per positive and a minus per negative click, white-rimmed and numbered in order.

    radius: half the length of a stroke in pixels, by default 1/36 of the longer side, at least 5. first_number: the
    number beside the first click.
    """
    check_image(image)
    out = np.array(image, order="C")
    radius = radius or max(5, round(max(image.shape[:2]) / 36))
    for number, click in enumerate(clicks, first_number):
        _draw_sign(out, click, radius)
        _draw_number(out, click, radius, str(number))
    return out


def _draw_sign(out: np.ndarray, click: Click, radius: int) -> None:
    half_stroke = max(1, round(radius / 3.5))
    rim = max(2, half_stroke)
    # From the widest to the narrowest: hairline, rim, sign. The ends grow with the width, so the rim closes around.
    for color, extra in ((_BLACK, rim + 1), (_WHITE, rim), (_POSITIVE if click.is_positive else _NEGATIVE, 0)):
        long, short = radius + extra, half_stroke + extra
        for across, down in [(long, short), (short, long)] if click.is_positive else [(long, short)]:
            corners = (click.x - across, click.y - down), (click.x + across, click.y + down)
            cv2.rectangle(out, *corners, color, -1)


def _draw_number(out: np.ndarray, click: Click, radius: int, text: str) -> None:
    """White on a dark tag, right above the sign, or on the other side of it where the image ends."""
    scale = max(0.38, radius / 20)
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, 1)
    gap = radius // 2 + 6
    x = click.x + gap if click.x + gap + width + 4 < out.shape[1] else click.x - gap - width
    y = click.y - gap if click.y - gap - height - 4 > 0 else click.y + gap + height
    cv2.rectangle(out, (x - 3, y - height - 3), (x + width + 2, y + 3), _BLACK, -1)
    cv2.putText(out, text, (x, y), _FONT, scale, _WHITE, 1, cv2.LINE_AA)


def paint(
    image: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    outline: np.ndarray | None = None,
    clicks: Sequence[Click] = (),
    first_number: int = 1,
    side: int | None = None,
) -> np.ndarray:
    """A picture for people: image, mask, outline and clicks, scaled to `side` pixels on the longer side.

    mask, outline: `[H, W]` bool of the image's size. Small images are enlarged, so that marks are as sharp on them.
    """
    check_image(image)
    height, width = image.shape[:2]
    scale = 1.0 if side is None else side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    out = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for region, draw in ((mask, overlay_mask), (outline, draw_outline)):
        if region is not None:
            _check_pair(image, region)
            small = cv2.resize(region.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            out = draw(out, small.view(bool))
    scaled = [
        Click(
            min(size[0] - 1, int((click.x + 0.5) * size[0] / width)),
            min(size[1] - 1, int((click.y + 0.5) * size[1] / height)),
            click.is_positive,
        )
        for click in clicks
    ]
    return draw_clicks(out, scaled, first_number=first_number)


def picture_strip(
    panels: Sequence[np.ndarray], captions: Sequence[str], columns: int = 6, margin: int = 10
) -> np.ndarray:
    """Panels in rows of `columns`, each with its caption (`\\n` breaks lines) below, as one `[H, W, 3]` picture.

    Captions, in any script, are wrapped to the panel's width.
    """
    if len(panels) != len(captions) or not panels:
        raise ValueError(
            f"{len(panels)} panels with {len(captions)} captions: give one caption per panel, at least one"
        )
    width = max(panel.shape[1] for panel in panels)
    cells = [_cell(panel, caption, width) for panel, caption in zip(panels, captions, strict=True)]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.shape[0] for cell in row) for row in rows]
    across = min(columns, len(cells))
    out = np.full((sum(heights) + margin * (len(rows) + 1), across * (width + margin) + margin, 3), _PAPER, np.uint8)
    top = margin
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            left = margin + column * (width + margin)
            out[top : top + cell.shape[0], left : left + width] = cell
        top += height + margin
    return out


def _cell(panel: np.ndarray, caption: str, width: int) -> np.ndarray:
    """One panel, centred in `width` pixels, above its wrapped caption."""
    check_image(panel)
    line_height = 18
    lines = _wrapped(caption, width - 4)
    out = np.full((panel.shape[0] + line_height * len(lines) + 6, width, 3), _PAPER, np.uint8)
    left = (width - panel.shape[1]) // 2
    out[: panel.shape[0], left : left + panel.shape[1]] = panel
    for number, line in enumerate(lines, 1):
        place = (2, panel.shape[0] + number * line_height - 4)
        cv2.putText(out, line, place, _INK, _face(), _SIZE, _WEIGHT)
    return out


@cache
def _face() -> cv2.FontFace:
    """The font of captions: OpenCV's own, which has all of Unicode."""
    return cv2.FontFace("sans")


def _width(text: str) -> int:
    """In pixels, of a caption's line."""
    left, _, width, _ = cv2.getTextSize((1, 1), text, (0, 0), _face(), _SIZE, _WEIGHT)
    return left + width


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words; a longer word (scripts without spaces) anywhere."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and _width(longer) > width:
                lines.append(line)
                longer = word
            while _width(longer) > width and len(longer) > 1:
                fits = max(1, bisect_right(range(len(longer)), width, key=lambda end: _width(longer[: end + 1])))
                lines.append(longer[:fits])
                longer = longer[fits:]
            line = longer
        lines.append(line)
    return lines

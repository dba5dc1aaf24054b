"""The text between the model and the loop: prompt, reply, coordinates; no other file knows the model's conventions.

In: image, mask, description; a reply. Out: an `Observation`; a `Reply` in pixels and `[0, 1]`. A dialogue is one YAML
file in `configs/dialogue/`: number format, axis order, IoU wording and box wording are its constructor's arguments.
Nothing in an observation comes from the target.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from segagent.configuration import build, load_named
from segagent.overlay import overlay_mask
from segagent.types import Box, Click


@dataclass(frozen=True, eq=False)
class Observation:
    """All that a policy model sees. image: `[H, W, 3]` uint8 RGB with the mask painted on it."""

    image: np.ndarray
    system: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that was read. click in pixels, box in pixels, predicted_iou (of the mask shown) in `[0, 1]`.

    problem: why there is neither click nor box nor end in it; empty when there is one.
    """

    click: Click | None = None
    box: Box | None = None
    predicted_iou: float | None = None
    finished: bool = False
    problem: str = ""


def _number(text: str, decimals: int) -> float:
    """A coordinate as Python reads it: whole numbers only when the format has no decimals. Raises `ValueError`."""
    try:
        return float(int(text)) if decimals == 0 else float(text)
    except OverflowError:
        raise ValueError(f"{text[:10]}...: more digits than a coordinate has") from None


class Dialogue:
    """One named way of talking about clicks.

    system, prompt: what the model is told; `{description}` and `{color}` are filled in. color, alpha: the overlay, and
    color_name its word in the prompt. positive, negative, finish: the words of the three actions. scale, decimals: a
    coordinate is written as fraction * scale with so many decimals (1000, 0: integers in [0, 1000); 1, 3: decimals in
    [0, 1)), or `absolute`: in pixels of the picture as the model saw it, after its own resizing. first_axis: which
    coordinate of a point comes first, `x` or `y`. iou: wording of the predicted IoU with `{iou}` in percent, empty for
    none; iou_decimals. box: wording with `{x0}` `{y0}` `{x1}` `{y1}`; box_scale: grid of its integers, or `absolute`.
    released_rules: read points as the released evaluation does (see `_released_point`); else the first well-formed one,
    in capitals or not.

    Where a method takes `seen`, it is the (width, height) of the picture as the model saw it, as its `seen_size` tells;
    only a dialogue whose `absolute` is True needs it.
    """

    def __init__(
        self,
        *,
        system: str,
        prompt: str,
        color: tuple[int, int, int] = (0, 255, 0),
        color_name: str = "green",
        alpha: float = 0.5,
        positive: str = "Positive point",
        negative: str = "Negative point",
        finish: str = "Finish",
        scale: int | str = 1000,
        decimals: int = 0,
        first_axis: str = "x",
        iou: str = "",
        iou_decimals: int = 1,
        box: str = "<box>({x0},{y0}),({x1},{y1})</box>",
        box_scale: int | str = 999,
        released_rules: bool = False,
    ) -> None:
        if first_axis not in ("x", "y"):
            raise ValueError(f"first_axis={first_axis!r}: choose x or y")
        if "{description}" not in prompt:
            raise ValueError("prompt: has no {description}, so the model would not know what to segment")
        if iou and "{iou}" not in iou:
            raise ValueError(f"iou={iou!r}: has no {{iou}}; leave it empty for a dialogue without predicted IoU")
        for name, grid in (("scale", scale), ("box_scale", box_scale)):
            if isinstance(grid, str) and grid != "absolute":
                raise ValueError(f"{name}={grid!r}: a number, or absolute")
        if scale != "absolute" and 10**decimals * scale < 10:
            raise ValueError(f"scale={scale} with decimals={decimals}: fewer than ten positions along an axis")
        self.system, self.prompt = system, prompt
        self.color, self.color_name, self.alpha = tuple(color), color_name, alpha
        self.positive, self.negative, self.finish = positive, negative, finish
        self.scale, self.decimals, self.first_axis = scale, decimals, first_axis
        self.iou, self.iou_decimals = iou, iou_decimals
        self.box, self.box_scale, self.released_rules = box, box_scale, released_rules
        # Models vary capitals and the comma after the number: the prompt of Fig. 6 itself writes "Positive Point".
        loose = 0 if released_rules else re.IGNORECASE
        said, comma = (iou, "") if released_rules or not iou.endswith(",") else (iou[:-1], ",?")
        number = re.escape(said).replace(r"\{iou\}", r"([-+]?\d+(?:\.\d*)?)") + comma
        self._iou_pattern = re.compile(number, loose) if iou else None
        side = r"\s*([-+]?\d+(?:\.\d+)?)\s*"
        corners = re.escape(box)
        for name in ("x0", "y0", "x1", "y1"):
            corners = corners.replace(rf"\{{{name}\}}", side)
        self._box_pattern = re.compile(corners)
        words = f"({re.escape(positive)}|{re.escape(negative)})"
        self._point_pattern = re.compile(rf"{words}:?\s*\(([^()\n]*)\)", loose)

    @property
    def absolute(self) -> bool:
        """Whether coordinates are pixels of the picture as the model saw it, so that its size must be told."""
        return "absolute" in (self.scale, self.box_scale)

    @staticmethod
    def _grid(scale: int | str, seen: tuple[int, int] | None) -> tuple[int, int]:
        """Positions along x and y. Raises `ValueError` when the size that the model saw is needed and not given."""
        if scale != "absolute":
            return scale, scale
        if seen is None:
            raise ValueError(
                "this dialogue counts pixels of the picture as the model saw it: give seen=(width, height)"
            )
        return seen

    # --- to the model -------------------------------------------------------------------------------------------

    def observe(self, image: np.ndarray, mask: np.ndarray, description: str) -> Observation:
        """What the model sees of a state. image: `[H, W, 3]` uint8 RGB. mask: `[H, W]` bool."""
        prompt = self.prompt.replace("{color}", self.color_name).replace("{description}", description)
        return Observation(overlay_mask(image, mask, self.color, self.alpha), self.system, prompt)

    def _coordinate(self, pixel: int, size: int, scale: int) -> str:
        steps = scale * 10**self.decimals
        return f"{min(round(pixel * steps / size), steps - 1) / 10**self.decimals:.{self.decimals}f}"

    def format_point(self, click: Click, *, width: int, height: int, seen: tuple[int, int] | None = None) -> str:
        across, down = self._grid(self.scale, seen)
        x, y = self._coordinate(click.x, width, across), self._coordinate(click.y, height, down)
        first, second = (x, y) if self.first_axis == "x" else (y, x)
        return f"{self.positive if click.is_positive else self.negative}: ({first}, {second})"

    def format_box(self, box: Box, *, width: int, height: int, seen: tuple[int, int] | None = None) -> str:
        across, down = self._grid(self.box_scale, seen)
        # Rounded up, because the reader truncates: up to box_scale pixels a side this comes back exactly.
        sides = {
            name: math.ceil(edge * grid / size - 1e-9)
            for name, edge, grid, size in (
                ("x0", box.x0, across, width),
                ("y0", box.y0, down, height),
                ("x1", box.x1, across, width),
                ("y1", box.y1, down, height),
            )
        }
        return self.box.format(**sides)

    def format_iou(self, predicted_iou: float) -> str:
        """Raises `ValueError` when this dialogue has no wording for it."""
        if not self.iou:
            raise ValueError("this dialogue announces no IoU: set its iou wording, or leave predicted_iou out")
        return self.iou.format(iou=f"{100 * predicted_iou:.{self.iou_decimals}f}")

    def iou_choices(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Every way to announce an IoU, and the IoU that each announces. Raises `ValueError` as `format_iou`."""
        steps = 100 * 10**self.iou_decimals
        values = tuple(step / steps for step in range(steps + 1))
        return tuple(self.format_iou(value).strip() for value in values), values

    def format(
        self,
        *,
        width: int,
        height: int,
        click: Click | None = None,
        box: Box | None = None,
        predicted_iou: float | None = None,
        finished: bool = False,
        seen: tuple[int, int] | None = None,
    ) -> str:
        """The reply that says this: IoU of the mask shown, box, then point or end; the inverse of `parse`."""
        parts = [] if predicted_iou is None else [self.format_iou(predicted_iou)]
        if box is not None:
            parts.append(self.format_box(box, width=width, height=height, seen=seen))
        if click is not None:
            parts.append(self.format_point(click, width=width, height=height, seen=seen))
        if finished:
            parts.append(self.finish)
        return " ".join(part.strip() for part in parts)

    # --- from the model -----------------------------------------------------------------------------------------

    def _released_point(self, text: str) -> tuple[bool, float, float] | None:
        """(is_positive, first, second) as written, by the rules of the released parser (parity section 5).

        Positive when the positive word occurs anywhere; the numbers are those of the first bracket after the last
        "point: ", read by `int`, a third one ignored, no check of the range.
        """
        is_positive = self.positive in text
        if not is_positive and self.negative not in text:
            return None
        bracket = re.search(r"\((.*?)\)", text.rsplit("point: ", 1)[-1])
        if bracket is None:
            return None
        try:
            first, second = (_number(part, self.decimals) for part in bracket[1].split(",")[:2])
        except ValueError:
            return None
        return is_positive, first, second

    def _strict_point(self, text: str) -> tuple[bool, float, float] | None:
        """The first well-formed point of a reply, as written, in capitals or not."""
        for match in self._point_pattern.finditer(text):
            parts = match[2].split(",")
            try:
                first, second = (_number(part.strip(), self.decimals) for part in parts)
            except ValueError:
                continue
            return match[1].lower() == self.positive.lower(), first, second
        return None

    def read_point(self, text: str, *, seen: tuple[int, int] | None = None) -> tuple[bool, float, float] | None:
        """(is_positive, first, second): the point as written, in fractions, in the dialogue's own axis order."""
        across, down = self._grid(self.scale, seen)
        point = self._released_point(text) if self.released_rules else self._strict_point(text)
        if point is None:
            return None
        is_positive, first, second = point
        if self.first_axis == "x":
            return is_positive, first / across, second / down
        return is_positive, first / down, second / across

    def read_box(self, text: str) -> tuple[float, float, float, float] | None:
        """The last box of a reply as written: x0, y0, x1, y1 on the dialogue's grid."""
        found = self._box_pattern.findall(text)
        return tuple(float(side) for side in found[-1]) if found else None

    def read_iou(self, text: str) -> float | None:
        """The IoU announced last, in `[0, 1]`; None when none is, or it is out of range."""
        found = self._iou_pattern.findall(text) if self._iou_pattern else []
        percent = float(found[-1]) if found else -1.0
        return percent / 100 if 0 <= percent <= 100 else None

    def _click(self, point: tuple[bool, float, float], width: int, height: int) -> Click | None:
        is_positive, first, second = point
        fraction_x, fraction_y = (first, second) if self.first_axis == "x" else (second, first)
        if not (0 <= fraction_x <= 1 and 0 <= fraction_y <= 1):
            return None
        # Python's round, half to even, as the released evaluation; its one pixel past the edge is brought back.
        return Click(
            min(round(fraction_x * width), width - 1), min(round(fraction_y * height), height - 1), is_positive
        )

    def _box(
        self, sides: tuple[float, float, float, float], width: int, height: int, seen: tuple[int, int] | None
    ) -> Box | None:
        across, down = self._grid(self.box_scale, seen)
        x0, x1 = (self._edge(side, across, width) for side in sides[0::2])
        y0, y1 = (self._edge(side, down, height) for side in sides[1::2])
        return Box(x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def _edge(self, side: float, grid: int, size: int) -> int:
        """A side of a box on the grid -> pixel edge.

        Multiplied first, since 1 / 107 * 107 is less than 1 and would slip back by a pixel; as the released reader does
        (parity section 5: `int(v/999*size)`), where its rules are asked for.
        """
        edge = side / grid * size if self.released_rules else side * size / grid
        return int(min(max(edge, 0.0), size))  # it may be infinite

    def parse(self, text: str, *, width: int, height: int, seen: tuple[int, int] | None = None) -> Reply:
        """A reply -> what it says, in pixels of a width x height image. Never raises on any text.

        A point outside the picture is no click. A reply with neither point nor box nor the finish word keeps its
        `problem`.
        """
        point, sides = self.read_point(text, seen=seen), self.read_box(text)
        click = None if point is None else self._click(point, width, height)
        box = None if sides is None else self._box(sides, width, height, seen)
        finished = click is None and box is None and re.search(rf"\b{re.escape(self.finish)}\b", text) is not None
        problem = ""
        if click is None and box is None and not finished:
            if point is not None:
                problem = f"the point {point[1:]} lies outside the picture"
            elif sides is not None:
                problem = f"the box {sides} holds no pixel"
            else:
                problem = "no point, no box and no end in the reply"
        return Reply(click, box, self.read_iou(text), finished, problem)


def load_dialogue(name: str) -> Dialogue:
    """The dialogue of `configs/dialogue/<name>.yaml`. Raises `ValueError` with the names there are."""
    return build(load_named("dialogue", name))

"""A stream of random numbers -> a drawn scene: what to show, where to put it, paint from far to near.

Distractors are planned, not left to chance: things of the target's kind in another color, of its color but another
kind, and twins that differ in place, size or pattern only. A place is taken only where every thing stays visible
enough, nothing lies on a thing of its own color, and the ground beneath is not of the thing's color.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segagent.data.refshapes.outline import Outline, polar
from segagent.data.refshapes.randomness import Stream
from segagent.data.refshapes.raster import Ink, Placement, darken, draw, paint
from segagent.data.refshapes.scene import UNIT, Scene, Thing
from segagent.data.refshapes.textures import Color, background, mix, pattern_cover, sensor_noise, shifted, surface
from segagent.data.refshapes.vocabulary import (
    BUILDERS,
    COLORS,
    PATTERNS,
    REGULAR,
    SECOND_TONE,
    SOLID_NOUNS,
    THIN_NOUNS,
    TILT,
    UNCOLORED,
    alike,
)

MIN_SEEN = 45  # percent of a thing that must stay visible
MIN_INSIDE = 88  # percent of a thing that must lie inside the picture
_MIN_PIXELS = 640  # a thing has at least size * size / this many visible pixels: 102 at 256
_PATTERN_FROM = 62  # smaller things are plain: a pattern could not be told
_TRIES = 30


@dataclass(frozen=True, slots=True)
class Plan:
    """What one thing shall be. extent: half its size, in 1/1024 of the side. pen: half line width, same unit."""

    noun: str
    color: str
    pattern: str
    extent: int
    pen: int = 0


def _apart(names: Sequence[str], count: int, taken: Sequence[str] = ()) -> list[str]:
    """The first `count` names, in order, that cannot be mixed up with each other or with those taken."""
    chosen: list[str] = []
    for name in names:
        if len(chosen) < count and not any(alike(name, other) for other in (*chosen, *taken)):
            chosen.append(name)
    return chosen


def _solid_extent(stream: Stream) -> int:
    return stream.weighted(
        [(stream.between(38, 58), 22), (stream.between(62, 118), 38), (stream.between(120, 235), 40)]
    )


def _pattern(stream: Stream, extent: int) -> str:
    if extent < _PATTERN_FROM or stream.chance(55):
        return "plain"
    return stream.choice(PATTERNS[1:])


def _twin(stream: Stream, plan: Plan) -> Plan:
    """The same noun and color, told apart by place alone, or also by size or by pattern."""
    kind = stream.below(3)
    extent = plan.extent
    if kind == 1:
        extent = plan.extent * 10 // 18 if plan.extent > 90 else plan.extent * 18 // 10
    pattern = plan.pattern if extent >= _PATTERN_FROM else "plain"
    if kind == 2 and extent >= _PATTERN_FROM:
        pattern = stream.choice([other for other in PATTERNS if other != plan.pattern])
    return replace(plan, extent=extent, pattern=pattern)


def plan_solid(stream: Stream) -> list[Plan]:
    """Three to eight solid things, most of them sharing a word with another one."""
    nouns = _apart(stream.shuffled(SOLID_NOUNS), stream.between(3, 6))
    colors = _apart(stream.shuffled(list(COLORS)), stream.between(3, 5))
    count = stream.weighted([(3, 2), (4, 4), (5, 5), (6, 4), (7, 2), (8, 2)])
    plans: list[Plan] = []
    while len(plans) < count:
        extent = _solid_extent(stream)
        fresh = Plan(stream.choice(nouns), stream.choice(colors), _pattern(stream, extent), extent)
        if plans:
            model = plans[stream.below(min(2, len(plans)))]
            twin = _twin(stream, model)
            same_noun, same_color = replace(fresh, noun=model.noun), replace(fresh, color=model.color)
            fresh = stream.weighted([(same_noun, 4), (same_color, 2), (twin, 2), (fresh, 4)])
        plans.append(fresh)
    # Far things are mostly the large ones, or the small ones would vanish behind them.
    return sorted(plans, key=lambda plan: -plan.extent * stream.between(60, 140))


def plan_thin(stream: Stream) -> list[Plan]:
    """Two to four thin structures, most of one kind or one color, before up to two solid things."""
    nouns = _apart(stream.shuffled(THIN_NOUNS), stream.between(1, 3))
    colors = _apart(stream.shuffled(list(COLORS)), stream.between(3, 4))
    count = stream.weighted([(2, 3), (3, 4), (4, 3)])
    plans: list[Plan] = []
    while len(plans) < count:
        extent = stream.between(190, 320) - 20 * count
        pen = min(stream.between(4, 10), extent // 26)
        fresh = Plan(stream.choice(nouns), stream.choice(colors), "plain", extent, max(4, pen))
        if plans:
            model = plans[0]
            same_noun, same_color = replace(fresh, noun=model.noun), replace(fresh, color=model.color)
            fresh = stream.weighted([(same_noun, 4), (same_color, 2), (fresh, 2)])
        plans.append(fresh)
    solid = _apart(stream.shuffled(SOLID_NOUNS), stream.weighted([(0, 4), (1, 4), (2, 2)]), nouns)
    behind = []
    for noun in solid:
        extent = stream.between(70, 190)
        behind.append(Plan(noun, stream.choice(colors), _pattern(stream, extent), extent))
    return behind + plans


@dataclass(frozen=True, slots=True)
class Look:
    """How one thing will look. color, second: its own tones, `second` None for plain things. outline: its form."""

    color: Color
    second: Color | None
    outline: Outline


def _look(stream: Stream, plan: Plan) -> Look:
    color, share = shifted(COLORS[plan.color], stream, 10, 3 if plan.color in UNCOLORED else 8), SECOND_TONE[plan.color]
    second = mix(color, (255, 255, 255) if share > 0 else (0, 0, 0), abs(share))
    outline = BUILDERS[plan.noun](stream, plan.pen * 1000 // plan.extent)
    return Look(color, None if plan.pattern == "plain" else second, outline)


class Board:
    """A picture under work: the paint so far and which thing is seen where."""

    def __init__(self, size: int, canvas: np.ndarray) -> None:
        self.size = size
        self.canvas = canvas  # [size, size, 3] int32
        self.labels = np.full((size, size), -1, np.int16)
        self.inks: list[Ink] = []
        self.under: list[np.ndarray] = []  # labels in each ink's window before it was laid
        self.plans: list[Plan] = []

    def hidden_by(self, ink: Ink) -> list[int]:
        """For each thing, how many of its visible pixels this ink would hide."""
        under = self.labels[ink.window][ink.mask]
        return np.bincount(under + 1, minlength=len(self.plans) + 1)[1:].tolist()

    def seen(self) -> list[int]:
        """Visible pixels of each thing."""
        return np.bincount(self.labels.ravel() + 1, minlength=len(self.plans) + 1)[1:].tolist()

    def is_taken(self, placement: Placement) -> bool:
        """True when a thing is seen in the middle of the placement: a quick refusal before anything is drawn."""
        x, y, reach = placement.x // 256, placement.y // 256, placement.half_width // 512
        around = self.labels[max(0, y - reach) : y + reach + 1 : 2, max(0, x - reach) : x + reach + 1 : 2]
        return bool((around >= 0).any())

    def admits(self, plan: Plan, look: Look, ink: Ink, may_overlap: bool) -> bool:
        """True when the thing may be painted here, see the module's docstring."""
        mask = ink.mask
        inside = int(np.count_nonzero(mask))
        if inside * 100 < ink.total * MIN_INSIDE or inside * _MIN_PIXELS < self.size**2:
            return False
        hidden = self.hidden_by(ink)
        if any(hidden) and not may_overlap:
            return False
        seen = self.seen() if any(hidden) else []
        for index, lost in enumerate(hidden):
            if lost == 0:
                continue
            left = seen[index] - lost
            if plan.color == self.plans[index].color or left * _MIN_PIXELS < self.size**2:
                return False
            if left * 100 < self.inks[index].total * MIN_SEEN:
                return False
        # Stray ground of the thing's color is welcome, a thing that melts into it is not.
        ground = self.canvas[ink.window][mask]
        if _share_near(ground, look.color, 125 if plan.pen else 110) > (15 if plan.pen else 25):
            return False
        return look.second is None or _share_near(ground, look.second, 90) <= 40

    def add(self, plan: Plan, ink: Ink) -> None:
        """Note who is seen where; the paint is the caller's."""
        self.under.append(self.labels[ink.window].copy())
        self.labels[ink.window][ink.mask] = len(self.plans)
        self.plans.append(plan)
        self.inks.append(ink)


def _share_near(ground: np.ndarray, color: Color, distance: int) -> int:
    """Percent of the pixels `[n, 3]` whose channels differ from the color by less than `distance` in sum."""
    near = np.abs(ground - np.array(color, np.int32)).sum(1) < distance
    return int(np.count_nonzero(near)) * 100 // len(ground)


def _candidate(stream: Stream, board: Board, plan: Plan, overlap: bool) -> Placement:
    """A random placement; with `overlap`, one whose box meets that of a thing that is already there."""
    half = max(8, plan.extent * 7 // 8)
    x, y = stream.between(half, UNIT - half), stream.between(half, UNIT - half)
    if overlap and board.plans:
        other = stream.below(len(board.plans))
        ink, unit = board.inks[other], board.size
        height, width = ink.cover.shape
        center = ((2 * ink.x + width) * UNIT // (2 * unit), (2 * ink.y + height) * UNIT // (2 * unit))
        reach = (plan.extent + board.plans[other].extent) * stream.between(50, 95) // 100
        x, y = polar(reach, stream.below(1024), center)
    tilt = TILT.get(plan.noun, 512)
    scale = board.size * 256
    stretch = 0 if plan.noun in REGULAR else stream.between(-9, 9)
    return Placement(
        x * scale // UNIT,
        y * scale // UNIT,
        plan.extent * (100 + stretch) * scale // (100 * UNIT),
        plan.extent * (100 - stretch) * scale // (100 * UNIT),
        stream.between(-tilt, tilt),
        stream.chance(50),
    )


def _put(stream: Stream, board: Board, plan: Plan, shade: tuple[int, int, int]) -> bool:
    """Find a place for one thing and paint it. False when there is none.

    shade: drop shadow's offset in x and y (1/1024 of the side) and its strength (of 1024; 0 for none).
    """
    look = _look(stream, plan)
    wants_overlap = stream.chance(35)
    for attempt in range(_TRIES):
        overlap = wants_overlap and attempt < _TRIES // 2
        placement = _candidate(stream, board, plan, overlap)
        may_overlap = overlap or attempt >= _TRIES * 2 // 3
        if not may_overlap and board.is_taken(placement):
            continue
        ink = draw(look.outline, placement, board.size)
        if ink.cover.size and board.admits(plan, look, ink, may_overlap):
            if shade[2]:
                offset = [part * board.size * 256 // UNIT for part in shade[:2]]
                below = draw(look.outline, placement.shifted(*offset), board.size)
                darken(board.canvas, below, max(1, board.size // 100), shade[2])
            paint(board.canvas, ink, _surface(stream, board.size, plan, look, placement, ink))
            board.add(plan, ink)
            return True
    return False


def _surface(stream: Stream, size: int, plan: Plan, look: Look, placement: Placement, ink: Ink) -> np.ndarray:
    """The thing's colors in its window, `[h, w, 3]` int32 in `0..255`."""
    colors = surface(look.color, ink, placement, stream)
    if look.second is None:
        return colors
    period = max(stream.between(38, 46), plan.extent * stream.between(35, 55) // 100)
    cover = pattern_cover(plan.pattern, ink, placement, period * size * 256 // UNIT)
    second = surface(look.second, ink, placement, stream.fork("second"))
    return colors + ((second - colors) * cover[:, :, None] >> 10)


def compose(stream: Stream, size: int, thin: bool) -> Scene | None:
    """Draw one scene of side `size`, or None when fewer things than planned at the least found a place."""
    plans = plan_thin(stream.fork("plan")) if thin else plan_solid(stream.fork("plan"))
    decoys = [COLORS[plan.color] for plan in plans]
    board = Board(size, background(size, stream.fork("ground"), decoys))
    light = stream.fork("light")
    shade = (light.between(-14, 14), light.between(8, 18), light.between(250, 420) if light.chance(50) else 0)
    for number, plan in enumerate(plans):
        _put(stream.fork(f"thing {number}"), board, plan, shade)
    if len(board.plans) < (2 if thin else 3):
        return None
    image = sensor_noise(board.canvas, light.between(3, 13), light.word())
    return Scene(image, board.labels, tuple(_things(board)), _hides(board))


def _things(board: Board) -> list[Thing]:
    """The scene graph's nodes, measured on the finished label map."""
    things = []
    for index, (plan, ink) in enumerate(zip(board.plans, board.inks, strict=True)):
        visible = (board.labels[ink.window] == index) & ink.mask
        rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
        pixels = (ink.x + columns[0], ink.y + rows[0], ink.x + columns[-1] + 1, ink.y + rows[-1] + 1)
        box = tuple(int(edge) * UNIT // board.size for edge in pixels)
        count = int(np.count_nonzero(visible))
        inside = int(np.count_nonzero(ink.mask))
        things.append(
            Thing(
                noun=plan.noun,
                color=plan.color,
                pattern=plan.pattern,
                x=(box[0] + box[2]) // 2,
                y=(box[1] + box[3]) // 2,
                box=box,
                extent=plan.extent,
                seen=count * 100 // ink.total,
                covered=-(-(inside - count) * 100 // inside),
                pixels=count,
            )
        )
    return things


def _hides(board: Board) -> dict[tuple[int, int], int]:
    """The scene graph's edges: `(i, j)` -> pixels where i is seen and hides what was to be seen of j."""
    hides = {}
    for near, (ink, under) in enumerate(zip(board.inks, board.under, strict=True)):
        seen = board.labels[ink.window] == near
        counts = np.bincount(under[seen & ink.mask] + 1, minlength=1)[1:].tolist()
        hides.update({(near, far): count for far, count in enumerate(counts) if count})
    return hides

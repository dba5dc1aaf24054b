"""Outlines as integer polygons: the building blocks of every shape.

An outline is a tuple of loops in local units, x to the right, y down, spanning about -1000..1000. A loop with sign +1
adds its inside, one with sign -1 takes it away; where the sum is positive there is ink. Overlapping parts are thus a
union, and a ring (a disc, then a smaller disc with sign -1) stays open wherever no other part crosses its hole.

Sines come from a table made with Python's integers: the last digit of a library's `sin` differs between machines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isqrt
from typing import NamedTuple

Point = tuple[int, int]

TURN = 1024  # angles are integers, 1024 to a full turn
SINE_BITS = 14  # sines are integers, 2**14 stands for 1


class Loop(NamedTuple):
    """One closed polygon. points: corners in local units. sign: +1 adds its inside, -1 removes it."""

    points: tuple[Point, ...]
    sign: int = 1


Outline = tuple[Loop, ...]


def _arctan_inverse(number: int, one: int) -> int:
    """`one * arctan(1 / number)` by its power series."""
    term, total, odd = one // number, 0, 1
    while term:
        total += term // odd if odd % 4 == 1 else -(term // odd)
        term //= number * number
        odd += 2
    return total


def _sine_table() -> tuple[int, ...]:
    """`round(2**SINE_BITS * sin(2 pi k / TURN))` for `k` in `0..TURN-1`, computed with 128-bit integers."""
    one = 1 << 128
    pi = 4 * (4 * _arctan_inverse(5, one) - _arctan_inverse(239, one))  # Machin's formula
    step = 2 * pi // TURN
    sine, cosine, term, power = 0, 0, one, 0
    while term:
        if power % 2:
            sine += term if power % 4 == 1 else -term
        else:
            cosine += term if power % 4 == 0 else -term
        power += 1
        term = term * step // (one * power)
    table, x, y = [], one, 0
    half = 1 << (128 - SINE_BITS - 1)
    for _ in range(TURN):
        table.append((y + half) >> (128 - SINE_BITS))
        x, y = (x * cosine - y * sine) // one, (x * sine + y * cosine) // one
    return tuple(table)


_SINES = _sine_table()


def sine(angle: int) -> int:
    """`2**14 * sin` of an angle in 1/1024 turns, rounded to the nearest integer."""
    return _SINES[angle % TURN]


def cosine(angle: int) -> int:
    """`2**14 * cos` of an angle in 1/1024 turns, rounded to the nearest integer."""
    return _SINES[(angle + TURN // 4) % TURN]


def polar(radius: int, angle: int, center: Point = (0, 0)) -> Point:
    """The point at a distance and an angle (0 = right, clockwise on screen) from the center."""
    half = 1 << (SINE_BITS - 1)
    return (
        center[0] + ((radius * cosine(angle) + half) >> SINE_BITS),
        center[1] + ((radius * sine(angle) + half) >> SINE_BITS),
    )


def arc(center: Point, radius: int, start: int, stop: int, pieces: int = 24) -> list[Point]:
    """`pieces + 1` points along a circle from angle `start` to `stop` (1/1024 turns, either direction)."""
    return [polar(radius, start + (stop - start) * piece // pieces, center) for piece in range(pieces + 1)]


def disc(center: Point, radius: int, sign: int = 1, corners: int = 64) -> Loop:
    """A filled circle, or a round hole with sign -1; with few corners, a regular polygon standing on its right."""
    return Loop(tuple(polar(radius, TURN * corner // corners, center) for corner in range(corners)), sign)


def ellipse(center: Point, radius_x: int, radius_y: int, sign: int = 1, corners: int = 48) -> Loop:
    """A filled ellipse with its axes along x and y."""
    ring = (polar(1 << 14, TURN * corner // corners) for corner in range(corners))
    return Loop(tuple((center[0] + (x * radius_x >> 14), center[1] + (y * radius_y >> 14)) for x, y in ring), sign)


def ring(center: Point, radius: int, half_width: int) -> Outline:
    """A circle drawn with a pen: `radius` is that of its middle line."""
    return disc(center, radius + half_width), disc(center, max(1, radius - half_width), -1)


def oval(center: Point, radius_x: int, radius_y: int, half_width: int) -> Outline:
    """An ellipse drawn with a pen."""
    outer = ellipse(center, radius_x + half_width, radius_y + half_width)
    return outer, ellipse(center, max(1, radius_x - half_width), max(1, radius_y - half_width), -1)


def box(x0: int, y0: int, x1: int, y1: int, sign: int = 1) -> Loop:
    """An upright rectangle."""
    return Loop(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), sign)


def ray_curve(radius_at: Callable[[int], int], corners: int = 96) -> Loop:
    """The closed curve at distance `radius_at(angle)` from the origin."""
    angles = (TURN * corner // corners for corner in range(corners))
    return Loop(tuple(polar(radius_at(angle), angle) for angle in angles))


def bezier(corners: Sequence[Point], pieces: int = 12) -> list[Point]:
    """`pieces + 1` points of the Bezier curve with these control points, rounded down, by de Casteljau's rule."""
    curve = []
    for piece in range(pieces + 1):
        # Scaled by `pieces` once per level and divided once at the end, so that only one rounding happens.
        level = list(corners)
        for _ in range(len(corners) - 1):
            level = [
                (ax * (pieces - piece) + bx * piece, ay * (pieces - piece) + by * piece)
                for (ax, ay), (bx, by) in pairwise(level)
            ]
        scale = pieces ** (len(corners) - 1)
        curve.append((level[0][0] // scale, level[0][1] // scale))
    return curve


def _normal(start: Point, stop: Point, length: int) -> Point:
    """The vector of this length at a right angle to `start -> stop`."""
    dx, dy = stop[0] - start[0], stop[1] - start[1]
    # 16 times finer than the units, because a pen may be only 10 units wide.
    norm = max(1, isqrt(256 * (dx * dx + dy * dy)))
    return -dy * length * 16 // norm, dx * length * 16 // norm


def line(start: Point, stop: Point, half_width: int, end_half_width: int | None = None) -> Loop:
    """A straight stroke with square ends that reach half its width beyond its points; it may taper."""
    end = half_width if end_half_width is None else end_half_width
    (ax, ay), (bx, by) = _normal(start, stop, half_width), _normal(start, stop, end)
    # The normal turned back by a right angle points along the stroke.
    x0, y0, x1, y1 = start[0] - ay, start[1] + ax, stop[0] + by, stop[1] - bx
    return Loop(((x0 + ax, y0 + ay), (x1 + bx, y1 + by), (x1 - bx, y1 - by), (x0 - ax, y0 - ay)))


def ribbon(points: Sequence[Point], half_width: int) -> Loop:
    """A curved stroke of even width along points that bend gently and do not cross."""
    left, right = [], []
    last = len(points) - 1
    for place, (x, y) in enumerate(points):
        nx, ny = _normal(points[max(0, place - 1)], points[min(last, place + 1)], half_width)
        left.append((x + nx, y + ny))
        right.append((x - nx, y - ny))
    return Loop(tuple(left + right[::-1]))

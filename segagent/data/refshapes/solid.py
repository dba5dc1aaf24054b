"""The solid shapes: one builder per noun, each `(stream, half_width) -> Outline` in local units (-1000..1000).

`stream` gives the small differences between two things of one kind; `half_width` is the pen's and matters only to
thin things (`thin.py`), whose builders have the same form.
"""

from __future__ import annotations

from collections.abc import Callable

from segagent.data.refshapes.outline import (
    SINE_BITS,
    Loop,
    Outline,
    arc,
    bezier,
    box,
    cosine,
    disc,
    ellipse,
    line,
    polar,
    ray_curve,
    sine,
)
from segagent.data.refshapes.randomness import Stream

Builder = Callable[[Stream, int], Outline]


def _circle(stream: Stream, half_width: int) -> Outline:
    return (disc((0, 0), 960),)


def _square(stream: Stream, half_width: int) -> Outline:
    return (box(-860, -860, 860, 860),)


def _triangle(stream: Stream, half_width: int) -> Outline:
    return (Loop(((0, -960), (1000, 800), (-1000, 800))),)


def _star(stream: Stream, half_width: int) -> Outline:
    inner = stream.between(400, 480)
    corners = (polar(inner if tip % 2 else 1050, 1024 * tip // 10 - 256, (0, 60)) for tip in range(10))
    return (Loop(tuple(corners)),)


def _heart(stream: Stream, half_width: int) -> Outline:
    # x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, in units of 1/17 of 1000.
    points = []
    for angle in range(0, 1024, 16):
        x = 16 * sine(angle) ** 3 >> (2 * SINE_BITS)
        y = 13 * cosine(angle) - 5 * cosine(2 * angle) - 2 * cosine(3 * angle) - cosine(4 * angle)
        points.append((x * 1000 // 17 >> SINE_BITS, -(y * 1000 // 17 >> SINE_BITS) - 120))
    return (Loop(tuple(points)),)


def _cross(stream: Stream, half_width: int) -> Outline:
    arm = stream.between(260, 360)
    return box(-1000, -arm, 1000, arm), box(-arm, -1000, arm, -arm), box(-arm, arm, arm, 1000)


def _hexagon(stream: Stream, half_width: int) -> Outline:
    return (disc((0, 0), 1000, corners=6),)


def _arrow(stream: Stream, half_width: int) -> Outline:
    shaft, neck = stream.between(190, 280), stream.between(-50, 150)
    head = ((neck, -shaft), (neck, -720), (1000, 0), (neck, 720), (neck, shaft))
    return (Loop(((-1000, -shaft), *head, (-1000, shaft))),)


def _ring(stream: Stream, half_width: int) -> Outline:
    return disc((0, 0), 980), disc((0, 0), stream.between(520, 640), -1)


def _moon(stream: Stream, half_width: int) -> Outline:
    # Outer circle of radius 1000, bitten by one of radius 800 around (500, 0); they meet at (610, +-792).
    outer = arc((190, 0), 1000, 149, 875, 48)
    inner = arc((690, 0), 800, 790, 234, 36)
    return (Loop(tuple(outer + inner)),)


def _gear(stream: Stream, half_width: int) -> Outline:
    teeth, points = stream.between(8, 11), []
    for tooth in range(teeth):
        for share, radius in ((0, 760), (15, 1000), (45, 1000), (60, 760)):
            points.append(polar(radius, 1024 * (100 * tooth + share) // (100 * teeth)))
    return Loop(tuple(points)), disc((0, 0), stream.between(280, 400), -1)


def _leaf(stream: Stream, half_width: int) -> Outline:
    belly = stream.between(560, 760)
    upper = bezier(((-700, 0), (-350, -belly), (500, -belly), (1000, 0)), 20)
    lower = bezier(((1000, 0), (500, belly), (-350, belly), (-700, 0)), 20)
    return Loop(tuple(upper + lower[1:-1])), line((-1000, 60), (-650, 0), 55, 70)


def _bottle(stream: Stream, half_width: int) -> Outline:
    body, neck = stream.between(380, 440), stream.between(130, 160)
    shoulder = bezier(((neck, -480), (neck, -150), (body, -250), (body, 100)), 10)
    right = [(neck, -860), *shoulder, (body, 920), (body - 70, 1000)]
    left = [(-x, y) for x, y in right[::-1]]
    return Loop(tuple(right + left)), box(-neck - 50, -1000, neck + 50, -840)


def _mug(stream: Stream, half_width: int) -> Outline:
    body = Loop(((-850, -800), (420, -800), (380, 820), (310, 880), (-740, 880), (-810, 820)))
    radius = stream.between(460, 520)
    return body, ellipse((430, 0), radius, radius + 60), ellipse((430, 0), radius - 200, radius - 140, -1)


def _fish(stream: Stream, half_width: int) -> Outline:
    belly = stream.between(700, 860)
    upper = bezier(((-1000, 0), (-600, -belly), (300, -belly), (620, 0)), 20)
    lower = bezier(((620, 0), (300, belly), (-600, belly), (-1000, 0)), 20)
    tail = Loop(((480, 0), (1000, -500), (860, 0), (1000, 500)))
    return Loop(tuple(upper + lower[1:-1])), tail, disc((-620, -120), 90, -1)


def _house(stream: Stream, half_width: int) -> Outline:
    walls = Loop(((-950, -150), (0, -1000), (950, -150), (740, -150), (740, 920), (-740, 920), (-740, -150)))
    chimney = Loop(((420, -624), (420, -950), (640, -950), (640, -428)))
    window = stream.choice(((-480, -60, -120, 260), (150, -60, 510, 260)))
    return walls, chimney, box(*window, -1), box(-window[0] - 300, 380, -window[0] + 60, 920, -1)


def _key(stream: Stream, half_width: int) -> Outline:
    bow = stream.between(390, 430)
    head = (disc((-600, 0), bow), disc((-600, 0), bow - 190, -1))
    teeth = (box(560, 90, 690, 380), box(830, 90, 980, stream.between(300, 420)))
    return *head, box(-600 + bow - 30, -100, 980, 100), *teeth


def _cloud(stream: Stream, half_width: int) -> Outline:
    lift = stream.between(-60, 60)
    puffs = (
        disc((-560, 180), 400),
        disc((-120, -150 + lift), 520),
        disc((420, -20 - lift), 420),
        disc((680, 260), 320),
    )
    return *puffs, Loop(((-560, 130), (680, 130), (680, 580), (-560, 580)))


def _mushroom(stream: Stream, half_width: int) -> Outline:
    cap = [*arc((0, -20), 960, 512, 1024, 32), (880, 100), (-880, 100)]
    foot = stream.between(300, 400)
    stem = Loop(((-230, 60), (230, 60), (foot, 920), (0, 1000), (-foot, 920)))
    return Loop(tuple(cap)), stem


def _flower(stream: Stream, half_width: int) -> Outline:
    petals, depth = stream.between(5, 7), stream.between(230, 290)
    petal_curve = ray_curve(lambda angle: 740 + (depth * cosine(petals * angle) >> SINE_BITS))
    return petal_curve, disc((0, 0), stream.between(200, 260), -1)


def _boat(stream: Stream, half_width: int) -> Outline:
    hull = Loop(((-1000, 380), (1000, 380), (680, 900), (-720, 900)))
    sails = (Loop(((120, -940), (820, 240), (120, 240))), Loop(((-60, -700), (-60, 240), (-640, 240))))
    return hull, box(-30, -1000, 60, 400), *sails


def _umbrella(stream: Stream, half_width: int) -> Outline:
    rim = arc((0, 60), 1000, 512, 1024, 32)
    for rib in (2, 1, 0, -1):  # scallops from the right end back to the left
        rim += bezier(((500 * rib, 60), (500 * rib - 250, -150), (500 * rib - 500, 60)), 6)[1:]
    hook = arc((150, 780), 150, 512, 0, 12)
    inside = arc((150, 780), 60, 0, 512, 12)
    handle = Loop(tuple([(0, -60), (90, -60), *inside[::-1], *hook[::-1]]))
    return Loop(tuple(rim)), handle


GEOMETRIC: dict[str, Builder] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "hexagon": _hexagon,
    "arrow": _arrow,
    "ring": _ring,
    "moon": _moon,
}

THINGS: dict[str, Builder] = {
    "gear": _gear,
    "leaf": _leaf,
    "bottle": _bottle,
    "mug": _mug,
    "fish": _fish,
    "house": _house,
    "key": _key,
    "cloud": _cloud,
    "mushroom": _mushroom,
    "flower": _flower,
    "boat": _boat,
    "umbrella": _umbrella,
}

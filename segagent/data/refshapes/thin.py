"""The thin structures: one builder per noun, `(stream, half_width) -> Outline` in local units (-1000..1000).

Everything is drawn with a pen of twice `half_width`, so that each thing is mostly holes: what one click cannot get.
Round things serve testA, long or branching ones testB.
"""

from __future__ import annotations

from segagent.data.refshapes.outline import (
    SINE_BITS,
    TURN,
    Loop,
    Outline,
    Point,
    arc,
    line,
    oval,
    polar,
    ribbon,
    ring,
    sine,
)
from segagent.data.refshapes.randomness import Stream
from segagent.data.refshapes.solid import Builder


def _wheel(stream: Stream, half_width: int) -> Outline:
    spokes, radius = stream.between(6, 14), 1000 - half_width
    parts = [*ring((0, 0), radius, half_width), *ring((0, 0), 130, half_width)]
    if stream.chance(50):  # a tyre around the rim
        parts += ring((0, 0), radius - 4 * half_width, half_width)
    for spoke in range(spokes):
        angle = TURN * spoke // spokes
        parts.append(line(polar(130, angle), polar(radius, angle), half_width))
    return tuple(parts)


def _web(stream: Stream, half_width: int) -> Outline:
    spokes, rounds = stream.between(7, 10), stream.between(3, 5)
    angles = [TURN * (10 * spoke + stream.between(-2, 2)) // (10 * spokes) for spoke in range(spokes)]
    parts = [line((0, 0), polar(1000 - half_width, angle), half_width) for angle in angles]
    for number in range(1, rounds + 1):
        corners = [polar(880 * number // rounds, angle) for angle in angles]
        parts += [line(corner, corners[place - 1], half_width) for place, corner in enumerate(corners)]
    return tuple(parts)


def _bullseye(stream: Stream, half_width: int) -> Outline:
    rounds = stream.between(3, 5)
    radii = [(1000 - half_width) * number // rounds for number in range(1, rounds + 1)]
    return tuple(loop for radius in radii for loop in ring((0, 0), radius, half_width))


def _spiral(stream: Stream, half_width: int) -> Outline:
    turns = stream.between(3, 4)
    steps = 36 * turns
    points = [polar(80 + (900 - half_width) * step // steps, TURN * step // 36) for step in range(steps + 1)]
    return (ribbon(points, half_width),)


def _snowflake(stream: Stream, half_width: int) -> Outline:
    twigs, slant = stream.between(2, 3), stream.between(130, 180)
    parts = []
    for arm in range(6):
        angle = TURN * arm // 6
        parts.append(line((0, 0), polar(1000 - half_width, angle), half_width))
        for twig in range(1, twigs + 1):
            root = polar(900 * twig // (twigs + 1) + 60, angle)
            length = 420 - 80 * twig
            parts += [line(root, polar(length, angle + turn, root), half_width) for turn in (slant, -slant)]
    return tuple(parts)


def _chain(stream: Stream, half_width: int) -> Outline:
    links, parts = stream.between(5, 8), []
    step = 2000 // links
    for link in range(links):
        center = (-1000 + step // 2 + link * step, 0)
        # Links seen from the front and from the side take turns, as in a real chain.
        tall = 200 if link % 2 == 0 else 70 + half_width
        parts += oval(center, step * 2 // 3 - half_width, tall, half_width)
    return tuple(parts)


def _net(stream: Stream, half_width: int) -> Outline:
    columns, rows, height = stream.between(5, 8), stream.between(4, 7), stream.between(650, 1000)
    sag = stream.between(-150, 150)
    parts = []
    for column in range(columns + 1):
        x = -1000 + 2000 * column // columns
        parts.append(line((x, -height + _sag(x, sag)), (x, height + _sag(x, sag)), half_width))
    for row in range(rows + 1):
        y = -height + 2 * height * row // rows
        points = [(x, y + _sag(x, sag)) for x in range(-1000, 1001, 125)]
        parts.append(ribbon(points, half_width))
    return tuple(parts)


def _sag(x: int, depth: int) -> int:
    """How far a rope hung from x = -1000 and 1000 hangs down at x."""
    return depth * (1_000_000 - x * x) // 1_000_000


def _ladder(stream: Stream, half_width: int) -> Outline:
    rungs, foot = stream.between(6, 9), stream.between(280, 360)
    top = foot - stream.between(0, 90)
    parts = [line((-foot, 1000), (-top, -1000), half_width), line((foot, 1000), (top, -1000), half_width)]
    for rung in range(rungs):
        y = -820 + 1640 * rung // (rungs - 1)
        x = top + (foot - top) * (y + 1000) // 2000
        parts.append(line((-x, y), (x, y), half_width))
    return tuple(parts)


def _fence(stream: Stream, half_width: int) -> Outline:
    pickets, height, rails = stream.between(7, 11), stream.between(480, 640), stream.between(2, 3)
    parts = []
    for picket in range(pickets):
        x = -920 + 1840 * picket // (pickets - 1)
        parts.append(line((x, -height), (x, height), half_width))
        tip = height + 3 * half_width  # a point on top
        parts.append(Loop(((x - 2 * half_width, -height), (x, -tip - half_width), (x + 2 * half_width, -height))))
    for rail in range(rails):
        y = -height // 2 + height * rail // (rails - 1)
        parts.append(line((-1000, y), (1000, y), half_width))
    return tuple(parts)


def _tree(stream: Stream, half_width: int) -> Outline:
    parts: list[Loop] = []
    _grow(stream, parts, (0, 1000), 768 + stream.between(-25, 25), 620, 5, half_width)
    return tuple(parts)


def _grow(
    stream: Stream, parts: list[Loop], root: Point, angle: int, length: int, levels: int, half_width: int
) -> None:
    """One twig and, from its end and its side, the thinner ones that it carries."""
    tip = polar(length, angle, root)
    # Twice the pen at the trunk, the bare pen at the last twigs.
    thick, thin = (half_width * (4 + level) // 5 for level in (levels, levels - 1))
    parts.append(line(root, tip, thick, thin))
    if levels <= 1:
        return
    spread = stream.between(60, 110)
    for turn in (-spread, stream.between(50, 100)):
        _grow(stream, parts, tip, angle + turn, length * stream.between(62, 74) // 100, levels - 1, half_width)
    if levels >= 4 and stream.chance(60):
        side = (root[0] + (tip[0] - root[0]) * 3 // 5, root[1] + (tip[1] - root[1]) * 3 // 5)
        turn = stream.choice((-110, 110))
        _grow(stream, parts, side, angle + turn, length * 45 // 100, levels - 2, half_width)


def _antenna(stream: Stream, half_width: int) -> Outline:
    rods, tilt = stream.between(5, 8), stream.between(60, 140)
    parts = [line((0, -500), (0, 1000), half_width), line((-1000, -500), (1000, -500), half_width)]
    for rod in range(rods):
        x = -900 + 1800 * rod // (rods - 1)
        reach = 420 - 240 * rod // (rods - 1)
        parts.append(line((x - tilt, -500 - reach), (x + tilt, -500 + reach), half_width))
    parts += [line((0, 500), (side, 1000), half_width) for side in (-320, 320)]
    return tuple(parts)


def _bicycle(stream: Stream, half_width: int) -> Outline:
    rear, front, radius, spokes = (-560, 300), (560, 300), 430, stream.between(6, 9)
    parts: list[Loop] = []
    for hub in (rear, front):
        parts += ring(hub, radius - half_width, half_width)
        for spoke in range(spokes):
            parts.append(line(hub, polar(radius - half_width, TURN * spoke // spokes, hub), half_width * 2 // 3))
    pedals, seat, head = (-60, 330), (-240, -330), (400, -330)
    bars = ((rear, pedals), (rear, seat), (seat, pedals), (seat, head), (pedals, head), (head, front))
    parts += [line(start, stop, half_width) for start, stop in bars]
    parts += [line(seat, (-280, -470), half_width), line((-420, -480), (-150, -480), half_width)]
    parts += [line(head, (350, -540), half_width), line((350, -540), (540, -590), half_width)]
    parts += ring(pedals, 90, half_width)
    return tuple(parts)


def _comb(stream: Stream, half_width: int) -> Outline:
    teeth, reach = stream.between(12, 18), stream.between(380, 520)
    parts = [line((-1000, -reach), (1000, -reach), half_width * 2)]
    for tooth in range(teeth):
        x = -980 + 1960 * tooth // (teeth - 1)
        parts.append(line((x, -reach), (x, reach), half_width))
    return tuple(parts)


def _feather(stream: Stream, half_width: int) -> Outline:
    barbs, parts = stream.between(9, 13), []
    spine = [(x, _sag(x, -120)) for x in range(-1000, 1001, 100)]
    parts.append(ribbon(spine, half_width))
    for barb in range(barbs):
        x = -560 + 1460 * barb // (barbs - 1)
        reach = 120 + (380 * sine(60 + 400 * barb // (barbs - 1)) >> SINE_BITS)
        root = (x, _sag(x, -120))
        parts += [line(root, (x - reach * 2 // 3, root[1] + side * reach), half_width) for side in (-1, 1)]
    return tuple(parts)


def _cage(stream: Stream, half_width: int) -> Outline:
    bars, wide, parts = stream.between(5, 8), stream.between(560, 680), []
    shoulder = -880 + wide
    dome = arc((0, shoulder), wide, 512, 1024, 24)
    parts.append(ribbon(dome, half_width))
    for bar in range(bars + 1):
        x = -wide + 2 * wide * bar // bars
        # The dome's height above the bar, from the circle's equation with integers only.
        rise = 0
        while (rise + 10) ** 2 + x * x <= wide * wide:
            rise += 10
        parts.append(line((x, shoulder - rise), (x, 950), half_width))
    parts += [line((-wide, y), (wide, y), half_width) for y in (shoulder, 400, 950)]
    parts += ring((0, -920), 60 + half_width, half_width)
    return tuple(parts)


ROUND: dict[str, Builder] = {
    "wheel": _wheel,
    "web": _web,
    "bullseye": _bullseye,
    "spiral": _spiral,
    "snowflake": _snowflake,
    "bicycle": _bicycle,
    "chain": _chain,
}

LONG: dict[str, Builder] = {
    "net": _net,
    "ladder": _ladder,
    "fence": _fence,
    "tree": _tree,
    "antenna": _antenna,
    "comb": _comb,
    "feather": _feather,
    "cage": _cage,
}

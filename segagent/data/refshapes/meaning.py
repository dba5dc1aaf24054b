"""What a text denotes in a scene: the proof that it singles out one thing.

Every statement about a thing is True, False or None, and None means that people could disagree: the thing is a little
to the left, or somewhat larger. A text denotes a thing only if everything it says is True of it and of every other
thing something is clearly False. Lengths are in 1/1024 of the picture's side. The margins:

big, small        among those that the other words leave: 1.5 times as large as the smallest (small as the largest);
                  undecided between 1.15 and 1.5. When one alone is left: extent at least 130, at most 60.
left, ...         one alone left: center at least 140 from the middle. Several: the leftmost, 110 before the next and on
                  the left half, the next on the right half (or 250 away).
leftmost, second  80, resp. 60, between neighbours in order.
corners           center 160 from both middle lines, every rival at most 20 into that quarter.
middle            center within 130 of both middle lines, every rival 200 away from one of them.
left of, above    at least 90 away in that direction and no more across; clearly not: on the other side.
next to           at most 50 between the boxes; clearly not: 150.
nearest           1.4 times as near as the next.
front, behind     at least 3% of the farther thing is hidden by the nearer one; clearly not: no pixel.
partly hidden     at least 12% hidden by other things; clearly not: under 3%.
between           projects into the middle half of the line, at most a quarter of its length off it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isqrt

from segagent.data.refshapes.grammar import Phrase, Relation
from segagent.data.refshapes.scene import UNIT, Scene, Thing

Verdict = bool | None
_MIDDLE = UNIT // 2


def denotes(phrase: Phrase, scene: Scene) -> int | None:
    """Index of the one thing that the phrase singles out, None when it is none, several, or debatable."""
    verdicts = [_all(_facts(phrase, index, scene)) for index in range(len(scene.things))]
    left = [index for index, verdict in enumerate(verdicts) if verdict]
    if not left or any(verdict is None for verdict in verdicts):
        return None
    for choose in _selections(phrase, scene):
        chosen = choose(left)
        if not chosen:
            return None
        left = chosen
    return left[0] if len(left) == 1 else None


def fits(phrase: Phrase, thing: Thing) -> bool:
    """Whether a thing has the noun, color and pattern that the phrase says, whatever else it says."""
    return all(_likeness(phrase, thing))


def _likeness(phrase: Phrase, thing: Thing) -> list[bool]:
    return [
        phrase.noun in (None, thing.noun),
        phrase.color in (None, thing.color),
        phrase.pattern in (None, thing.pattern),
    ]


def _all(verdicts: Sequence[Verdict]) -> Verdict:
    """False if any is, else None if any is, else True."""
    return False if any(verdict is False for verdict in verdicts) else None if None in verdicts else True


def _facts(phrase: Phrase, index: int, scene: Scene) -> list[Verdict]:
    """What the phrase says of one thing without regard to its rivals."""
    thing = scene.things[index]
    facts: list[Verdict] = [*_likeness(phrase, thing)]
    if phrase.hidden:
        facts.append(True if thing.covered >= 12 else False if thing.covered < 3 else None)
    if False in facts:
        return facts
    for relation in phrase.relations:
        if relation.kind != "nearest":
            facts.append(_related(relation, index, scene))
    return facts


def _selections(phrase: Phrase, scene: Scene) -> list[Callable[[list[int]], list[int] | None]]:
    """What the phrase says in comparison: functions from the things left to those it picks, None if debatable."""
    things = scene.things
    steps: list[Callable[[list[int]], list[int] | None]] = []
    if phrase.size is not None:
        steps.append(lambda left: _keep(left, [_sized(phrase.size, index, left, things) for index in left]))
    for relation in phrase.relations:
        if relation.kind == "nearest":
            steps.append(lambda left, relation=relation: _nearest(relation, left, scene))
    if phrase.place is not None:
        steps.append(lambda left: _placed(phrase.place, left, things))
    if phrase.rank is not None:
        steps.append(lambda left: _ranked(*phrase.rank, left, things))
    return steps


def _keep(left: list[int], verdicts: list[Verdict]) -> list[int] | None:
    if None in verdicts:
        return None
    return [index for index, verdict in zip(left, verdicts, strict=True) if verdict]


def _sized(size: str, index: int, left: list[int], things: Sequence[Thing]) -> Verdict:
    extent = things[index].extent
    rivals = [things[other].extent for other in left if other != index]
    if size in ("biggest", "smallest"):
        if not rivals:
            return None
        ratio = (extent * 100 // max(rivals)) if size == "biggest" else (min(rivals) * 100 // extent)
        return True if ratio >= 130 else False if ratio <= 100 else None
    if not rivals:
        return True if (extent >= 130 if size == "big" else extent <= 60) else None
    if size == "big":
        ratio, plausible = extent * 100 // min(rivals), extent >= 80
    else:
        ratio, plausible = max(rivals) * 100 // extent, extent <= 120
    return (True if plausible else None) if ratio >= 150 else False if ratio <= 115 else None


def _rank_key(edge: str, thing: Thing) -> int:
    """Distance of a thing's center from an edge."""
    return {"left": thing.x, "right": UNIT - thing.x, "top": thing.y, "bottom": UNIT - thing.y}[edge]


def _placed(place: str, left: list[int], things: Sequence[Thing]) -> list[int] | None:
    if place in ("leftmost", "rightmost"):
        return _ranked(1, place[: -len("most")], left, things, 80)
    if " " in place:
        return _keep(left, [_cornered(place, things[index]) for index in left])
    if place == "middle":
        return _keep(left, [_central(things[index]) for index in left])
    order = sorted(left, key=lambda index: _rank_key(place, things[index]))
    first = _rank_key(place, things[order[0]])
    if len(order) == 1:
        return order if first <= _MIDDLE - 140 else None
    second = _rank_key(place, things[order[1]])
    clear = first < _MIDDLE and second - first >= (110 if second > _MIDDLE else 250)
    return order[:1] if clear else None


def _cornered(place: str, thing: Thing) -> Verdict:
    deep = [_MIDDLE - _rank_key(edge, thing) for edge in place.split()]
    return True if min(deep) >= 160 else False if min(deep) <= 20 else None


def _central(thing: Thing) -> Verdict:
    off = max(abs(thing.x - _MIDDLE), abs(thing.y - _MIDDLE))
    return True if off <= 130 else False if off >= 200 else None


def _ranked(number: int, edge: str, left: list[int], things: Sequence[Thing], gap: int = 60) -> list[int] | None:
    order = sorted(left, key=lambda index: _rank_key(edge, things[index]))
    keys = [_rank_key(edge, things[index]) for index in order]
    if len(order) < max(2, number + (number > 1)):
        return None
    if any(after - before < gap for before, after in pairwise(keys[: number + 1])):
        return None
    return [order[number - 1]]


def _nearest(relation: Relation, left: list[int], scene: Scene) -> list[int] | None:
    anchor = denotes(relation.others[0], scene)
    order = [] if anchor is None else [index for index in left if index != anchor]
    if anchor is None or len(order) < 2:
        return None
    things = scene.things

    def distance(index: int) -> int:
        dx, dy = things[index].x - things[anchor].x, things[index].y - things[anchor].y
        return isqrt(dx * dx + dy * dy)

    order.sort(key=distance)
    return order[:1] if distance(order[1]) * 10 >= distance(order[0]) * 14 else None


def _related(relation: Relation, index: int, scene: Scene) -> Verdict:
    """Whether a thing stands in a relation to the one thing (or two) that the relation names."""
    anchors = [denotes(other, scene) for other in relation.others]
    if None in anchors:
        return None
    if index in anchors:
        return False
    things = [scene.things[anchor] for anchor in anchors]
    thing, other = scene.things[index], things[0]
    if relation.kind in ("left", "right", "above", "below"):
        return _directed(relation.kind, thing, other)
    if relation.kind in ("bigger", "smaller"):
        large, little = (thing, other) if relation.kind == "bigger" else (other, thing)
        ratio = large.extent * 100 // little.extent
        return True if ratio >= 140 else False if ratio <= 100 else None
    if relation.kind == "near":
        gap = _gap(thing.box, other.box)
        return True if gap <= 50 else False if gap >= 150 else None
    if relation.kind == "between":
        return None if anchors[0] == anchors[1] else _between(thing, *things)
    near, far = (index, anchors[0]) if relation.kind == "front" else (anchors[0], index)
    hidden = scene.hides.get((near, far), 0)
    whole = scene.things[far].pixels * 100 // max(1, scene.things[far].seen)
    return True if hidden * 100 >= 3 * whole else False if hidden == 0 else None


def _directed(direction: str, thing: Thing, other: Thing) -> Verdict:
    dx, dy = thing.x - other.x, thing.y - other.y
    along, across = {"left": (-dx, dy), "right": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[direction]
    return True if along >= 90 and along >= abs(across) else False if along <= 10 else None


def _gap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> int:
    """Distance between two boxes along the axis where they are farther apart, 0 where they overlap."""
    return max(0, first[0] - second[2], second[0] - first[2], first[1] - second[3], second[1] - first[3])


def _between(thing: Thing, first: Thing, second: Thing) -> Verdict:
    dx, dy = second.x - first.x, second.y - first.y
    square = dx * dx + dy * dy
    if square < 250 * 250:
        return None
    along = (thing.x - first.x) * dx + (thing.y - first.y) * dy
    across = abs((thing.x - first.x) * dy - (thing.y - first.y) * dx)
    if square <= 4 * along <= 3 * square and 4 * across <= square:
        return True
    return False if along <= 0 or along >= square or across * 2 >= square else None

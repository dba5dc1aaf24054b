"""Referring expressions: what a person might say to point out one thing, in the manner of each subset.

A writer only makes proposals, from the target's own words and a rough idea of where it is; `describe` hands out the
first one that `meaning.denotes` finds to single out the target, read back from the finished text by `grammar.parse`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from segagent.data.refshapes.grammar import parse
from segagent.data.refshapes.meaning import denotes
from segagent.data.refshapes.randomness import Stream
from segagent.data.refshapes.scene import UNIT, Scene, Thing

Writer = Callable[[Stream, Scene, int], str]
_TRIES = 24

_PATTERN_WORDS = {
    "striped": (("striped", "stripy"), ("with stripes",)),
    "dotted": (("dotted", "spotted"), ("with dots", "with spots")),
    "checked": (("checked", "checkered"), ("with checks",)),
    "plain": (("plain",), ("without a pattern",)),
}


def describe(stream: Stream, scene: Scene, target: int, subset: str, taken: Sequence[str] = ()) -> str | None:
    """A text that denotes exactly `scene.things[target]`, or None when none was found in a few tries.

    subset: whose manner to use. taken: texts that were used already.
    """
    writer = _WRITERS[subset]
    for _ in range(_TRIES):
        text = " ".join(writer(stream, scene, target).split())
        if text not in taken and denotes(parse(text), scene) == target:
            return text
    return None


def _size_word(stream: Stream, thing: Thing) -> str:
    words = ("small", "small", "small", "little", "little", "tiny", "smallest")
    if thing.extent > 95:
        words = ("big", "big", "big", "large", "large", "biggest", "largest")
    return stream.choice(words)


def _name(stream: Stream, thing: Thing, color: int = 70, size: int = 0, pattern: int = 15, loose: int = 6) -> str:
    """Adjectives and noun. color, size, pattern, loose: percent of names that say it, or "thing" for the noun."""
    noun = stream.choice(("thing", "object", "shape", "one")) if stream.chance(loose) else thing.noun
    colors = [thing.color] if stream.chance(color) else []
    sizes = [_size_word(stream, thing)] if stream.chance(size) else []
    before, after = "", ""
    if stream.chance((pattern + 2) // 3 if thing.pattern == "plain" else 4 * pattern):
        adjectives, tails = _PATTERN_WORDS[thing.pattern]
        if stream.chance(75 if thing.pattern != "plain" else 90):
            before = stream.choice(adjectives)
        else:
            after = stream.choice(tails)
    middle = [before, *colors] if stream.chance(35) else [*colors, before]
    return " ".join((*sizes, *middle, noun, after))


def _with_article(stream: Stream, name: str, percent: int, indefinite: int = 0) -> str:
    """`name` with "the" in `percent` of 100 cases, of which `indefinite` become "a" where that sounds right."""
    if not stream.chance(percent):
        return name
    first = name.split()[0]
    if stream.chance(indefinite) and first not in ("biggest", "largest", "smallest"):
        return f"{'an' if first[0] in 'aeiou' else 'a'} {name}"
    return f"the {name}"


def _sides(thing: Thing) -> tuple[str, str]:
    """The half it lies in, across and down."""
    return "left" if thing.x < UNIT // 2 else "right", "top" if thing.y < UNIT // 2 else "bottom"


def _is_central(thing: Thing) -> bool:
    return max(abs(thing.x - UNIT // 2), abs(thing.y - UNIT // 2)) <= UNIT // 8


def _place_before(stream: Stream, thing: Thing) -> str:
    across, down = _sides(thing)
    upper = "upper" if down == "top" else "lower"
    if _is_central(thing):
        return stream.choice(("middle", "center"))
    return stream.weighted(
        [(across, 6), (f"{across}most", 4), (f"far {across}", 2), (down, 5), (upper, 2), (f"{down} {across}", 3),
         (f"{upper} {across}", 1)]
    )  # fmt: skip


def _place_after(stream: Stream, thing: Thing, terse: bool) -> str:
    """Words for after the noun. terse: now and then in note style ("mug top left"), as people type."""
    across, down = _sides(thing)
    upper = "upper" if down == "top" else "lower"
    if _is_central(thing):
        return stream.choice(("in the middle", "in the center", "middle" if terse else "in the middle"))
    words = [
        (f"on the {across}", 6), (f"on the {across} side", 2), (f"on the far {across}", 2), (f"at the {down}", 6),
        (f"in the {down} {across}", 2), (f"in the {upper} {across} corner", 2), (f"in the {down} {across} corner", 2),
    ]  # fmt: skip
    if terse:
        words += [(f"on {across}", 3), (across, 2), (down, 2), (f"{down} {across}", 2)]
    return stream.weighted(words)


def _ordinal(stream: Stream, scene: Scene, target: int) -> str:
    """ "second red star from the left", counted the way that fits."""
    thing = scene.things[target]
    color = [thing.color] if stream.chance(30) else []
    alike = [other for other in scene.things if other.noun == thing.noun and (not color or other.color == thing.color)]
    edge = stream.choice(("left", "left", "right", "right", "top", "bottom"))
    sign = 1 if edge in ("left", "top") else -1
    keys = sorted(sign * (other.x if edge in ("left", "right") else other.y) for other in alike)
    rank = keys.index(sign * (thing.x if edge in ("left", "right") else thing.y)) + 1
    number = {2: "second", 3: "third"}.get(rank)
    if number is None:
        return " ".join((*color, thing.noun, _place_after(stream, thing, True)))
    return " ".join((number, *color, thing.noun, "from the" if stream.chance(70) else "from", edge))


def _relation_words(stream: Stream, scene: Scene, target: int, other: int) -> str:
    """How the target stands to another thing, in words that are at least roughly true."""
    thing, anchor = scene.things[target], scene.things[other]
    dx, dy = thing.x - anchor.x, thing.y - anchor.y
    if (target, other) in scene.hides and stream.chance(70):
        return stream.choice(("in front of", "in front of", "partly hiding", "partly covering"))
    if (other, target) in scene.hides and stream.chance(70):
        return stream.choice(("behind", "behind", "partly hidden by", "partly covered by"))
    if max(abs(dx), abs(dy)) < thing.extent + anchor.extent + 50 and stream.chance(60):
        return stream.choice(("next to", "next to", "beside", "close to"))
    if stream.chance(10):
        return stream.choice(("closest to", "nearest to"))
    if abs(dx) > abs(dy):
        side = "left" if dx < 0 else "right"
        return stream.choice((f"to the {side} of", f"to the {side} of", f"{side} of"))
    return "above" if dy < 0 else stream.choice(("below", "below", "under"))


def _others(stream: Stream, scene: Scene, target: int) -> list[int]:
    """The things to lean on in random order, now and then one that overlaps first."""
    order = stream.shuffled([index for index in range(len(scene.things)) if index != target])
    if stream.chance(50):
        touching = {near + far - target for near, far in scene.hides if target in (near, far)}
        order.sort(key=lambda index: index not in touching)
    return order


def _relation(
    stream: Stream, scene: Scene, target: int, other: int, color: int, pattern: int, size: int = 0, place: int = 12
) -> str:
    """ "to the left of the red mug"; percents as in `_name`, place: of anchors that get a place word of their own."""
    anchor = _name(stream, scene.things[other], color, size, pattern, 0)
    if stream.chance(place):
        anchor = f"{anchor} {_place_after(stream, scene.things[other], False)}"
    return f"{_relation_words(stream, scene, target, other)} the {anchor}"


def _write_short(stream: Stream, scene: Scene, target: int) -> str:
    """In the manner of RefCOCO: few words, many about places."""
    thing = scene.things[target]
    kind = stream.weighted(
        [("bare", 26), ("before", 22), ("after", 30), ("ordinal", 9), ("relation", 9), ("hidden", 4)]
    )
    if kind == "ordinal":
        return _with_article(stream, _ordinal(stream, scene, target), 40)
    if kind == "relation":
        name = _name(stream, thing, 45, pattern=5)
        other = _others(stream, scene, target)[0]
        return f"{_with_article(stream, name, 40)} {_relation(stream, scene, target, other, 40, 5)}"
    name = _name(stream, thing, 62, 14, 12)
    if kind == "before":
        name = f"{_place_before(stream, thing)} {_name(stream, thing, 45, 0, 6)}"
    elif kind == "after":
        name = f"{_name(stream, thing, 50, 0, 8)} {_place_after(stream, thing, True)}"
    elif kind == "hidden":
        name = f"partly hidden {name}"
    return _with_article(stream, name, 34)


def _write_without_place(stream: Stream, scene: Scene, target: int) -> str:
    """In the manner of RefCOCO+: looks and comparisons only, no word about where."""
    thing = scene.things[target]
    kind = stream.weighted([("bare", 70), ("hidden", 12), ("compare", 18)])
    if kind == "compare":
        other = _others(stream, scene, target)[0]
        words = ("bigger than", "larger than") if thing.extent > scene.things[other].extent else ("smaller than",)
        anchor = _name(stream, scene.things[other], 65, 0, 12, 0)
        return f"{_with_article(stream, _name(stream, thing, 60), 45)} {stream.choice(words)} the {anchor}"
    name = _name(stream, thing, 72, 28, 24, 8)
    if kind == "hidden":
        hidden = stream.choice(("partly hidden", "half hidden", "partly covered"))
        name = f"{name} that is {hidden}" if stream.chance(40) else f"{hidden} {name}"
    return _with_article(stream, name, 45)


def _write_long(stream: Stream, scene: Scene, target: int) -> str:
    """In the manner of RefCOCOg: a full phrase that leans on other things."""
    thing = scene.things[target]
    kinds = [("one", 46), ("place", 18)]
    if len(scene.things) >= 3:
        kinds += [("two", 26), ("between", 10)]
    kind = stream.weighted(kinds)
    name = _with_article(stream, _name(stream, thing, 72, 18, 16, 5), 94, 35)
    others = _others(stream, scene, target)[:2]
    link = stream.weighted([("", 5), ("that is", 4), ("which is", 1)])
    if kind == "place":
        name = _with_article(stream, _name(stream, thing, 90, 25, 25, 0), 96, 20)
        return f"{name} {link} {_place_after(stream, thing, False)}"
    if kind == "between":
        first, second = (_name(stream, scene.things[other], 75, 0, 15, 0) for other in others)
        return f"{name} {link} between the {first} and the {second}"
    if kind == "one":
        return f"{name} {link} {_relation(stream, scene, target, others[0], 75, 18, 12)}"
    first, second = (_relation(stream, scene, target, other, 70, 14, place=0) for other in others)
    return f"{name} {link} {first} and {second}"


def _write_thin(stream: Stream, scene: Scene, target: int) -> str:
    """Short again, for thin structures."""
    thing = scene.things[target]
    kind = stream.weighted([("bare", 44), ("before", 18), ("after", 26), ("relation", 12)])
    name = _name(stream, thing, 66, 12, 0, 3)
    if kind == "before":
        name = f"{_place_before(stream, thing)} {_name(stream, thing, 45, 0, 0, 3)}"
    elif kind == "after":
        name = f"{_name(stream, thing, 50, 0, 0, 3)} {_place_after(stream, thing, True)}"
    elif kind == "relation":
        other = _others(stream, scene, target)[0]
        name = f"{_name(stream, thing, 60, 0, 0, 3)} {_relation(stream, scene, target, other, 55, 5)}"
    return _with_article(stream, name, 55)


_WRITERS: dict[str, Writer] = {
    "refshapes": _write_short,
    "refshapes+": _write_without_place,
    "refshapesg": _write_long,
    "refshapes-thin": _write_thin,
}

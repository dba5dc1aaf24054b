"""The words: nouns, colors, patterns, and which of them a person could mix up in one picture.

A scene never holds two names that could be mixed up (an orange thing beside a brown one, a wheel beside a web), so
that every word in a text is plain. Colors are 8-bit RGB centers; each thing gets its own small shift around them.
"""

from __future__ import annotations

from segagent.data.refshapes.solid import GEOMETRIC, THINGS
from segagent.data.refshapes.thin import LONG, ROUND

SUBSETS = ("refshapes", "refshapes+", "refshapesg", "refshapes-thin")
SPLITS = ("train", "val", "testA", "testB")

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (204, 38, 42),
    "orange": (238, 134, 28),
    "yellow": (240, 214, 52),
    "green": (46, 148, 62),
    "blue": (42, 92, 204),
    "purple": (124, 52, 166),
    "pink": (246, 146, 190),
    "brown": (116, 70, 38),
    "gray": (134, 136, 140),
    "white": (238, 238, 234),
    "black": (30, 30, 36),
}
UNCOLORED = ("gray", "white", "black")  # a small shift of hue would already give them a tint
# The second tone of a pattern: the share of 1024 on the way from the color to white (positive) or black (negative).
SECOND_TONE: dict[str, int] = {
    "red": 760,
    "orange": 720,
    "yellow": -520,
    "green": 700,
    "blue": 720,
    "purple": 720,
    "pink": -480,
    "brown": 640,
    "gray": -620,
    "white": -420,
    "black": 560,
}

SOLID_NOUNS = (*GEOMETRIC, *THINGS)
THIN_NOUNS = (*ROUND, *LONG)
BUILDERS = {**GEOMETRIC, **THINGS, **ROUND, **LONG}
PATTERNS = ("plain", "striped", "dotted", "checked")


def _pairs(*lines: str) -> frozenset[frozenset[str]]:
    return frozenset(frozenset((first, other)) for line in lines for first, *rest in [line.split()] for other in rest)


# The first word of each line can be mixed up with each of the others.
_ALIKE = _pairs(
    "red orange pink brown",
    "orange yellow brown",
    "purple blue pink",
    "gray white black",
    "black brown",
    "circle hexagon ring cloud flower moon",
    "ring gear hexagon key",
    "gear flower star",
    "flower star cloud",
    "triangle arrow boat",
    "house square arrow",
    "leaf fish heart",
    "umbrella mushroom boat",
    "key arrow",
    "hexagon square",
    "wheel web bullseye bicycle circle ring gear",
    "bullseye web spiral circle ring",
    "spiral web circle ring",
    "net fence cage web",
    "fence ladder cage comb",
    "ladder antenna chain cage net",
    "antenna tree snowflake comb feather",
    "tree feather snowflake",
    "feather comb leaf",
    "snowflake web star flower",
    "chain ring",
)

# Kinds that would no longer be themselves if stretched.
REGULAR = ("circle", "square", "ring", "hexagon", "cross", "wheel", "bullseye")

# How far each kind may turn from upright, in 1/1024 turns; any angle where it is not named.
TILT: dict[str, int] = {
    **dict.fromkeys(("square", "triangle", "cross", "heart", "house", "mug", "bottle", "boat", "cloud"), 50),
    **dict.fromkeys(("mushroom", "umbrella", "flower"), 70),
    **dict.fromkeys(("fish", "net"), 90),
    **dict.fromkeys(("bicycle", "fence", "cage", "antenna", "tree"), 35),
    "ladder": 110,
}


def alike(first: str, second: str) -> bool:
    """True when two different nouns or two different colors could be mixed up."""
    return frozenset((first, second)) in _ALIKE


# Every word of a text that says where something is; `refshapes+` must do without them.
PLACE_WORDS = frozenset({
    "left", "right", "top", "bottom", "upper", "lower", "middle", "center", "central", "corner", "side",
    "leftmost", "rightmost", "far", "above", "below", "under", "over", "next", "beside", "close", "near",
    "nearest", "closest", "between", "behind", "front", "first", "second", "third", "from", "to", "at", "in", "on",
})  # fmt: skip

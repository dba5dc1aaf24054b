"""`RefShapes`: (subset, split, seed, index) -> `Sample`, drawn when asked for, the same on every machine.

Two samples in a row show one scene. What a scene shows depends on nothing but subset, split, seed, its number and the
picture's size; the splits' and seeds' streams are unrelated, so no two of them share a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from segagent.data.refshapes.compose import compose
from segagent.data.refshapes.language import describe
from segagent.data.refshapes.randomness import Stream
from segagent.data.refshapes.scene import Scene
from segagent.data.refshapes.solid import GEOMETRIC, THINGS
from segagent.data.refshapes.thin import LONG, ROUND
from segagent.data.refshapes.vocabulary import SPLITS, SUBSETS, THIN_NOUNS
from segagent.types import Sample

EXPRESSIONS_PER_SCENE = 2
EVALUATION_SAMPLES = 1_000
TRAIN_SAMPLES = 1_000_000
SMALLEST, LARGEST = 128, 1024  # side of the picture in pixels; below, thin lines are narrower than a pixel
_VERSION = 1  # part of every key: raise it when pictures or texts change on purpose
_ATTEMPTS = 200


class Described(NamedTuple):
    """A scene and what is said about it. targets: `(index of the thing, text)`, one per sample."""

    scene: Scene
    targets: tuple[tuple[int, str], ...]


class RefShapes:
    """The embedded referring-segmentation benchmark; see `docs/refshapes.md`.

    subset: "refshapes", "refshapes+", "refshapesg" or "refshapes-thin". split: "train", "val", "testA" or "testB".
    seed: 0 is the published set, any other number a fresh, disjoint one. limit: number of samples, by default 1,000
    and 1,000,000 for "train". size: side of the picture in pixels, 128..1024; another size is another set.
    Raises `ValueError` on anything else.
    """

    def __init__(
        self, *, subset: str = "refshapes", split: str = "val", seed: int = 0, limit: int | None = None, size: int = 256
    ) -> None:
        _check_choice("subset", subset, SUBSETS)
        _check_choice("split", split, SPLITS)
        _check_number("seed", seed, 0, None)
        _check_number("size", size, SMALLEST, LARGEST)
        if limit is not None:
            _check_number("limit", limit, 1, None)
        available = TRAIN_SAMPLES if split == "train" else EVALUATION_SAMPLES
        # Evaluation splits end at their published length, train goes on as long as it is asked to.
        self._length = available if limit is None else limit if split == "train" else min(limit, available)
        self._subset, self._split, self._seed, self._size = subset, split, seed, size
        self._last: tuple[int, Described] | None = None

    def __len__(self) -> int:
        return self._length

    def sample_id(self, index: int) -> str:
        """`subset/split/seed/index`, for example "refshapes+/val/0/000123"."""
        return f"{self._subset}/{self._split}/{self._seed}/{self._checked(index):06d}"

    def __getitem__(self, index: int) -> Sample:
        """The sample: image `[size, size, 3]`, target `[size, size]` (the visible pixels of the thing)."""
        index = self._checked(index)
        number, turn = divmod(index, EXPRESSIONS_PER_SCENE)
        scene, targets = self._described(number)
        target, text = targets[turn]
        name = f"{self._subset}/{self._split}/{self._seed}/scene{number:06d}"
        return Sample(
            sample_id=self.sample_id(index),
            image=scene.image.copy(),
            text=text,
            target=scene.mask(target),
            image_name=f"{name}.png",
            image_key=f"{name}@{self._size}",
            object_id=f"{name}/{target}",
            category=scene.things[target].noun,
        )

    def ask(self, index: int, turn: int) -> Sample:
        """The picture of sample `index` with another thing of it asked for, or in other words: question `turn` of it.

        For training. Questions depend on sample and turn alone; one may be the sample's own.
        """
        sample, number = self[index], self._checked(index) // EXPRESSIONS_PER_SCENE
        key = ("refshapes", _VERSION, self._subset, self._split, self._seed, number, "ask", index, turn)
        scene = self._described(number).scene
        found = self._targets(Stream(*key), scene, 1)
        if not found:
            return sample
        target, text = found[0]
        return replace(
            sample,
            sample_id=f"{sample.sample_id}/{turn}",
            text=text,
            target=scene.mask(target),
            object_id=f"{sample.image_name.removesuffix('.png')}/{target}",
            category=scene.things[target].noun,
        )

    def scene(self, index: int) -> Scene:
        """The scene graph behind sample `index`."""
        return self._described(self._checked(index) // EXPRESSIONS_PER_SCENE).scene

    def _checked(self, index: int) -> int:
        # IndexError, not ValueError: it is what ends a plain `for sample in dataset`.
        if not -self._length <= index < self._length:
            raise IndexError(f"sample {index} of {self._length}: give 0..{self._length - 1}")
        return index % self._length

    def _described(self, number: int) -> Described:
        """Scene `number`; the last one is kept, for the samples that show one scene mostly come in a row."""
        if self._last is None or self._last[0] != number:
            self._last = number, self._draw(number)
        return self._last[1]

    def _draw(self, number: int) -> Described:
        for attempt in range(_ATTEMPTS):
            key = ("refshapes", _VERSION, self._subset, self._split, self._seed, number, attempt)
            stream = Stream(*key)
            scene = compose(stream.fork("scene"), self._size, self._subset == "refshapes-thin")
            if scene is None:
                continue
            targets = self._targets(stream.fork("text"), scene, EXPRESSIONS_PER_SCENE)
            if len(targets) == EXPRESSIONS_PER_SCENE:
                return Described(scene, tuple(targets))
        raise AssertionError(f"no scene in {_ATTEMPTS} attempts at {key[:-1]}")

    def _targets(self, stream: Stream, scene: Scene, count: int) -> list[tuple[int, str]]:
        """Up to `count` targets with texts, different things if possible."""
        nouns = _target_nouns(self._subset, self._split)
        order = stream.shuffled([index for index, thing in enumerate(scene.things) if thing.noun in nouns])
        found: list[tuple[int, str]] = []
        for target in order + order[:1]:
            if len(found) < count:
                text = describe(stream, scene, target, self._subset, [text for _, text in found])
                found += [] if text is None else [(target, text)]
        return found


def _target_nouns(subset: str, split: str) -> Sequence[str]:
    """What may be asked for: testA geometric (or round thin) shapes, testB the other things, else all."""
    thin = subset == "refshapes-thin"
    if split == "testA":
        return tuple(ROUND if thin else GEOMETRIC)
    if split == "testB":
        return tuple(LONG if thin else THINGS)
    return THIN_NOUNS if thin else (*GEOMETRIC, *THINGS)


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}: give one of {', '.join(allowed)}")


def _check_number(name: str, value: int, low: int, high: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        allowed = f"{low} or more" if high is None else f"{low}..{high}"
        raise ValueError(f"{name} is {value!r}: give a whole number, {allowed}")

"""States of generated pictures that no trajectory is needed for: fresh ones without end, a few questions per picture.

A model that is trained from nothing has to hear more descriptions than anyone would simulate trajectories for. What it
is shown is a picture that nothing is painted on, or a wrong mask of any quality, of the thing that is asked for or of
another one; what it should say is what the annotator would.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from segagent.data.base import Dataset
from segagent.data.refshapes.grammar import parse
from segagent.data.refshapes.meaning import fits
from segagent.dialogue import Dialogue
from segagent.environment import stable_generator
from segagent.masks import iou, next_click
from segagent.training.cell_targets import CellTargets
from segagent.training.examples import Example, Examples
from segagent.training.mask_noise import perturbed
from segagent.types import Sample

_ENDLESS = 1_000_000  # what is called an epoch
_TRIES = 8  # questions among which one with a relation is looked for


class GeneratedStates:
    """Map from number to `Example`, for `SftTrainer` in place of `Examples`.

    dataset: has `scene` and `ask`, as refshapes and mixtures of it. dialogue: how the model speaks; it announces IoUs.
    empty: share of pictures without a mask. other: share of the rest whose mask is of another thing. relations: share
    of questions for which, where a few tries find one, it takes a relation or an order to tell the thing from others
    with the noun, color and pattern that are said. questions: in a row about one sample's picture. weight: of their
    tokens in the loss. hidden: names of pictures that are left out. seen, grid, cells, mentions: see `Examples`. seed:
    of all that is drawn. Raises `ValueError` for a dataset of pictures that were not generated, and for shares outside
    [0, 1].
    """

    def __init__(
        self,
        *,
        dataset: Dataset,
        dialogue: Dialogue,
        empty: float = 0.4,
        other: float = 0.3,
        relations: float = 0.0,
        questions: int = 1,
        weight: float = 1.0,
        hidden: Collection[str] = (),
        seen: Callable[..., tuple[int, int]] | None = None,
        grid: int | None = None,
        cells: Callable[[int], np.ndarray] | None = None,
        mentions: Callable[[int, str], np.ndarray] | None = None,
        seed: int = 0,
    ) -> None:
        if not hasattr(dataset, "ask"):
            raise ValueError(
                f"generated: {type(dataset).__name__} has no generated pictures; give data=refshapes or "
                "data=refshapes_mix, or set generated.share=0"
            )
        for name, share in {"empty": empty, "other": other, "relations": relations}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"generated.{name}={share}: a share in [0, 1]")
        if questions < 1:
            raise ValueError(f"generated.questions={questions}: at least 1")
        self.dataset, self.dialogue, self.seed = dataset, dialogue, seed
        self.empty, self.other, self.relations, self.questions = empty, other, relations, questions
        self.weight, self.hidden = weight, frozenset(hidden)
        self.seen, self.grid, self.cells, self.mentions = seen, grid, cells, mentions
        # Trainings that go on from each other see other pictures.
        self.first = int(stable_generator("first picture", seed).integers(len(dataset)))

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, number: int) -> Example:
        place, turn = divmod(number, self.questions)
        index, sample = self._sample(place, turn)
        random = stable_generator("generated", self.seed, number)
        mask = self._mask(sample, index, random)
        said: dict = {"predicted_iou": iou(mask, sample.target, sample.void)} if self.dialogue.iou else {}
        click = next_click(sample.target, mask, (), sample.void)
        said |= {"finished": True} if click is None else {"click": click}
        size = {"width": sample.width, "height": sample.height}
        seen = self.seen(**size) if self.dialogue.absolute and self.seen is not None else None
        return Example(
            number=number,
            observation=self.dialogue.observe(sample.image, mask, sample.text),
            answer=self.dialogue.format(**size, seen=seen, **said),
            task="perturbed",
            weight=self.weight,
            sample=sample,
            mask=mask,
            cells=None if self.cells is None else self.cells(index),
            asked=None if self.grid is None else CellTargets.of(sample.target, mask, click, self.grid, sample.void),
            mentions=None if self.mentions is None else self.mentions(index, sample.text),
        )

    def _sample(self, place: int, turn: int) -> tuple[int, Sample]:
        """The question at a place, or the next one about a picture that is not hidden."""
        for index in range(self.first + place, self.first + place + len(self.dataset)):
            index %= len(self.dataset)
            sample = self.dataset.ask(index, turn)
            if sample.image_name not in self.hidden:
                return index, self._related(index, sample, place, turn)
        raise ValueError(
            f"validation.limit: its trajectories are of all {len(self.dataset)} samples of data, so that no generated "
            "picture is left to learn from; hold out fewer, or raise data.limit"
        )

    def _related(self, index: int, sample: Sample, place: int, turn: int) -> Sample:
        """A question about the picture of `sample` that takes a relation to answer; itself where none is found."""
        random = stable_generator("relation", self.seed, place, turn)
        if random.random() >= self.relations:
            return sample
        for further in range(_TRIES):
            found = self.dataset.ask(index, turn + self.questions * further)
            phrase = parse(found.text)
            alike = sum(fits(phrase, thing) for thing in self.dataset.scene(index).things)
            if alike > 1 and (phrase.relations or phrase.rank):
                return found
        return sample

    def _mask(self, sample: Sample, index: int, random: np.random.Generator) -> np.ndarray:
        if random.random() < self.empty:
            return np.zeros(sample.target.shape, bool)
        scene = self.dataset.scene(index)
        things = [scene.mask(number) for number in range(len(scene.things))]
        others = [thing for thing in things if thing.any() and not (thing & sample.target).any()]
        if not others or random.random() >= self.other:
            return perturbed(sample.target, None, random)
        mask = others[int(random.integers(len(others)))]
        if random.random() < 0.5:
            mask = perturbed(mask, None, random)
        return mask | perturbed(sample.target, None, random) if random.random() < 0.5 else mask


class Alternating:
    """Examples of two sources by turns, in place of `Examples`.

    first: `Examples` of trajectories. second: generated ones. share: of the second, above 0 and below 1. Number k is of
    the second whenever `floor(k * share)` rises after it; both are gone through in their own order.
    """

    def __init__(self, first: Examples, second: GeneratedStates, share: float) -> None:
        if not 0 < share < 1:
            raise ValueError(f"generated.share={share}: above 0 and below 1")
        self.first, self.second, self.share = first, second, share

    def __len__(self) -> int:
        """Of an epoch of the first source."""
        return round(len(self.first) / (1 - self.share))

    def __getitem__(self, number: int) -> Example:
        before = int(number * self.share)
        is_second = int((number + 1) * self.share) > before
        example = self.second[before] if is_second else self.first[number - before]
        return replace(example, number=number)
